"""Going on with a loaded model under other settings: those that no weight depends on, and a GPT's longer context."""

from collections.abc import Mapping
from typing import Any

import torch
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
_POSITIONS = "transformer.wpe.weight"
_SETTINGS = {
    GPT2Config: GPT2_DROPOUTS,
    MusicLstmConfig: ("embedding_dropout", "output_dropout", "recurrent_dropout", "locked_dropout", "train_positions"),
}


def with_settings(model: PreTrainedModel, settings: Mapping[str, Any]) -> PreTrainedModel:
    """A model of the same weights under other settings, which are saved with it.

    Args:
        model: A loaded model; not to be used afterwards.
        settings: Dropouts (`dropout` sets them as it does in a preset), and of an LSTM `train_positions`. What would
            change the shape of a weight is refused, but for `n_positions` of a GPT, at least as many as it has: its
            position embeddings are stretched (see `stretched`). `trained_positions`, by default all, says how many
            of them training has reached: the rest are noise, in which a model can hardly find its way.

    Returns:
        A model in float32, in training mode; `model` itself where there is nothing to change.

    Raises:
        ConfigError: A setting that a loaded model cannot take, or a value out of its range.
    """
    kind = type(model.config)
    known = {"dropout", *_SETTINGS.get(kind, ())} if kind in _SETTINGS else set()
    known |= {"n_positions", "trained_positions"} if kind is GPT2Config else set()
    unknown = sorted(set(settings) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else f"a {kind.__name__} takes none"
        raise ConfigError(f"model_settings: {', '.join(unknown)} cannot be set for a model that is loaded; {takes}")
    settings = dict(settings)
    weights = model.state_dict()
    positions = model.config.n_positions if kind is GPT2Config else None
    longest, trained = settings.pop("n_positions", positions), settings.pop("trained_positions", positions)
    changes = dict.fromkeys(_SHARED[kind], settings.pop("dropout")) if "dropout" in settings else {}
    changes |= settings
    if (longest, trained) != (positions, positions):
        changes["n_positions"] = longest
        weights[_POSITIONS] = stretched(weights[_POSITIONS], longest, trained)
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
    fresh.load_state_dict(weights)
    fresh.generation_config = model.generation_config
    return fresh.float().train()


def stretched(embeddings: torch.Tensor, positions: int, trained: int) -> torch.Tensor:
    """Learned position embeddings for a longer context: the trained ones, with straight lines between them.

    A model then finds in every position something between two that it knows, and needs little training more. So are
    vision transformers taken to larger pictures (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, 3.2).

    Args:
        embeddings: (positions of the model, width).
        positions: How many are wanted.
        trained: How many of `embeddings` training has reached, from the first on.

    Returns:
        (positions, width).

    Raises:
        ConfigError: A number out of its range.
    """
    has = len(embeddings)
    for name, value, least, most in (("n_positions", positions, has, 1 << 20), ("trained_positions", trained, 2, has)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"model_settings: {name} is {value!r}, must be from {least} to {most}")
    known = embeddings[:trained].float().T[None]  # (1, width, trained)
    longer = torch.nn.functional.interpolate(known, size=positions, mode="linear", align_corners=False)
    return longer[0].T.to(embeddings.dtype)  # (positions, width)


__all__ = ["stretched", "with_settings"]
