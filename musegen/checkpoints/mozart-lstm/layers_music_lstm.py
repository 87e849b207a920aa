"""Parts of the LSTM language models: their cache, their dropout, and one LSTM layer.

Self-contained on purpose: this file travels beside the weights, so it imports nothing of musegen.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers.cache_utils import Cache, CacheLayerMixin

from .configuration_music_lstm import MusicLstmConfig


class MusicLstmCacheLayer(CacheLayerMixin):
    """What is remembered of the tokens read so far.

    Forward variant, one for each LSTM layer: `keys` and `values` are its hidden and its cell state, each
    (batch, hidden). Bidirectional variant, one in all: `keys` are the embeddings of the last tokens,
    (batch, past, embedding), and `values` tells those tokens from padding, (batch, past).
    """

    def __init__(self):
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states, value_states, new_positions: int = 0, **kwargs):
        """Replace the memory by one that has read `new_positions` more positions, padding included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # Detached, so that training which carries its state from block to block ends its graph at the block.
        self.keys, self.values = key_states.detach(), value_states.detach()
        self.length += new_positions
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized, self.length = False, 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError("an LSTM cannot unread tokens: go back to a copy of the cache instead")

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)  # (batch * repeats, ...)
            self.values = self.values.repeat_interleave(repeats, dim=0)  # (batch * repeats, ...)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            self.keys, self.values = self.keys[indices], self.values[indices]  # (selected, ...)


class MusicLstmCache(Cache):
    """The `past_key_values` of a `MusicLstmForCausalLM`.

    A `copy.deepcopy` of one is a snapshot to return to, for several continuations of one prompt.

    Args:
        config: The configuration of the model that will fill it.
    """

    def __init__(self, config: MusicLstmConfig):
        count = 1 if config.bidirectional else config.num_layers
        super().__init__(layers=[MusicLstmCacheLayer() for _ in range(count)])


class SequenceDropout(nn.Module):
    """Dropout over (batch, time, features), drawn anew at each step or, `locked`, once a sequence."""

    def __init__(self, probability: float, locked: bool):
        super().__init__()
        self.probability = probability
        self.locked = locked

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.locked:
            return functional.dropout(values, self.probability, self.training)
        scale = torch.ones_like(values[:, :1])  # (batch, 1, features)
        return values * functional.dropout(scale, self.probability, self.training)


class MusicLstmLayer(nn.Module):
    """One layer: an LSTM that can start from a state and skip padding, or two that read windows both ways.

    Args:
        config: The model's configuration.
        input_size: Width of what the layer reads.
    """

    def __init__(self, config: MusicLstmConfig, input_size: int):
        super().__init__()
        self.lstm = nn.LSTM(input_size, config.hidden_size, batch_first=True)
        if config.bidirectional:
            self.reverse_lstm = nn.LSTM(input_size, config.hidden_size, batch_first=True)
        self.norm = nn.LayerNorm(config.output_size) if config.layer_norm else nn.Identity()
        self.recurrent_dropout = config.recurrent_dropout

    def forward(
        self,
        inputs: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor] | None,
        lengths: torch.Tensor | None,
        resets: Sequence[tuple[int, torch.Tensor]] = (),
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Read a batch of sequences forwards.

        Args:
            inputs: (batch, time, input_size).
            state: Hidden and cell state to start from, each (1, batch, hidden); None for zeros.
            lengths: Steps of each row to read, (batch,), where 0 leaves its state alone; None for all.
            resets: Steps before which rows forget their state: the step, and False for the rows that forget,
                (batch, 1). Ascending; not with `lengths`.

        Returns:
            Outputs, (batch, time, hidden), and the state after each row's last step.
        """
        weight = self.lstm.weight_hh_l0
        inputs = inputs.to(weight.dtype)
        if state is None:
            state = (weight.new_zeros(1, len(inputs), weight.shape[1]),) * 2  # (1, batch, hidden) each
        else:
            state = tuple(part.to(weight.dtype) for part in state)
        with _full_precision():
            if lengths is not None:
                outputs, state = self._read_packed(inputs, state, lengths)
            elif inputs.shape[1] == 1 and not (self.training or torch.is_grad_enabled()):
                outputs, state = self._step(inputs, state)
            elif resets:
                outputs, state = self._read_parts(inputs, state, resets)
            else:
                outputs, state = self._read(self.lstm, inputs, state)
            return self.norm(outputs), state

    def read_windows(self, inputs: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch of windows in both directions.

        Args:
            inputs: (windows, window, input_size), tokens first and then anything.
            lengths: Tokens in each window, 1 or more, (windows,).

        Returns:
            Outputs of both directions at each token, (windows, window, 2 * hidden), and the outputs of each after
            the last token that it reads, (windows, 2 * hidden).
        """
        # Each window turned round by itself, so that neither direction meets what follows a short one. Packing
        # would do the same, but its gradient on a CPU takes time that grows with the square of the window.
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        backwards = (lengths[:, None] - 1 - steps).clamp(min=0)  # (windows, window)
        inputs = inputs.to(self.lstm.weight_hh_l0.dtype)
        with _full_precision():
            ahead, _ = self._read(self.lstm, inputs, None)  # (windows, window, hidden)
            back, _ = self._read(self.reverse_lstm, reorder(inputs, backwards), None)  # (windows, window, hidden)
            both = torch.cat([ahead, reorder(back, backwards)], dim=2)  # (windows, window, 2 * hidden)
            last = torch.arange(len(inputs), device=inputs.device), lengths - 1
            ends = torch.cat([ahead[last], back[last]], dim=1)  # (windows, 2 * hidden)
            return self.norm(both), self.norm(ends)

    def _read(self, lstm: nn.LSTM, inputs: torch.Tensor | PackedSequence, state):
        if not (self.training and self.recurrent_dropout):
            return lstm(inputs, state)
        weights = {"weight_hh_l0": functional.dropout(lstm.weight_hh_l0, self.recurrent_dropout)}
        return torch.func.functional_call(lstm, weights, (inputs, state))

    def _read_parts(self, inputs: torch.Tensor, state, resets: Sequence[tuple[int, torch.Tensor]]):
        # One call of the fused kernel between two resets, whichever rows they are of: no step is computed twice, and
        # nothing padded. Windows as rows of a packed batch take 15 times as long on a CPU, padded ones 1.4 times.
        stops = [step for step, _ in resets[1:]] + [inputs.shape[1]]
        outputs = [self._read(self.lstm, inputs[:, : resets[0][0]], state)] if resets[0][0] else []
        state = outputs[0][1] if outputs else state
        for (step, kept), stop in zip(resets, stops):
            state = tuple(part * kept for part in state)  # (1, batch, hidden) each
            outputs.append(self._read(self.lstm, inputs[:, step:stop], state))
            state = outputs[-1][1]
        return torch.cat([values for values, _ in outputs], dim=1), state  # (batch, time, hidden)

    def _read_packed(self, inputs: torch.Tensor, state, lengths: torch.Tensor):
        # Packing has no empty rows: those read one step, which is then undone.
        steps = lengths.clamp(min=1).cpu()
        packed = pack_padded_sequence(inputs, steps, batch_first=True, enforce_sorted=False)
        outputs, new_state = self._read(self.lstm, packed, state)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        moved = (lengths > 0)[None, :, None]  # (1, batch, 1)
        return outputs, tuple(torch.where(moved, new, old) for new, old in zip(new_state, state))

    def _step(self, inputs: torch.Tensor, state):
        # nn.LSTM rearranges its weights for oneDNN in every call, which takes longer than one step itself.
        lstm = self.lstm
        weights = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
        hidden, cell = torch.lstm_cell(inputs[:, 0], (state[0][0], state[1][0]), *weights)  # (batch, hidden)
        return hidden[:, None], (hidden[None], cell[None])  # (batch, 1, hidden), (1, batch, hidden)


def reorder(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """`values`, (batch, time, features), with each row's time steps in its `order`, (batch, time)."""
    return values.gather(1, order[:, :, None].expand_as(values))


def _full_precision() -> torch.autocast:
    # Even where the caller wants bfloat16: on a CPU without bfloat16 instructions oneDNN refuses the LSTM
    # outright, and PyTorch's own kernel takes 26 times as long as in float32.
    return torch.autocast("cpu", enabled=False)


__all__ = ["MusicLstmCache", "MusicLstmCacheLayer", "MusicLstmLayer", "SequenceDropout", "reorder"]
