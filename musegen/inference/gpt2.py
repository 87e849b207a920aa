"""GPT-2, one token a step, over the weights of a `GPT2LMHeadModel` and preallocated keys and values.

Each row's token at position p lies in column p, so rows of other lengths need no padding in front, and a row that
leaves is overwritten by the last one. Keys are kept transposed, (features, columns): both products of attention then
read memory in order, which is what a step costs in a large batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

from .base import Stepper

# Columns added to the context: with 1,024 columns all features of a key would share few sets of the cache.
SPARE_COLUMNS = 16


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Weights of one block, each (inputs, outputs), and its memory."""

    norm_1: tuple[torch.Tensor, torch.Tensor]
    norm_2: tuple[torch.Tensor, torch.Tensor]
    attend: tuple[torch.Tensor, torch.Tensor]
    project: tuple[torch.Tensor, torch.Tensor]
    widen: tuple[torch.Tensor, torch.Tensor]
    narrow: tuple[torch.Tensor, torch.Tensor]
    keys: torch.Tensor  # (rows, heads, features, columns)
    values: torch.Tensor  # (rows, heads, columns, features)


class Gpt2Stepper(Stepper):
    """See `Stepper`; `dtype` is that of weights and memory."""

    @staticmethod
    def fits(model) -> bool:
        config = model.config
        return (
            type(model) is GPT2LMHeadModel
            and config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
            and config.scale_attn_weights
            and not config.scale_attn_by_inverse_layer_idx
            and not config.add_cross_attention
        )

    def __init__(self, model, rows: int, dtype: torch.dtype = torch.float32):
        config = model.config
        super().__init__(rows, config.n_positions)
        self.width, self.heads, self.epsilon = config.n_embd, config.n_head, config.layer_norm_epsilon
        self.features = self.width // self.heads
        self.device, self.dtype = model.device, dtype
        core = model.transformer
        self.embeddings = self._own(core.wte.weight)  # (vocabulary, width)
        self.positions = self._own(core.wpe.weight)  # (context, width)
        self.head = self.embeddings if model.lm_head.weight is core.wte.weight else self._own(model.lm_head.weight)
        self.last_norm = self._own(core.ln_f.weight), self._own(core.ln_f.bias)
        self.layers = [self._layer(block) for block in core.h]
        self.lengths = [0] * rows
        self.columns = torch.arange(config.n_positions, device=self.device)

    def _own(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().to(self.dtype)

    def _layer(self, block) -> _Layer:
        def pair(module):
            return self._own(module.weight), self._own(module.bias)

        weight, bias = (part.clone() for part in pair(block.attn.c_attn))
        # Queries are scaled once and for all, here, rather than at each step.
        weight[:, : self.width] /= self.features**0.5
        bias[: self.width] /= self.features**0.5
        columns = self.context + SPARE_COLUMNS
        # Cleared: where rows are of other lengths, what lies beyond a row's end is read, with a weight of 0.
        options = {"device": self.device, "dtype": self.dtype}
        return _Layer(
            norm_1=pair(block.ln_1),
            norm_2=pair(block.ln_2),
            attend=(weight, bias),
            project=pair(block.attn.c_proj),
            widen=pair(block.mlp.c_fc),
            narrow=pair(block.mlp.c_proj),
            keys=torch.zeros(self.rows, self.heads, self.features, columns, **options),
            values=torch.zeros(self.rows, self.heads, columns, self.features, **options),
        )

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        count = len(tokens)
        lengths = self.lengths[:count]
        longest = max(lengths)
        even = min(lengths) == longest
        tokens = torch.tensor(tokens, device=self.device)  # (count,)
        mask = where = None
        if even:
            hidden = self.embeddings[tokens] + self.positions[longest]  # (count, width)
        else:
            column = torch.tensor(lengths, device=self.device)  # (count,)
            where = torch.arange(count, device=self.device), column
            hidden = self.embeddings[tokens] + self.positions[column]  # (count, width)
            mask = torch.zeros(count, longest + 1, dtype=self.dtype, device=self.device)
            mask.masked_fill_(self.columns[: longest + 1] > column[:, None], -torch.inf)  # (count, columns)
            mask = mask[:, None].expand(-1, self.heads, -1).reshape(count * self.heads, 1, -1)
        for layer in self.layers:
            hidden = self._block_step(layer, hidden, longest, where, mask)
        for row in range(count):
            self.lengths[row] += 1
        return self._logits(hidden)  # (count, vocabulary)

    def _block_step(self, layer: _Layer, hidden, column: int, where, mask):
        count, heads, features = len(hidden), self.heads, self.features
        normed = functional.layer_norm(hidden, (self.width,), *layer.norm_1, self.epsilon)
        mixed = torch.addmm(layer.attend[1], normed, layer.attend[0]).view(count, 3, heads, features)
        query, key, value = mixed.unbind(1)  # (count, heads, features) each
        if where is None:
            layer.keys[:count, :, :, column] = key
            layer.values[:count, :, column] = value
        else:
            layer.keys[where[0], :, :, where[1]] = key
            layer.values[where[0], :, where[1]] = value
        keys = layer.keys[:count, :, :, : column + 1].flatten(0, 1)  # (count * heads, features, columns)
        values = layer.values[:count, :, : column + 1].flatten(0, 1)  # (count * heads, columns, features)
        query = query.reshape(count * heads, 1, features)
        scores = torch.bmm(query, keys) if mask is None else torch.baddbmm(mask, query, keys)
        attended = torch.bmm(scores.softmax(-1), values).view(count, self.width)
        return self._rest(layer, hidden, attended)

    def _rest(self, layer: _Layer, hidden, attended):
        """What follows attention: its projection, and the two layers of width 4."""
        hidden = hidden + torch.addmm(layer.project[1], attended, layer.project[0])  # (count, width)
        normed = functional.layer_norm(hidden, (self.width,), *layer.norm_2, self.epsilon)
        wide = functional.gelu(torch.addmm(layer.widen[1], normed, layer.widen[0]), approximate="tanh")
        return hidden + torch.addmm(layer.narrow[1], wide, layer.narrow[0])  # (count, width)

    def _logits(self, hidden) -> torch.Tensor:
        hidden = functional.layer_norm(hidden, (self.width,), *self.last_norm, self.epsilon)
        return functional.linear(hidden, self.head).float().cpu()

    def start(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        self.lengths[row] = len(ids)
        return self._read(ids, row)

    def reference(self, ids: Sequence[int]) -> torch.Tensor:
        return self._read(ids, None)

    def _read(self, ids: Sequence[int], row: int | None) -> torch.Tensor:
        length = len(ids)
        if not 1 <= length <= self.context:
            raise ValueError(f"{length} ids; a row holds 1 to {self.context}")
        hidden = self.embeddings[torch.tensor(ids, device=self.device)] + self.positions[:length]  # (time, width)
        for layer in self.layers:
            normed = functional.layer_norm(hidden, (self.width,), *layer.norm_1, self.epsilon)
            mixed = torch.addmm(layer.attend[1], normed, layer.attend[0])  # (time, 3 * width)
            mixed = mixed.view(length, 3, self.heads, self.features).permute(1, 2, 0, 3)
            query, key, value = mixed.unbind(0)  # (heads, time, features) each
            if row is not None:
                layer.keys[row, :, :, :length] = key.transpose(1, 2)
                layer.values[row, :, :length] = value
            attended = functional.scaled_dot_product_attention(
                query[None], key[None], value[None], is_causal=True, scale=1.0
            )[0]  # (heads, time, features)
            hidden = self._rest(layer, hidden, attended.transpose(0, 1).reshape(length, self.width))
        return self._logits(hidden[-1:])[0]  # (vocabulary,)

    def move(self, source: int, target: int) -> None:
        length = self.lengths[target] = self.lengths[source]
        for layer in self.layers:
            layer.keys[target, :, :, :length] = layer.keys[source, :, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
