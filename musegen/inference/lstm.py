"""The forward LSTM, one token a step: the same time at any length.

`torch.lstm_cell` on the layers' own parameters: `nn.LSTM` rearranges its weights for oneDNN in every call, which
takes longer than the step. What the first layer makes of a token depends on the token alone and is looked up.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.nn import functional

from musegen.models import MusicLstmCache, MusicLstmForCausalLM

from .base import Stepper

TABLE_LIMIT = 32_000_000  # values of the first layer's table, 128 MB; a larger one is computed as it goes


class LstmStepper(Stepper):
    """Hidden and cell states of all rows, (layers, rows, hidden) each."""

    @staticmethod
    def fits(model) -> bool:
        return isinstance(model, MusicLstmForCausalLM) and not model.config.bidirectional

    def __init__(self, model, rows: int, dtype: torch.dtype = torch.float32):
        super().__init__(rows, None)
        # The LSTM kernels of a CPU are slow or missing in half precision, and its memory is small anyway.
        self.model = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
        core = self.model.model
        self.norms = [layer.norm for layer in core.layers]
        self.weights = [
            (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
            for lstm in (layer.lstm for layer in core.layers)
        ]
        shape = (len(self.weights), rows, model.config.hidden_size)
        self.hidden = torch.zeros(shape, device=model.device)  # (layers, rows, hidden)
        self.cell = torch.zeros_like(self.hidden)
        self.table = None
        size = model.config.vocab_size * 4 * model.config.hidden_size
        if size <= TABLE_LIMIT:
            input_weight, _, input_bias, hidden_bias = self.weights[0]
            inputs = core.embedding_norm(core.embed_tokens.weight)  # (vocabulary, embedding)
            self.table = functional.linear(inputs, input_weight, input_bias + hidden_bias)  # (vocabulary, 4 * hidden)

    def start(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        cache = MusicLstmCache(self.model.config)
        logits = self._read(ids, cache)
        for index, layer in enumerate(cache.layers):
            self.hidden[index, row], self.cell[index, row] = layer.keys[0], layer.values[0]
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        count = len(tokens)
        tokens = torch.tensor(tokens, device=self.hidden.device)  # (count,)
        values = None
        for index, weights in enumerate(self.weights):
            hidden, cell = self.hidden[index, :count], self.cell[index, :count]  # (count, hidden) each
            if index == 0 and self.table is not None:
                new_hidden, new_cell = self._first_layer(tokens, hidden, cell)
            else:
                if values is None:
                    values = self.model.model.embedding_norm(self.model.model.embed_tokens(tokens))
                new_hidden, new_cell = torch.lstm_cell(values, (hidden, cell), *weights)
            hidden.copy_(new_hidden)
            cell.copy_(new_cell)
            values = self.norms[index](new_hidden)  # (count, hidden)
        return self.model.lm_head(self.model.projection(values)).float().cpu()  # (count, vocabulary)

    def _first_layer(self, tokens, hidden, cell):
        gates = torch.addmm(self.table[tokens], hidden, self.weights[0][1].t())  # (count, 4 * hidden)
        enters, forgets, proposes, leaves = gates.chunk(4, dim=1)  # (count, hidden) each
        cell = forgets.sigmoid() * cell + enters.sigmoid() * proposes.tanh()
        return leaves.sigmoid() * cell.tanh(), cell

    def move(self, source: int, target: int) -> None:
        self.hidden[:, target], self.cell[:, target] = self.hidden[:, source], self.cell[:, source]

    def reference(self, ids: Sequence[int]) -> torch.Tensor:
        return self._read(ids, None)

    def _read(self, ids: Sequence[int], cache: MusicLstmCache | None) -> torch.Tensor:
        ids = torch.tensor([list(ids)], device=self.hidden.device)  # (1, time)
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
        return out.logits[0, -1].float().cpu()
