"""Notation files (MusicXML, Humdrum kern, ABC, MEI) to MIDI and bars, by verovio.

verovio is native code that can crash or hang on bad input: call `convert_notation` in a worker process
(`musegen.scores.load_score` does). Source of the formats: https://book.verovio.org/toolkit-reference/.
"""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import symusic

from musegen.errors import ScoreError
from musegen.grid import TICKS_PER_QUARTER, SourceBar, last_end

FORMATS = {
    ".xml": "musicxml",
    ".musicxml": "musicxml",
    ".mxl": "musicxml",
    ".krn": "humdrum",
    ".kern": "humdrum",
    ".abc": "abc",
    ".mei": "mei",
}
_MAX_UNZIPPED = 64 * 1024**2  # bytes of XML in one .mxl; the longest symphonies have about 20 MB

# General MIDI programs by the names that scores give their staves, longest match first. Editors often leave
# every staff of a quartet on "String Ensemble" or piano; the name is the better witness.
_PROGRAMS = {
    "violoncello": 42, "contrabass": 43, "double bass": 43, "english horn": 69, "french horn": 60,
    "violini": 40, "violino": 40, "violin": 40, "violine": 40, "viola": 41, "bratsche": 41, "cello": 42,
    "kontrabass": 43, "flute": 73, "flauto": 73, "flöte": 73, "piccolo": 72, "oboe": 68, "clarinet": 71,
    "klarinette": 71, "bassoon": 70, "fagott": 70, "horn": 60, "trumpet": 56, "trombone": 57, "tuba": 58,
    "timpani": 47, "harp": 46, "guitar": 24, "harpsichord": 6, "cembalo": 6, "organ": 19, "soprano": 52,
    "alto": 52, "tenor": 52, "piano": 0,
}  # fmt: skip
_VAGUE = {0, 48, 49, 50, 51}  # programs that say nothing of the instrument: default piano, string ensembles


def convert_notation(path: str, data: bytes) -> tuple[bytes, list[SourceBar], dict[str, str]]:
    """Convert one notation file, with repeats played out.

    Args:
        path: The file's name; its ending names the format.
        data: The file.

    Returns:
        A MIDI file, the bars as played (ticks of `musegen.grid.TICKS_PER_QUARTER`), and what the file says of
        itself: `title`, `composer`, `movement`, where known.

    Raises:
        ScoreError: `unreadable` if verovio refuses the file, `limits` if it unzips to too much.
    """
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions({"breaks": "none", "xmlIdSeed": 1})
    suffix = Path(path).suffix.lower()
    if suffix == ".mxl":
        loaded = toolkit.loadZipDataBase64(base64.b64encode(_checked_zip(path, data)).decode())
    else:
        toolkit.setInputFrom(FORMATS[suffix])
        loaded = toolkit.loadData(_text(data))
    if not loaded:
        raise ScoreError(path, "unreadable", "verovio finds no score in it")
    midi = base64.b64decode(toolkit.renderToMIDI())
    if not midi:
        raise ScoreError(path, "unreadable", "verovio can make no MIDI of it")
    return midi, _bars(toolkit, midi), _about(toolkit)


def program_of(name: str, program: int) -> int:
    """The General MIDI program of a staff: by its name where the given program says nothing."""
    if program in _VAGUE:
        lowered = name.lower()
        for word in sorted(_PROGRAMS, key=len, reverse=True):
            if word in lowered:
                return _PROGRAMS[word]
    return program


def _text(data: bytes) -> str:
    """A text file, whose byte order mark names its encoding; UTF-8 without one."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def _checked_zip(path: str, data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # the last is zipfile's, of an unknown version
        raise ScoreError(path, "unreadable", "an .mxl file is a zip archive, and this is not one") from None
    if size > _MAX_UNZIPPED:
        raise ScoreError(path, "limits", f"unzips to {size:,} bytes; at most {_MAX_UNZIPPED:,} are read")
    return data


def _bars(toolkit, midi: bytes) -> list[SourceBar]:
    """Bars as played, from verovio's timemap, with the metre in force in the MIDI that it writes."""
    score = symusic.Score.from_midi(midi)
    scale = TICKS_PER_QUARTER / score.ticks_per_quarter
    metres = sorted(
        (s.time * scale, int(s.numerator), int(s.denominator)) for s in score.time_signatures if s.numerator > 0
    )
    events = toolkit.renderToTimemap({"includeMeasures": True})
    starts = [event["qstamp"] * TICKS_PER_QUARTER for event in events if "measureOn" in event]
    end = last_end(score) * scale
    if not starts:
        return []
    bars, metre = [], (4, 4)
    for i, start in enumerate(starts):
        while metres and metres[0][0] <= start + 0.01:
            metre = metres.pop(0)[1:]
        nominal = SourceBar(start, 0.0, *metre).nominal
        if i + 1 < len(starts):
            length = starts[i + 1] - start
        else:
            length = nominal if end - start <= nominal + 1 else end - start
        if length > 0.01:
            bars.append(SourceBar(float(start), float(length), *metre))
    return bars


def _about(toolkit) -> dict[str, str]:
    """Title and composer out of the MEI header that verovio makes of any format."""
    import xml.etree.ElementTree as ElementTree

    try:
        root = ElementTree.fromstring(toolkit.getMEI({"pageNo": 0, "noLayout": True, "scoreBased": True}))
    except ElementTree.ParseError:
        return {}
    mei = "{http://www.music-encoding.org/ns/mei}"
    about = {}
    title = root.find(f".//{mei}titleStmt/{mei}title")
    if title is not None and "".join(title.itertext()).strip():
        about["title"] = " ".join("".join(title.itertext()).split())
    for person in root.iter(f"{mei}persName"):
        if person.get("role") == "composer" and person.text:
            about["composer"] = " ".join(person.text.split())
            break
    return about
