"""Architectures by name, and the one way to build a configuration or a fresh model from a name.

Sizes are chosen for where a model trains: `tiny` and `small` on two CPU cores, `base` on one GPU.
`bilstm-study` stands for the LSTM baselines of the literature, bidirectional over a window of the past.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedConfig, PreTrainedModel

from ..errors import ConfigError
from .configuration_music_lstm import MusicLstmConfig

# GPT-2 has three dropouts where the LSTM has a default for all of its own: one name sets them in both. Dropout
# inside attention stays off unless asked for by name: it forbids the fused kernels, and a step on a CPU then takes
# two to four times as long.
GPT2_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
_ATTENTION_DROPOUT = 0.0
# `build_config` has these as arguments of their own, so no override may contradict them; the last is another
# name of `n_positions`.
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
ARGUMENTS = ("vocab_size", *TOKEN_IDS, "n_positions", "max_position_embeddings")


@dataclass(frozen=True)
class Preset:
    """A named architecture.

    Args:
        config_class: The configuration class that defines it.
        settings: What it sets in that class; everything else keeps the class's default.
        description: One line for a person who chooses.
    """

    config_class: type[PreTrainedConfig]
    settings: Mapping[str, Any]
    description: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """Names that `build_config` takes as overrides, sorted."""
        shared = {field.name for field in fields(PreTrainedConfig)}
        names = {field.name for field in fields(self.config_class)} - shared
        names |= set(self.config_class.attribute_map)
        if self.config_class is GPT2Config:
            names.add("dropout")
        return tuple(sorted(names - set(ARGUMENTS)))


def _gpt(layers: int, width: int, heads: int, description: str) -> Preset:
    # GPT-2's own `gelu_new` is the same function written in eight steps: a step on a CPU then takes 30 % longer.
    settings = {"n_layer": layers, "n_embd": width, "n_head": heads, "activation_function": "gelu_pytorch_tanh"}
    return Preset(GPT2Config, MappingProxyType(settings), description)


def _lstm(layers: int, width: int, description: str, **settings: Any) -> Preset:
    settings = {"num_layers": layers, "hidden_size": width, **settings}
    return Preset(MusicLstmConfig, MappingProxyType(settings), description)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "gpt-tiny": _gpt(4, 256, 4, "GPT-2, 4 layers of 256: minutes on a CPU"),
        "gpt-small": _gpt(6, 384, 6, "GPT-2, 6 layers of 384: hours on a CPU"),
        "gpt-base": _gpt(12, 768, 12, "GPT-2 in its published small size: a GPU"),
        "lstm-tiny": _lstm(1, 256, "LSTM, 1 layer of 256: minutes on a CPU"),
        "lstm-small": _lstm(2, 512, "LSTM, 2 layers of 512: hours on a CPU", dropout=0.2),
        "lstm-base": _lstm(3, 1024, "LSTM, 3 layers of 1,024: a GPU", dropout=0.3),
        "bilstm-study": _lstm(
            2,
            256,
            "bidirectional LSTM over windows of 100 tokens: the study's baseline",
            dropout=0.3,
            embedding_size=256,
            bidirectional=True,
            window=100,
            train_positions=16,
        ),
    }
)


def build_config(
    name: str,
    *,
    vocab_size: int,
    bos_token_id: int | None,
    eos_token_id: int | None,
    pad_token_id: int | None,
    n_positions: int,
    **overrides: Any,
) -> PreTrainedConfig:
    """Make the configuration of a preset.

    Args:
        name: A key of `PRESETS`.
        vocab_size: Number of the tokenizer's tokens.
        bos_token_id: The tokenizer's id for the beginning of a sequence.
        eos_token_id: Its id for the end of one.
        pad_token_id: Its id for padding.
        n_positions: The longest sequence in tokens that a GPT can read. The LSTMs have no such limit and
            ignore it.
        **overrides: Settings that replace those of the preset or the defaults of its configuration class, by
            their names there (`Preset.overrides`); `dropout` sets a GPT's dropouts of embeddings and layers, not
            that of attention (`attn_pdrop`).

    Returns:
        A `GPT2Config` or a `MusicLstmConfig`.

    Raises:
        ConfigError: An unknown preset or override, or a value out of its range.
    """
    preset = _find(name)
    unknown = sorted(set(overrides) - set(preset.overrides))
    if unknown:
        allowed = ", ".join(preset.overrides)
        raise ConfigError(f"model preset {name} has no setting {', '.join(unknown)}; it has {allowed}")
    ids = dict(zip(TOKEN_IDS, (bos_token_id, eos_token_id, pad_token_id)))
    _check_sizes(vocab_size, n_positions, ids)
    settings = {**preset.settings, "vocab_size": vocab_size, **ids}
    if preset.config_class is GPT2Config:
        settings["n_positions"] = n_positions
        dropout = overrides.pop("dropout", None)
        if dropout is not None:
            settings |= dict.fromkeys(GPT2_DROPOUTS, dropout)
        settings["attn_pdrop"] = _ATTENTION_DROPOUT
    # An alias beside the name it stands for would leave the winner to the order of assignment.
    aliases = preset.config_class.attribute_map
    settings |= {aliases.get(key, key): value for key, value in overrides.items()}
    try:
        config = preset.config_class(**settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model preset {name}: {reason}") from error
    _check_gpt(name, config)
    return config


def build_model(
    name: str,
    *,
    vocab_size: int,
    bos_token_id: int | None,
    eos_token_id: int | None,
    pad_token_id: int | None,
    n_positions: int,
    **overrides: Any,
) -> PreTrainedModel:
    """Make a preset's model with fresh weights, drawn from torch's global generator.

    The arguments are those of `build_config`.

    Returns:
        A `GPT2LMHeadModel` or a `MusicLstmForCausalLM` in float32 on the CPU, in training mode.

    Raises:
        ConfigError: As `build_config`.
    """
    config = build_config(
        name,
        vocab_size=vocab_size,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        n_positions=n_positions,
        **overrides,
    )
    return AutoModelForCausalLM.from_config(config).train()


def _find(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"no model preset is named {name!r}: the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def _check_sizes(vocab_size: int, n_positions: int, ids: Mapping[str, int | None]) -> None:
    for key, value in (("vocab_size", vocab_size), ("n_positions", n_positions)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key} is {value!r}, must be a whole number of 1 or more")
    for key, value in ids.items():
        if value is not None and not 0 <= value < vocab_size:
            raise ConfigError(f"{key} is {value}, must be an id of the vocabulary, 0 to {vocab_size - 1}")


def _check_gpt(name: str, config: PreTrainedConfig) -> None:
    # GPT2Config takes any of these, and the model then fails far from the setting that is to blame.
    if not isinstance(config, GPT2Config):
        return
    for key in ("n_layer", "n_embd", "n_head"):
        if getattr(config, key) < 1:
            raise ConfigError(f"model preset {name}: {key} is {getattr(config, key)}, must be 1 or more")
    if config.n_embd % config.n_head:
        heads = f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}"
        raise ConfigError(f"model preset {name}: {heads}")
    for key in GPT2_DROPOUTS:
        if not 0 <= getattr(config, key) < 1:
            raise ConfigError(f"model preset {name}: {key} is {getattr(config, key)}, must be in [0, 1)")
