"""Sampling token ids that are always music: the grammar at work, the bar budget, the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from musegen.errors import RequestError
from musegen.grammar import Grammar, GrammarState
from musegen.id_tables import BAR, CLOSED, END
from musegen.likelihood import context_of


class GrammarLogitsProcessor(LogitsProcessor):
    """Forbid what the grammar forbids, row by row, during `generate`.

    Where the bar budget is spent, what the model would give to another bar is given to the end of the piece.

    Args:
        grammar: Of the tokenizer.
        states: Of each row, after all the ids that `generate` is called with.
        bars: Bar budget of each row; None lets the model end.
        prompt_length: Ids that `generate` is called with, padding included.
    """

    def __init__(
        self, grammar: Grammar, states: Sequence[GrammarState], bars: Sequence[int | None], prompt_length: int
    ):
        self.grammar, self.bars, self.length = grammar, list(bars), prompt_length
        self.start, self.states = list(states), list(states)
        self.seen: torch.Tensor | None = None
        self.begins_bar = torch.from_numpy(grammar.first == BAR)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary) with -inf where the grammar says no."""
        new = input_ids[:, self.length :].cpu()
        self._follow(new)
        masks = [self.grammar.allowed(state, bars) for state, bars in zip(self.states, self.bars)]
        mask = torch.from_numpy(np.stack(masks)).to(scores.device)
        out = scores.masked_fill(~mask, -torch.inf)
        begins = self.begins_bar.to(scores.device)
        for row, (state, bars) in enumerate(zip(self.states, self.bars)):
            if bars is not None and state.bars >= bars and masks[row][self.grammar.eos]:
                out[row, self.grammar.eos] = torch.logsumexp(
                    torch.cat([scores[row, self.grammar.eos, None], scores[row, begins]]), 0
                )
        return out

    def _follow(self, new: torch.Tensor) -> None:
        """Bring the states up to date; a row that is not what it was (beam search) is read anew."""
        known = 0 if self.seen is None else self.seen.shape[1]
        for row in range(len(self.states)):
            if known and not torch.equal(self.seen[row], new[row, :known]):
                self.states[row] = self.grammar.read(new[row].tolist(), self.start[row])
            else:
                self.states[row] = self.grammar.read(new[row, known:].tolist(), self.states[row])
        self.seen = new


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How ids are drawn.

    Args:
        temperature: Above 1 bolder, below 1 safer; 0 always takes the likeliest.
        top_p: Draw from the likeliest ids that together have this probability.
        top_k: Draw from so many ids at the most; 0 for all.
        seed: The same seed gives the same music.
        max_tokens: New ids a piece at the most, whatever the bar budget.
    """

    temperature: float = 1.0
    top_p: float = 0.97
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 16_384

    def __post_init__(self):
        if not 0 <= self.temperature <= 5:
            raise RequestError(f"temperature: between 0 and 5, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p: above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise RequestError(f"top_k: 0 or more, not {self.top_k}")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens: 1 or more, not {self.max_tokens}")


@torch.inference_mode()
def sample(
    model,
    grammar: Grammar,
    prompts: Sequence[Sequence[int]],
    bars: Sequence[int | None],
    options: SamplingOptions | None = None,
    *,
    progress: bool = False,
) -> list[list[int]]:
    """Go on from prompts until each piece ends.

    A piece that outgrows the model's context goes on from its last bars: a window of at most half a context that
    begins at a bar line.

    Args:
        model: A causal language model with `generate`.
        grammar: Of its tokenizer.
        prompts: Ids of each piece so far, BOS first; more than BOS is kept as it is and ends with a whole bar.
        bars: Whole length of each piece in bars, prompt included; None lets the model end it.
        options: `SamplingOptions()` by default.
        progress: Show a bar of bars.

    Returns:
        Ids of each piece, prompt included; EOS last if it ended.
    """
    from tqdm.auto import tqdm

    options = options or SamplingOptions()
    model.eval()
    torch.manual_seed(options.seed)
    pieces = [list(map(int, prompt)) for prompt in prompts]
    states = [grammar.read(piece) for piece in pieces]
    states = [dataclasses.replace(s, kind=CLOSED) if s.bars else s for s in states]
    limits = [len(piece) + options.max_tokens for piece in pieces]
    context = context_of(model) or 4096
    total = sum(b or 0 for b in bars)
    bar = tqdm(total=total or None, initial=sum(s.bars for s in states), desc="bars", disable=not progress)
    while True:
        active = [i for i, s in enumerate(states) if s.kind != END and len(pieces[i]) < limits[i]]
        if not active:
            break
        windows = [_window(pieces[i], grammar, context) for i in active]
        longest = max(map(len, windows))
        room = min(context - longest, max(limits[i] - len(pieces[i]) for i in active))
        ids = torch.full((len(active), longest), grammar.pad)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, longest - len(window) :] = torch.tensor(window)
            mask[row, longest - len(window) :] = 1
        processor = GrammarLogitsProcessor(grammar, [states[i] for i in active], [bars[i] for i in active], longest)
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=room,
            logits_processor=LogitsProcessorList([processor]),
            pad_token_id=grammar.pad,
            eos_token_id=grammar.eos,
            **_generation_settings(options),
        )
        for row, i in enumerate(active):
            new = out[row, longest:].tolist()
            new = new[: new.index(grammar.eos) + 1] if grammar.eos in new else new
            new = new[: limits[i] - len(pieces[i])]
            before = states[i].bars
            states[i] = grammar.read(new, states[i])
            pieces[i] += new
            bar.update(states[i].bars - before)
    bar.close()
    return pieces


def _generation_settings(options: SamplingOptions) -> dict:
    if options.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": float(options.temperature),
        "top_p": float(options.top_p),
        "top_k": int(options.top_k),
    }


def _window(piece: list[int], grammar: Grammar, context: int) -> list[int]:
    """What the model is shown of a piece: all of it, or its last bars."""
    if len(piece) <= context * 3 // 4:
        return piece
    tail = piece[-(context // 2) :]
    starts = [i for i, token in enumerate(tail) if grammar.first[token] == BAR]
    return tail[starts[0] :] if starts else tail
