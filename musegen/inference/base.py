"""What every stepper does."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch


class Stepper(abc.ABC):
    """A model that reads one token a step in each of its rows.

    Rows in use are the first ones, 0 to n - 1; whoever uses a stepper moves the last one into a gap.

    Args:
        rows: The most that can be in use.
        context: Tokens that a row can hold; None for no bound.
    """

    def __init__(self, rows: int, context: int | None):
        self.rows, self.context = rows, context

    @abc.abstractmethod
    def start(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        """Forget a row and read `ids` in it; logits after the last of them, float32 (vocabulary,) on the CPU."""

    @abc.abstractmethod
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in each of the first rows; logits, float32 (len(tokens), vocabulary) on the CPU."""

    @abc.abstractmethod
    def move(self, source: int, target: int) -> None:
        """Make a row what another one is."""

    @abc.abstractmethod
    def reference(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits after `ids`, float32 (vocabulary,) on the CPU, by a computation in which nothing but `ids` counts.

        Rounding in a step depends on how many rows there are; here it does not.
        """
