"""Fingerprints of pieces: equal music gives near equal fingerprints, whatever its key, tempo or scoring.

A piece is taken apart into *lines*: the top and the bottom notes of the whole and of each track. A line is cut into
*shingles*, runs of `NOTES` notes, each told by the intervals from note to note (modulo an octave) and by whether each
note is longer than, shorter than or as long as the one before. So a shingle does not know of key, octave, tempo, note
values that are halved throughout, instruments or velocities; and because shingles form a set, repeats may be written
out or not, and a single part's set is a subset of its score's. Notes much shorter than their neighbours, which is
how grace notes come out of notation programs, are left out of a line. Runs that say nothing, such as repeated notes,
trills and broken chords, are no shingles.

The fingerprint is the MinHash of the set, by which two pieces' sets are compared without having them at hand.

Sources: Broder, "On the resemblance and containment of documents", 1997 (shingles, MinHash); `datasketch` (the
permutations, scheme "affine32", which is the same on every machine). Intervals and ratios of onsets as features:
Lemström and Ukkonen, "Including interval encoding into edit distance based music comparison", 2000.

Units: ticks; intervals in semitones.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import symusic

NOTES = 9  # of a shingle; see docs/corpus-leakage.md for shorter and longer ones
SIZE = 512  # numbers in a fingerprint
PERMUTATIONS = SIZE - 2
VERSION = 1  # stands first in every fingerprint: those of two versions must not be compared
# Overlaps of sets of fewer shingles are taken of so many: a handful of stock phrases is much of a piece of 20 notes.
SMALLEST = 48
_SEED = 1
_LONGER = 2**0.4  # a note is longer than the one before from this ratio of their lengths on
_GRACE = 4  # a note so many times shorter than both of its neighbours is an ornament
_PERIOD = 4  # runs that repeat themselves after so many notes or fewer say nothing
_FEWEST_INTERVALS = 4  # different ones in a run: broken chords have fewer
_ROWS = 512  # shingles hashed at once: what stays in a core's cache


@dataclasses.dataclass(frozen=True)
class Line:
    """A melody: one note at a time.

    Args:
        onset: int64 (notes,), ticks, rising.
        pitch: int64 (notes,), MIDI.
    """

    onset: np.ndarray
    pitch: np.ndarray

    def __len__(self) -> int:
        return len(self.onset)


def fingerprint(score: symusic.Score) -> np.ndarray:
    """The fingerprint of a piece.

    Args:
        score: A canonical score.

    Returns:
        uint32 (SIZE,): `VERSION`, the number of shingles, and their minima under `PERMUTATIONS` permutations.
    """
    return sketch(shingles(score))


def shingles(score: symusic.Score) -> np.ndarray:
    """The set of a piece's shingles.

    Args:
        score: A canonical score.

    Returns:
        uint64 (shingles,), sorted, each once, two different shingles never as one number; empty for a piece without
        pitched notes or of a few notes.
    """
    return line_shingles(lines(score))


def line_shingles(found: list[Line]) -> np.ndarray:
    """The set of the shingles of lines, as `shingles` returns it."""
    codes = [_shingles_of(*symbols(line)) for line in found]
    return np.unique(np.concatenate(codes)) if codes else np.empty(0, np.uint64)


def set_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The exact overlap of two sets of shingles.

    Args:
        one: uint64 (shingles,), each once.
        other: uint64 (shingles,), each once.

    Returns:
        Share of the smaller set, or of `SMALLEST`, that is in the other too: 0 to 1.
    """
    return len(np.intersect1d(one, other, assume_unique=True)) / max(min(len(one), len(other)), SMALLEST)


def sketch(members: np.ndarray) -> np.ndarray:
    """The fingerprint of a set of shingles.

    Args:
        members: uint64 (shingles,), each once.

    Returns:
        uint32 (SIZE,), as `fingerprint` returns it.
    """
    # The numbers of `datasketch.MinHash`, without its import, which takes half a second of every process.
    hashes = _finalize(_hash(members))[:, None]  # (shingles, 1)
    factor, summand = _permutations()
    minima = np.full(PERMUTATIONS, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(hashes), _ROWS):
        mixed = hashes[start : start + _ROWS] * factor  # (rows, permutations), modulo 2 ** 32
        mixed += summand
        np.minimum(minima, mixed.min(axis=0), out=minima)
    return np.concatenate([np.array([VERSION, len(members)], np.uint32), minima])


def lines(score: symusic.Score) -> list[Line]:
    """The lines of a piece: top and bottom of the whole, then of each track if there are several.

    Args:
        score: A canonical score. Drums are left out.
    """
    tracks = [track.notes.numpy() for track in score.tracks if len(track.notes) and not track.is_drum]
    if not tracks:
        return []
    parts = [(t["time"].astype(np.int64), t["pitch"].astype(np.int64)) for t in tracks]
    if len(parts) > 1:
        parts.insert(0, (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
    found = []
    for onset, pitch in parts:
        top = _edge(onset, pitch, highest=True)
        found.append(top)
        if len(top) < len(onset):  # else it has one note at a time, and the bottom is the top
            found.append(_edge(onset, pitch, highest=False))
    return [_without_graces(line) for line in found]


def symbols(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """What of a line neither key nor tempo changes.

    Args:
        line: Of n notes.

    Returns:
        Intervals: int64 (n - 1,), semitones modulo 12; and lengths: int64 (n - 2,), from each note to the next: 0
        shorter, 1 equal, 2 longer. A note lasts until the next one begins.
    """
    if len(line) < 3:
        return np.diff(line.pitch) % 12, np.empty(0, np.int64)
    gaps = np.diff(line.onset)
    # Products instead of logarithms, whose last bit may differ from machine to machine.
    longer = gaps[1:] > gaps[:-1] * _LONGER
    shorter = gaps[1:] * _LONGER < gaps[:-1]
    return np.diff(line.pitch) % 12, np.where(longer, 2, np.where(shorter, 0, 1))


def _edge(onset: np.ndarray, pitch: np.ndarray, *, highest: bool) -> Line:
    order = np.lexsort((-pitch if highest else pitch, onset))
    onset, pitch = onset[order], pitch[order]
    first = np.append(True, onset[1:] != onset[:-1])
    return Line(onset[first], pitch[first])


def _without_graces(line: Line) -> Line:
    if len(line) < 4:
        return line
    gaps = np.diff(line.onset)
    following = np.append(gaps[2:], np.iinfo(np.int64).max)
    inner = (gaps[1:] * _GRACE <= gaps[:-1]) & (gaps[1:] * _GRACE <= following)
    keep = np.concatenate([[True], ~inner, [True]])
    return Line(line.onset[keep], line.pitch[keep])


def _shingles_of(intervals: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    width = NOTES - 1
    count = len(intervals) - width + 1
    if count < 1:
        return np.empty(0, np.uint64)
    # All windows at once by shifted views of the whole line; a matrix of windows takes three times as long.
    keep = np.ones(count, dtype=bool)
    for period in range(1, _PERIOD + 1):
        breaks = np.append(0, np.cumsum(intervals[period:] != intervals[:-period]))
        keep &= breaks[width - period :][:count] > breaks[:count]
    found = np.zeros(count, dtype=np.int64)  # a bit for each interval
    for k in range(width):
        found |= 1 << intervals[k : k + count]
    at = np.flatnonzero(keep & (_bit_counts()[found] >= _FEWEST_INTERVALS))
    code = np.zeros(len(at), dtype=np.uint64)
    for k in range(width):  # 12 ** 8 * 3 ** 7 is below 2 ** 64: a number for each shingle, with no collision
        code = code * np.uint64(12) + intervals[at + k].astype(np.uint64)
    for k in range(width - 1):
        code = code * np.uint64(3) + lengths[at + k].astype(np.uint64)
    return code


@functools.lru_cache(maxsize=1)
def _bit_counts() -> np.ndarray:
    return np.array([i.bit_count() for i in range(1 << 12)])


def _hash(code: np.ndarray) -> np.ndarray:
    """Half of the 64-bit finalizer of SplitMix64 (Steele et al., 2014), which spreads every bit."""
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (code >> np.uint64(32)).astype(np.uint32)


def _finalize(values: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3 for 32 bits, which `datasketch` puts before its permutations."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


@functools.lru_cache(maxsize=1)
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and summands of h -> a * h + b modulo 2 ** 32, as `datasketch` draws them: uint32 each."""
    draw = np.random.RandomState(_SEED)  # its numbers are the same in every version of numpy
    factor = draw.randint(0, 1 << 31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factor, draw.randint(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)
