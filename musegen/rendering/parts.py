"""A score laid out for print: parts, staves, clefs, keys.

Which notes stand on which staff is decided here; how they are written is decided in `rhythm`.
Times are in `meters.UNITS` from the beginning.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import symusic

from musegen import instruments as gm
from musegen.rendering.files import RenderingError
from musegen.rendering.meters import Bar, lay_bars
from musegen.rendering.quantization import Note, quantize, to_units
from musegen.rendering.streams import split_hands, split_two
from musegen.tonality import estimate_key, spell

_LEDGER_FREE = 4  # semitones beyond the staff that players read without effort
_CLEF_CHANGE = 18.0  # semitones beyond that, summed over notes, that justify a change of clef
_UNUSUAL = 6.0  # the same a bar, that justify another clef than the one that players of an instrument expect
_SEVERAL = 8  # as many parts of one keyboard sound are still taken for different players
_MARK_LETTERS = 20  # of a marker that are printed


@dataclasses.dataclass
class Staff:
    """One staff.

    Args:
        notes: Sorted by start.
        clefs: One a bar.
    """

    notes: list[Note]
    clefs: list[gm.Clef]


@dataclasses.dataclass
class Part:
    """One instrument.

    Args:
        name: As printed before the first system.
        short: As printed before later systems.
        program: General MIDI program, 0 to 127.
        is_drum: Whether its pitches name drums.
        staves: One, or two for instruments of two hands.
    """

    name: str
    short: str
    program: int
    is_drum: bool
    staves: list[Staff]


@dataclasses.dataclass
class Layout:
    """A score ready to be written.

    Args:
        bars: All bars.
        keys: The key signature of each bar, number of sharps, flats negative.
        tempos: Bar index to quarters a minute, where a tempo is printed.
        parts: From the top of the page down.
        marks: Bar index to a rehearsal mark: the score's markers, such as names of sections.
    """

    bars: list[Bar]
    keys: list[int]
    tempos: dict[int, float]
    parts: list[Part]
    marks: dict[int, str] = dataclasses.field(default_factory=dict)


def lay_out(score: symusic.Score) -> Layout:
    """Decide parts, staves, clefs, keys and spelling.

    Args:
        score: Any score in ticks.

    Raises:
        RenderingError: The score has no notes, or more than 10,000 bars.
    """
    score = score.to("tick")
    tpq = score.ticks_per_quarter
    tracks = [(track, _units(track, tpq)) for track in score.tracks if len(track.notes)]
    if not tracks or tpq <= 0:
        raise RenderingError("a score without notes has no sheet music")
    metres = [(to_units(s.time, tpq), int(s.numerator), int(s.denominator)) for s in score.time_signatures]
    bars = lay_bars(metres, max(note.end for _, notes in tracks for note in notes))
    parts = _parts(tracks, bars)
    # A note played a little beyond the last bar line opens no bar of its own.
    last = max(note.end for part in parts for staff in part.staves for note in staff.notes)
    bars = [bar for bar in bars if bar.start < last]
    pitched = [staff for part in parts if not part.is_drum for staff in part.staves]
    keys, minor = _keys(score, bars, [note for staff in pitched for note in staff.notes])
    _spell(pitched, bars, keys, minor)
    for part in parts:
        for i, staff in enumerate(part.staves):
            choice = gm.clefs_for(part.program, part.is_drum)
            if len(part.staves) == 2:
                choice = (gm.TREBLE, gm.BASS) if i == 0 else (gm.BASS, gm.TREBLE)
            staff.clefs = _clefs(staff.notes, choice, bars)
    return Layout(bars, keys, _tempos(score, bars), parts, bar_marks(score, bars))


def _units(track: symusic.Track, tpq: int) -> list[Note]:
    soa = track.notes.numpy()
    notes = []
    for time, duration, pitch in zip(soa["time"].tolist(), soa["duration"].tolist(), soa["pitch"].tolist()):
        start = max(to_units(time, tpq), 0)
        notes.append(Note(start, max(to_units(time + duration, tpq), start + 1), int(pitch) % 128))
    return notes


def _parts(tracks: Sequence[tuple[symusic.Track, list[Note]]], bars: list[Bar]) -> list[Part]:
    groups: dict[tuple[int, bool], list[list[Note]]] = {}
    for track, notes in tracks:
        key = (0, True) if track.is_drum else (int(track.program) % 128, False)
        groups.setdefault(key, []).append(notes)
    programs = {program for program, is_drum in groups if not is_drum}
    parts: list[Part] = []
    for program, is_drum in sorted(groups, key=lambda key: gm.score_position(*key)):
        name, short = gm.printed_name(program, is_drum)
        players = _players(groups[program, is_drum], program, is_drum, programs, bars)
        for i, staves in enumerate(players):
            number = "" if len(players) == 1 else f" {_roman(i + 1)}"
            parts.append(Part(name + number, short + number, program, is_drum, [Staff(s, []) for s in staves]))
    return parts


def _players(
    tracks: list[list[Note]], program: int, is_drum: bool, programs: set[int], bars: list[Bar]
) -> list[list[list[Note]]]:
    """The players of one program, and for each the notes of his staves."""
    pooled = [note for notes in tracks for note in notes]
    if is_drum:
        return [[quantize(pooled, bars)]]
    if program in gm.KEYBOARDS:
        if len(tracks) == 2:
            # Two tracks of one keyboard are its two hands as the source has them.
            upper, lower = sorted(tracks, key=lambda notes: -float(np.mean([note.pitch for note in notes])))
            return [[quantize(upper, bars), quantize(lower, bars)]]
        if 2 < len(tracks) <= _SEVERAL and all(_polyphony(notes) < 0.3 for notes in tracks):
            return [[quantize(notes, bars)] for notes in tracks]
        notes = quantize(pooled, bars)
        return [list(split_hands(notes)) if _needs_two_staves(notes) else [notes]]
    quantized = [quantize(notes, bars) for notes in tracks]
    merged = len(tracks) == 1 and program == gm.VIOLIN and programs & {gm.VIOLA, gm.CELLO}
    if merged and _polyphony(quantized[0]) > 0.2:
        return [[notes] for notes in split_two(quantized[0])]
    wide = gm.clefs_for(program) == (gm.TREBLE, gm.BASS)
    return [list(split_hands(notes)) if wide and _is_wide(notes) else [notes] for notes in quantized]


def _polyphony(notes: Sequence[Note]) -> float:
    """The share of sounding time in which two or more notes sound."""
    events = sorted([(note.start, 1) for note in notes] + [(note.end, -1) for note in notes])
    now, sounding, some, several = 0, 0, 0, 0
    for time, change in events:
        some += (time - now) * (sounding > 0)
        several += (time - now) * (sounding > 1)
        now, sounding = time, sounding + change
    return several / max(some, 1)


def _needs_two_staves(notes: Sequence[Note]) -> bool:
    """Whether keyboard music is more than a tune that one staff holds."""
    low, high = min(note.pitch for note in notes), max(note.pitch for note in notes)
    return _polyphony(notes) > 0.02 or (low < 55 and high > 64)


def _is_wide(notes: Sequence[Note]) -> bool:
    """Whether chords of an instrument that plays them reach over two staves."""
    pitches = np.array([note.pitch for note in notes])
    return _polyphony(notes) > 0.2 and bool(np.mean(pitches >= 64) > 0.1 and np.mean(pitches <= 53) > 0.1)


def _roman(number: int) -> str:
    return ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")[number - 1] if number <= 8 else str(number)


def _keys(score: symusic.Score, bars: list[Bar], notes: list[Note]) -> tuple[list[int], list[bool]]:
    """Key signature and mode of each bar, estimated from all notes where the score says nothing."""
    starts = np.array([bar.start for bar in bars])
    changes: dict[int, tuple[int, bool | None]] = {}
    for signature in sorted(score.key_signatures, key=lambda signature: signature.time):
        if -7 <= signature.key <= 7:
            time = to_units(signature.time, score.ticks_per_quarter)
            changes[int(np.abs(starts - time).argmin())] = (int(signature.key), bool(signature.tonality))
    if 0 not in changes:
        pitches = np.array([note.pitch for note in notes], dtype=np.int64)
        weights = np.array([note.end - note.start for note in notes], dtype=float)
        changes[0] = estimate_key(pitches % 12, weights)
    keys, minor = [], []
    for i in range(len(bars)):
        fifths, is_minor = changes.get(i, (keys[-1], minor[-1]) if i else (0, False))
        keys.append(fifths)
        minor.append(is_minor)
    return keys, minor


def _spell(staves: list[Staff], bars: list[Bar], keys: list[int], minor: list[bool]) -> None:
    """Set the place of every note on the line of fifths."""
    ordered = sorted(
        ((note, i) for i, staff in enumerate(staves) for note in staff.notes),
        key=lambda pair: (pair[0].start, pair[0].pitch),
    )
    if not ordered:
        return
    index = {id(note): i for i, (note, _) in enumerate(ordered)}
    rises_to = np.full(len(ordered), -1)
    for staff in staves:
        onsets: dict[int, list[Note]] = {}
        for note in staff.notes:
            onsets.setdefault(note.start, []).append(note)
        times = sorted(onsets)
        for now, then in itertools.pairwise(times):
            for note in onsets[now]:
                for target in onsets[then]:
                    if target.pitch == note.pitch + 1:
                        rises_to[index[id(note)]] = index[id(target)]
    starts = np.array([bar.start for bar in bars])
    bar = np.searchsorted(starts, [note.start for note, _ in ordered], side="right") - 1
    pitches = np.array([note.pitch for note, _ in ordered])
    places = spell(pitches, np.array(keys)[bar], np.array(minor)[bar], rises_to)
    for (note, _), place in zip(ordered, places.tolist()):
        note.place = place


def _clefs(notes: Sequence[Note], choice: Sequence[gm.Clef], bars: list[Bar]) -> list[gm.Clef]:
    """A clef for each bar: few ledger lines, few changes."""
    if len(choice) == 1:
        return [choice[0]] * len(bars)
    cost = np.zeros((len(bars), len(choice)))  # (bars, clefs)
    starts = np.array([bar.start for bar in bars])
    for note in notes:
        bar = int(np.searchsorted(starts, note.start, side="right")) - 1
        for i, clef in enumerate(choice):
            beyond = max(clef.low - note.pitch, note.pitch - clef.high, 0)
            cost[bar, i] += max(beyond - _LEDGER_FREE, 0) + 0.1 * beyond + 0.02 * i
    start = np.arange(len(choice)) * 0.5
    if choice[0] != gm.TREBLE:  # viola, cello, bassoon, trombone; of treble and bass neither is the usual one
        cost[cost.any(axis=1), 1:] += _UNUSUAL
        start[1:] += _CLEF_CHANGE
    came_from = np.zeros(cost.shape, dtype=np.int64)
    total = cost[0] + start
    change = _CLEF_CHANGE * (1 - np.eye(len(choice)))
    for i in range(1, len(bars)):
        paths = total[:, None] + change
        came_from[i] = paths.argmin(axis=0)
        total = paths.min(axis=0) + cost[i]
    state, clefs = int(total.argmin()), []
    for i in range(len(bars) - 1, -1, -1):
        clefs.append(choice[state])
        state = int(came_from[i, state])
    return clefs[::-1]


def bar_marks(score: symusic.Score, bars: list[Bar]) -> dict[int, str]:
    """The markers of a score by the index of the bar that they stand in; of several in one bar the first."""
    starts = np.array([bar.start for bar in bars])
    marks: dict[int, str] = {}
    for marker in sorted(score.markers, key=lambda marker: marker.time):
        time = to_units(marker.time, score.ticks_per_quarter)
        text = "".join(c for c in " ".join(marker.text.split()) if c.isprintable())[:_MARK_LETTERS]
        if text and 0 <= time < bars[-1].end:
            marks.setdefault(int(np.searchsorted(starts, time, side="right")) - 1, text)
    return marks


def _tempos(score: symusic.Score, bars: list[Bar]) -> dict[int, float]:
    """Tempos worth printing: the first, and others that stay for four bars and differ by a tenth."""
    starts = np.array([bar.start for bar in bars])
    by_bar: dict[int, float] = {}
    for tempo in sorted(score.tempos, key=lambda tempo: tempo.time):
        if 5 <= tempo.qpm <= 1000:
            time = to_units(tempo.time, score.ticks_per_quarter)
            by_bar[max(int(np.searchsorted(starts, time, side="right")) - 1, 0)] = float(tempo.qpm)
    printed: dict[int, float] = {}
    changes = sorted(by_bar)
    for i, bar in enumerate(changes):
        until = changes[i + 1] if i + 1 < len(changes) else len(bars)
        last = list(printed.values())[-1] if printed else None
        if bar == 0 or (until - bar >= 4 and (last is None or abs(by_bar[bar] / last - 1) > 0.1)):
            printed[bar] = by_bar[bar]
    return printed
