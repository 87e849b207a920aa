"""Notewise tokens: note on, note off, wait. The common ground on which music of any tokenizer is compared.

The encoding belongs to no model of this package: `p60` starts a pitch, `endp60` ends it, `wait6` moves time on
by 6 steps of `STEPS_PER_BEAT` a quarter note. Instruments, velocities and bars are not in it, drums neither.

Source: the "notewise" encoding of Payne, "Clara: Generating Polyphonic and Multi-Instrument Music Using an
AWD-LSTM Architecture", 2018, at 12 steps a beat. What it leaves open is settled here:

1. At one step, ends come before starts, and each of them by ascending pitch.
2. A wait longer than `MAX_WAIT` is written as so many waits of `MAX_WAIT` and one for the rest.
3. A pitch that is struck while it sounds ends first, whoever plays it; its earlier note is not resumed. Notes
   of one pitch that begin together count once and last as long as the longest.
4. Times are rounded to the nearest step, halves up; a note lasts one step at the least.
5. Silence at the beginning is a wait; silence after the last note is not written.

Units: steps of a twelfth of a quarter note unless a name says ticks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import symusic

from musegen import grid
from musegen.errors import TokenizerError

STEPS_PER_BEAT = 12  # a multiple of 3 and 4: triplets and 16ths at once
TICKS_PER_STEP = grid.TICKS_PER_QUARTER // STEPS_PER_BEAT
# Two beats: with the 62 or so pitches that a style uses, the vocabulary in use is that of the study, 149.
MAX_WAIT = 24
OPENING_LENGTH = 513  # tokens of a sample in the study

_START, _END, _WAIT = 0, 128, 256  # first id of each kind; waits count from 1
VOCABULARY: tuple[str, ...] = (
    *(f"p{pitch}" for pitch in range(128)),
    *(f"endp{pitch}" for pitch in range(128)),
    *(f"wait{steps}" for steps in range(1, MAX_WAIT + 1)),
)
_ID_OF = {token: i for i, token in enumerate(VOCABULARY)}
_TOKENS = np.array(VOCABULARY, dtype=object)

SPAN_DTYPE = np.dtype([("onset", "<i8"), ("end", "<i8"), ("pitch", "<i8")])


def spans(score: symusic.Score) -> np.ndarray:
    """The notes as the encoding knows them.

    Args:
        score: A canonical score.

    Returns:
        `SPAN_DTYPE` (notes,), steps, sorted by onset and pitch; no two notes of one pitch overlap.
    """
    notes = grid.note_array(score)
    notes = notes[notes["program"] != grid.DRUMS]
    if not len(notes):
        return np.empty(0, SPAN_DTYPE)
    half = TICKS_PER_STEP // 2
    onset = (notes["onset"].astype(np.int64) + half) // TICKS_PER_STEP
    end = (notes["onset"].astype(np.int64) + notes["duration"] + half) // TICKS_PER_STEP
    pitch = notes["pitch"].astype(np.int64)
    order = np.lexsort((-end, onset, pitch))
    onset, end, pitch = onset[order], end[order], pitch[order]
    first = np.ones(len(pitch), dtype=bool)
    first[1:] = (pitch[1:] != pitch[:-1]) | (onset[1:] != onset[:-1])
    onset, end, pitch = onset[first], np.maximum(end[first], onset[first] + 1), pitch[first]
    following = np.append(onset[1:], 0)
    struck = np.append(pitch[1:] == pitch[:-1], False)
    end = np.where(struck, np.minimum(end, following), end)
    out = np.empty(len(onset), SPAN_DTYPE)
    out["onset"], out["end"], out["pitch"] = onset, end, pitch
    return out[np.lexsort((pitch, onset))]


def encode_ids(score: symusic.Score) -> np.ndarray:
    """Encode a score as positions in `VOCABULARY`.

    Args:
        score: A canonical score.

    Returns:
        uint16 (tokens,); empty for a score without pitched notes.
    """
    notes = spans(score)
    count = len(notes)
    if not count:
        return np.empty(0, np.uint16)
    step = np.concatenate([notes["end"], notes["onset"]])  # (2 * notes,)
    ids = np.concatenate([notes["pitch"] + _END, notes["pitch"] + _START])
    starts = np.repeat([0, 1], count)
    order = np.lexsort((ids, starts, step))
    step, ids = step[order], ids[order]
    gap = np.diff(step, prepend=0)
    # Before each event stand its waits: full ones, then the rest.
    full, rest = np.divmod(gap, MAX_WAIT)
    waits = full + (rest > 0)
    place = np.cumsum(waits + 1) - 1  # where each event goes
    out = np.full(place[-1] + 1, _WAIT + MAX_WAIT - 1, dtype=np.uint16)
    out[place] = ids
    has_rest = rest > 0
    out[place[has_rest] - 1] = _WAIT + rest[has_rest] - 1
    return out


def encode(score: symusic.Score) -> list[str]:
    """Encode a score as tokens.

    Args:
        score: A canonical score.

    Returns:
        Tokens such as `["p60", "wait12", "endp60"]`.
    """
    return tokens_of(encode_ids(score))


def tokens_of(ids: np.ndarray) -> list[str]:
    """The tokens at these positions of `VOCABULARY`."""
    return _TOKENS[np.asarray(ids, dtype=np.int64)].tolist()


def ids_of(tokens: Iterable[str]) -> np.ndarray:
    """Positions of tokens in `VOCABULARY`: uint16 (tokens,).

    Raises:
        TokenizerError: A token that is none of the encoding's.
    """
    try:
        return np.array([_ID_OF[token] for token in tokens], dtype=np.uint16)
    except KeyError as error:
        raise TokenizerError(
            f"{error.args[0]!r} is no notewise token: they are p0 to p127, endp0 to endp127 and wait1 to "
            f"wait{MAX_WAIT}"
        ) from None


def decode(
    tokens: Iterable[str] | np.ndarray, metre: tuple[int, int] = grid.DEFAULT_METRE, program: int = 0
) -> symusic.Score:
    """A canonical score of any notewise tokens, as one track.

    Tokens that `encode` never writes are taken in good part: an end of a silent pitch is nothing, a note that
    is never ended lasts to the last event, and a note lasts one step at the least.

    Args:
        tokens: Tokens, or positions in `VOCABULARY`.
        metre: Numerator and denominator, for tokens hold no bars.
        program: General MIDI program of the track.

    Raises:
        TokenizerError: A token that is none of the encoding's.
    """
    ids = tokens if isinstance(tokens, np.ndarray) else ids_of(tokens)
    now = 0
    sounding: dict[int, int] = {}
    notes: list[tuple[int, int, int]] = []
    for i in np.asarray(ids, dtype=np.int64).tolist():
        if i >= _WAIT:
            now += i - _WAIT + 1
            continue
        pitch = i % _END
        if pitch in sounding:
            onset = sounding.pop(pitch)
            notes.append((onset, max(now - onset, 1), pitch))
        if i < _END:
            sounding[pitch] = now
    notes += [(onset, max(now - onset, 1), pitch) for pitch, onset in sounding.items()]
    score = symusic.Score(grid.TICKS_PER_QUARTER)
    score.time_signatures.append(symusic.TimeSignature(0, *metre))
    score.tempos.append(symusic.Tempo(0, 120.0))
    if notes:
        onset, duration, pitch = np.array(sorted(notes), dtype=np.int32).T
        track = symusic.Track("", program, False)
        track.notes = symusic.Note.from_numpy(
            onset * TICKS_PER_STEP, duration * TICKS_PER_STEP, pitch.astype(np.int8),
            np.full(len(pitch), 80, dtype=np.int8),
        )  # fmt: skip
        score.tracks.append(track)
    return score


def opening(tokens, length: int = OPENING_LENGTH):
    """The first tokens, as many as a sample of the study has: what two pieces are compared by.

    Args:
        tokens: A list of tokens or an array of ids.
        length: Tokens; a shorter piece stays whole.
    """
    return tokens[:length]


def count_notes(ids: np.ndarray) -> int:
    """How many notes begin in a sequence of ids."""
    return int((np.asarray(ids) < _END).sum())
