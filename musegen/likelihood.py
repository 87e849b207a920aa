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
    model, input_ids: Sequence[int] | np.ndarray, notes: int, *, context: int | None = None, stride: float = 0.5
) -> Likelihood:
    """Score one piece.

    A piece longer than the context is read in windows that overlap: each window scores only the tokens that no
    window before it scored, so that all but the first tokens are foretold from at least `1 - stride` of a context.

    Args:
        model: A causal language model in evaluation mode.
        input_ids: (time,), BOS and EOS included.
        notes: In the piece.
        context: Tokens a window; by default the model's own bound.
        stride: Share of a context by which the window moves on.
    """
    ids = torch.as_tensor(np.asarray(input_ids, dtype=np.int64), device=model.device)[None]  # (1, time)
    length = ids.shape[1]
    window = min(context or context_of(model) or length, length)
    step = max(1, int(window * stride))
    nats, scored, start = 0.0, 1, 0
    while scored < length:
        stop = min(start + window, length)
        logits = model(input_ids=ids[:, start:stop], use_cache=False).logits[0].float()  # (window, vocabulary)
        first = scored - start
        loss = functional.cross_entropy(logits[first - 1 : -1], ids[0, scored:stop], reduction="sum")
        nats += float(loss)
        scored, start = stop, start + step
    return Likelihood(nats, length - 1, notes)


def score_pieces(
    model, pieces: Sequence[tuple[Sequence[int], int]], *, context: int | None = None, progress: bool = False
) -> Likelihood:
    """Score pieces, each by itself.

    Args:
        model: A causal language model; it is put in evaluation mode and back.
        pieces: Ids with BOS and EOS, and the number of notes.
        context: See `piece_likelihood`.
        progress: Show a bar.
    """
    from tqdm.auto import tqdm

    training = model.training
    model.eval()
    total = Likelihood(0.0, 0, 0)
    for ids, notes in tqdm(pieces, desc="likelihood", unit="piece", disable=not progress, leave=False):
        total += piece_likelihood(model, ids, notes, context=context)
    model.train(training)
    return total
