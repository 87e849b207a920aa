"""The models: transformers' GPT-2, an LSTM with the same interface, presets, and one way to load any.

Importing this package makes transformers' Auto classes know `MusicLstmForCausalLM` and the names of shipped models.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ..shipped import teach
from .configuration_music_lstm import MusicLstmConfig
from .layers_music_lstm import MusicLstmCache
from .loading import load_causal_lm, save_with_code
from .modeling_music_lstm import MusicLstmForCausalLM, MusicLstmModel
from .presets import PRESETS, Preset, build_config, build_model
from .tuning import with_settings


def register() -> None:
    """Make the Auto classes of transformers know the LSTM and shipped names. Calling it again changes nothing."""
    AutoConfig.register(MusicLstmConfig.model_type, MusicLstmConfig, exist_ok=True)
    AutoModel.register(MusicLstmConfig, MusicLstmModel, exist_ok=True)
    AutoModelForCausalLM.register(MusicLstmConfig, MusicLstmForCausalLM, exist_ok=True)
    teach(AutoConfig, AutoModel, AutoModelForCausalLM)


register()

__all__ = [
    "PRESETS",
    "MusicLstmCache",
    "MusicLstmConfig",
    "MusicLstmForCausalLM",
    "MusicLstmModel",
    "Preset",
    "build_config",
    "build_model",
    "load_causal_lm",
    "register",
    "save_with_code",
    "with_settings",
]
