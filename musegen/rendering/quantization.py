"""Notes onto times that notation can write.

Times are integers in `meters.UNITS` a quarter. A quarter is divided by 2, 3, 5 or 7; the coarsest division
that holds the notes of a part is taken, so that played timing gets plain rhythms, while notes that lie on 32nds
or triplet 16ths are never moved.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence

from musegen.rendering.meters import FINEST, UNITS, Bar

_TICK = UNITS // 24
# What one tick (1/24 quarter) of displacement costs against the complexity of a division. A note on one
# division is at least a tick from its place in another, and complexities up to that of `32nds and triplets`
# differ by less than this.
_PER_TICK = 1.5
_LOOSE_END = 0.08  # an end off every grid is articulation more often than rhythm
_COLLISION = 2.0  # two onsets drawn as one


@dataclasses.dataclass(eq=False, slots=True)
class Note:
    """A note of one part.

    Args:
        start: Units from the beginning.
        end: Units from the beginning.
        pitch: MIDI pitch.
        place: Its pitch class on the line of fifths, once spelled.
    """

    start: int
    end: int
    pitch: int
    place: int = 0


@functools.lru_cache(maxsize=64)
def _divisions(length: int) -> tuple[tuple[float, tuple[int, ...]], ...]:
    """Divisions of a span as (complexity, places), simplest first."""

    def steps(*sizes: int) -> tuple[int, ...]:
        return tuple(sorted({place for size in sizes for place in range(0, length, size)} | {length}))

    found = [(0.0, steps(UNITS // 2)), (0.2, steps(UNITS // 4)), (0.8, steps(UNITS // 8))]
    if length in (UNITS, UNITS // 2):
        found += [(0.5, steps(UNITS // 3)), (0.8, steps(UNITS // 6))] if length == UNITS else []
        found += [(0.9, steps(UNITS // 4, UNITS // 6)), (1.0, steps(UNITS // 8, UNITS // 6))]
        found += [(2.6, steps(UNITS // 12)), (3.0, steps(UNITS // 8, UNITS // 12))]
    if length == UNITS:
        found += [(2.5, steps(UNITS // 5)), (3.5, steps(UNITS // 7))]
    return (*found, (2.5, steps(FINEST)))


def to_units(ticks: int, ticks_per_quarter: int) -> int:
    """Ticks of a score in units; a triplet that the file had to round to a whole tick is a triplet again."""
    exact = ticks * UNITS / ticks_per_quarter
    fine = UNITS // 48  # divides 64ths and triplets
    plain = fine * round(exact / fine)
    tolerance = min(0.51 * UNITS / ticks_per_quarter, fine / 6)
    return plain if abs(plain - exact) <= tolerance else round(exact)


def quantize(notes: Sequence[Note], bars: Sequence[Bar]) -> list[Note]:
    """Move the notes of one part to times that can be written.

    Args:
        notes: Any notes; may overlap and repeat each other.
        bars: The bars of the score.

    Returns:
        New notes sorted by start and pitch; of equal pitches that overlap, the first ends where the second
        begins, and of notes that begin together the longest stays.
    """
    spans = _spans(bars)
    starts = [start for start, _ in spans]
    onsets = _by_span((note.start for note in notes), starts)
    ends = _by_span((note.end for note in notes), starts)
    grids: dict[int, list[int]] = {}
    for i, (start, length) in enumerate(spans):
        if i in onsets or i in ends:
            inside = sorted(place - start for place in onsets.get(i, ()))
            released = sorted(place - start for place in ends.get(i, ()))
            grids[i] = [start + place for place in _choose(length, inside, released)]

    def grid_at(time: int) -> list[int]:
        i = max(bisect.bisect_right(starts, time) - 1, 0)
        return grids.get(i) or [spans[i][0] + place for place in _divisions(spans[i][1])[1][1]]

    # Nothing can begin at the end of the last bar.
    onset_times = sorted(
        {_nearest([p for p in grid_at(note.start) if p < bars[-1].end], note.start) for note in notes}
    )
    return _separate([_snapped(note, grid_at, onset_times) for note in notes])


def _snapped(note: Note, grid_at: Callable[[int], list[int]], onset_times: list[int]) -> Note:
    start = min(_nearest(grid_at(note.start), note.start), onset_times[-1])
    end = _nearest(grid_at(note.end), note.end)
    if abs(end - note.end) > 1:
        # Off the grid, so played: it was released for the next note if that follows within a 16th.
        i = bisect.bisect_left(onset_times, max(end, start + 1))
        if i < len(onset_times) and onset_times[i] - end <= UNITS // 4:
            end = onset_times[i]
    if end <= start:
        end = next(place for place in grid_at(start) if place > start)
    return Note(start, end, note.pitch)


def _spans(bars: Sequence[Bar]) -> list[tuple[int, int]]:
    """(start, length) of the spans that are divided each on its own: quarters, or eighths in x/8 and x/16."""
    spans = []
    for bar in bars:
        size = UNITS if bar.denominator <= 4 else UNITS // 2
        for start in range(bar.start, bar.end, size):
            spans.append((start, min(size, bar.end - start)))
    return spans


def _by_span(times, starts: list[int]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for time in times:
        found.setdefault(max(bisect.bisect_right(starts, time) - 1, 0), set()).add(time)
    return found


def _nearest(places: Sequence[int], time: int) -> int:
    i = bisect.bisect_left(places, time)
    return min(places[max(i - 1, 0) : i + 1], key=lambda place: abs(place - time))


def _choose(length: int, onsets: list[int], ends: list[int]) -> tuple[int, ...]:
    """The places of the division that explains onsets and ends inside one span at the least cost."""
    plain = {length, *range(0, length, UNITS // 8), *range(0, length, UNITS // 6)}
    if all(any(abs(time - place) <= 1 for place in plain) for time in (*onsets, *ends)):
        return tuple(sorted(plain))
    weighted = {time: 1.0 if any(abs(time - p) <= 1 for p in plain) else _LOOSE_END for time in ends}
    weighted.update((time, 1.0) for time in onsets)
    best, chosen = None, ()
    for complexity, places in _divisions(length):
        cost = complexity
        for time, weight in weighted.items():
            cost += _PER_TICK * weight * abs(_nearest(places, time) - time) / _TICK
        cost += _COLLISION * (len(onsets) - len({_nearest(places, time) for time in onsets}))
        if best is None or cost < best - 1e-9:
            best, chosen = cost, places
    return chosen


def _separate(notes: list[Note]) -> list[Note]:
    """Equal pitches made to follow each other."""
    notes.sort(key=lambda note: (note.start, note.pitch, -note.end))
    kept: list[Note] = []
    sounding: dict[int, Note] = {}
    for note in notes:
        before = sounding.get(note.pitch)
        if before is not None and before.start == note.start:
            continue
        if before is not None and before.end > note.start:
            before.end = note.start
        sounding[note.pitch] = note
        kept.append(note)
    return kept
