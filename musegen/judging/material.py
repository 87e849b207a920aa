"""What a judgement is made of: samples and real excerpts cut to one length, measured and scored.

With few held-out works, training works stand in for the missing ones: each is measured as if it had been held
out, against the other training works only, so that all of its figures, those of copying too, are those of
music that was not trained on. They show how works differ; see `musegen.judging.bands`.

Units: lengths in bars.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from musegen import notewise
from musegen.errors import ConfigError
from musegen.judging import bleu
from musegen.judging.baselines import LABELS
from musegen.judging.measures import BLEU, Measured, measure_all
from musegen.judging.originality import TrainingIndex
from musegen.judging.pieces import Piece, barred_notes, count_bars, cut_bars, windows

MIN_BARS = 4  # below this there is no structure to speak of
EXCERPTS_A_PIECE = 4
MAX_EXCERPTS = 240  # real excerpts in all: more make the bands no better and the judgement slower
ENOUGH_WORKS = 8  # held out: from here on, they show by themselves how works differ
STAND_INS = 4  # parts of the training works that take turns in standing in
MANY_NOTES = 300_000  # training notes above which only two parts do, for each needs an index of its own


@dataclasses.dataclass
class Material:
    """What is judged, cut to one length.

    Args:
        bars: That length.
        groups: Samples of each model.
        fates: For each model, how many of its samples were `cut`, are `shorter`, or were `silent` and left out.
        real: Excerpts of the held-out pieces.
    """

    bars: int
    groups: dict[str, list[Piece]]
    fates: dict[str, dict[str, int]]
    real: list[Piece]


def prepare(
    groups: dict[str, list[Piece]], train: list[Piece], held_out: list[Piece], most_bars: int | None = None
) -> Material:
    """Cut everything to the length that half of the samples of every group reach.

    Args:
        groups: Samples by the name of their model.
        train: Training pieces.
        held_out: Real pieces.
        most_bars: A bound on that length.

    Raises:
        ConfigError: Nothing to judge, or nothing to judge it by.
    """
    if not groups or not all(groups.values()):
        empty = [name for name, pieces in groups.items() if not pieces]
        raise ConfigError(f"nothing to judge: no samples in {empty[0]!r}" if empty else "nothing to judge")
    clash = sorted(set(groups) & set(LABELS))
    if clash:
        raise ConfigError(f"{clash[0]!r} is the name of a baseline: give the group another name")
    for name, pieces in groups.items():
        if len({piece.name for piece in pieces}) < len(pieces):
            raise ConfigError(f"two samples of {name!r} have the same name")
    if not any(map(_sounds, train)):
        raise ConfigError("no notes in the training pieces: copies are looked for in them, so they are needed")
    sounding = {name: [piece for piece in pieces if _sounds(piece)] for name, pieces in groups.items()}
    silent = [name for name, pieces in sounding.items() if not pieces]
    if silent:
        raise ConfigError(f"no sample of {silent[0]!r} has a note")
    lengths = {name: [count_bars(p.score) for p in pieces] for name, pieces in sounding.items()}
    bars = max(int(min([np.median(found) for found in lengths.values()] + [most_bars or np.inf])), MIN_BARS)
    fates = {
        name: {
            "cut": sum(length > bars for length in found),
            "shorter": sum(length < bars for length in found),
            "silent": len(groups[name]) - len(found),
        }
        for name, found in lengths.items()
    }
    cut = {
        name: [dataclasses.replace(p, score=cut_bars(p.score, 0, bars)) for p in pieces]
        for name, pieces in sounding.items()
    }
    real = excerpts(held_out, bars, MAX_EXCERPTS)
    if not real:
        raise ConfigError(f"no held-out piece is long enough for an excerpt of {bars} bars, the length of the samples")
    # The first bars of a sample may be silent; what is compared must not be.
    cut = {name: [p for p in pieces if _sounds(p)] or sounding[name] for name, pieces in cut.items()}
    return Material(bars, cut, fates, real)


def excerpts(pieces: Sequence[Piece], bars: int, limit: int) -> list[Piece]:
    """Excerpts of all pieces, spread evenly if there are more than the limit."""
    found = [excerpt for piece in pieces for excerpt in windows(piece, bars, EXCERPTS_A_PIECE)]
    if len(found) > limit:
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]
    return found


def _sounds(piece: Piece) -> bool:
    return len(barred_notes(piece.score)) > 0


class Yardstick:
    """Everything that a piece is measured by, over one set of training pieces.

    Attributes:
        train_ids: Notewise ids of the training pieces.
    """

    def __init__(self, train: Sequence[Piece], tokens: int):
        """Index the training pieces.

        Args:
            train: At least one with notes.
            tokens: Notewise tokens of each piece that BLEU scores.
        """
        self.train_ids = [notewise.encode_ids(piece.score) for piece in train]
        self._index = TrainingIndex.build([(piece.name, piece.score) for piece in train])
        self._bleu = bleu.BleuJudge(self.train_ids, tokens)

    def measure(self, pieces: Sequence[Piece]) -> tuple[list[Measured], dict]:
        """Measure a group, and score it by BLEU.

        Returns:
            Its pieces with all their values, and what the metric said of them together.
        """
        measured = measure_all(pieces, self._index)
        result = self._bleu.score([m.ids for m in measured])
        for m, row in zip(measured, result["per_prediction"]):
            m.values[BLEU] = float(row["score"])
            m.cumulative = np.array(row["cumulative_scores"])
        return measured, result


def stand_ins(train: Sequence[Piece], held_works: set[str], bars: int, tokens: int) -> list[Measured]:
    """Excerpts of training works, each measured against the other training works alone.

    Args:
        train: The training pieces.
        held_works: Works that are held out: none of them stands in for itself.
        bars: Length of the excerpts.
        tokens: As in `Yardstick`.

    Returns:
        At most `MAX_EXCERPTS`; none if there are not two works to tell apart.
    """
    works = sorted({piece.work for piece in train} - held_works)
    notes = sum(len(barred_notes(piece.score)) for piece in train)
    parts = min(2 if notes > MANY_NOTES else STAND_INS, len(works))
    found: list[Measured] = []
    for part in range(parts if parts >= 2 else 0):
        own = set(works[part::parts])
        others = [piece for piece in train if piece.work not in own]
        real = excerpts([piece for piece in train if piece.work in own], bars, MAX_EXCERPTS // parts)
        if real and any(map(_sounds, others)):
            found += Yardstick(others, tokens).measure(real)[0]
    return found
