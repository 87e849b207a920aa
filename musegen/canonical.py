"""Any score of symusic onto canonical bars and grid, within limits, with every silent repair counted.

Units: ticks of `musegen.grid.TICKS_PER_QUARTER` in every canonical score.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import symusic

from musegen import grid as g
from musegen.errors import ScoreError
from musegen.notation import program_of

DEFAULT_QPM = 120.0  # the tempo of a MIDI file that names none
QPM_RANGE = (10.0, 400.0)


REPAIRS = {
    "unended_notes": "notes without an end of their own, which no parser can sound: left out",
    "recovered_tracks": "tracks beyond the number that the header declares: read all the same",
    "dropped_tracks": "tracks beyond that number in a file that is cut off: left out",
    "missing_tracks": "tracks that the header declares and the file lacks",
    "dropped_tempos": "infinite, zero or negative tempos: left out",
    "dropped_metres": "impossible time signatures, such as 0/4: left out",
    "shifted_notes": "notes moved back to their bars from the delay that a grace note gave them",
    "padded_bars": "pick-ups filled up to a whole bar with silence before them",
}


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
        events: MIDI events of all kinds.
        beats: Quarter notes from the first tick to the last.
    """

    file_bytes: int = 16 * 1024**2
    notes: int = 100_000
    bars: int = 10_000
    tracks: int = 512
    tempos: int = 20_000
    metres: int = 10_000
    events: int = 2_000_000
    beats: int = 160_000


@dataclasses.dataclass
class LoadedScore:
    """A canonical score and what its file said of itself.

    Args:
        score: Canonical: see `musegen.grid`.
        about: `title` and `composer` where the file names them; `metre` of its first bar, `key` where known.
        repairs: How often each silent repair was made, by the names in `REPAIRS`.
    """

    score: symusic.Score
    about: dict[str, str]
    repairs: dict[str, int]


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
    repairs = dict.fromkeys(REPAIRS, 0)
    notes = [g.track_notes(track) for track in score.tracks]
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
    if beats > limits.beats:
        raise ScoreError(name, "limits", f"{beats:,.0f} beats; at most {limits.beats:,} are read")


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
