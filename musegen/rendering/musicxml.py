"""A score as MusicXML 4.0.

Source of the format: W3C Music Notation Community Group, "MusicXML 4.0" (2021).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import symusic

from musegen import instruments as gm
from musegen.rendering.meters import UNITS, Bar
from musegen.rendering.parts import Layout, Part, lay_out
from musegen.rendering.quantization import Note
from musegen.rendering.rhythm import Symbol, write_bar
from musegen.rendering.voices import MAX_VOICES, voices_of
from musegen.tonality import signature_alterations, written_pitch

_ACCIDENTALS = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}
_DOCTYPE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" '
    '"http://www.musicxml.org/dtds/partwise.dtd">\n'
)
# Where common drums stand on the staff, and their note heads: by General MIDI pitch.
_DRUMS = {35: "F4", 36: "F4", 37: "C5x", 38: "C5", 39: "C5x", 40: "C5", 41: "G4", 42: "G5x", 43: "A4", 44: "D4x",
          45: "B4", 46: "G5x", 47: "D5", 48: "E5", 49: "A5x", 50: "E5", 51: "F5x", 52: "A5x", 53: "F5x",
          54: "B5x", 55: "A5x", 56: "E5x", 57: "A5x", 59: "F5x"}  # fmt: skip

Element = ElementTree.Element


def score_to_musicxml(score: symusic.Score, *, title: str | None = None, composer: str | None = None) -> str:
    """Write a score in common notation.

    Keys are estimated where the score names none; parts of keyboards get two staves; two violins merged in one
    track are pulled apart when a viola or cello plays with them. Notes that lie on 32nds or triplet 16ths keep
    onset, pitch and duration; others move to the nearest time that can be written.

    Args:
        score: Any score in ticks. Velocities, controls and pedals are not written.
        title: Printed above the first system.
        composer: Printed below the title.

    Returns:
        An uncompressed MusicXML document.

    Raises:
        RenderingError: The score has no notes.
    """
    layout = lay_out(score)
    root = Element("score-partwise", version="4.0")
    _write_header(root, _printable(title or ""), _printable(composer or ""))
    _write_part_list(root, layout)
    for i, part in enumerate(layout.parts):
        _write_part(_add(root, "part", id=f"P{i + 1}"), part, layout)
    _reduce_divisions(root)
    ElementTree.indent(root, " ")
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, tag: str, text: str | int | None = None, **attributes: str) -> Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    if text is not None:
        element.text = str(text)
    return element


def _printable(text: str) -> str:
    """Text without the control characters that XML forbids, on one line."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def _write_header(root: Element, title: str, composer: str) -> None:
    if title:
        _add(_add(root, "work"), "work-title", title)
    identification = _add(root, "identification")
    if composer:
        _add(identification, "creator", composer, type="composer")
    _add(_add(identification, "encoding"), "software", "musegen")
    credits = (("title", title, "center", "top", "22"), ("composer", composer, "right", "bottom", "11"))
    for kind, text, justify, valign, size in credits:
        if text:
            credit = _add(root, "credit", page="1")
            _add(credit, "credit-type", kind)
            style = {"justify": justify, "halign": justify, "valign": valign, "font-size": size}
            _add(credit, "credit-words", text, **style)


def _write_part_list(root: Element, layout: Layout) -> None:
    part_list = _add(root, "part-list")
    families = [gm.family(part.program, part.is_drum) for part in layout.parts]
    channels = [channel for channel in range(1, 17) if channel != 10]
    for i, part in enumerate(layout.parts):
        mates = [j for j, family in enumerate(families) if family is not None and family == families[i]]
        if len(mates) > 1 and i == mates[0]:
            group = _add(part_list, "part-group", type="start", number="1")
            _add(group, "group-symbol", "bracket")
            _add(group, "group-barline", "yes")
        entry = _add(part_list, "score-part", id=f"P{i + 1}")
        _add(entry, "part-name", part.name)
        _add(entry, "part-abbreviation", part.short)
        instrument = _add(entry, "score-instrument", id=f"P{i + 1}-I1")
        _add(instrument, "instrument-name", gm.program_name(part.program, part.is_drum))
        midi = _add(entry, "midi-instrument", id=f"P{i + 1}-I1")
        _add(midi, "midi-channel", 10 if part.is_drum else channels[i % len(channels)])
        _add(midi, "midi-program", part.program + 1)
        if len(mates) > 1 and i == mates[-1]:
            _add(part_list, "part-group", type="stop", number="1")


def _write_part(parent: Element, part: Part, layout: Layout) -> None:
    accidentals = [_Accidentals() for _ in part.staves]
    sounding = [_by_bar(staff.notes, layout.bars) for staff in part.staves]
    for i, bar in enumerate(layout.bars):
        measure = _add(parent, "measure", number=str(i + 1))
        if bar.length != bar.nominal:
            measure.set("implicit", "yes")
        _write_attributes(measure, part, layout, i)
        if i in layout.marks and part is layout.parts[0]:
            mark = _add(measure, "direction", placement="above")
            _add(_add(mark, "direction-type"), "rehearsal", layout.marks[i])
        if i in layout.tempos and part is layout.parts[0]:
            _write_tempo(measure, layout.tempos[i], bar)
        for number in range(len(part.staves)):
            if number:
                _add(_add(measure, "backup"), "duration", bar.length)
            voices = write_bar(voices_of(sounding[number].get(i, []), bar), bar)
            shown = accidentals[number].of_bar(voices, bar, layout.keys[i]) if not part.is_drum else {}
            for j, voice in enumerate(voices):
                if j:
                    _add(_add(measure, "backup"), "duration", bar.length)
                for symbol in voice:
                    _write_symbol(measure, symbol, bar, part, (number, j, len(voices)), shown)
    barline = _add(measure, "barline", location="right")
    _add(barline, "bar-style", "light-heavy")


def _by_bar(notes: list[Note], bars: list[Bar]) -> dict[int, list[Note]]:
    """The notes that sound in each bar."""
    found: dict[int, list[Note]] = {}
    first = 0
    for note in sorted(notes, key=lambda note: note.start):
        while first + 1 < len(bars) and bars[first].end <= note.start:
            first += 1
        i = first
        while i < len(bars) and bars[i].start < note.end:
            found.setdefault(i, []).append(note)
            i += 1
    return found


def _write_attributes(measure: Element, part: Part, layout: Layout, i: int) -> None:
    bar, keys = layout.bars[i], layout.keys
    new_key = i == 0 or keys[i] != keys[i - 1]
    clefs = [s.clefs[i] if i == 0 or s.clefs[i] != s.clefs[i - 1] else None for s in part.staves]
    if not (new_key or bar.new_metre or any(clefs)):
        return
    attributes = _add(measure, "attributes")
    if i == 0:
        _add(attributes, "divisions", UNITS)
    if new_key:
        _add(_add(attributes, "key"), "fifths", 0 if part.is_drum else keys[i])
    if bar.new_metre:
        time = _add(attributes, "time")
        if (bar.numerator, bar.denominator) == (4, 4):
            time.set("symbol", "common")
        elif (bar.numerator, bar.denominator) == (2, 2):
            time.set("symbol", "cut")
        _add(time, "beats", bar.numerator)
        _add(time, "beat-type", bar.denominator)
    if i == 0 and len(part.staves) > 1:
        _add(attributes, "staves", len(part.staves))
    for number, clef in enumerate(clefs):
        if clef is not None:
            element = _add(attributes, "clef", number=str(number + 1))
            _add(element, "sign", clef.sign)
            _add(element, "line", clef.line)
            if clef.octave:
                _add(element, "clef-octave-change", clef.octave)


def _write_tempo(measure: Element, quarters: float, bar: Bar) -> None:
    unit, dotted, length = "quarter", False, 1.0
    if bar.denominator == 8 and bar.numerator % 3 == 0 and bar.numerator > 3:
        dotted, length = True, 1.5
    elif bar.denominator == 2:
        unit, length = "half", 2.0
    direction = _add(measure, "direction", placement="above")
    metronome = _add(_add(direction, "direction-type"), "metronome")
    _add(metronome, "beat-unit", unit)
    if dotted:
        _add(metronome, "beat-unit-dot")
    _add(metronome, "per-minute", round(quarters / length))
    _add(direction, "sound", tempo=f"{quarters:g}")


def _write_symbol(
    measure: Element, symbol: Symbol, bar: Bar, part: Part, place: tuple[int, int, int], shown: dict
) -> None:
    """Write a chord or rest; `place` is the staff, the voice on it, and how many voices the staff has."""
    staff, voice, voices = place
    for i, note in enumerate(symbol.notes or [None]):
        element = _add(measure, "note")
        if note is None and not symbol.visible:
            element.set("print-object", "no")
        if i:
            _add(element, "chord")
        _write_pitch(element, note, part, symbol)
        _add(element, "duration", symbol.length)
        ties = _ties(note, symbol, bar) if note is not None and not part.is_drum else []
        for tie in ties:
            _add(element, "tie", type=tie)
        _add(element, "voice", staff * MAX_VOICES + voice + 1)
        if not symbol.whole_bar:
            _add(element, "type", symbol.value)
            for _ in range(symbol.dots):
                _add(element, "dot")
        if (id(note), symbol.start) in shown:
            _add(element, "accidental", shown[id(note), symbol.start])
        if symbol.tuplet is not None:
            modification = _add(element, "time-modification")
            _add(modification, "actual-notes", symbol.tuplet.actual)
            _add(modification, "normal-notes", symbol.tuplet.normal)
        if note is not None and voices > 1:
            _add(element, "stem", "down" if voice % 2 else "up")
        if part.is_drum and note is not None and _DRUMS.get(note.pitch, "").endswith("x"):
            _add(element, "notehead", "x")
        if len(part.staves) > 1:
            _add(element, "staff", staff + 1)
        if i == 0:
            for level, beam in enumerate(symbol.beams):
                _add(element, "beam", beam, number=str(level + 1))
        _write_notations(element, symbol, ties, first=i == 0)


def _write_pitch(element: Element, note: Note | None, part: Part, symbol: Symbol) -> None:
    if note is None:
        rest = _add(element, "rest")
        if symbol.whole_bar:
            rest.set("measure", "yes")
    elif part.is_drum:
        position = _DRUMS.get(note.pitch) or f"{'ABCDE'[note.pitch % 5]}5"
        unpitched = _add(element, "unpitched")
        _add(unpitched, "display-step", position[0])
        _add(unpitched, "display-octave", position[1])
    else:
        step, alter, octave = written_pitch(note.pitch, note.place)
        pitch = _add(element, "pitch")
        _add(pitch, "step", step)
        if alter:
            _add(pitch, "alter", alter)
        _add(pitch, "octave", octave)


def _ties(note: Note, symbol: Symbol, bar: Bar) -> list[str]:
    start, end = bar.start + symbol.start, bar.start + symbol.end
    return ["stop"] * (note.start < start) + ["start"] * (note.end > end)


def _write_notations(element: Element, symbol: Symbol, ties: list[str], first: bool) -> None:
    tuplet = symbol.tuplet if first else None
    begins = tuplet is not None and symbol.start == tuplet.start
    ends = tuplet is not None and symbol.end == tuplet.end
    if not (ties or begins or ends):
        return
    notations = _add(element, "notations")
    for tie in ties:
        _add(notations, "tied", type=tie)
    if begins:
        _add(notations, "tuplet", type="start", bracket="yes" if tuplet.bracket else "no")
    if ends:
        _add(notations, "tuplet", type="stop")


class _Accidentals:
    """Which notes of a staff need an accidental, bar after bar."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], int] = {}

    def of_bar(self, voices: list[list[Symbol]], bar: Bar, fifths: int) -> dict[tuple[int, int], str]:
        """The accidentals of one bar by (id of the note, start of the symbol).

        A note altered in the bar before gets a reminder when it is no longer altered.
        """
        signature = signature_alterations(fifths)
        current: dict[tuple[str, int], int] = {}
        shown: dict[tuple[int, int], str] = {}
        for symbol in sorted((s for voice in voices for s in voice), key=lambda s: s.start):
            for note in symbol.notes:
                step, alter, octave = written_pitch(note.pitch, note.place)
                if note.start < bar.start + symbol.start:
                    continue  # tied: the accidental of its beginning still holds
                position = (step, octave)
                expected = current.get(position, signature[step])
                reminder = position not in current and self._before.get(position, alter) != alter
                if alter != expected or reminder:
                    shown[id(note), symbol.start] = _ACCIDENTALS[alter]
                current[position] = alter
        self._before = current
        return shown


def _reduce_divisions(root: Element) -> None:
    """Write durations in the largest unit that divides them all, so that people can read them."""
    elements = [*root.iter("duration"), *root.iter("divisions")]
    unit = math.gcd(*(int(element.text) for element in elements))
    for element in elements:
        element.text = str(int(element.text) // unit)
