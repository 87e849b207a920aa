"""The General MIDI instruments: names, ensembles, place in the score, clefs.

Source: General MIDI System Level 1; the order of families in a score is that of orchestral practice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from musegen.errors import RequestError

_NAMES = """
Acoustic Grand Piano, Bright Acoustic Piano, Electric Grand Piano, Honky-tonk Piano, Electric Piano 1,
Electric Piano 2, Harpsichord, Clavinet, Celesta, Glockenspiel, Music Box, Vibraphone, Marimba, Xylophone,
Tubular Bells, Dulcimer, Drawbar Organ, Percussive Organ, Rock Organ, Church Organ, Reed Organ, Accordion,
Harmonica, Tango Accordion, Acoustic Guitar (nylon), Acoustic Guitar (steel), Electric Guitar (jazz),
Electric Guitar (clean), Electric Guitar (muted), Overdriven Guitar, Distortion Guitar, Guitar Harmonics,
Acoustic Bass, Electric Bass (finger), Electric Bass (pick), Fretless Bass, Slap Bass 1, Slap Bass 2,
Synth Bass 1, Synth Bass 2, Violin, Viola, Cello, Contrabass, Tremolo Strings, Pizzicato Strings,
Orchestral Harp, Timpani, String Ensemble 1, String Ensemble 2, Synth Strings 1, Synth Strings 2,
Choir Aahs, Voice Oohs, Synth Choir, Orchestra Hit, Trumpet, Trombone, Tuba, Muted Trumpet, French Horn,
Brass Section, Synth Brass 1, Synth Brass 2, Soprano Sax, Alto Sax, Tenor Sax, Baritone Sax, Oboe,
English Horn, Bassoon, Clarinet, Piccolo, Flute, Recorder, Pan Flute, Blown Bottle, Shakuhachi, Whistle,
Ocarina, Lead 1 (square), Lead 2 (sawtooth), Lead 3 (calliope), Lead 4 (chiff), Lead 5 (charang),
Lead 6 (voice), Lead 7 (fifths), Lead 8 (bass + lead), Pad 1 (new age), Pad 2 (warm), Pad 3 (polysynth),
Pad 4 (choir), Pad 5 (bowed), Pad 6 (metallic), Pad 7 (halo), Pad 8 (sweep), FX 1 (rain),
FX 2 (soundtrack), FX 3 (crystal), FX 4 (atmosphere), FX 5 (brightness), FX 6 (goblins), FX 7 (echoes),
FX 8 (sci-fi), Sitar, Banjo, Shamisen, Koto, Kalimba, Bagpipe, Fiddle, Shanai, Tinkle Bell, Agogo,
Steel Drums, Woodblock, Taiko Drum, Melodic Tom, Synth Drum, Reverse Cymbal, Guitar Fret Noise,
Breath Noise, Seashore, Bird Tweet, Telephone Ring, Helicopter, Applause, Gunshot
"""
GENERAL_MIDI = tuple(" ".join(name.split()) for name in _NAMES.split(","))  # by program, 0 to 127
DRUMS_NAME = "Drums"

# What a printed score calls them, where General MIDI speaks of sounds rather than of instruments.
_PRINTED = {0: "Piano", 1: "Piano", 2: "Piano", 3: "Piano", 16: "Organ", 17: "Organ", 18: "Organ", 19: "Organ",
            24: "Guitar", 25: "Guitar", 32: "Double Bass", 42: "Violoncello", 43: "Double Bass", 46: "Harp",
            48: "Strings", 49: "Strings", 52: "Choir", 53: "Voice", 60: "Horn"}  # fmt: skip
_SHORT = {"Piano": "Pno.", "Violin": "Vln.", "Viola": "Vla.", "Violoncello": "Vc.", "Double Bass": "Db.",
          "Flute": "Fl.", "Oboe": "Ob.", "Clarinet": "Cl.", "Bassoon": "Bsn.", "Horn": "Hn.",
          "Trumpet": "Tpt.", "Trombone": "Tbn.", "Timpani": "Timp.", "Harp": "Hp.", "Harpsichord": "Hpsd.",
          "Organ": "Org.", "Guitar": "Gtr.", "Strings": "Str.", "Drums": "Dr."}  # fmt: skip

# What people say, where neither General MIDI nor a printed score has the word.
_SAID = {"cello": 42, "double bass": 43, "bass": 32, "guitar": 24, "sax": 65, "saxophone": 65, "voice": 53,
         "vocals": 53, "soprano": 53, "organ": 19, "strings": 48, "piano": 0, "harp": 46, "choir": 52, "horn": 60,
         "drums": -1, "percussion": -1}  # fmt: skip
ENSEMBLES = {
    "string quartet": (40, 41, 42),
    "string trio": (40, 41, 42),
    "string orchestra": (40, 41, 42, 43),
    "piano trio": (0, 40, 42),
    "piano quartet": (0, 40, 41, 42),
    "wind quintet": (60, 68, 70, 71, 73),
    "clarinet quintet": (40, 41, 42, 71),
    "orchestra": (40, 41, 42, 43, 47, 56, 60, 68, 70, 71, 73),
}
VIOLIN, VIOLA, CELLO = 40, 41, 42
# Families that share a bracket, as program ranges: woodwinds, brass, voices, bowed strings.
_FAMILIES = ((64, 79), (56, 63), (52, 54), (40, 45), (48, 51))
# Instruments for two hands, printed on a brace of two staves.
KEYBOARDS = frozenset([*range(9), *range(16, 22), 23, 46])

# First and last program of each family from the top of a score to its bottom.
_ORDER = [
    (72, 79),
    (68, 69),
    (71, 71),
    (64, 67),
    (70, 70),
    (60, 60),
    (56, 56),
    (59, 59),
    (57, 58),
    (61, 63),
    (47, 47),
    (8, 15),
    (112, 119),
    (46, 46),
    (24, 31),
    (104, 108),
    (52, 55),
    (80, 103),
    (22, 22),
    (0, 7),
    (16, 21),
    (23, 23),
    (40, 45),
    (109, 111),
    (48, 51),
    (32, 39),
    (120, 127),
]


@dataclasses.dataclass(frozen=True)
class Clef:
    """A clef as MusicXML knows it.

    Args:
        sign: `G`, `F`, `C` or `percussion`.
        line: Staff line that it marks, 1 the lowest.
        octave: Octaves by which written notes sound higher.
        low: Lowest MIDI pitch inside the staff (with the space below it).
        high: Highest MIDI pitch inside the staff (with the space above it).
    """

    sign: str
    line: int
    octave: int
    low: int
    high: int


TREBLE = Clef("G", 2, 0, 62, 79)
BASS = Clef("F", 4, 0, 41, 59)
ALTO = Clef("C", 3, 0, 52, 69)
TENOR = Clef("C", 4, 0, 48, 65)
TREBLE_8VA = Clef("G", 2, 1, 74, 91)
TREBLE_8VB = Clef("G", 2, -1, 50, 67)
BASS_8VB = Clef("F", 4, -1, 29, 47)
PERCUSSION = Clef("percussion", 2, 0, 0, 127)


def parse_instruments(instruments: str | int | Sequence[str | int]) -> tuple[int, ...]:
    """The programs that people mean.

    Args:
        instruments: A name (`piano`, `Violoncello`, `French Horn`), an ensemble (`string quartet`), a General MIDI
            program from 0 to 127 or -1 for drums, or several of these, as a list or with commas.

    Returns:
        Programs, ascending, each once.

    Raises:
        RequestError: Naming what is not known.
    """
    if isinstance(instruments, str):
        instruments = [part for part in re.split(r"[,;+&]| and ", instruments) if part.strip()]
    elif isinstance(instruments, int):
        instruments = [instruments]
    programs: set[int] = set()
    for item in instruments:
        programs.update(_programs_of(item))
    if not programs:
        raise RequestError("instruments: name one or more, such as `piano` or `string quartet`")
    return tuple(sorted(programs))


def _programs_of(item: str | int) -> tuple[int, ...]:
    if (isinstance(item, int) and not isinstance(item, bool)) or re.fullmatch(r"\s*-?\d+\s*", str(item)):
        if -1 <= int(item) < len(GENERAL_MIDI):
            return (int(item),)
        raise RequestError(f"instrument {item}: programs are 0 to 127, or -1 for drums")
    name = " ".join(str(item).lower().split())
    printed = {word.lower(): program for program, word in reversed(_PRINTED.items())}
    known = {word.lower(): program for program, word in enumerate(GENERAL_MIDI)} | printed | _SAID
    for form in (name, name.removesuffix("s")):
        if form in ENSEMBLES:
            return ENSEMBLES[form]
        if form in known:
            return (known[form],)
    near = [word for word in GENERAL_MIDI if name and name.split()[0] in word.lower()][:4]
    hint = f"perhaps {', '.join(near)}?" if near else f"ensembles are {', '.join(ENSEMBLES)}"
    raise RequestError(f"instrument {str(item)!r} is not known; say a General MIDI name or number; {hint}")


def program_name(program: int, is_drum: bool = False) -> str:
    """The General MIDI name of a program, 0 to 127."""
    return DRUMS_NAME if is_drum else GENERAL_MIDI[program % 128]


def printed_name(program: int, is_drum: bool = False) -> tuple[str, str]:
    """The name and its abbreviation as a printed score has them before its first and later systems."""
    name = DRUMS_NAME if is_drum else _PRINTED.get(program % 128, GENERAL_MIDI[program % 128])
    return name, _SHORT.get(name, name if len(name) <= 6 else f"{name[:4].strip()}.")


def score_position(program: int, is_drum: bool = False) -> int:
    """A number that sorts instruments from the top of a score to its bottom."""
    if is_drum:
        program = 118
    for i, (first, last) in enumerate(_ORDER):
        if first <= program <= last:
            return i * 128 + program
    return len(_ORDER) * 128 + program


def family(program: int, is_drum: bool = False) -> int | None:
    """A number that instruments under one bracket share; None for those that have no bracket."""
    if is_drum:
        return None
    return next((i for i, (first, last) in enumerate(_FAMILIES) if first <= program <= last), None)


def clefs_for(program: int, is_drum: bool = False) -> tuple[Clef, ...]:
    """The clefs that players of an instrument read, the usual one first."""
    if is_drum:
        return (PERCUSSION,)
    special = {
        9: (TREBLE_8VA,), 10: (TREBLE_8VA,), 40: (TREBLE,), 41: (ALTO, TREBLE), 42: (BASS, TENOR, TREBLE),
        43: (BASS_8VB,), 47: (BASS,), 57: (BASS, TENOR), 58: (BASS,), 68: (TREBLE,), 70: (BASS, TENOR),
        72: (TREBLE_8VA,), 73: (TREBLE,),
    }  # fmt: skip
    if program in special:
        return special[program]
    if 24 <= program <= 31:
        return (TREBLE_8VB,)
    if 32 <= program <= 39:
        return (BASS_8VB,)
    return (TREBLE, BASS)
