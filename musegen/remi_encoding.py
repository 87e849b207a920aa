"""REMI ids of a score in numpy: the ids of miditok's `encode`, at a fraction of its time.

miditok makes a Python object of each token. Here its own `preprocess_score` puts the score on the tokenizer's grid, as
always, and what it then does event by event is done for all events at once: `[Bar, TimeSig]` for each bar up to the
last event, and at each onset `Position`, then a `Tempo`, then `Pitch` and `Duration` of the notes, with `Program`
where it changes. Only for tokenizers whose parameters ask for just that; `encode_ids` gives None for all others.

Units: ticks of the preprocessed score.
"""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import symusic

_NEEDED = {
    "use_velocities": False,
    "use_chords": False,
    "use_rests": False,
    "use_tempos": True,
    "use_time_signatures": True,
    "use_sustain_pedals": False,
    "use_pitch_bends": False,
    "use_control_changes": False,
    "use_key_signatures": False,
    "use_pitch_intervals": False,
    "use_programs": True,
    "use_pitchdrum_tokens": False,
    "one_token_stream_for_programs": True,
    "program_changes": True,
}
_BAR, _TEMPO, _NOTE = range(3)
_SLOTS = 4  # tokens that one note can take: Position, Program, Pitch, Duration


@dataclasses.dataclass(frozen=True)
class _Tables:
    """Ids by value, -1 where there is no such token.

    Args:
        vocabulary: Token -> id.
        positions: int32, by position in the bar.
        pitches: int32 (128,).
        programs: int32 (129,), by program + 1: drums come first.
        durations: For each number of ticks a beat, int32 by ticks.
        positions_per_beat: Of the tokenizer.
    """

    vocabulary: dict[str, int]
    positions: np.ndarray
    pitches: np.ndarray
    programs: np.ndarray
    durations: dict[int, np.ndarray]
    positions_per_beat: int


_known: dict[int, tuple[weakref.ref, int, _Tables | None]] = {}


def encode_ids(remi, score: symusic.Score) -> np.ndarray | None:
    """The ids of `remi.encode(score, encode_ids=False)`.

    Args:
        remi: A `miditok.REMI`.
        score: As for `encode`.

    Returns:
        int32 (tokens,); None where miditok itself has to be asked: a tokenizer with other kinds of tokens, or a score
        that needs a token which is not there.
    """
    tables = _tables_of(remi)
    if tables is None:
        return None
    score = remi.preprocess_score(score)
    notes = _notes(score)
    if notes is None or not len(score.time_signatures) or score.time_signatures[0].time != 0:
        return None
    starts, bar_ids, section = _bars(score, notes, tables)
    tempo_times = np.array([tempo.time for tempo in score.tempos], dtype=np.int64)
    tempo_ids = np.array([tables.vocabulary.get(f"Tempo_{round(t.tempo, 2)}", -1) for t in score.tempos], np.int64)
    units = np.full((len(starts) + len(tempo_times) + len(notes["time"]), _SLOTS), -1, dtype=np.int64)
    times = np.concatenate([starts, tempo_times, notes["time"]])  # (units,)
    kinds = np.repeat([_BAR, _TEMPO, _NOTE], [len(starts), len(tempo_times), len(notes["time"])])
    units[kinds == _BAR, :2] = bar_ids
    units[kinds == _TEMPO, 3] = tempo_ids
    units[kinds == _NOTE, 2] = tables.pitches[notes["pitch"]]
    units[kinds == _NOTE, 3] = _duration_ids(score, notes, tables)
    order = np.lexsort((kinds, times))  # stable: notes stay in the order of tracks, and of each track
    units, times, kinds = units[order], times[order], kinds[order]
    program = np.full(len(units), -2)
    program[kinds == _NOTE] = notes["program"][order[kinds == _NOTE] - len(starts) - len(tempo_times)]
    return _flat(units, times, kinds, program, starts, section, score, tables)


def _flat(units, times, kinds, program, starts, section, score, tables) -> np.ndarray | None:
    """Put in Position and Program tokens and read the units off, one after another."""
    events = np.flatnonzero(kinds != _BAR)
    needed = [units[kinds == _BAR, :2].ravel(), units[kinds == _TEMPO, 3], units[kinds == _NOTE, 2:].ravel()]
    at = times[events]
    new = np.concatenate([[True], at[1:] != at[:-1]]) if len(at) else np.empty(0, bool)
    firsts = events[new]
    bar = np.searchsorted(starts, times[firsts], side="right") - 1
    beats = np.array([_ticks_per_beat(s.denominator, score.ticks_per_quarter) for s in score.time_signatures])
    position = (times[firsts] - starts[bar]) // (beats // tables.positions_per_beat)[section[bar]]
    if len(position) and position.max() >= len(tables.positions):
        return None
    units[firsts, 0] = tables.positions[position]
    sounding = np.flatnonzero(kinds == _NOTE)
    own = program[sounding]
    changed = sounding[np.concatenate([[True], own[1:] != own[:-1]])] if len(own) else sounding
    units[changed, 1] = tables.programs[program[changed] + 1]
    needed += [units[firsts, 0], units[changed, 1]]
    if any((ids < 0).any() for ids in needed):
        return None
    ids = units.ravel()
    return ids[ids >= 0].astype(np.int32)


def _notes(score: symusic.Score) -> dict[str, np.ndarray] | None:
    """Notes of all tracks, track after track; None if one has no place."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("time", "duration", "pitch", "program")}
    for track in score.tracks:
        soa = track.notes.numpy()
        for name in ("time", "duration", "pitch"):
            parts[name].append(soa[name].astype(np.int64))
        parts["program"].append(np.full(len(soa["time"]), -1 if track.is_drum else track.program, dtype=np.int64))
    notes = {name: np.concatenate(v) if v else np.empty(0, np.int64) for name, v in parts.items()}
    inside = all(((notes[n] >= low) & (notes[n] < high)).all() for n, low, high in (
        ("time", 0, 2**40), ("duration", 0, 2**40), ("pitch", 0, 128), ("program", -1, 128)))  # fmt: skip
    return notes if inside else None


def _bars(score: symusic.Score, notes: dict[str, np.ndarray], tables: _Tables):
    """Starts of all bars up to the last event, their ids (bars, 2), and which time signature each is under."""
    metres = [(s.time, s.numerator, s.denominator) for s in score.time_signatures]
    last = max([metres[-1][0], *(t.time for t in score.tempos), int(notes["time"].max(initial=0))])
    starts, ids, section = [], [], []
    bar = tables.vocabulary.get("Bar_None", -1)
    for i, (time, numerator, denominator) in enumerate(metres):
        stop = metres[i + 1][0] if i + 1 < len(metres) else last + 1
        found = np.arange(time, stop, _ticks_per_beat(denominator, score.ticks_per_quarter) * numerator)
        starts.append(found)
        metre = tables.vocabulary.get(f"TimeSig_{numerator}/{denominator}", -1)
        ids.append(np.tile(np.array([[bar, metre]]), (len(found), 1)))
        section.append(np.full(len(found), i))
    return np.concatenate(starts).astype(np.int64), np.concatenate(ids), np.concatenate(section)


def _ticks_per_beat(denominator: int, ticks_per_quarter: int) -> int:
    return int(ticks_per_quarter * 4 / denominator)


def _duration_ids(score: symusic.Score, notes: dict[str, np.ndarray], tables: _Tables) -> np.ndarray:
    """Of each note, by the ticks a beat has where it begins; -1 for a duration that has no token."""
    changes = np.array([s.time for s in score.time_signatures])
    beats = np.array([_ticks_per_beat(s.denominator, score.ticks_per_quarter) for s in score.time_signatures])
    beat = beats[np.searchsorted(changes, notes["time"], side="right") - 1]  # (notes,)
    out = np.full(len(beat), -1, dtype=np.int64)
    for ticks in np.unique(beat).tolist():
        table = tables.durations.get(ticks)
        if table is not None:
            mine = np.flatnonzero((beat == ticks) & (notes["duration"] < len(table)))
            out[mine] = table[notes["duration"][mine]]
    return out


def _tables_of(remi) -> _Tables | None:
    """Made once for each tokenizer, which may not be hashed."""
    found = _known.get(id(remi))
    if found is not None and found[0]() is remi and found[1] == len(remi.vocab):
        return found[2]
    tables, key = _make_tables(remi), id(remi)
    _known[key] = (weakref.ref(remi, lambda _: _known.pop(key, None)), len(remi.vocab), tables)
    return tables


def _make_tables(remi) -> _Tables | None:
    config = remi.config
    if any(getattr(config, name, None) != value for name, value in _NEEDED.items()):
        return None
    more = config.additional_params
    if more.get("max_bar_embedding") is not None or more.get("use_bar_end_tokens") or more.get("add_trailing_bars"):
        return None
    if set(config.use_note_duration_programs) != set(range(-1, 128)) or len(remi.attribute_controls):
        return None
    vocabulary = dict(remi.vocab)

    def ids(kind: str, values) -> np.ndarray:
        return np.array([vocabulary.get(f"{kind}_{value}", -1) for value in values], dtype=np.int64)

    durations = {}
    for beat, names in remi._tpb_ticks_to_tokens.items():
        table = np.full(max(names) + 1, -1, dtype=np.int64)
        for ticks, name in names.items():
            table[ticks] = vocabulary.get(f"Duration_{name}", -1)
        durations[int(beat)] = table
    positions = sum(name.startswith("Position_") for name in vocabulary)
    return _Tables(
        vocabulary,
        ids("Position", range(positions)),
        ids("Pitch", range(128)),
        ids("Program", range(-1, 128)),
        durations,
        config.max_num_pos_per_beat,
    )
