"""All that is measured of one piece, under the names by which `results.json` and the report know it.

Units: see `METRICS`; a value that a piece does not define is NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from musegen import notewise
from musegen.judging import features, structure
from musegen.judging.originality import CopiedSpan, TrainingIndex
from musegen.judging.pieces import Piece, barred_notes

FEATURE, STRUCTURE, ORIGINALITY = "feature", "structure", "originality"
# Lags, in bars, whose similarity is a metric of its own; the report draws all lags.
LAG_METRICS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name: Key in `results.json`.
        label: For people.
        unit: Likewise.
        kind: `feature`, `structure` or `originality`. Of originality, only too much is a fault.
        high: What music with more of it than real music does.
        low: What music with less of it does.
        tolerance: No band reaches less far from its mean.
    """

    name: str
    label: str
    unit: str
    kind: str
    high: str
    low: str
    tolerance: float = 0.0

    @property
    def highest(self) -> float:
        """What no piece can exceed: 1 for shares, fitness and scores."""
        return 1.0 if self.unit.split()[0] in ("share", "fitness", "score") else math.inf


def _structure_metrics() -> list[Metric]:
    share = "share of notes"
    found = [
        Metric(f"bar_similarity_{lag}", f"similarity of bars {lag} apart", share, STRUCTURE,
               "repeats its bars too exactly", "hardly takes a bar up again")
        for lag in LAG_METRICS
    ]  # fmt: skip
    for name, (first, last) in structure.RANGES.items():
        found.append(
            Metric(f"structureness_{name}", f"structureness, {first} to {last} bars", "fitness", STRUCTURE,
                   f"repeats passages of {first} to {last} bars too much",
                   f"repeats too few passages of {first} to {last} bars")
        )  # fmt: skip
    return found


_COPIES = "copies from the training music more than real music does"
_FRESH = "shares less with the training music than real music does"
BLEU = "music_bleu"
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        *(Metric(f.name, f.label, f.unit, FEATURE, f.high, f.low, f.tolerance) for f in features.FEATURES),
        *_structure_metrics(),
        Metric("copied_notes_exact", "longest copied span, exact", "notes", ORIGINALITY, _COPIES, _FRESH),
        Metric("copied_notes_transposed", "longest copied span, any key", "notes", ORIGINALITY, _COPIES, _FRESH),
        Metric("copied_share", "notes inside long copied spans", "share of notes", ORIGINALITY, _COPIES, _FRESH),
        Metric("token_9grams", "9-grams of tokens found in training", "share", ORIGINALITY, _COPIES, _FRESH),
        Metric("note_9grams", "9-grams of notes found in training", "share", ORIGINALITY, _COPIES, _FRESH),
        Metric(BLEU, "customised BLEU against training", "score", ORIGINALITY, _COPIES, _FRESH),
    ]
}  # fmt: skip
# What a classifier may look at: how the music is, not whose it is. A copy of real music is real music.
CLASSIFIED = tuple(m.name for m in METRICS.values() if m.kind != ORIGINALITY)


@dataclasses.dataclass
class Measured:
    """A piece with its numbers.

    Args:
        piece: The piece.
        values: By the names of `METRICS`; BLEU is added by whoever scores the group.
        curve: Bar similarity by lag: float64 (`structure.LAGS`,).
        ids: Notewise ids.
        exact: Longest copied span at the same pitches.
        transposed: Longest copied span at any transposition.
        cumulative: Cumulative BLEU for 1 to 9-grams, float64 (9,); likewise added later.
    """

    piece: Piece
    values: dict[str, float]
    curve: np.ndarray
    ids: np.ndarray
    exact: CopiedSpan
    transposed: CopiedSpan
    cumulative: np.ndarray | None = None


def measure(piece: Piece, index: TrainingIndex) -> Measured:
    """Everything but BLEU, which needs a group, of one piece.

    Args:
        piece: A piece with notes.
        index: The training music.
    """
    notes = barred_notes(piece.score)
    values = {feature.name: feature.measure(notes) for feature in features.FEATURES}
    curve = structure.similarity_by_lag(notes)
    values |= {f"bar_similarity_{lag}": float(curve[lag - 1]) for lag in LAG_METRICS}
    values |= {f"structureness_{name}": value for name, value in structure.structureness(notes).items()}
    copied = index.measure(piece.score)
    values |= copied.figures()
    return Measured(piece, values, curve, notewise.encode_ids(piece.score), copied.exact, copied.transposed)


def measure_all(
    pieces: Iterable[Piece], index: TrainingIndex, tick: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Measure pieces; `tick` is called after each."""
    done = []
    for piece in pieces:
        done.append(measure(piece, index))
        tick()
    return done


def table(measured: Sequence[Measured], names: Sequence[str]) -> np.ndarray:
    """Values of some metrics: float64 (pieces, metrics), NaN where there is none."""
    return np.array([[m.values.get(name, np.nan) for name in names] for m in measured], dtype=np.float64)
