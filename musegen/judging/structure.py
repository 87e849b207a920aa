"""How bars of a piece relate to each other: repetition by lag, self-similarity, structureness.

Sources:

- Yu et al., "Museformer: Transformer with Fine- and Coarse-Grained Attention for Music Generation", NeurIPS
  2022: the similarity of two bars is the number of notes they share over the number of notes in either; its
  mean by lag, and the mean absolute difference of that curve from real music's, the similarity error.
- Wu and Yang, "The Jazz Transformer on the Front Line", ISMIR 2020 (MusDr): the structureness indicator, the
  largest fitness of any segment whose length is in a range, after Müller, Jiang and Grosche, "A Robust Fitness
  Measure for Capturing Repetitions in Music Recordings", IEEE TASLP 2013.

Departures from Museformer:

1. A note is pitch, length and place in the bar; its instrument is not compared.
2. A pair of bars that are both empty has no similarity and is left out (0 / 0).
3. The curve of a group is the mean of its pieces' curves, each piece counting the same at each lag it has.

Departures from MusDr and Müller:

4. The self-similarity matrix compares bars of a score, not chroma frames of a recording: each bar is the time
   that each pitch class sounds in each of its eighths; similarity is the cosine.
5. Bars do not stretch, so that paths are straight diagonals that repeat the whole segment.
6. Similarities below `THRESHOLD` count `PENALTY`, and those above are scaled from 0 to 1, as Müller does; the
   threshold is fixed, not a quantile of the piece, or music without any repetition would get some.
7. Lengths are in bars, not seconds: short, middle and long are the `RANGES`.

At most `MAX_BARS` bars of a piece are compared, the first ones.
"""

from __future__ import annotations

import numpy as np

from musegen import grid
from musegen.judging.pieces import BarredNotes

MAX_BARS = 1000
LAGS = 40  # as in Museformer
FORM_LAGS = (4, 32)  # bars: from a phrase to a section, where form shows and rhythm does not
EIGHTH_TICKS = grid.TICKS_PER_QUARTER // 2
# Bars of one key are alike to some degree wherever they stand: at 0.6 real music and its own bars shuffled differ
# the most over short and long excerpts.
THRESHOLD = 0.6
PENALTY = -2.0
# In bars: a motive, a phrase, a section. A segment must occur twice without overlap, so a piece of 32 bars has
# none longer than 16. MusDr: 3 to 8, 8 to 15 and over 15 seconds, which in 4/4 at 120 are 2, 4 and 8 bars.
RANGES = {"short": (1, 2), "middle": (3, 4), "long": (5, 16)}


def similarity_matrix(notes: BarredNotes, *, transposed: bool = False) -> np.ndarray:
    """Museformer's similarity of every two bars.

    Args:
        notes: The piece.
        transposed: Compare under the best transposition by up to an octave either way.

    Returns:
        float64 (bars, bars), 0 to 1; NaN where both bars are empty.
    """
    bars = min(notes.bars, MAX_BARS)
    kept = notes.bar < bars
    bar = notes.bar[kept]
    place = notes.position[kept] * (1 << 40) + notes.duration[kept] * 256
    shifts = range(-12, 13) if transposed else (0,)
    kinds, ids = np.unique(place + notes.pitch[kept] + 12, return_inverse=True)
    plain = _incidence(bar, ids, bars, len(kinds))
    shared = np.zeros((bars, bars))
    for shift in shifts:
        moved = place + notes.pitch[kept] + shift + 12
        at = np.minimum(np.searchsorted(kinds, moved), len(kinds) - 1)
        found = kinds[at] == moved if len(kinds) else at < 0
        table = _incidence(bar[found], at[found], bars, len(kinds))
        np.maximum(shared, plain @ table.T, out=shared)
    size = plain.sum(axis=1, dtype=np.float64)
    either = size[:, None] + size[None] - shared
    return np.divide(shared, either, out=np.full((bars, bars), np.nan), where=either > 0)


def _incidence(bar: np.ndarray, ids: np.ndarray, bars: int, width: int) -> np.ndarray:
    """Which notes are in which bar, each once: float32 (bars, width), which counts them exactly."""
    table = np.zeros((bars, width), dtype=np.float32)
    table[bar, ids] = 1.0
    return table


def similarity_by_lag(notes: BarredNotes, lags: int = LAGS, *, transposed: bool = False) -> np.ndarray:
    """Mean similarity of bars that are 1, 2, ..., `lags` bars apart.

    Returns:
        float64 (lags,); NaN for lags that the piece is too short for.
    """
    matrix = similarity_matrix(notes, transposed=transposed)
    curve = np.full(lags, np.nan)
    for lag in range(1, min(lags, len(matrix) - 1) + 1):
        values = np.diagonal(matrix, lag)
        defined = np.isfinite(values)
        if defined.any():
            curve[lag - 1] = values[defined].mean()
    return curve


def mean_curve(curves: np.ndarray) -> np.ndarray:
    """The curve of a group of pieces (departure 3).

    Args:
        curves: float64 (pieces, lags), NaN where a piece has no value.

    Returns:
        float64 (lags,).
    """
    defined = np.isfinite(curves)
    count = defined.sum(axis=0)
    total = np.where(defined, curves, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(curves.shape[1], np.nan), where=count > 0)


def similarity_error(curve: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of two similarity curves over the lags that both have; 0 is best."""
    both = np.isfinite(curve) & np.isfinite(real)
    return float(np.abs(curve - real)[both].mean()) if both.any() else float("nan")


def bar_profiles(notes: BarredNotes, *, transposed: int = 0) -> np.ndarray:
    """What sounds in each bar: float64 (bars, eighths of the longest bar * 12), ticks.

    Args:
        notes: The piece.
        transposed: Semitones up by which it is read.
    """
    bars = min(notes.bars, MAX_BARS)
    starts = notes.grid.starts[: bars + 1]
    eighths = int(-(-np.diff(starts).max() // EIGHTH_TICKS))
    profiles = np.zeros((bars, eighths, 12))
    onset, end = notes.onset, np.minimum(notes.onset + notes.duration, starts[-1])
    chroma = (notes.pitch + transposed) % 12
    # Walk all notes forward together, one stretch of an eighth a round, until the longest has ended.
    alive = onset < end
    onset, end, chroma = onset[alive], end[alive], chroma[alive]
    while len(onset):
        bar = np.searchsorted(starts, onset, side="right") - 1
        eighth = (onset - starts[bar]) // EIGHTH_TICKS
        until = np.minimum(np.minimum(starts[bar] + (eighth + 1) * EIGHTH_TICKS, starts[bar + 1]), end)
        np.add.at(profiles, (bar, eighth, chroma), until - onset)
        alive = until < end
        onset, end, chroma = until[alive], end[alive], chroma[alive]
    return profiles.reshape(bars, -1)


def chroma_similarity(notes: BarredNotes, *, transposed: bool = False) -> np.ndarray:
    """Self-similarity of the bars' profiles: float64 (bars, bars), cosines from 0 to 1; empty bars have 0.

    Args:
        notes: The piece.
        transposed: Take the best of the twelve transpositions for each pair.
    """
    plain = _unit_rows(bar_profiles(notes))
    best = plain @ plain.T
    for semitones in range(1, 12) if transposed else ():
        np.maximum(best, plain @ _unit_rows(bar_profiles(notes, transposed=semitones)).T, out=best)
    return np.minimum(best, 1.0)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def fitness(matrix: np.ndarray, longest: int) -> np.ndarray:
    """How well each segment explains the piece by its repetitions: Müller's scape plot.

    A segment of m bars is laid over the piece wherever it repeats, without overlap, so that the sum of
    similarities is the largest. Its fitness is the harmonic mean of that sum and of the share of the piece that is
    covered, both without the segment's own place.

    Args:
        matrix: Self-similarity, float64 (bars, bars), as `chroma_similarity` gives it.
        longest: Longest segment, bars.

    Returns:
        float64 (longest, bars): row m - 1 holds segments of m bars by where they begin; 0 where none fits.
    """
    bars = len(matrix)
    scaled = np.where(matrix >= THRESHOLD, (matrix - THRESHOLD) / (1 - THRESHOLD), PENALTY)
    out = np.zeros((longest, bars))
    diagonal = np.zeros((bars, bars))  # [s, j]: similarity of the m bars from s to those from j
    for m in range(1, min(longest, bars // 2) + 1):
        count = bars - m + 1
        diagonal = diagonal[:count, :count] + scaled[m - 1 :, m - 1 :]
        # A segment repeats itself wholly where it stands, whatever its empty bars score.
        np.fill_diagonal(diagonal, float(m))
        out[m - 1, :count] = _segment_fitness(diagonal, m, bars)
    return out


def _segment_fitness(gain: np.ndarray, m: int, bars: int) -> np.ndarray:
    """Fitness of all segments of m bars by dynamic programming over where the piece has got to."""
    count = len(gain)
    own = np.arange(count)
    # The segment's own place is taken; what is gained elsewhere must not overlap with it.
    place = np.arange(count)
    free = np.abs(place[None] - own[:, None]) >= m
    gain = np.where(free & (gain > 0), gain, -np.inf)
    best = np.zeros((bars + 1, count))
    used = np.zeros((bars + 1, count))
    for end in range(1, bars + 1):
        best[end], used[end] = best[end - 1], used[end - 1]
        if end >= m:
            total = best[end - m] + gain[:, end - m]
            better = total > best[end]
            best[end] = np.where(better, total, best[end])
            used[end] = np.where(better, used[end - m] + 1, used[end])
    score = best[-1] / ((used[-1] + 1) * m)
    coverage = used[-1] * m / bars
    both = score + coverage
    return np.divide(2 * score * coverage, both, out=np.zeros(count), where=both > 0)


def structureness(notes: BarredNotes, *, transposed: bool = False) -> dict[str, float]:
    """The structureness indicator at each of the `RANGES`.

    Args:
        notes: The piece.
        transposed: Take bars as similar under transposition.

    Returns:
        Fitness of the fittest segment, 0 to 1, for `short`, `middle` and `long`; NaN where the piece is too
        short for any such segment to occur twice.
    """
    longest = max(last for _, last in RANGES.values())
    scape = fitness(chroma_similarity(notes, transposed=transposed), longest)
    bars = min(notes.bars, MAX_BARS)
    return {
        name: float(scape[first - 1 : last].max()) if bars >= 2 * first else float("nan")
        for name, (first, last) in RANGES.items()
    }
