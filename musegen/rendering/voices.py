"""The voices of one staff in one bar.

Notes that begin and end together are a chord; chords that overlap need voices. Times are in `meters.UNITS`
from the beginning of the score.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from musegen.rendering.meters import UNITS, Bar
from musegen.rendering.quantization import Note

MAX_VOICES = 4  # what MusicXML readers agree on for one staff
_BEAM = 12  # partial solutions kept
_OPEN = (0.0, 1.0, 4.0, 6.0)  # cost of using each voice at all
_NO_VOICE = 9.0


@dataclasses.dataclass
class Chord:
    """Notes of one voice that are written on one stem, or a part of them between two ties.

    Args:
        start: Units from the beginning.
        end: Units from the beginning.
        notes: At least one, from low to high.
    """

    start: int
    end: int
    notes: list[Note]


def voices_of(notes: Sequence[Note], bar: Bar) -> list[list[Chord]]:
    """The voices of one staff in one bar, the upper one first.

    Args:
        notes: Those that sound in the bar; longer ones are cut at the bar lines.
        bar: The bar.

    Returns:
        At most `MAX_VOICES` voices; in each, chords that follow each other without overlap. What needs more
        voices than that is written into the last one, cut wherever another of its notes begins or ends.
    """
    found: dict[tuple[int, int], list[Note]] = {}
    for note in notes:
        span = max(note.start, bar.start), min(note.end, bar.end)
        if span[0] < span[1]:
            found.setdefault(span, []).append(note)
    chords = [Chord(*span, sorted(group, key=lambda note: note.pitch)) for span, group in found.items()]
    chords.sort(key=lambda chord: (chord.start, -chord.notes[-1].pitch, chord.end))
    if all(a.end <= b.start for a, b in itertools.pairwise(chords)):
        return [chords] if chords else []
    voices: list[list[Chord]] = [[] for _ in range(MAX_VOICES)]
    left_over = []
    for chord, voice in zip(chords, _assign(chords, bar)):
        (left_over if voice is None else voices[voice]).append(chord)
    if left_over:
        voices[-1] = _slice(voices[-1] + left_over)
    return [voice for voice in voices if voice]


def _assign(chords: list[Chord], bar: Bar) -> list[int | None]:
    """Which voice takes each chord, by beam search; None where all are taken."""
    nothing: tuple[Chord | None, ...] = (None,) * MAX_VOICES
    beam: list[tuple[float, tuple[Chord | None, ...], tuple | None]] = [(0.0, nothing, None)]
    for chord in chords:
        options: dict[tuple, tuple] = {}
        for cost, last, history in beam:
            choices: list[tuple[float, int | None]] = [(_NO_VOICE, None)]
            for voice in range(MAX_VOICES):
                if voice and last[voice] is None and last[voice - 1] is None:
                    continue  # voices open in order, or equal solutions would crowd the beam
                if last[voice] is None or last[voice].end <= chord.start:
                    choices.append((_cost(chord, voice, last, bar), voice))
            for step, voice in choices:
                after = last if voice is None else (*last[:voice], chord, *last[voice + 1 :])
                key = tuple(map(id, after))
                if key not in options or cost + step < options[key][0]:
                    options[key] = (cost + step, after, (history, voice))
        beam = sorted(options.values(), key=lambda option: option[0])[:_BEAM]
    history, assigned = beam[0][2], []
    for _ in chords:
        history, voice = history
        assigned.append(voice)
    return assigned[::-1]


def _cost(chord: Chord, voice: int, last: tuple[Chord | None, ...], bar: Bar) -> float:
    before = last[voice]
    gap = chord.start - (bar.start if before is None else before.end)
    # The first voice shows its rests, the others hide them.
    cost = (0.6 + 0.3 * gap / UNITS if voice == 0 else 0.1) if gap else 0.0
    if before is None:
        cost += _OPEN[voice]
    else:
        cost += 0.08 * abs(_middle(chord) - _middle(before)) / (1 + 2 * gap / UNITS)
    if voice and (last[0] is None or last[0].end <= chord.start):
        cost += 1.5  # what stands alone belongs to the first voice
    for other, sounding in enumerate(last):
        if other != voice and sounding is not None and sounding.end > chord.start:
            crossed = _middle(sounding) - _middle(chord) if voice < other else _middle(chord) - _middle(sounding)
            cost += 3.0 if crossed > 0 else 0.0
    return cost


def _middle(chord: Chord) -> float:
    return (chord.notes[0].pitch + chord.notes[-1].pitch) / 2


def _slice(chords: list[Chord]) -> list[Chord]:
    """One voice out of overlapping chords, cut at every beginning and end."""
    times = sorted({time for chord in chords for time in (chord.start, chord.end)})
    sliced = []
    for start, end in itertools.pairwise(times):
        notes = [note for chord in chords if chord.start <= start and chord.end >= end for note in chord.notes]
        if notes:
            sliced.append(Chord(start, end, sorted(notes, key=lambda note: note.pitch)))
    return sliced
