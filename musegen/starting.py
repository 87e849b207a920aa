"""The model that a training run begins with: a preset with fresh weights, or a saved one to go on from."""

from __future__ import annotations

from pathlib import Path

import torch

from musegen.errors import ConfigError
from musegen.models import PRESETS, build_model, load_causal_lm, with_settings
from musegen.tokenizer import MusicTokenizer, load_tokenizer
from musegen.training_config import TrainingConfig


def starting_model(config: TrainingConfig, tokenizer: MusicTokenizer) -> torch.nn.Module:
    """A preset with fresh weights, drawn from torch's global generator, or a saved model in float32 to go on from.

    Raises:
        ConfigError: A setting that does not fit, or a model of another tokenizer.
        ModelError: A model that cannot be loaded.
    """
    if config.model in PRESETS:
        return build_model(
            config.model,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{"n_positions": config.block_size, **config.model_settings},
        )
    # Whatever type the weights were saved in: steps would be lost in the rounding of a half.
    model = load_causal_lm(config.model, dtype=torch.float32)
    advice = "go on with the tokenizer that lies beside the model"
    if model.config.vocab_size != len(tokenizer):
        raise ConfigError(
            f"model {config.model} has {model.config.vocab_size} tokens, the tokenizer {config.tokenizer} "
            f"{len(tokenizer)}; {advice}"
        )
    beside = Path(config.model)
    if (beside / "tokenizer.json").is_file() and load_tokenizer(beside).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"model {config.model} has another vocabulary than the tokenizer {config.tokenizer}; {advice}"
        )
    return with_settings(model, config.model_settings)
