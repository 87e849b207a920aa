"""Going on with a loaded model under other settings: those that no weight depends on."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2Config, PreTrainedModel

from ..errors import ConfigError
from .configuration_music_lstm import MusicLstmConfig
from .presets import GPT2_DROPOUTS

# What one `dropout` sets, as in a preset: a GPT's, but for that of attention; an LSTM's, but for the recurrent one.
_SHARED = {
    GPT2Config: ("resid_pdrop", "embd_pdrop"),
    MusicLstmConfig: ("dropout", "embedding_dropout", "output_dropout"),
}
_SETTINGS = {
    GPT2Config: GPT2_DROPOUTS,
    MusicLstmConfig: ("embedding_dropout", "output_dropout", "recurrent_dropout", "locked_dropout", "train_positions"),
}


def with_settings(model: PreTrainedModel, settings: Mapping[str, Any]) -> PreTrainedModel:
    """A model of the same weights under other settings, which are saved with it.

    Args:
        model: A loaded model; not to be used afterwards.
        settings: Dropouts (`dropout` sets them as it does in a preset), and of an LSTM `train_positions`. What would
            change the shape of a weight is refused.

    Returns:
        A model in float32, in training mode; `model` itself where there is nothing to change.

    Raises:
        ConfigError: A setting that a loaded model cannot take, or a value out of its range.
    """
    kind = type(model.config)
    known = {"dropout", *_SETTINGS.get(kind, ())} if kind in _SETTINGS else set()
    unknown = sorted(set(settings) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else f"a {kind.__name__} takes none"
        raise ConfigError(f"model_settings: {', '.join(unknown)} cannot be set for a model that is loaded; {takes}")
    settings = dict(settings)
    changes = dict.fromkeys(_SHARED[kind], settings.pop("dropout")) if "dropout" in settings else {}
    changes |= settings
    if kind is GPT2Config and model.config.activation_function == "gelu_new":
        # The same function in one kernel, where transformers writes it in eight: a step on a CPU is a fifth shorter.
        changes["activation_function"] = "gelu_pytorch_tanh"
    if not changes:
        return model.float().train()
    try:
        config = kind.from_dict({**model.config.to_dict(), **changes})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ConfigError(f"model_settings: {' '.join(str(error).split())}") from error
    for name in GPT2_DROPOUTS if kind is GPT2Config else ():
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"model_settings: {name} is {getattr(config, name)}, must be in [0, 1)")
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh.float().train()


__all__ = ["with_settings"]
