"""The grammar, and drawing, as logits processors for transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from musegen.grammar import Grammar, GrammarState
from musegen.sampling import Row, SamplingOptions, draw, grammar_scores


class GrammarLogitsProcessor(LogitsProcessor):
    """Forbid what the grammar forbids, row by row, during `generate`.

    Args:
        grammar: Of the tokenizer.
        states: Of each row, after all the ids that `generate` is called with.
        bars: Bar budget of each row; None lets the model end.
        prompt_length: Ids that `generate` is called with, padding included.
    """

    def __init__(
        self, grammar: Grammar, states: Sequence[GrammarState], bars: Sequence[int | None], prompt_length: int
    ):
        self.grammar, self.length = grammar, prompt_length
        self.start = list(states)
        self.rows = [Row(grammar, state, limit, SamplingOptions()) for state, limit in zip(states, bars)]
        self.seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary) with -inf where the grammar says no."""
        self._follow(input_ids[:, self.length :].cpu())
        found = grammar_scores(self.rows, scores.float().cpu().numpy())
        return torch.from_numpy(found).to(scores.device, scores.dtype)

    def _follow(self, new: torch.Tensor) -> None:
        """Bring the states up to date; a row that is not what it was (beam search) is read anew."""
        known = 0 if self.seen is None else self.seen.shape[1]
        for i, row in enumerate(self.rows):
            if known and not torch.equal(self.seen[i], new[i, :known]):
                row.state, unread = self.start[i], new[i]
            else:
                unread = new[i, known:]
            for token in unread.tolist():
                row.advance(token)
        self.seen = new


class DrawLogitsProcessor(GrammarLogitsProcessor):
    """Draw within `generate` as `musegen.generation` draws: all but the drawn id become -inf.

    With it, `generate(do_sample=False)` writes what the package's own loop writes for the same keys.

    Args:
        grammar: Of the tokenizer.
        states: Of each row, after all the ids that `generate` is called with.
        bars: Bar budget of each row; None lets the model end.
        prompt_length: Ids that `generate` is called with, padding included.
        options: How to draw.
        keys: Names of the rows' randomness; by default the seed and the row's number.
    """

    def __init__(
        self,
        grammar: Grammar,
        states: Sequence[GrammarState],
        bars: Sequence[int | None],
        prompt_length: int,
        options: SamplingOptions,
        keys: Sequence[Sequence[int]] | None = None,
    ):
        super().__init__(grammar, states, bars, prompt_length)
        keys = keys or [(options.seed, i) for i in range(len(states))]
        self.options = options
        self.rows = [Row(grammar, state, limit, options, key) for state, limit, key in zip(states, bars, keys)]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary): 0 for the drawn id, -inf for all others."""
        self._follow(input_ids[:, self.length :].cpu())
        tokens = draw(self.rows, scores.float().cpu().numpy(), self.options).tokens
        out = torch.full_like(scores, -torch.inf)
        out[torch.arange(len(tokens)), torch.tensor(tokens)] = 0
        return out
