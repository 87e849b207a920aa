"""How well a model foretells music: nats a token, and bits a note, which no tokenizer can change.

Every token of a piece is scored, its end included, and the sum is divided by the notes of the piece: models with
other vocabularies, and models of other kinds, can be compared. Source of the idea: bits per byte in language
modelling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from musegen.layout import StreamLayout


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Sums over pieces.

    Args:
        nats: Of all scored tokens.
        tokens: Scored: all but each piece's BOS.
        notes: In the pieces.
    """

    nats: float
    tokens: int
    notes: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / max(self.tokens, 1)

    @property
    def bits_per_note(self) -> float:
        return self.nats / math.log(2) / max(self.notes, 1)

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(self.nats + other.nats, self.tokens + other.tokens, self.notes + other.notes)


def context_of(model) -> int | None:
    """How many tokens a model can look at, or None if there is no bound."""
    if getattr(model.config, "model_type", "") == "music_lstm":
        return None
    return getattr(model.config, "max_position_embeddings", None)


@torch.inference_mode()
def piece_likelihood(
    model,
    input_ids: Sequence[int] | np.ndarray,
    notes: int,
    *,
    context: int | None = None,
    stride: float = 0.5,
    layout: StreamLayout | None = None,
) -> Likelihood:
    """Score one piece.

    A piece longer than the context is read in windows that overlap: each window scores only the tokens that no
    window before it scored, so that nearly all tokens are foretold from at least `1 - stride` of a context.

    Args:
        model: A causal language model in evaluation mode.
        input_ids: (time,), BOS and EOS included.
        notes: In the piece.
        context: Tokens a window; by default the model's own bound.
        stride: Share of a context by which the window moves on.
        layout: Of the tokenizer: windows then begin at bar lines and are opened as in training.
    """
    ids = np.asarray(input_ids, dtype=np.int64)
    length = len(ids)
    window = min(context or context_of(model) or length, length)
    bars = layout.bar_starts(ids) if layout is not None else np.empty(0, np.int64)
    nats, scored, start = 0.0, 1, 0
    opening: list[int] = []
    while scored < length:
        if start + window - len(opening) <= scored:  # a context hardly longer than a header
            opening = []
        stop = min(start + window - len(opening), length)
        shown = np.concatenate([np.asarray(opening, dtype=np.int64), ids[start:stop]])
        shown = torch.as_tensor(shown, device=model.device)[None]  # (1, window)
        logits = model(input_ids=shown, use_cache=False).logits[0].float()  # (window, vocabulary)
        first = scored - start + len(opening)
        loss = functional.cross_entropy(logits[first - 1 : -1], shown[0, first:], reduction="sum")
        nats += float(loss)
        scored = stop
        at_least = start + max(1, int(window * stride))
        later = bars[(bars >= min(at_least, stop - 1)) & (bars < stop)]
        start = int(later[0]) if len(later) else min(at_least, stop - 1)
        opening = layout.reopen(ids, start) if len(later) else []
    return Likelihood(nats, length - 1, notes)


def score_pieces(
    model,
    pieces: Sequence[tuple[Sequence[int], int]],
    *,
    context: int | None = None,
    layout: StreamLayout | None = None,
    progress: bool = False,
) -> Likelihood:
    """Score pieces, each by itself.

    Args:
        model: A causal language model; it is put in evaluation mode and back.
        pieces: Ids with BOS and EOS, and the number of notes.
        context: See `piece_likelihood`.
        layout: See `piece_likelihood`.
        progress: Show a bar.
    """
    from tqdm.auto import tqdm

    training = model.training
    model.eval()
    total = Likelihood(0.0, 0, 0)
    for ids, notes in tqdm(pieces, desc="likelihood", unit="piece", disable=not progress, leave=False):
        total += piece_likelihood(model, ids, notes, context=context, layout=layout)
    model.train(training)
    return total
