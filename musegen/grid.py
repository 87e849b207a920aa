"""The bar and beat grid on which every score of the package lies.

A *canonical* score has `TICKS_PER_QUARTER` ticks a quarter note, whole bars from tick 0 on, metres out of
`METRES`, and every onset and duration on a grid of `POSITIONS_PER_BEAT` positions a beat, where a beat is the
metre's denominator (an eighth in 6/8). 24 positions hold triplets, 16ths and 32nds at once.

Units: ticks of the canonical score unless a name says `source`. No source file is read here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import symusic

POSITIONS_PER_BEAT = 24
# The finest denominator is 16, so that one position of a 16th beat is one tick: 24 * 16 / 4.
TICKS_PER_QUARTER = 96
TICKS_PER_WHOLE = 4 * TICKS_PER_QUARTER
# denominator -> the largest numerator. Denominators 1 and 2 are written as 4 (2/2 as 4/4: a bar of the same
# length), because 24 positions a half note could not hold 32nds.
METRES = {4: 12, 8: 16, 16: 18}
DEFAULT_METRE = (4, 4)

NOTE_DTYPE = np.dtype(
    [("onset", "<i4"), ("duration", "<i4"), ("pitch", "<i4"), ("program", "<i4"), ("velocity", "<i4")]
)
DRUMS = -1  # the program number by which drum tracks go, as in miditok


@dataclasses.dataclass(frozen=True)
class SourceBar:
    """One bar as the source has it, in ticks of `TICKS_PER_QUARTER` that need not be whole.

    Args:
        start: Ticks from the beginning.
        length: Ticks.
        numerator: Of the metre in force, which `length` may contradict (pick-ups, split bars).
        denominator: Likewise.
    """

    start: float
    length: float
    numerator: int
    denominator: int

    @property
    def nominal(self) -> float:
        """The length in ticks that the metre asks for."""
        return TICKS_PER_WHOLE * self.numerator / self.denominator


@dataclasses.dataclass(frozen=True)
class BarGrid:
    """The bars of a canonical score.

    Args:
        starts: Bar starts and, last, the end of the final bar: int64 (bars + 1,), ticks.
        numerators: int64 (bars,).
        denominators: int64 (bars,).
    """

    starts: np.ndarray
    numerators: np.ndarray
    denominators: np.ndarray

    def __len__(self) -> int:
        return len(self.numerators)

    def index(self, ticks: np.ndarray) -> np.ndarray:
        """The bar in which each tick lies (the last bar for ticks past the end)."""
        return np.clip(np.searchsorted(self.starts, ticks, side="right") - 1, 0, len(self) - 1)

    @property
    def steps(self) -> np.ndarray:
        """Ticks a grid position in each bar: int64 (bars,)."""
        return TICKS_PER_WHOLE // (self.denominators * POSITIONS_PER_BEAT)


def bar_ticks(numerator: int, denominator: int) -> int:
    """Length of a bar in ticks."""
    return TICKS_PER_WHOLE * numerator // denominator


def bar_grid(score: symusic.Score) -> BarGrid:
    """The bars of a canonical score, up to the bar in which its last note ends.

    Args:
        score: A canonical score: every time signature stands at a bar line.

    Returns:
        At least one bar, also for an empty score.
    """
    end = last_end(score)
    metres = [(int(s.time), int(s.numerator), int(s.denominator)) for s in score.time_signatures]
    if not metres or metres[0][0] != 0:
        metres.insert(0, (0, *DEFAULT_METRE))
    starts, numerators, denominators = [], [], []
    for i, (time, numerator, denominator) in enumerate(metres):
        stop = metres[i + 1][0] if i + 1 < len(metres) else max(end, time + 1)
        if time >= end and starts:
            break
        bars = np.arange(time, min(stop, max(end, time + 1)), bar_ticks(numerator, denominator))
        starts.append(bars)
        numerators.append(np.full(len(bars), numerator))
        denominators.append(np.full(len(bars), denominator))
    starts, numerators, denominators = map(np.concatenate, (starts, numerators, denominators))
    last = starts[-1] + bar_ticks(int(numerators[-1]), int(denominators[-1]))
    return BarGrid(np.append(starts, last).astype(np.int64), numerators, denominators)


def last_end(score: symusic.Score) -> int:
    """When the last note ends, in the score's own ticks; 0 for no notes."""
    soas = [track.notes.numpy() for track in score.tracks if len(track.notes)]
    return max((int((soa["time"] + soa["duration"]).max()) for soa in soas), default=0)


def note_array(score: symusic.Score) -> np.ndarray:
    """All notes of a score.

    Args:
        score: Any score; times are its own ticks.

    Returns:
        `NOTE_DTYPE` (notes,), sorted by onset, pitch, program, duration. Drum tracks have program -1.
    """
    parts = [_unsorted_notes(track) for track in score.tracks if len(track.notes)]
    notes = np.concatenate(parts) if parts else np.empty(0, NOTE_DTYPE)
    # Pitch and program in one number, so that fewer keys are sorted by.
    voice = notes["pitch"].astype(np.int64) * 256 + notes["program"]
    return notes[np.lexsort((notes["duration"], voice, notes["onset"]))]


def track_notes(track: symusic.Track) -> np.ndarray:
    """The notes of one track as in `note_array`."""
    notes = _unsorted_notes(track)
    return notes[np.lexsort((notes["duration"], notes["pitch"], notes["onset"]))]


def _unsorted_notes(track: symusic.Track) -> np.ndarray:
    soa = track.notes.numpy()
    notes = np.empty(len(soa["time"]), NOTE_DTYPE)
    notes["onset"], notes["duration"] = soa["time"], soa["duration"]
    notes["pitch"], notes["velocity"] = soa["pitch"], soa["velocity"]
    notes["program"] = DRUMS if track.is_drum else track.program
    return notes


def slice_bars(score: symusic.Score, start: int, stop: int) -> symusic.Score:
    """Bars `start` to `stop` (exclusive) of a canonical score, moved to tick 0.

    Notes belong to the bar they begin in; one that sounds over the end is cut there. Tempo, metre and key in
    force at the start are kept.
    """
    bars = bar_grid(score)
    stop = min(stop, len(bars))
    start = min(max(start, 0), stop)
    low, high = int(bars.starts[start]), int(bars.starts[stop])
    out = symusic.Score(score.ticks_per_quarter)
    for track in score.tracks:
        soa = track.notes.numpy()
        inside = (soa["time"] >= low) & (soa["time"] < high)
        if inside.any():
            part = symusic.Track(track.name, track.program, track.is_drum)
            soa = {name: values[inside] for name, values in soa.items()}
            soa["duration"] = np.minimum(soa["duration"], high - soa["time"])
            soa["time"] = soa["time"] - low
            part.notes = symusic.Note.from_numpy(**soa)
            out.tracks.append(part)
    for source, target in (
        (score.time_signatures, out.time_signatures),
        (score.tempos, out.tempos),
        (score.key_signatures, out.key_signatures),
    ):
        for event in [e for e in source if e.time <= low][-1:] + [e for e in source if low < e.time < high]:
            event = event.copy()
            event.time = max(0, event.time - low)
            target.append(event)
    return out


def fit_bar(length: float, numerator: int, denominator: int) -> list[tuple[int, int]]:
    """Metres out of `METRES` that together last as long as a source bar, or a little longer.

    Args:
        length: Length of the bar in ticks.
        numerator: Of the metre in force.
        denominator: Likewise.

    Returns:
        One metre if one can hold the bar; several for a bar longer than any metre (a cadenza). A length that
        is not whole 16ths, which is a fault of the file, is rounded up to whole nominal bars.
    """
    while denominator < 4:
        numerator, denominator = numerator * 2, denominator * 2
    nominal = 16 * numerator / denominator
    count = round(length * 16 / TICKS_PER_WHOLE)
    if abs(length * 16 / TICKS_PER_WHOLE - count) > 0.01 or count < 1:
        whole = max(1, round(nominal))
        count = max(1, int(np.ceil(length * 16 / TICKS_PER_WHOLE / whole - 0.01))) * whole
    for den in dict.fromkeys([denominator, *METRES]):
        beats, rest = divmod(count * den, 16)
        if den in METRES and rest == 0 and 1 <= beats <= METRES[den]:
            return [(beats, den)]
    head = (numerator, denominator) if numerator <= METRES.get(denominator, 0) else DEFAULT_METRE
    bars, rest = divmod(count, 16 * head[0] // head[1])
    if bars == 0:  # an odd number of 16ths that no metre holds: shorter than `head`, so `head` holds it
        return [head]
    return [head] * bars + (fit_bar(rest * TICKS_PER_WHOLE / 16, *head) if rest else [])


def merge_split_bars(bars: Sequence[SourceBar]) -> list[SourceBar]:
    """Join neighbours that are one written bar: at a repeat sign, or before a pick-up inside the piece.

    Two neighbours of one metre, each shorter than it, that together fill exactly one bar are that bar.
    """
    merged: list[SourceBar] = []
    for bar in bars:
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.numerator, last.denominator) == (bar.numerator, bar.denominator)
            and abs(last.length + bar.length - bar.nominal) < 0.01
        ):
            merged[-1] = dataclasses.replace(last, length=bar.nominal)
        else:
            merged.append(bar)
    return merged


@dataclasses.dataclass(frozen=True)
class BarMap:
    """Where each source bar lies in the canonical score.

    Args:
        grid: The canonical bars; a cadenza of the source may fill several.
        source_starts: float64 (source bars,), ticks.
        target_starts: float64 (source bars,), ticks; of a padded pick-up, where its first note may stand.
    """

    grid: BarGrid
    source_starts: np.ndarray
    target_starts: np.ndarray

    def move(self, times: np.ndarray) -> np.ndarray:
        """Source times to canonical times, not yet snapped: float64, ticks."""
        bar = np.clip(
            np.searchsorted(self.source_starts, times + 1e-6, side="right") - 1,
            0,
            len(self.source_starts) - 1,
        )
        return np.maximum(self.target_starts[bar] + times - self.source_starts[bar], 0.0)


def lay_bars(bars: Sequence[SourceBar]) -> BarMap:
    """Give every source bar a metre out of `METRES` and its place.

    A pick-up at the very beginning becomes a whole bar with silence before it, so that every bar of the piece
    means the same to a model; an irregular bar inside gets the metre that its length asks for.

    Args:
        bars: At least one, in order and without gaps.
    """
    bars = merge_split_bars(bars)
    starts, metres, target_starts = [0], [], []
    for i, bar in enumerate(bars):
        pick_up = i == 0 and len(bars) > 1 and bar.length < bar.nominal - 0.01
        fitted = fit_bar(bar.nominal if pick_up else bar.length, bar.numerator, bar.denominator)
        target_starts.append(starts[-1] + (bar.nominal - bar.length if pick_up else 0.0))
        for metre in fitted:
            metres.append(metre)
            starts.append(starts[-1] + bar_ticks(*metre))
    numerators, denominators = np.array(metres, dtype=np.int64).T
    grid = BarGrid(np.array(starts, dtype=np.int64), numerators, denominators)
    return BarMap(grid, np.array([bar.start for bar in bars]), np.array(target_starts))


def snap(onsets: np.ndarray, ends: np.ndarray, grid: BarGrid) -> tuple[np.ndarray, np.ndarray]:
    """Put notes on the grid of the bars they begin in.

    Args:
        onsets: float64 (notes,), ticks.
        ends: float64 (notes,), ticks; may lie a little early (verovio ends a note one tick of 120 early).
        grid: The bars.

    Returns:
        Onsets and durations, int64 (notes,), ticks; no duration is shorter than one position.
    """
    bar = grid.index(onsets)
    base, step = grid.starts[bar], grid.steps[bar]
    snapped = base + np.rint((onsets - base) / step).astype(np.int64) * step
    # Rounding may carry a note over the bar line, into a bar with another grid.
    step = grid.steps[grid.index(snapped)]
    durations = np.maximum(np.rint((ends - snapped) / step).astype(np.int64), 1) * step
    return snapped, durations


# How far from the beat notes of plain rhythms (32nds, triplet 16ths) stand, in 24ths of a quarter.
_PLAIN = np.array([0, 3, 4, 6, 8, 9, 12])
_MAX_SHIFTS = 8
_SWITCH_COST = 30.0  # notes: a shift must explain this many more notes than its rival


def find_shifts(onsets: np.ndarray) -> np.ndarray:
    """How many ticks each note lies behind its place in the bar.

    LilyPond writes a grace note by delaying what follows, in all tracks, to the end of the piece. Such a
    shift is no plain subdivision of the beat, so that notes cluster at some odd distance from the grid. The
    best sequence of shifts is found by dynamic programming over the notes, with a price on each change.

    Args:
        onsets: float64 (notes,), sorted, ticks.

    Returns:
        float64 (notes,), ticks; all 0 for a piece that lies on its bars.
    """
    unit = TICKS_PER_QUARTER / 24
    residue = np.round(np.mod(onsets, TICKS_PER_QUARTER / 4) / unit, 2)  # 24ths of a quarter, within a 16th
    values, counts = np.unique(residue[residue > 0.15], return_counts=True)
    odd = values[np.argsort(-counts, kind="stable")][:_MAX_SHIFTS]
    shifts = np.concatenate([[0.0], odd])
    place = np.mod(onsets[:, None] / unit - shifts[None], 24.0)  # (notes, shifts)
    place = np.minimum(place, 24.0 - place)  # _PLAIN is symmetric: only the distance from the beat counts
    fits = (np.min(np.abs(place[:, :, None] - _PLAIN), axis=2) < 0.15).astype(float)
    if (fits[:, 0] == 0).sum() < _SWITCH_COST / 2:
        return np.zeros(len(onsets))
    # Triplets moved by a triplet are still plain; beats and half beats, where most notes begin, tell more.
    fits += 1.0 * (place < 0.15) + 0.5 * (np.abs(place - 12.0) < 0.15)
    # Notes that begin together are one step of the path: a change among them can gain nothing over one beside them.
    first = np.flatnonzero(np.append(True, onsets[1:] != onsets[:-1]))
    best = np.repeat(_best_path(np.add.reduceat(fits, first)), np.diff(np.append(first, len(onsets))))
    return shifts[best] * unit


def _best_path(gain: np.ndarray) -> np.ndarray:
    """The path through (notes, states) with the largest gain, when each change costs `_SWITCH_COST`."""
    notes = len(gain)
    rows = gain.tolist()  # of a handful of states: plain lists are five times as fast as arrays here
    total = [value - (_SWITCH_COST / 2 if state else 0.0) for state, value in enumerate(rows[0])]
    # State 0, no shift, is where a piece begins unless the notes deny it.
    totals = [total]
    for row in rows[1:]:
        jump = max(total) - _SWITCH_COST
        total = [(stay if stay >= jump else jump) + value for stay, value in zip(total, row)]
        totals.append(total)
    path = np.empty(notes, dtype=np.int64)
    state = total.index(max(total))
    path[-1] = state
    for i in range(notes - 1, 0, -1):
        before = totals[i - 1]
        top = max(before)
        if before[state] < top - _SWITCH_COST:
            state = before.index(top)
        path[i - 1] = state
    return path
