"""Training the tokenizer, and measuring what it loses."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import symusic

from musegen import grid as g
from musegen.controls import composer_slug, control_tokens
from musegen.errors import TokenizerError
from musegen.remi import remi_config
from musegen.tokenizer import MusicTokenizer, wrap_remi

MIN_PIECES = 3


def train_tokenizer(
    scores: Iterable[symusic.Score],
    vocab_size: int = 2000,
    *,
    controls: bool = True,
    composers: Sequence[str] = (),
    transposed_copies: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> MusicTokenizer:
    """Train BPE on scores and return the tokenizer.

    Args:
        scores: Canonical scores of the training split only.
        vocab_size: Ids in all, REMI's own included.
        controls: Give it the control tokens of `musegen.controls`.
        composers: Names of those who get a token of their own.
        transposed_copies: How many other keys of each piece BPE sees beside its own: models train on all keys,
            so merges should not belong to one.
        seed: Of the choice of keys.
        progress: Show a bar.

    Raises:
        TokenizerError: If there is no score, or `vocab_size` leaves no room for merges.
    """
    from miditok import REMI
    from tqdm.auto import tqdm

    slugs = list(dict.fromkeys(filter(None, map(composer_slug, composers))))
    remi = REMI(remi_config(control_tokens(slugs) if controls else ()))
    if vocab_size <= len(remi.vocab):
        raise TokenizerError(f"vocab_size {vocab_size} leaves no room: REMI itself has {len(remi.vocab)} tokens")
    bare = wrap_remi(remi, trained=False)
    rng = np.random.default_rng(seed)
    words: list[list[str]] = []
    for score in tqdm(scores, desc="REMI", unit="piece", disable=not progress):
        base = bare.base_ids(score)
        low, high = bare.transpositions(base)
        choices = np.array([k for k in range(max(low, -6), min(high, 6) + 1) if k])
        keys = rng.choice(choices, size=min(transposed_copies, len(choices)), replace=False) if len(choices) else []
        words += [bare._bars(bare.transposed(base, int(key))) for key in [0, *keys]]
    if not words:
        raise TokenizerError("no score to train a tokenizer on")
    remi.train(vocab_size=vocab_size, model="BPE", iterator=words)
    return wrap_remi(remi)


def composers_of(rows, pieces: int = MIN_PIECES) -> list[str]:
    """Who gets a composer token: everyone of whom a split has some pieces, by name.

    Args:
        rows: The training split of a corpus.
        pieces: How many at least; of fewer a model learns the pieces, not the composer.
    """
    counts = collections.Counter(name for name in rows["composer"] if name)
    return sorted(name for name, count in counts.items() if count >= pieces)


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """How many notes survive score -> ids -> score, with the very onset, duration, pitch and program.

    Args:
        notes: In the canonical scores, which are the source snapped to the grid.
        exact: Of these, how many came back. Unisons count once for each instrument.
        tokens: Ids in all, BOS and EOS excluded.
        files: Name, notes and exact notes of each piece, worst first.
    """

    notes: int
    exact: int
    tokens: int
    files: list[tuple[str, int, int]]

    @property
    def share(self) -> float:
        return self.exact / max(self.notes, 1)

    def __str__(self) -> str:
        lines = [
            f"round trip: {self.exact:,} of {self.notes:,} notes come back exactly ({self.share:.4%}); "
            f"{self.tokens / max(self.notes, 1):.3f} tokens a note"
        ]
        worst = [row for row in self.files if row[2] < row[1]][:5]
        lines += [f"  {exact / notes:8.3%} of {notes:6,} notes  {name}" for name, notes, exact in worst]
        return "\n".join(lines)


def round_trip(tokenizer: MusicTokenizer, scores: Iterable[tuple[str, symusic.Score]]) -> RoundTrip:
    """Measure what a tokenizer loses.

    Args:
        tokenizer: Any.
        scores: Names and canonical scores.
    """
    notes = exact = tokens = 0
    files = []
    for name, score in scores:
        ids = tokenizer.encode_score(score, bos=False, eos=False)
        here = _note_counts(score)
        kept = sum((here & _note_counts(tokenizer.decode_score(ids))).values())
        files.append((name, sum(here.values()), kept))
        notes, exact, tokens = notes + files[-1][1], exact + kept, tokens + len(ids)
    files.sort(key=lambda row: row[2] / max(row[1], 1))
    return RoundTrip(notes, exact, tokens, files)


def _note_counts(score: symusic.Score) -> collections.Counter:
    return collections.Counter(map(tuple, g.note_array(score)[["onset", "duration", "pitch", "program"]].tolist()))
