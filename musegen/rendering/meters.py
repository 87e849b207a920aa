"""Bars, beats, and how a duration is cut into note values that show the beat.

Times are integers in `UNITS` a quarter note, from the beginning of the score or of the bar.
Source of the rules: E. Gould, "Behind Bars" (2011), on rhythm and metre.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from musegen.rendering.files import RenderingError

# Holds 64ths, triplets, quintuplets and septuplets of any value down to 32nds as integers.
UNITS = 1680
FINEST = UNITS // 16  # a 64th, the shortest value drawn
_DEFAULT = (4, 4)
_MOST_BARS = 10_000  # the longest pieces of real corpora have 1,900
_DENOMINATORS = (1, 2, 4, 8, 16, 32, 64)
_LONGEST_NUMERATOR = 64

_VALUES = {UNITS * 8: "breve", UNITS * 4: "whole", UNITS * 2: "half", UNITS: "quarter", UNITS // 2: "eighth",
           UNITS // 4: "16th", UNITS // 8: "32nd", UNITS // 16: "64th"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of the score.

    Args:
        start: Units from the beginning.
        length: Units; less than the metre asks for where a time signature cuts the bar short.
        numerator: Of the metre in force.
        denominator: Of the metre in force.
        new_metre: Whether the time signature is printed here.
    """

    start: int
    length: int
    numerator: int
    denominator: int
    new_metre: bool

    @property
    def end(self) -> int:
        """Units from the beginning to the next bar line."""
        return self.start + self.length

    @property
    def nominal(self) -> int:
        """The length in units that the metre asks for."""
        return _metre_length(self.numerator, self.denominator)


@dataclasses.dataclass(frozen=True)
class Beat:
    """One beat of a bar.

    Args:
        start: Units from the bar line.
        length: Units.
        parts: Into how many equal parts it falls first: 2, 3 in compound metres, more in tuplets.
    """

    start: int
    length: int
    parts: int

    @property
    def end(self) -> int:
        """Units from the bar line."""
        return self.start + self.length


def lay_bars(metres: Sequence[tuple[int, int, int]], end: int) -> list[Bar]:
    """The bars from the beginning to the one in which the music ends.

    Args:
        metres: Time signatures as (units, numerator, denominator), in any order. A metre that notation has no
            sign for (denominator no power of two up to 64, numerator beyond 64) counts as 4/4.
        end: When the last note ends, in units.

    Returns:
        At least one bar. A time signature inside a bar ends that bar.

    Raises:
        RenderingError: More than 10,000 bars.
    """
    changes = {0: _DEFAULT}
    for time, numerator, denominator in sorted(metres):
        drawable = 0 < numerator <= _LONGEST_NUMERATOR and denominator in _DENOMINATORS
        time = FINEST * round(max(time, 0) / FINEST)  # a bar of an undrawable length could not be filled
        changes[time] = (numerator, denominator) if drawable else _DEFAULT
    times = [time for time in sorted(changes) if time < max(end, 1)]
    bars: list[Bar] = []
    shown = None
    for i, time in enumerate(times):
        metre = changes[time]
        stop = times[i + 1] if i + 1 < len(times) else max(end, 1)
        length = _metre_length(*metre)
        if len(bars) + (stop - time) // length >= _MOST_BARS:
            raise RenderingError(f"the score has more than {_MOST_BARS:,} bars")
        for start in range(time, stop, length):
            cut = min(length, stop - start) if i + 1 < len(times) else length
            bars.append(Bar(start, cut, *metre, new_metre=metre != shown))
            shown = metre
    return bars


def _metre_length(numerator: int, denominator: int) -> int:
    return numerator * 4 * UNITS // denominator


@functools.lru_cache(maxsize=512)
def beats_of(numerator: int, denominator: int, length: int) -> tuple[Beat, ...]:
    """The beats of a bar; the last one is cut where the bar is shorter than its metre."""
    pulse = 4 * UNITS // denominator
    if denominator >= 8 and numerator % 3 == 0:
        groups = [3] * (numerator // 3)
    elif denominator >= 8:
        threes = numerator % 2 if numerator > 1 else 0
        groups = [2] * ((numerator - 3 * threes) // 2) + [3] * threes
        groups = groups[::-1] if numerator == 5 else groups or [1]  # 5/8 is felt as 3 + 2, 7/8 as 2 + 2 + 3
    else:
        groups = [1] * numerator
    beats, start = [], 0
    for group in groups:
        size = min(group * pulse, length - start)
        if size > 0:
            beats.append(Beat(start, size, 3 if size == 3 * pulse and group == 3 else 2))
        start += size
    if start < length:
        beats.append(Beat(start, length - start, 2))
    return tuple(beats)


@functools.lru_cache(maxsize=512)
def strengths(beats: tuple[Beat, ...]) -> dict[int, int]:
    """How strong each place in the bar is: 9 at its beginning, 8 at its middle, 7 on a beat, then less."""
    found: dict[int, int] = {}
    for beat in beats:
        step, strength = beat.length // beat.parts, 6
        if step not in _VALUES:  # a beat cut short by a time signature
            step = max((value for value in _VALUES if value < beat.length), default=FINEST)
        while strength > 0 and step >= FINEST // 2:
            for place in range(beat.start, beat.end, step):
                found.setdefault(place, strength)
            if step % 2:
                break
            step, strength = step // 2, strength - 1
    for i, beat in enumerate(beats):
        found[beat.start] = 8 if _begins_group(i, beats) else 7
    found[0] = 9
    return found


def _begins_group(i: int, beats: tuple[Beat, ...]) -> bool:
    """Whether a beat begins a half bar (4 beats) or a third or half of a bar of 6, 9 or 12 beats."""
    if len({beat.length for beat in beats}) > 1:
        return False
    if len(beats) in (4, 8):
        return i % (len(beats) // 2) == 0
    return len(beats) in (6, 9, 12) and beats[0].parts == 2 and i % 3 == 0


def value_of(length: int) -> tuple[str, int] | None:
    """The note value and number of dots that last `length` units; None if no single note does."""
    for dots, numerator, denominator in ((0, 1, 1), (1, 3, 2), (2, 7, 4)):
        base, rest = divmod(length * denominator, numerator)
        if rest == 0 and base in _VALUES and base >> dots >= FINEST // 2:
            return _VALUES[base], dots
    return None


@functools.lru_cache(maxsize=65536)
def cut(start: int, end: int, beats: tuple[Beat, ...], rest: bool) -> tuple[tuple[int, int], ...]:
    """Cut a duration inside a bar into single note values that show the beat.

    Args:
        start: Units from the bar line.
        end: Units from the bar line, after `start`.
        beats: The beats of the bar, from `beats_of`, or of a tuplet.
        rest: Whether a rest is written, which may hide less than a note.

    Returns:
        (start, end) of each value, without gaps; consecutive notes are to be tied.
    """
    place = strengths(beats)
    fits = _rest_fits if rest else _note_fits
    if value_of(end - start) and fits(start, end, beats, place):
        return ((start, end),)
    inner = [t for t in place if start < t < end]
    if not inner:
        return ((start, end),)
    # Of the strongest places, a note is cut at the last it reaches and a rest at the first, as both keep
    # the longer value on the beat.
    strongest = max(place[t] for t in inner)
    choices = [t for t in inner if place[t] == strongest]
    at = min(choices) if rest else max(choices)
    return cut(start, at, beats, rest) + cut(at, end, beats, rest)


def _beat_at(place: int, beats: tuple[Beat, ...]) -> Beat:
    return next((beat for beat in beats if beat.start <= place < beat.end), beats[-1])


def _note_fits(start: int, end: int, beats: tuple[Beat, ...], place: dict[int, int]) -> bool:
    dots = value_of(end - start)[1]
    own = place.get(start, 0)
    beat = _beat_at(start, beats)
    stronger = [t for t in place if start < t < end and place[t] > own]
    if dots == 2 and (own < 7 or end - start < UNITS):
        return False
    if end <= beat.end and beat.parts == 2 and beat.length <= UNITS:
        return True  # inside a quarter no value hides anything
    if beat.parts == 3 and end > beat.end:
        return not stronger and start == beat.start and any(end == other.end for other in beats)
    if not stronger:
        return True
    # The one syncopation that is read at sight: a plain value across a place one level stronger, at its middle.
    middle = (start + end) // 2
    return dots == 0 and stronger == [middle] and place[middle] == own + 1


def _rest_fits(start: int, end: int, beats: tuple[Beat, ...], place: dict[int, int]) -> bool:
    dots = value_of(end - start)[1]
    own = place.get(start, 0)
    beat = _beat_at(start, beats)
    whole_beats = start == beat.start and any(end == other.end for other in beats)
    if dots and not (dots == 1 and whole_beats and beat.parts == 3):
        return False
    if any(place[t] >= own for t in place if start < t < end):
        return False
    # Across beats only half bars rest in one sign, and only where beats go in pairs.
    return end <= beat.end or (whole_beats and len(beats) % 2 == 0)
