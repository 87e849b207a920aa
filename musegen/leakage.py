"""How much of the held-out music stands in the training music, counted exactly.

The split keeps works that share music together by an estimate (`musegen.work_groups`). The audit looks again without
one: the shingles of every held-out piece are indexed, the training pieces pass by once, and each held-out piece keeps
the training piece that overlaps with it most. So it costs time in proportion to the training music and memory in
proportion to the held-out music.

Units: notes; overlaps from 0 to 1, defined in `Nearest`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import symusic

from musegen.fingerprints import SMALLEST, Line, line_shingles, lines, set_overlap, symbols

# Two pieces of different composers never overlap so much in the music that was measured: docs/corpus-leakage.md.
FLAG_OVERLAP = 0.25


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A held-out piece and the training piece that is nearest to it.

    Args:
        split: Of the held-out piece.
        source: Name of the held-out piece.
        nearest: Name of the training piece; empty if not one shingle is shared.
        overlap: Share of the smaller piece's shingles that stand in the other too (`fingerprints.set_overlap`). A
            shingle is a run of 9 notes of a line, told by intervals and by ratios of lengths.
        share: Share of the held-out piece's shingles that stand in the training piece.
        span: Notes of the longest run of a line that stands in both, with equal intervals (modulo an octave) and
            ratios of lengths.
        flagged: Whether `overlap` is `FLAG_OVERLAP` or more.
    """

    split: str
    source: str
    nearest: str = ""
    overlap: float = 0.0
    share: float = 0.0
    span: int = 0
    flagged: bool = False


def audit(
    held_out: Mapping[str, Iterable[tuple[str, symusic.Score]]],
    training: Iterable[tuple[str, symusic.Score]],
    *,
    flag_overlap: float = FLAG_OVERLAP,
    progress: bool = False,
) -> list[Nearest]:
    """Find the nearest training piece of every held-out piece.

    Args:
        held_out: Names and canonical scores of each split that is not trained on.
        training: Names and canonical scores; read once.
        flag_overlap: Overlap from which a piece is flagged.
        progress: Show a bar.

    Returns:
        One entry a held-out piece, in their order.
    """
    from tqdm.auto import tqdm

    pieces = [(split, name, lines(score)) for split, scores in held_out.items() for name, score in scores]
    index = _Index([line_shingles(found) for _, _, found in pieces])
    best: list[tuple[float, float, str, Sequence[Line]]] = [(0.0, 0.0, "", ())] * len(pieces)
    for name, score in tqdm(training, desc="leakage audit", unit="piece", disable=not progress):
        found = lines(score)
        overlap, share = index.overlaps(line_shingles(found))
        for i in np.flatnonzero(overlap > [entry[0] for entry in best]).tolist():
            best[i] = (float(overlap[i]), float(share[i]), name, found)
    results = []
    for (split, source, own), (overlap, share, name, other) in zip(pieces, best):
        span = longest_span(own, other)
        flagged = overlap >= flag_overlap
        results.append(Nearest(split, source, name, round(overlap, 4), round(share, 4), span, flagged))
    return results


def overlap_of(one: symusic.Score, other: symusic.Score) -> float:
    """The exact overlap of two pieces, as `Nearest` defines it.

    Args:
        one: A canonical score.
        other: A canonical score.
    """
    return set_overlap(line_shingles(lines(one)), line_shingles(lines(other)))


def longest_span(one: Sequence[Line], other: Sequence[Line]) -> int:
    """The longest run of notes that a line of one piece shares with a line of another.

    Args:
        one: Lines of a piece.
        other: Lines of another.

    Returns:
        Notes; 0 if not even two in a row are shared.
    """
    mine, theirs = _text(one, 0), _text(other, len(one))
    # Powers[k] numbers the runs of 2 ** k symbols, equal runs alike in both texts.
    powers = [np.unique(np.concatenate([mine, theirs]), return_inverse=True)[1]]
    parts = [(powers[0][: len(mine)], powers[0][len(mine) :])]
    while _meet(*parts[-1]):
        step = 1 << (len(parts) - 1)
        parts.append(_number(*((p[:-step], p[step:]) if len(p) > step else (p[:0], p[:0]) for p in parts[-1])))
    length, runs = 0, None
    for k in range(len(parts) - 2, -1, -1):  # the longest run's length, from its highest bit down
        tried = parts[k] if runs is None else _number(*map(_joined, runs, parts[k], (length, length)))
        if _meet(*tried):
            length, runs = length + (1 << k), tried
    return length + 1 if length else 0


def _joined(runs: np.ndarray, following: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of `length` symbols, and what follows each of them."""
    count = max(min(len(runs), len(following) - length), 0)
    return runs[:count], following[length : length + count]


def _number(mine, theirs) -> tuple[np.ndarray, np.ndarray]:
    """Numbers for pairs of numbers, equal ones for equal pairs in both texts."""
    first, second = (np.concatenate([a, b]).astype(np.int64) for a, b in zip(mine, theirs))
    codes = first * (int(second.max(initial=0)) + 1) + second
    numbers = np.unique(codes, return_inverse=True)[1]
    return numbers[: len(mine[0])], numbers[len(mine[0]) :]


def _meet(mine: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(len(mine) and len(theirs) and np.isin(mine, theirs).any())


def _text(found: Sequence[Line], first: int) -> np.ndarray:
    """All lines in one sequence of symbols, each line ended by a symbol of its own: int64 (symbols,)."""
    parts = [np.empty(0, np.int64)]
    for i, line in enumerate(found):
        intervals, lengths = symbols(line)
        parts += [intervals[: len(lengths)] * 3 + lengths, np.array([-1 - first - i])]
    return np.concatenate(parts)


class _Index:
    """Which of some pieces have a shingle."""

    def __init__(self, sets: Sequence[np.ndarray]):
        self._sizes = np.array([len(s) for s in sets], dtype=np.float64)
        codes = np.concatenate([*sets, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(sets)), self._sizes.astype(np.int64))
        order = np.argsort(codes, kind="stable")
        self._owners = owners[order]
        self._codes, starts = np.unique(codes[order], return_index=True)
        self._starts = np.append(starts, len(codes))

    def overlaps(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Overlap and share of each piece with a set of shingles: float64 (pieces,) each; see `Nearest`."""
        places = np.minimum(np.searchsorted(self._codes, members), max(len(self._codes) - 1, 0))
        found = places[self._codes[places] == members] if len(self._codes) else places[:0]
        counts = self._starts[found + 1] - self._starts[found]
        entries = np.repeat(self._starts[found] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        shared = np.bincount(self._owners[entries], minlength=len(self._sizes))
        smaller = np.maximum(np.minimum(self._sizes, len(members)), SMALLEST)
        return shared / smaller, shared / np.maximum(self._sizes, 1)
