"""miditok's REMI as musegen uses it: its parameters, kept as JSON, and REMI ids of a score.

REMI (Huang and Yang 2020, https://arxiv.org/abs/2002.00212) writes a piece as Bar, TimeSig, Position, Program,
Pitch and Duration tokens. All programs share one stream, and the grid is that of `musegen.grid`. Three departures from
miditok's own stream, which miditok reads like any other: (1) notes that begin together stand in one order,
by program, pitch and duration, whatever tracks they come from, so that a model has no order to guess; (2) the first
note of each bar names its program, so that a bar means the same wherever it stands; (3) the bars in which the last
notes only sound on are written too, so that a stream has as many bars as its score.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import symusic

from musegen import grid as g
from musegen.errors import TokenizerError
from musegen.remi_encoding import encode_ids

SPECIAL_TOKENS = ("PAD", "BOS", "EOS", "SEP")
# Positions a beat of Duration tokens, by length in beats: short notes exactly, long ones to a quarter beat.
_DURATIONS = {(0, 4): g.POSITIONS_PER_BEAT, (4, 16): 4, (16, 64): 1}
_TEMPO_RANGE = (30, 240)  # quarter notes a minute
_TEMPOS = 49  # 16 an octave: neighbours differ by 4.4 %, and 60 and 120 are among them


def remi_config(extra_tokens: Sequence[str] = ()):
    """The `miditok.TokenizerConfig`.

    Args:
        extra_tokens: Special tokens after `SPECIAL_TOKENS`: those of `musegen.controls`.
    """
    from miditok import TokenizerConfig

    return TokenizerConfig(
        pitch_range=(0, 127),
        beat_res=_DURATIONS,
        special_tokens=[*SPECIAL_TOKENS, *extra_tokens],
        encode_ids_split="bar",
        use_velocities=False,
        use_tempos=True,
        num_tempos=_TEMPOS,
        tempo_range=_TEMPO_RANGE,
        log_tempos=True,
        delete_equal_successive_tempo_changes=True,
        use_time_signatures=True,
        time_signature_range={den: list(range(1, most + 1)) for den, most in g.METRES.items()},
        use_programs=True,
        one_token_stream_for_programs=True,
        program_changes=True,
        use_pitchdrum_tokens=False,
    )


def untrained_remi():
    """A `miditok.REMI` of `remi_config`, without torch where nothing has imported that yet.

    miditok imports torch for its data sets if it can: three seconds and 170 MB that a process which only encodes
    scores has no use for.
    """
    datasets = "miditok.pytorch_data"
    unneeded = "miditok" not in sys.modules and "torch" not in sys.modules
    if unneeded:
        sys.modules[datasets] = None  # an import of it now fails, which miditok expects
    try:
        from miditok import REMI
    finally:
        if unneeded:
            del sys.modules[datasets]
    return REMI(remi_config())


@functools.lru_cache(maxsize=1)
def plain_vocabulary() -> dict[str, int]:
    """Names and ids of the package's own REMI, without control tokens and merges; not to be changed."""
    return dict(untrained_remi().vocab)


def vocabulary_hash(vocabulary: dict[str, int]) -> str:
    """SHA-256 of names and ids: by it a corpus says what its REMI ids mean."""
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def remi_ids(remi, score: symusic.Score) -> np.ndarray:
    """REMI ids of a canonical score, before BPE.

    Args:
        remi: A `miditok.REMI` of `remi_config`.
        score: A canonical score.

    Returns:
        int32 (tokens,).
    """
    merged = one_track_a_program(score)
    ids = encode_ids(remi, merged)
    if ids is None:
        ids = np.asarray(remi.encode(merged, encode_ids=False).ids, dtype=np.int32)
    ids = _name_programs(ids, remi.vocab)
    bars = g.bar_grid(score)
    written = int((ids == remi.vocab["Bar_None"]).sum())
    metres = zip(bars.numerators[written:].tolist(), bars.denominators[written:].tolist())
    more = [remi.vocab[name] for metre in metres for name in ("Bar_None", "TimeSig_{}/{}".format(*metre))]
    return np.concatenate([ids, np.array(more, dtype=np.int32)])


def one_track_a_program(score: symusic.Score) -> symusic.Score:
    """A copy with one track a program, by program, and its notes by onset, pitch and duration."""
    out = score.copy()
    out.tracks = type(score.tracks)()
    notes = g.note_array(score)  # by onset, pitch, program, duration
    for program in np.unique(notes["program"]).tolist():
        own = notes[notes["program"] == program]
        track = symusic.Track("", max(program, 0), program == g.DRUMS)
        track.notes = symusic.Note.from_numpy(
            own["onset"], own["duration"], own["pitch"].astype(np.int8), own["velocity"].astype(np.int8)
        )
        out.tracks.append(track)
    return out


def _name_programs(ids: np.ndarray, vocabulary: dict[str, int]) -> np.ndarray:
    """Put a Program token before the first note of each bar that does not name its program."""
    programs, pitches = _program_and_pitch_ids(tuple(vocabulary.items()))
    is_program, is_pitch = programs[ids], pitches[ids]
    index = np.arange(len(ids))
    bar = np.cumsum(ids == vocabulary["Bar_None"])
    last = np.maximum.accumulate(np.where(is_program, index, -1))  # where the program in force was named
    firsts = np.flatnonzero(is_pitch)
    firsts = firsts[np.unique(bar[firsts], return_index=True)[1]]
    missing = firsts[(last[firsts] >= 0) & (bar[last[firsts]] < bar[firsts])]
    return np.insert(ids, missing, ids[last[missing]])


@functools.lru_cache(maxsize=8)
def _program_and_pitch_ids(vocabulary: tuple[tuple[str, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which ids are Program tokens, and which are pitches: bool (ids,) each."""
    programs, pitches = np.zeros((2, len(vocabulary)), bool)
    for name, i in vocabulary:
        programs[i] = name.startswith("Program_")
        pitches[i] = name.startswith(("Pitch_", "PitchDrum_"))
    return programs, pitches


def remi_score(remi, base_ids: np.ndarray) -> symusic.Score:
    """The score of REMI ids without special tokens: sorted, and no note sounds on after the last bar."""
    from miditok import TokSequence

    score = remi.decode(TokSequence(ids=np.asarray(base_ids).tolist(), are_ids_encoded=False))
    names = np.array(sorted(remi.vocab, key=remi.vocab.get))[base_ids]
    metres = [name.partition("_")[2].split("/") for name in names if name.startswith("TimeSig_")]
    lost = int((names == "Bar_None").sum()) - len(metres)  # bars that say nothing of their metre
    end = sum(4 * int(n) * score.ticks_per_quarter // int(d) for n, d in metres)
    for events in (score.tempos, score.time_signatures):
        events.sort()
    for track in score.tracks:
        track.notes.sort()
        soa = track.notes.numpy()
        if lost <= 0 and len(soa["time"]) and (soa["time"] + soa["duration"]).max() > end:
            inside = soa["time"] < end
            soa = {name: values[inside] for name, values in soa.items()}
            soa["duration"] = np.minimum(soa["duration"], end - soa["time"])
            track.notes = symusic.Note.from_numpy(**soa)
    return score


def parameters_of(remi) -> dict:
    """What `miditok.json` holds: everything but the BPE model, which `tokenizer.json` holds."""
    parameters = remi.to_dict()
    parameters.pop("_model", None)
    return parameters


def remi_of(parameters: dict, model: str):
    """Build REMI from its parameters and BPE, through a file, the one way that miditok loads.

    Raises:
        TokenizerError: If this miditok cannot use them.
    """
    import tempfile

    from miditok import REMI

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "miditok.json"
        # miditok reads the keys in order and needs the model before the characters.
        last = "_vocab_base_byte_to_token"
        ordered = {k: v for k, v in parameters.items() if k != last}
        path.write_text(json.dumps({**ordered, "_model": model, last: parameters.get(last)}), encoding="utf-8")
        try:
            return REMI(params=path)
        except Exception as error:
            raise TokenizerError(f"REMI parameters that this miditok cannot use: {error}") from None
