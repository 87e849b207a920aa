"""LSTM language models with the interface of any other causal language model of transformers.

One class, two variants (Hochreiter and Schmidhuber 1997 under both):

- Forward (default): the logits at position t come from a forward LSTM that has read tokens 0..t. Generation
  carries the state of each layer and reads one token a step, so a token costs the same at any length.
- Bidirectional (`config.bidirectional`): the logits at position t come from a bidirectional LSTM over the
  window of tokens max(0, t - window + 1)..t: the forward direction's state after the last of them beside the
  backward direction's state after the first. Each position has a window of its own, so no prediction sees its
  target, as it would in one bidirectional pass over a block. It costs `window` steps a token.

Several pieces in one row are told apart by `resets`: before a marked token all that came before is forgotten, as
attention forgets it where positions begin anew.

Padding, on either side or between tokens, is skipped: a sequence has the same logits with and without it.
Logits at padding are undefined.

Self-contained on purpose: this file travels beside the weights, so it imports nothing of musegen.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .configuration_music_lstm import MusicLstmConfig
from .layers_music_lstm import MusicLstmCache, MusicLstmLayer, SequenceDropout, reorder

# Windows of the bidirectional variant in one pass: bounds its memory. At 100 tokens of 2 x 256 units, the
# values that a layer keeps for its gradient take about 1 GB.
WINDOWS_AT_ONCE = 1024
IGNORED_LABEL = -100  # transformers' label for "no target here"


class MusicLstmPreTrainedModel(PreTrainedModel):
    """Initialisation and loading, shared by the two models."""

    config_class = MusicLstmConfig
    base_model_prefix = "model"
    _is_stateful = True
    _no_split_modules = ["MusicLstmLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if not isinstance(module, nn.LSTM):
            return
        size = module.hidden_size
        for name, parameter in module.named_parameters():
            # `init` leaves loaded weights alone, which it knows by a mark that a slice of a tensor lacks.
            if name.startswith("weight_hh"):
                gates = [init.orthogonal_(torch.empty(size, size, device=parameter.device)) for _ in range(4)]
                init.copy_(parameter, torch.cat(gates))
            elif name.startswith("bias_ih"):
                # Forget gates start open, so that gradients reach far back (Jozefowicz et al. 2015).
                bias = torch.zeros(4 * size, device=parameter.device)
                bias[size : 2 * size] = 1
                init.copy_(parameter, bias)


class MusicLstmModel(MusicLstmPreTrainedModel):
    """Embeddings and LSTM layers, without an output layer."""

    def __init__(self, config: MusicLstmConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.embedding_norm = nn.LayerNorm(config.embedding_size) if config.layer_norm else nn.Identity()
        self.embedding_dropout = SequenceDropout(config.embedding_dropout, config.locked_dropout)
        self.layer_dropout = SequenceDropout(config.dropout, config.locked_dropout)
        sizes = [config.embedding_size] + [config.output_size] * (config.num_layers - 1)
        self.layers = nn.ModuleList(MusicLstmLayer(config, size) for size in sizes)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: MusicLstmCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        positions: torch.LongTensor | None = None,
        resets: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Read tokens, after those that `past_key_values` remembers.

        Args:
            input_ids: (batch, time).
            attention_mask: 1 for a token, 0 for padding, (batch, time) or, with a cache, (batch, past + time),
                of which the last `time` columns count.
            past_key_values: Memory of earlier calls; updated in place.
            inputs_embeds: (batch, time, embedding), instead of `input_ids`.
            use_cache: Return a cache; None means `config.use_cache`, except while training.
            positions: Indices into `time` of the positions to answer for, (chosen,); None for all.
            resets: True for a token that begins a piece: nothing before it is remembered, (batch, time). Not
                together with padding.
            **kwargs: Ignored: what generation passes to models in general.

        Returns:
            `last_hidden_state`, (batch, chosen, output_size), and `past_key_values`.

        Raises:
            ValueError: Both or neither kind of input, a mask of another shape, or `resets` with padding.
            TypeError: A cache of another model class.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")
        embeds = inputs_embeds
        if embeds is None:
            embeds = self.embed_tokens(input_ids)  # (batch, time, embedding)
        if past_key_values is None:
            use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
            past_key_values = MusicLstmCache(self.config) if use_cache else None
        elif not isinstance(past_key_values, MusicLstmCache):
            raise TypeError(f"past_key_values is a {type(past_key_values).__name__}, not a MusicLstmCache")
        mask = _token_mask(attention_mask, embeds.shape[1])
        if resets is not None and mask is not None:
            raise ValueError("resets and padding together are not supported: pack pieces without padding")
        if self.config.bidirectional:
            hidden = self._read_windows(embeds, mask, past_key_values, positions, resets)  # (batch, chosen, output)
        else:
            hidden = self._read_forward(embeds, mask, past_key_values, resets)  # (batch, time, hidden)
            hidden = hidden if positions is None else hidden[:, positions]  # (batch, chosen, hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _read_forward(self, embeds, mask, cache, resets):
        time, lengths = embeds.shape[1], None
        hidden = self.embedding_dropout(self.embedding_norm(embeds))
        if mask is not None:
            # Tokens before padding: then no token's output depends on padding, and packing ends with the tokens.
            order = mask.logical_not().int().argsort(dim=1, stable=True)  # (batch, time)
            hidden = reorder(hidden, order)
            lengths = None if cache is None else mask.sum(dim=1)  # (batch,)
        resets = _reset_steps(resets, hidden.device)
        for index, layer in enumerate(self.layers):
            hidden = self.layer_dropout(hidden) if index else hidden
            past = None if cache is None else cache.layers[index]
            state = (past.keys[None], past.values[None]) if past is not None and past.is_initialized else None
            hidden, state = layer(hidden, state, lengths, resets)  # (batch, time, hidden)
            if cache is not None:
                cache.update(state[0][0], state[1][0], index, new_positions=time)
        return hidden if mask is None else reorder(hidden, order.argsort(dim=1))

    def _read_windows(self, embeds, mask, cache, positions, resets):
        batch, time, _ = embeds.shape
        mask = embeds.new_ones(batch, time, dtype=torch.bool) if mask is None else mask  # (batch, time)
        if cache is not None and cache.get_seq_length():
            past, past_mask = cache.layers[0].keys.to(embeds.dtype), cache.layers[0].values
            embeds = torch.cat([past, embeds], dim=1)  # (batch, past + time, embedding)
            mask = torch.cat([past_mask, mask], dim=1)  # (batch, past + time)
        total = mask.shape[1]
        # Padding before tokens: then each row's tokens are adjacent and end at the last column.
        order = mask.int().argsort(dim=1, stable=True)  # (batch, total)
        tokens = reorder(embeds, order)
        first = total - mask.sum(dim=1, keepdim=True)  # (batch, 1)
        if cache is not None:
            kept = max(total - self.config.window + 1, 0)
            cache.update(tokens[:, kept:], mask.gather(1, order)[:, kept:], 0, new_positions=time)

        ends = first + mask.cumsum(dim=1)[:, total - time :] - 1  # (batch, time)
        ends = ends if positions is None else ends[:, positions]  # (batch, chosen)
        starts = (ends - self.config.window + 1).maximum(first)  # (batch, chosen)
        if resets is not None:
            begins = torch.where(resets.to(embeds.device), torch.arange(total - time, total, device=embeds.device), 0)
            begins = begins.cummax(dim=1).values  # (batch, time)
            starts = starts.maximum(begins if positions is None else begins[:, positions])
        starts = starts.flatten()  # (windows,) = (batch * chosen,)
        lengths = (ends.flatten() - starts + 1).clamp(min=1)  # (windows,)
        rows = torch.arange(batch, device=embeds.device).repeat_interleave(ends.shape[1])  # (windows,)
        recompute = torch.is_grad_enabled() and len(rows) > WINDOWS_AT_ONCE
        hidden = []
        for chunk in torch.arange(len(rows), device=embeds.device).split(WINDOWS_AT_ONCE):
            arguments = (tokens, rows[chunk], starts[chunk], lengths[chunk])
            if recompute:
                hidden.append(checkpoint(self._read_chunk, *arguments, use_reentrant=False))
            else:
                hidden.append(self._read_chunk(*arguments))
        return torch.cat(hidden).unflatten(0, (batch, -1))  # (batch, chosen, output)

    def _read_chunk(self, tokens, rows, starts, lengths):
        offsets = torch.arange(min(self.config.window, tokens.shape[1]), device=tokens.device)  # (window,)
        columns = (starts[:, None] + offsets).clamp(max=tokens.shape[1] - 1)  # (windows, window)
        hidden = self.embedding_norm(tokens[rows[:, None], columns])  # (windows, window, embedding)
        hidden = self.embedding_dropout(hidden)
        for index, layer in enumerate(self.layers):
            hidden = self.layer_dropout(hidden) if index else hidden
            hidden, ends = layer.read_windows(hidden, lengths)  # (windows, window, output), (windows, output)
        return ends


class MusicLstmForCausalLM(MusicLstmPreTrainedModel, GenerationMixin):
    """`MusicLstmModel` with an output layer over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MusicLstmConfig):
        super().__init__(config)
        self.model = MusicLstmModel(config)
        self.output_dropout = SequenceDropout(config.output_dropout, config.locked_dropout)
        width = config.embedding_size if config.tie_word_embeddings else config.output_size
        fits = width == config.output_size
        self.projection = nn.Identity() if fits else nn.Linear(config.output_size, width)
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # False: `generate` leaves it to the model to make its cache.
        return False

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: MusicLstmCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        resets: torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each position; the other arguments are those of `MusicLstmModel`.

        Args:
            input_ids: (batch, time).
            attention_mask: 1 for a token, 0 for padding, (batch, time) or (batch, past + time).
            past_key_values: Memory of earlier calls; updated in place.
            inputs_embeds: (batch, time, embedding), instead of `input_ids`.
            labels: The inputs again, unshifted, -100 where no loss is wanted, (batch, time).
            use_cache: Return a cache; None means `config.use_cache`, except while training.
            logits_to_keep: Predict at the last so many positions, or at these indices; 0 for all.
            num_items_in_batch: Targets to divide the summed loss by, where a step spans several batches or
                processes; None for the targets of this one.
            resets: True for a token that begins a piece, (batch, time).
            **kwargs: Passed on to the loss function.

        Returns:
            `logits`, (batch, time, vocab), at fewer positions where `logits_to_keep` or, in training with
            labels, `config.train_positions` say so; `loss` in nats a token; `past_key_values`.
        """
        time = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
        targets, share = None, 1.0
        if labels is not None:
            targets = functional.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:]  # (batch, time)
        positions = None
        if targets is not None and self.training and self.config.train_positions:
            positions, share = self._draw_positions(targets)
        elif not isinstance(logits_to_keep, int) or logits_to_keep:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            positions = torch.arange(time)[kept]  # (kept,)
        outputs = self.model(input_ids, attention_mask, past_key_values, inputs_embeds, use_cache, positions, resets)
        hidden = self.output_dropout(outputs.last_hidden_state)
        logits = self.lm_head(self.projection(hidden))  # (batch, chosen, vocab)

        loss = None
        if targets is not None:
            if share < 1:
                whole = (targets != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
                num_items_in_batch = whole * share
            targets = targets if positions is None else targets[:, positions]  # (batch, chosen)
            loss = self.loss_function(
                logits,
                None,
                vocab_size=logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
                shift_labels=targets.contiguous(),
                **kwargs,
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def _draw_positions(self, targets: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Positions to train on, (chosen,), of those with a target in any row, and their share of those."""
        candidates = (targets != IGNORED_LABEL).any(dim=0).nonzero()[:, 0]  # (candidates,)
        if not len(candidates):
            return torch.zeros(1, dtype=torch.long), 1.0  # a window without a target, for a loss of 0
        count = min(self.config.train_positions, len(candidates))
        # Drawn on the CPU, whose generator state every checkpoint of a training run holds.
        drawn = torch.randperm(len(candidates))[:count].sort().values.to(candidates.device)  # (chosen,)
        return candidates[drawn], count / len(candidates)


def _reset_steps(resets: torch.Tensor | None, device: torch.device) -> list[tuple[int, torch.Tensor]]:
    """Steps before which rows forget, ascending, each with False for the rows that do, (batch, 1).

    A GPU need not be waited for where `resets` is on the CPU.
    """
    if resets is None:
        return []
    steps = resets.any(dim=0).nonzero()[:, 0].tolist()
    return [(step, (~resets[:, step, None]).to(device)) for step in steps]


def _token_mask(attention_mask: torch.Tensor | None, time: int) -> torch.Tensor | None:
    """The mask's last `time` columns as booleans, (batch, time), or None where nothing is padding."""
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[1] < time:
        shape = tuple(attention_mask.shape)
        raise ValueError(f"attention_mask has shape {shape}, must be (batch, {time} or more)")
    mask = attention_mask[:, -time:].bool()  # (batch, time)
    return None if mask.all() else mask


__all__ = ["MusicLstmCache", "MusicLstmForCausalLM", "MusicLstmModel", "MusicLstmPreTrainedModel"]
