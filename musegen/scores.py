"""Score files to validated, canonical `symusic.Score` objects, and back to MIDI.

The one place where a file of unknown origin becomes music. Every refusal is a `ScoreError` with a reason out
of `REASONS`. MIDI is read by symusic in this process (its parser survived 132,000 mutated files without a
signal); notation formats go through verovio in a worker process.

Units: ticks of `musegen.grid.TICKS_PER_QUARTER` in every canonical score.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import struct
from pathlib import Path

import numpy as np
import symusic

from musegen import grid as g
from musegen.errors import ScoreError, WorkerError
from musegen.notation import FORMATS as NOTATION_SUFFIXES
from musegen.notation import convert_notation, program_of

MIDI_SUFFIXES = (".mid", ".midi", ".smf", ".kar")
SUFFIXES = (*MIDI_SUFFIXES, *NOTATION_SUFFIXES)
REASONS = {
    "unreadable": "the file is not what its ending says, or is damaged",
    "empty": "no note in it",
    "limits": "larger than the limits allow",
    "timeout": "took too long to read",
    "memory": "took too much memory to read",
    "crashed": "the reader crashed on it",
    "missing": "no such file",
    "format": "not a kind of score that is read here",
}
DEFAULT_QPM = 120.0  # the tempo of a MIDI file that names none
QPM_RANGE = (10.0, 400.0)


@dataclasses.dataclass(frozen=True)
class ScoreLimits:
    """What a score may hold. Real corpora have at most 45,000 notes and 1,900 bars a file.

    Args:
        file_bytes: Of the file.
        notes: In all tracks.
        bars: Counted at the metres in force.
        tracks: With or without notes.
        tempos: Tempo changes.
        metres: Time signatures.
    """

    file_bytes: int = 16 * 1024**2
    notes: int = 100_000
    bars: int = 10_000
    tracks: int = 512
    tempos: int = 20_000
    metres: int = 10_000


@dataclasses.dataclass
class LoadedScore:
    """A canonical score and what its file said of itself.

    Args:
        score: Canonical: see `musegen.grid`.
        about: `title` and `composer` where the file names them; `metre` of its first bar, `key` where known.
        repairs: How often each silent repair was made: `shifted_notes`, `padded_bars`, `dropped_metres`,
            `dropped_tempos`.
    """

    score: symusic.Score
    about: dict[str, str]
    repairs: dict[str, int]


def load_score(path: str | Path, limits: ScoreLimits | None = None, *, isolate: bool = True) -> LoadedScore:
    """Read any score file into a canonical score.

    Args:
        path: MIDI (.mid .midi .smf .kar), MusicXML (.xml .musicxml .mxl), kern (.krn), ABC (.abc) or MEI.
        limits: What it may hold; `ScoreLimits()` by default.
        isolate: Read notation formats in a worker process; False inside one.

    Raises:
        ScoreError: With a reason out of `REASONS`.
    """
    path, limits = Path(path), limits or ScoreLimits()
    name, suffix = str(path), path.suffix.lower()
    if not path.is_file():
        raise ScoreError(name, "missing", "it is a folder" if path.is_dir() else "no such file")
    if suffix not in SUFFIXES:
        raise ScoreError(name, "format", f"ending {suffix or '(none)'!r}; known are {' '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise ScoreError(name, "limits", f"{size:,} bytes; at most {limits.file_bytes:,} are read")
    if suffix in MIDI_SUFFIXES:
        return parse_midi(path.read_bytes(), name, limits)
    midi, bars, about = _convert(name, isolate)
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
        data: A standard MIDI file.
        name: By which errors name it.
        limits: What it may hold; `ScoreLimits()` by default.
        bars: Where its bars are, if something better than its time signatures says so.
        about: Title and composer, if known.

    Raises:
        ScoreError: With a reason out of `REASONS`.
    """
    limits = limits or ScoreLimits()
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[20:]
    if data[:4] != b"MThd" or len(data) < 14:
        raise ScoreError(name, "unreadable", "it does not begin like a MIDI file")
    division = struct.unpack(">H", data[12:14])[0]
    if division == 0 or division & 0x8000:
        raise ScoreError(name, "unreadable", "its time is not in ticks a quarter note")
    try:
        score = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises several kinds, with no stable text
        reason = " ".join(str(error).split())[:120]
        raise ScoreError(name, "unreadable", f"damaged MIDI ({reason})") from None
    return canonical_score(score, name, limits, bars=bars, about=about)


def canonical_score(
    score: symusic.Score,
    name: str = "score",
    limits: ScoreLimits | None = None,
    *,
    bars: list[g.SourceBar] | None = None,
    about: dict[str, str] | None = None,
) -> LoadedScore:
    """Put a score on the canonical bars and grid: see `musegen.grid`. The argument is not altered.

    Args:
        score: Any score in ticks.
        name: By which errors name it.
        limits: What it may hold; `ScoreLimits()` by default.
        bars: Where its bars are, if something better than its time signatures says so.
        about: Title and composer, if known.

    Raises:
        ScoreError: `empty`, `limits` or `unreadable` (negative times).
    """
    limits = limits or ScoreLimits()
    _check(score, name, limits)
    scale = g.TICKS_PER_QUARTER / score.ticks_per_quarter
    repairs = {"shifted_notes": 0, "padded_bars": 0, "dropped_metres": 0, "dropped_tempos": 0}
    notes = [g.note_array(_only(score, track)) for track in score.tracks]
    onsets = np.concatenate([n["onset"] for n in notes]) * scale
    ends = onsets + np.concatenate([n["duration"] for n in notes]) * scale
    if bars is None and score.ticks_per_quarter != g.TICKS_PER_QUARTER:
        # Files at the canonical resolution are this package's own; LilyPond, which shifts, writes 384.
        order = np.argsort(onsets, kind="stable")
        shift = np.empty(len(onsets))
        shift[order] = g.find_shifts(onsets[order])
        repairs["shifted_notes"] = int((shift != 0).sum())
        onsets, ends = np.maximum(onsets - shift, 0.0), np.maximum(ends - shift, 0.0)
    if bars is None:
        bars = _source_bars(score, float(ends.max()), name, limits, repairs)
    if len(bars) > limits.bars:
        raise ScoreError(name, "limits", f"{len(bars):,} bars; at most {limits.bars:,} are read")
    bar_map = g.lay_bars(bars)
    repairs["padded_bars"] = int(len(bar_map.grid) > 0 and bar_map.target_starts[0] > 0)
    snapped, durations = g.snap(bar_map.move(onsets), bar_map.move(ends - 1e-3), bar_map.grid)
    out = symusic.Score(g.TICKS_PER_QUARTER)
    first = 0
    for track, own in zip(score.tracks, notes):
        last = first + len(own)
        if len(own):
            out.tracks.append(_track(track, own, snapped[first:last], durations[first:last]))
        first = last
    _set_metres(out, bar_map.grid)
    repairs["dropped_tempos"] = _set_tempos(out, score, bar_map, scale)
    _set_keys(out, score, bar_map, scale)
    about = dict(about or {})
    about["metre"] = f"{bars[0].numerator}/{bars[0].denominator}"
    return LoadedScore(out, about, repairs)


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


@functools.lru_cache(maxsize=1)
def _converter():
    from musegen.workers import WorkerPool

    return WorkerPool(convert_notation, workers=1)


def _convert(name: str, isolate: bool):
    if not isolate:
        return convert_notation(name)
    try:
        return _converter().run(name)
    except WorkerError as error:
        reason = error.reason if error.reason in REASONS else "crashed"
        raise ScoreError(name, reason, error.detail) from None


def _only(score: symusic.Score, track: symusic.Track) -> symusic.Score:
    one = symusic.Score(score.ticks_per_quarter)
    one.tracks.append(track)
    return one


def _check(score: symusic.Score, name: str, limits: ScoreLimits) -> None:
    """Bounds before anything that costs time in proportion to what a file claims."""
    counts = {
        "notes": sum(len(t.notes) for t in score.tracks),
        "tracks": len(score.tracks),
        "tempos": len(score.tempos),
        "metres": len(score.time_signatures),
    }
    for what, count in counts.items():
        if count > getattr(limits, what):
            raise ScoreError(name, "limits", f"{count:,} {what}; at most {getattr(limits, what):,} are read")
    if not counts["notes"]:
        raise ScoreError(name, "empty", "no note in it")
    if score.ticks_per_quarter <= 0:
        raise ScoreError(name, "unreadable", "no ticks in a quarter note")
    for track in score.tracks:
        if len(track.notes):
            soa = track.notes.numpy()
            if soa["time"].min() < 0 or soa["duration"].min() < 0:
                raise ScoreError(name, "unreadable", "notes at negative times")
    beats = g.last_end(score) / score.ticks_per_quarter
    if beats > 16 * limits.bars:
        raise ScoreError(name, "limits", f"lasts {beats:,.0f} beats; at most {16 * limits.bars:,} are read")


def _source_bars(
    score: symusic.Score, end: float, name: str, limits: ScoreLimits, repairs: dict[str, int]
) -> list[g.SourceBar]:
    """The bars that a MIDI file's time signatures draw, to its last note's end; a change starts a bar."""
    scale = g.TICKS_PER_QUARTER / score.ticks_per_quarter
    metres: dict[float, tuple[int, int]] = {0.0: g.DEFAULT_METRE}
    for signature in sorted(score.time_signatures, key=lambda s: s.time):
        numerator, denominator = int(signature.numerator), int(signature.denominator)
        if not (1 <= numerator <= 64 and 1 <= denominator <= 64 and signature.time >= 0):
            repairs["dropped_metres"] += 1
            continue
        metres[signature.time * scale] = (numerator, denominator)
    times = [*metres, math.inf]
    bars: list[g.SourceBar] = []
    for i, (time, metre) in enumerate(metres.items()):
        stop = min(times[i + 1], max(end, g.TICKS_PER_QUARTER))
        length = g.SourceBar(0, 0, *metre).nominal
        if (stop - time) / length > limits.bars:
            raise ScoreError(name, "limits", f"over {limits.bars:,} bars")
        start = time
        while start < stop - 0.01:
            cut = times[i + 1] if math.isfinite(times[i + 1]) else math.inf
            bars.append(g.SourceBar(start, min(length, cut - start), *metre))
            start += length
    return bars


def _track(track: symusic.Track, own: np.ndarray, onsets: np.ndarray, durations: np.ndarray) -> symusic.Track:
    program = track.program if track.is_drum else program_of(track.name, track.program)
    out = symusic.Track(track.name, program, track.is_drum)
    out.notes = symusic.Note.from_numpy(
        onsets.astype(np.int32), durations.astype(np.int32), own["pitch"].astype(np.int8),
        own["velocity"].astype(np.int8),
    )  # fmt: skip
    out.notes.sort()
    return out


def _set_metres(out: symusic.Score, bars: g.BarGrid) -> None:
    previous = None
    for start, numerator, denominator in zip(bars.starts.tolist(), bars.numerators, bars.denominators):
        metre = (int(numerator), int(denominator))
        if metre != previous:
            out.time_signatures.append(symusic.TimeSignature(start, *metre))
        previous = metre


def _set_tempos(out: symusic.Score, score: symusic.Score, bar_map: g.BarMap, scale: float) -> int:
    """Copy the tempos that can be played, snapped; return how many could not."""
    dropped, tempos = 0, {}
    for tempo in sorted(score.tempos, key=lambda t: t.time):
        if not math.isfinite(tempo.qpm) or tempo.qpm <= 0 or tempo.time < 0:
            dropped += 1
            continue
        tempos[tempo.time * scale] = float(np.clip(tempo.qpm, *QPM_RANGE))
    placed = {0: tempos.pop(0.0, DEFAULT_QPM)}
    times = bar_map.move(np.array([*tempos], dtype=np.float64))
    placed.update(zip(g.snap(times, times, bar_map.grid)[0].tolist(), tempos.values()))
    previous = None
    for time, qpm in sorted(placed.items()):
        if qpm != previous:
            out.tempos.append(symusic.Tempo(time, qpm))
        previous = qpm
    return dropped


def _set_keys(out: symusic.Score, score: symusic.Score, bar_map: g.BarMap, scale: float) -> None:
    """Copy key signatures, each at the start of its bar, one a bar."""
    keys: dict[int, tuple[int, int]] = {}
    for signature in sorted(score.key_signatures, key=lambda k: k.time):
        if signature.time >= 0 and -7 <= signature.key <= 7:
            moved = bar_map.move(np.array([signature.time * scale]))
            start = int(bar_map.grid.starts[bar_map.grid.index(moved + 0.5)[0]])
            keys.setdefault(start, (int(signature.key), int(signature.tonality)))
    previous = None
    for time, key in sorted(keys.items()):
        if key != previous:
            out.key_signatures.append(symusic.KeySignature(time, *key))
        previous = key
