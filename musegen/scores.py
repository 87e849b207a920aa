"""Score files to validated, canonical `symusic.Score` objects, and back to MIDI.

The one place where a file of unknown origin becomes music. Every refusal is a `ScoreError` with a reason out
of `REASONS`. MIDI is read by symusic in this process (its parser survived 132,000 mutated files without a
signal); notation formats go through verovio in a worker process.

Units: ticks of `musegen.grid.TICKS_PER_QUARTER` in every canonical score.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from pathlib import Path

import numpy as np
import symusic

from musegen import grid as g
from musegen.canonical import LoadedScore, ScoreLimits, canonical_score
from musegen.errors import ScoreError, WorkerError
from musegen.midi_scan import HEADER_BYTES, MidiScan, is_midi, scan_midi, unwrap_riff, with_all_tracks
from musegen.notation import FORMATS as NOTATION_SUFFIXES
from musegen.notation import convert_notation

MIDI_SUFFIXES = (".mid", ".midi", ".smf", ".kar", ".rmi")
SUFFIXES = (*MIDI_SUFFIXES, *NOTATION_SUFFIXES)
REASONS = {
    "unreadable": "the file is not what its ending says, or is damaged",
    "empty": "no note in it",
    "limits": "larger than the limits allow",
    "timeout": "took too long to read",
    "memory": "took too much memory to read",
    "crashed": "the reader crashed on it",
    "error": "the reader failed on it in a way that nobody foresaw",
    "missing": "no such file",
    "format": "not a kind of score that is read here",
}


def load_score(path: str | Path, limits: ScoreLimits | None = None, *, isolate: bool = True) -> LoadedScore:
    """Read any score file into a canonical score.

    Args:
        path: MIDI under any name, MusicXML (.xml .musicxml .mxl), kern (.krn), ABC (.abc) or MEI.
        limits: What it may hold; `ScoreLimits()` by default.
        isolate: Read notation formats in a worker process; False inside one.

    Raises:
        ScoreError: With a reason out of `REASONS`.
    """
    path, limits = Path(path), limits or ScoreLimits()
    name = str(path)
    if not path.is_file():
        raise ScoreError(name, "missing", "it is a folder" if path.is_dir() else "no such file")
    try:
        with path.open("rb") as file:
            data = file.read(limits.file_bytes + 1)
    except OSError as error:
        raise ScoreError(name, "unreadable", f"cannot be opened ({error.strerror})") from None
    if len(data) > limits.file_bytes:
        size = path.stat().st_size
        raise ScoreError(name, "limits", f"{size:,} bytes; at most {limits.file_bytes:,} are read")
    return read_score(data, name, limits, isolate=isolate)


def read_score(data: bytes, name: str, limits: ScoreLimits | None = None, *, isolate: bool = True) -> LoadedScore:
    """Read a score file out of memory into a canonical score.

    Args:
        data: The whole file. MIDI is known by its content, everything else by its name's ending.
        name: The file's name, by which errors name it too.
        limits: What it may hold; `ScoreLimits()` by default.
        isolate: Read notation formats in a worker process; False inside one.

    Raises:
        ScoreError: With a reason out of `REASONS`.
    """
    limits = limits or ScoreLimits()
    suffix = Path(name).suffix.lower()
    if suffix in MIDI_SUFFIXES or is_midi(data[:12]):
        return parse_midi(data, name, limits)
    if suffix not in SUFFIXES:
        raise ScoreError(name, "format", f"ending {suffix or '(none)'!r}; known are {' '.join(SUFFIXES)}")
    midi, bars, about = _convert(name, data, isolate)
    return parse_midi(midi, name, limits, bars=bars, about=about)


def parse_midi(
    data: bytes,
    name: str = "MIDI bytes",
    limits: ScoreLimits | None = None,
    *,
    bars: list[g.SourceBar] | None = None,
    about: dict[str, str] | None = None,
) -> LoadedScore:
    """Read a MIDI file out of memory into a canonical score.

    Args:
        data: A standard MIDI file, plain or in RIFF (`.rmi`).
        name: By which errors name it.
        limits: What it may hold; `ScoreLimits()` by default.
        bars: Where its bars are, if something better than its time signatures says so.
        about: Title and composer, if known.

    Raises:
        ScoreError: With a reason out of `REASONS`.
    """
    limits = limits or ScoreLimits()
    data = unwrap_riff(data)
    if data[:4] != b"MThd" or len(data) < HEADER_BYTES:
        raise ScoreError(name, "unreadable", "it does not begin like a MIDI file")
    division = struct.unpack(">H", data[12:14])[0]
    if division == 0 or division & 0x8000:
        raise ScoreError(name, "unreadable", "its time is not in ticks a quarter note")
    scan = scan_midi(data)
    _check_claims(scan, name, limits)
    repairs = {"unended_notes": 0, "recovered_tracks": 0, "dropped_tracks": 0, "missing_tracks": 0}
    if scan.tracks > scan.declared_tracks:
        # symusic reads as many tracks as the header says; a torn one behind them would make it refuse the file.
        repairs["recovered_tracks" if scan.whole else "dropped_tracks"] = scan.tracks - scan.declared_tracks
        data = with_all_tracks(data, scan.tracks) if scan.whole else data
    repairs["missing_tracks"] = max(0, scan.declared_tracks - scan.tracks)
    try:
        score = symusic.Score.from_midi(data)
    except Exception:  # symusic raises several kinds, with no stable text
        where = "an event is malformed or cut off" if not scan.whole else "the parser refuses it"
        raise ScoreError(name, "unreadable", f"damaged MIDI: {where}") from None
    if not repairs["dropped_tracks"]:
        repairs["unended_notes"] = max(0, scan.notes - sum(len(track.notes) for track in score.tracks))
    loaded = canonical_score(score, name, limits, bars=bars, about=about)
    loaded.repairs.update(repairs)
    return loaded


def _check_claims(scan: MidiScan, name: str, limits: ScoreLimits) -> None:
    """Bounds on what the raw bytes claim, before a parser believes them."""
    claims = {what: getattr(scan, what) for what in ("notes", "tracks", "tempos", "metres", "events")}
    claims["beats"] = scan.last_tick // scan.division
    for what, count in claims.items():
        if count > getattr(limits, what):
            raise ScoreError(name, "limits", f"{count:,} {what}; at most {getattr(limits, what):,} are read")


def midi_bytes(score: symusic.Score) -> bytes:
    """A MIDI file of a score that reads back as the same notes.

    A MIDI track cannot hold two sounding notes of one pitch, so the second of such a pair, two violins in
    unison, say, goes to another track of the same program.
    """
    return bytes(separate_unisons(score).dumps_midi())


def separate_unisons(score: symusic.Score) -> symusic.Score:
    """A copy in which no track has two notes of one pitch sounding at once; further tracks take the rest."""
    out = score.copy()
    out.tracks = type(score.tracks)()
    for track in score.tracks:
        for notes in _layers(track):
            part = symusic.Track(track.name, track.program, track.is_drum)
            part.notes = notes
            out.tracks.append(part)
    return out


def _layers(track: symusic.Track) -> list:
    """The notes of a track, in as few lists as hold no two sounding notes of one pitch."""
    soa = track.notes.numpy()
    order = np.lexsort((-soa["duration"], soa["time"], soa["pitch"]))
    pitch, start = soa["pitch"][order], soa["time"][order]
    end = start + soa["duration"][order]
    if not np.any((pitch[1:] == pitch[:-1]) & (end[:-1] > start[1:])):
        return [track.notes.copy()]
    layers: list[list] = []
    free: list[dict[int, int]] = []  # for each layer, when each pitch is free again
    for note in sorted(track.notes, key=lambda n: (n.start, -n.duration, n.pitch)):
        index = next((i for i, ends in enumerate(free) if ends.get(note.pitch, 0) <= note.start), len(free))
        if index == len(free):
            layers.append([])
            free.append({})
        layers[index].append(note)
        free[index][note.pitch] = note.end
    return [symusic.core.NoteTickList(layer) for layer in layers]


def limit_unisons(score: symusic.Score, voices: int = 4) -> symusic.Score:
    """A copy in which no track sounds one pitch more than `voices` times at once, as no section of players does.

    A further note takes over from the one that has sounded longest, which ends there; a further note at the very
    onset of all of them is dropped. Models that have lost their way write such heaps.
    """
    out = score.copy()
    for track in out.tracks:
        layers = _layers(track)
        if len(layers) <= voices:
            continue
        kept: list = []
        sounding: dict[int, list] = {}
        for note in sorted(track.notes, key=lambda n: (n.start, -n.duration, n.pitch)):
            current = [other for other in sounding.get(note.pitch, []) if other.end > note.start]
            if len(current) >= voices:
                oldest = min(current, key=lambda n: n.start)
                if oldest.start == note.start:
                    continue
                oldest.duration = note.start - oldest.start
                current.remove(oldest)
            sounding[note.pitch] = [*current, note]
            kept.append(note)
        track.notes = symusic.core.NoteTickList(kept)
        track.notes.sort()
    return out


def content_hash(score: symusic.Score) -> str:
    """Of what is heard and where the bars lie: equal for equal music, whatever the file around it.

    Args:
        score: A canonical score.

    Returns:
        64 hexadecimal digits (SHA-256). Velocities, tempos, names and the order of tracks do not count.
    """
    notes = g.note_array(score)[["onset", "duration", "pitch", "program"]]
    bars = g.bar_grid(score)
    digest = hashlib.sha256(np.ascontiguousarray(notes).tobytes())
    digest.update(np.stack([bars.starts[:-1], bars.numerators, bars.denominators]).astype("<i8").tobytes())
    return digest.hexdigest()


def _convert_task(task: tuple[str, bytes]):
    return convert_notation(*task)


@functools.lru_cache(maxsize=1)
def _converter():
    from musegen.workers import WorkerPool

    return WorkerPool(_convert_task, workers=1)


def _convert(name: str, data: bytes, isolate: bool):
    if not isolate:
        return convert_notation(name, data)
    try:
        return _converter().run((name, data))
    except WorkerError as error:
        raise ScoreError(name, error.reason, error.detail) from None
