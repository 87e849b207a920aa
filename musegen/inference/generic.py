"""Any causal language model, by its own forward and its own cache: each row a batch of one."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from musegen.likelihood import context_of

from .base import Stepper


class GenericStepper(Stepper):
    """Rows that know nothing of each other, so that lengths, positions and masks are never in doubt.

    A model without a cache reads everything again at each step.
    """

    def __init__(self, model, rows: int):
        super().__init__(rows, context_of(model))
        self.model = model
        self.caches: list = [None] * rows
        self.ids: list[list[int]] = [[] for _ in range(rows)]

    def start(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        self.ids[row], self.caches[row] = list(ids), None
        return self._read(row, ids)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        out = []
        for row, token in enumerate(tokens):
            self.ids[row].append(int(token))
            out.append(self._read(row, [token] if self.caches[row] is not None else self.ids[row]))
        return torch.stack(out)  # (rows in use, vocabulary)

    def move(self, source: int, target: int) -> None:
        self.ids[target], self.caches[target] = list(self.ids[source]), copy.deepcopy(self.caches[source])

    def reference(self, ids: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([list(ids)], device=self.model.device)  # (1, time)
        return self.model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()

    def _read(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([list(ids)], device=self.model.device)  # (1, time)
        out = self.model(input_ids=ids, past_key_values=self.caches[row], use_cache=True)
        self.caches[row] = getattr(out, "past_key_values", None)
        return out.logits[0, -1].float().cpu()
