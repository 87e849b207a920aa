"""One voice of one bar as written symbols: note values, rests, ties, tuplets, beams.

Times are in `meters.UNITS` from the bar line.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

from musegen.rendering.meters import FINEST, UNITS, Bar, Beat, beats_of, cut, value_of
from musegen.rendering.quantization import Note
from musegen.rendering.voices import Chord

_FLAGS = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4}
_TUPLETS = ((3, 2), (5, 4), (7, 4))


@dataclasses.dataclass
class Tuplet:
    """A group of `actual` notes in the time of `normal`.

    Args:
        start: Units from the bar line.
        length: Units.
        actual: Notes played.
        normal: Notes of the same value that would last as long.
        bracket: Whether a bracket is needed, where no beam holds the group together.
    """

    start: int
    length: int
    actual: int
    normal: int
    bracket: bool = True

    @property
    def end(self) -> int:
        """Units from the bar line."""
        return self.start + self.length


@dataclasses.dataclass
class Symbol:
    """One note, chord or rest as it is written.

    Args:
        start: Units from the bar line.
        length: Units that it lasts, tuplets included.
        value: Its note value, `whole`, `quarter`, `16th`, ...
        dots: Number of dots.
        notes: From low to high; empty for a rest.
        visible: False for a rest that only holds the place.
        whole_bar: Whether it is the rest of a whole bar, centred in it.
        tuplet: The group that it belongs to.
        beams: For each beam level from 1 `begin`, `continue`, `end`, `forward hook` or `backward hook`.
    """

    start: int
    length: int
    value: str
    dots: int
    notes: list[Note]
    visible: bool = True
    whole_bar: bool = False
    tuplet: Tuplet | None = None
    beams: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """Units from the bar line."""
        return self.start + self.length


def write_bar(voices: Sequence[Sequence[Chord]], bar: Bar) -> list[list[Symbol]]:
    """The symbols of all voices of one staff in one bar.

    Args:
        voices: From `voices.voices_of`; none for silence.
        bar: The bar.

    Returns:
        For each voice symbols without gaps from bar line to bar line; one whole-bar rest for silence in a full bar.
        A rest of the first voice is hidden where another voice sounds, one of the other voices anywhere, save
        short rests between two notes of the first two voices.
    """
    if not voices and bar.length != bar.nominal:
        voices = [[]]  # the rest of a whole bar would stand for the length that the metre asks for
    if not voices:
        return [[Symbol(0, bar.length, "whole", 0, [], whole_bar=True)]]
    sounding = [(chord.start - bar.start, chord.end - bar.start) for voice in voices[1:] for chord in voice]
    return [_write_voice(voice, bar, i, sounding) for i, voice in enumerate(voices)]


def _write_voice(voice: Sequence[Chord], bar: Bar, number: int, sounding: list[tuple[int, int]]) -> list[Symbol]:
    beats = beats_of(bar.numerator, bar.denominator, bar.length)
    chords = [(chord.start - bar.start, chord.end - bar.start, chord.notes) for chord in voice]
    tuplets = _find_tuplets([time for start, end, _ in chords for time in (start, end)], bar, beats)
    symbols: list[Symbol] = []
    now = 0
    for start, end, notes in chords:
        start, end = max(_settle(start, tuplets, bar), now), _settle(end, tuplets, bar)
        if end <= start:
            continue
        symbols += _cut_up(now, start, [], tuplets, beats)
        symbols += _cut_up(start, end, notes, tuplets, beats)
        now = end
    symbols += _cut_up(now, bar.length, [], tuplets, beats)
    _hide_rests(symbols, number, sounding)
    _beam(symbols, bar, beats)
    return symbols


def _hide_rests(symbols: list[Symbol], number: int, sounding: list[tuple[int, int]]) -> None:
    """Hide rests: of voice 0 where others sound, of voice 1 save those that its rhythm needs, of others all."""
    filled = {id(symbol.tuplet) for symbol in symbols if symbol.notes and symbol.tuplet is not None}
    for is_note, group in itertools.groupby(symbols, key=lambda symbol: bool(symbol.notes)):
        if is_note:
            continue
        rests = list(group)
        short = rests[-1].end - rests[0].start < UNITS
        inside = rests[0] is not symbols[0] and rests[-1] is not symbols[-1]
        for rest in rests:
            needed = (short and inside) or id(rest.tuplet) in filled
            rest.visible = (needed and number < 2) or (number == 0 and not _covered(rest, sounding))


def _covered(symbol: Symbol, spans: list[tuple[int, int]]) -> bool:
    now = symbol.start
    for start, end in sorted(spans):
        if start <= now < end:
            now = end
    return now >= symbol.end


def _settle(time: int, tuplets: list[Tuplet], bar: Bar) -> int:
    """The nearest time that can be written, given the tuplets of the bar."""
    for tuplet in tuplets:
        if tuplet.start < time < tuplet.end:
            step = FINEST * tuplet.normal // tuplet.actual
            return tuplet.start + step * round((time - tuplet.start) / step)
    return bar.length if time >= bar.length else FINEST * round(time / FINEST)


def _cut_up(start: int, end: int, notes: list[Note], tuplets: list[Tuplet], beats: tuple[Beat, ...]) -> list[Symbol]:
    """Symbols from `start` to `end`, cut at the borders of tuplets and wherever values ask for it."""
    symbols: list[Symbol] = []
    borders = sorted({t for tuplet in tuplets for t in (tuplet.start, tuplet.end) if start < t < end} | {end})
    for border in borders:
        if border <= start:
            continue
        tuplet = next((t for t in tuplets if t.start <= start < t.end), None)
        if tuplet is None:
            pieces = [(a, b, b - a) for a, b in cut(start, border, beats, not notes)]
        else:
            pieces = _cut_in_tuplet(start, border, tuplet, not notes)
        for a, b, written in pieces:
            value, dots = value_of(written) or ("64th", 0)
            symbols.append(Symbol(a, b - a, value, dots, notes, tuplet=tuplet))
        start = border
    return symbols


def _cut_in_tuplet(start: int, end: int, tuplet: Tuplet, rest: bool) -> list[tuple[int, int, int]]:
    """(start, end, written length) of the values between two places of one tuplet."""
    actual, normal = tuplet.actual, tuplet.normal
    inside = (Beat(0, tuplet.length * actual // normal, 3 if actual == 6 else actual),)
    written = [(time - tuplet.start) * actual // normal for time in (start, end)]
    back = [(a, b) for a, b in cut(*written, inside, rest)]
    return [(tuplet.start + a * normal // actual, tuplet.start + b * normal // actual, b - a) for a, b in back]


def _find_tuplets(times: Sequence[int], bar: Bar, beats: tuple[Beat, ...]) -> list[Tuplet]:
    if all(time % FINEST == 0 for time in times):
        return []
    found: list[Tuplet] = []
    for start, length in _tuplet_spans(bar, beats):
        inside = tuple(sorted({time - start for time in times if start < time < start + length}))
        for offset, size, actual, normal in _divide(inside, length)[1]:
            found.append(Tuplet(start + offset, size, actual, normal))
    return found


def _tuplet_spans(bar: Bar, beats: tuple[Beat, ...]) -> list[tuple[int, int]]:
    """(start, length) of the spans in which tuplets may stand: half bars of two quarters, beats, eighths."""
    if len(beats) in (2, 4) and all(beat.length == UNITS for beat in beats):
        return [(start, 2 * UNITS) for start in range(0, bar.length, 2 * UNITS)]
    spans = []
    for beat in beats:
        count = beat.parts if beat.parts == 3 else 1
        spans += [(beat.start + i * beat.length // count, beat.length // count) for i in range(count)]
    return spans


@functools.lru_cache(maxsize=8192)
def _divide(inside: tuple[int, ...], length: int) -> tuple[float, tuple[tuple[int, int, int, int], ...]]:
    """The cheapest way to write a span: its cost in symbols and its tuplets (start, length, actual, normal).

    Args:
        inside: Where notes begin or end, between 0 and `length`.
        length: Of the span.
    """
    edges = (0, *inside, length)
    if all(time % FINEST == 0 for time in inside):
        return _symbols(edges, 1, 1, (Beat(0, length, 2),)), ()
    options: list[tuple[float, tuple]] = []
    for actual, normal in _TUPLETS:
        # Coarse spans take plain triplets only; finer ones also shorter values inside the triplet.
        step = length // actual // (1 if length > UNITS or actual > 3 else 4)
        allowed = length in (2 * UNITS, UNITS, UNITS // 2, UNITS // 4) if actual == 3 else length == UNITS
        if allowed and all(time % step == 0 for time in inside):
            cost = 1.0 + _symbols(edges, actual, normal, (Beat(0, length * actual // normal, actual),))
            sextuplet = actual == 3 and length == UNITS and len(inside) == 5
            options.append((cost, ((0, length, 6, 4) if sextuplet else (0, length, actual, normal),)))
    if length % 2 == 0 and length // 2 >= UNITS // 4:
        half = length // 2
        first = _divide(tuple(time for time in inside if time < half), half)
        second = _divide(tuple(time - half for time in inside if time > half), half)
        moved = tuple((start + half, *rest) for start, *rest in second[1])
        tie = 0.0 if half in inside else 1.0
        options.append((first[0] + second[0] + tie, first[1] + moved))
    # What no tuplet holds is drawn on the nearest 64th.
    return min(options, default=(100.0, ()), key=lambda option: option[0])


def _symbols(edges: Sequence[int], actual: int, normal: int, beats: tuple[Beat, ...]) -> float:
    """How many symbols a division takes, a dot counting half."""
    count = 0.0
    for start, end in itertools.pairwise(edges):
        for a, b in cut(start * actual // normal, end * actual // normal, beats, False):
            count += 1.0 + 0.5 * (value_of(b - a) or ("", 2))[1]
    return count


def _beam(symbols: list[Symbol], bar: Bar, beats: tuple[Beat, ...]) -> None:
    """Set the beams of a voice and, with them, which tuplets need a bracket."""
    window = _windows(symbols, bar, beats)
    runs: list[list[Symbol]] = []
    previous = None
    for symbol in symbols:
        if symbol.notes and symbol.value in _FLAGS:
            joins = previous is not None and window(previous.start) == window(symbol.start)
            if joins and previous.tuplet is symbol.tuplet:
                runs[-1].append(symbol)
            else:
                runs.append([symbol])
            previous = symbol
        else:
            previous = None
    for run in runs:
        if len(run) > 1:
            for i, symbol in enumerate(run):
                symbol.beams = tuple(_beam_at(run, i, level) for level in range(1, _FLAGS[symbol.value] + 1))
            if run[0].tuplet is not None:
                tuplet = run[0].tuplet
                tuplet.bracket = run[0].start != tuplet.start or run[-1].end != tuplet.end


def _windows(symbols: list[Symbol], bar: Bar, beats: tuple[Beat, ...]):
    """A function from a place in the bar to the number of the window inside which notes are beamed."""
    size = 0
    if bar.denominator == 4 and len(beats) in (2, 3, 4):
        size = 3 * UNITS if len(beats) == 3 else 2 * UNITS
    elif bar.denominator == 2:
        size = 2 * UNITS

    def beat_of(place: int) -> int:
        fine = UNITS if beats[0].length > UNITS and beats[0].parts == 2 else 0
        if fine:
            return -1 - place // fine
        return -1 - next((i for i, beat in enumerate(beats) if place < beat.end), len(beats))

    def plain(index: int) -> bool:
        run = False
        for symbol in (s for s in symbols if s.start // size == index):
            flagged = symbol.value in _FLAGS
            if flagged and (symbol.value != "eighth" or symbol.dots or symbol.tuplet or not symbol.notes):
                return False
            if flagged != run and symbol.start % UNITS:
                return False  # eighths that begin or stop off the beat are clearer beat by beat
            run = flagged
        return True

    joined = {index: plain(index) for index in {s.start // size for s in symbols}} if size else {}
    return lambda place: place // size if size and joined.get(place // size) else beat_of(place)


def _beam_at(run: list[Symbol], i: int, level: int) -> str:
    """What one level of the beam does at one note."""

    def has(j: int) -> bool:
        return 0 <= j < len(run) and _FLAGS[run[j].value] >= level

    def split(j: int) -> bool:
        """Whether this level is interrupted between note j - 1 and note j."""
        if level == 1 or run[j].tuplet is not None:
            return False
        short = min(_FLAGS[run[j - 1].value], _FLAGS[run[j].value]) >= 3
        return run[j].start % UNITS == 0 or (short and run[j].start % (UNITS // 2) == 0)

    before = has(i - 1) and not split(i)
    after = has(i + 1) and not split(i + 1)
    if before and after:
        return "continue"
    if after:
        return "begin"
    if before:
        return "end"
    if i == 0:
        return "forward hook"
    if i == len(run) - 1:
        return "backward hook"
    return "forward hook" if run[i].start % (2 * run[i].length) == 0 else "backward hook"
