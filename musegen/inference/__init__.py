"""Fast forward steps: one token more for each row of a batch, in memory that is laid out once.

`stepper_for` chooses: GPT-2 and the forward LSTM have steps of their own over the model's weights; any other causal
language model is called as it is, with its own cache. All work in float32, whatever the weights were saved in,
unless another type is asked for.
"""

from __future__ import annotations

import torch

from .base import Stepper
from .generic import GenericStepper
from .gpt2 import Gpt2Stepper
from .weights import Gpt2Weights, read_generation_config

__all__ = ["GenericStepper", "Gpt2Stepper", "Gpt2Weights", "Stepper", "read_generation_config", "stepper_for"]


def stepper_for(model, rows: int, dtype: torch.dtype = torch.float32) -> Stepper:
    """The fastest stepper that a model has.

    Args:
        model: A causal language model in evaluation mode, or what stands for one and has a `stepper` of its own.
        rows: Pieces written at once.
        dtype: Of weights and memory, for models with a step of their own; half as wide a type is faster in large
            batches and decides otherwise than float32 about once in a hundred tokens.
    """
    if hasattr(model, "stepper"):
        return model.stepper(rows)
    if Gpt2Stepper.fits(model):
        return Gpt2Stepper(model, rows, dtype)
    if getattr(model.config, "model_type", "") == "music_lstm":
        from .lstm import LstmStepper

        if LstmStepper.fits(model):
            return LstmStepper(model, rows, dtype)
    return GenericStepper(model, rows)
