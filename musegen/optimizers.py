"""The optimisers of the training loop: AdamW for all, or Muon for the matrices inside and AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the step of each matrix orthogonal; its
learning rate is scaled to AdamW's size of step (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one
learning rate serves both. Embeddings, the output layer, biases and norms stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from musegen.training_config import TrainingConfig

_BETA = 0.95  # Muon's momentum
_EMBEDDINGS = ("wte", "wpe", "embed_tokens", "lm_head")


def make_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer | PairedOptimizer:
    """The optimiser that a configuration names, with weight decay on matrices only (not on biases and norms)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in named if p.ndim >= 2]
    vectors = [p for _, p in named if p.ndim < 2]
    inner: list[torch.nn.Parameter] = []
    if config.optimizer == "muon":
        inner = [p for name, p in named if p.ndim == 2 and not any(part in name for part in _EMBEDDINGS)]
        taken = {id(p) for p in inner}
        matrices = [p for p in matrices if id(p) not in taken]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    if not inner:
        return adamw
    muon = torch.optim.Muon(
        inner,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=_BETA,
        adjust_lr_fn="match_rms_adamw",
    )
    return PairedOptimizer(muon, adamw)


class PairedOptimizer:
    """Two optimisers over different parameters that step as one.

    Args:
        first: One.
        second: The other.
    """

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer):
        self.parts = (first, second)
        self.state = _PairedState(self.parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both; setting `lr` in one sets it."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable | None = None) -> None:
        """Step both."""
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


class _PairedState:
    """The states of two optimisers under one roof, each parameter's with the optimiser that owns it."""

    def __init__(self, parts: tuple[torch.optim.Optimizer, ...]):
        self._owner = {id(p): part for part in parts for group in part.param_groups for p in group["params"]}
        self._parts = parts

    def items(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        for part in self._parts:
            yield from part.state.items()

    def __getitem__(self, parameter: torch.Tensor) -> dict[str, Any]:
        return self._owner[id(parameter)].state[parameter]

    def __setitem__(self, parameter: torch.Tensor, slots: dict[str, Any]) -> None:
        self._owner[id(parameter)].state[parameter] = slots
