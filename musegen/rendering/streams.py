"""Polyphony pulled apart: two hands, two violins in one stream, the voices of a bar.

All three are shortest paths over the onsets of a part: hands by dynamic programming over the pitch at which
the keyboard is divided, violins and voices by a beam search over which line takes which notes.
Times are in `meters.UNITS`, pitches in semitones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from musegen.rendering.meters import UNITS
from musegen.rendering.quantization import Note

_SPLITS = np.arange(34, 87)  # candidate divisions: the right hand has this pitch and above
_HAND_SPAN = 12  # semitones that a hand reaches with ease
_HAND_NOTES = 4
_MIDDLE = 60
# Costs of a division, tuned on 40 piano pieces of the Mutopia project whose staves are known: 94 % of the notes
# there, and 93 % in 50 others, come to the printed staff (the rest is mostly crossed hands and inner voices).
_MOVE, _SPAN, _MANY, _HOLD, _STRAY, _EDGE = 1.0, 1.2, 1.0, 0.8, 0.03, 0.1
_LINK, _STEP = 1.0, 2  # for a melody that changes hands within a step of so many semitones
_BEAM = 32  # partial solutions kept


def slices(notes: Sequence[Note]) -> list[list[Note]]:
    """Notes grouped by onset, each group from low to high."""
    ordered = sorted(notes, key=lambda note: (note.start, note.pitch, note.end))
    return [list(group) for _, group in itertools.groupby(ordered, key=lambda note: note.start)]


def split_hands(notes: Sequence[Note]) -> tuple[list[Note], list[Note]]:
    """Divide keyboard music between two hands.

    Args:
        notes: One keyboard part.

    Returns:
        The notes of the right hand and of the left.
    """
    groups = slices(notes)
    if not groups:
        return [], []
    cost = _hand_costs(groups)  # (onsets, splits)
    move = _MOVE * np.abs(_SPLITS[:, None] - _SPLITS[None, :])  # (from, to)
    total = cost[0]
    came_from = np.zeros(cost.shape, dtype=np.int64)
    for i in range(1, len(groups)):
        paths = total[:, None] + move
        came_from[i] = paths.argmin(axis=0)
        total = paths.min(axis=0) + cost[i]
    right: list[Note] = []
    left: list[Note] = []
    state = int(total.argmin())
    for i in range(len(groups) - 1, -1, -1):
        for note in groups[i]:
            (right if note.pitch >= _SPLITS[state] else left).append(note)
        state = int(came_from[i, state])
    return right, left


def _hand_costs(groups: list[list[Note]]) -> np.ndarray:
    """What each division costs at each onset: float (onsets, splits)."""
    struck, held = _presence(groups)  # (onsets, 128) each
    sounding = struck | held
    span_left, span_right = _reaches(sounding)
    cost = _SPAN * (np.maximum(span_left - _HAND_SPAN, 0) + np.maximum(span_right - _HAND_SPAN, 0))
    below = np.concatenate([np.zeros((len(groups), 1)), np.cumsum(sounding, axis=1)], axis=1)[:, _SPLITS]
    above = sounding.sum(axis=1)[:, None] - below
    cost += _MANY * (np.maximum(below - _HAND_NOTES, 0) + np.maximum(above - _HAND_NOTES, 0))
    low = [np.where(x.any(axis=1), x.argmax(axis=1), 200)[:, None] for x in (struck, held)]
    high = [np.where(x.any(axis=1), 127 - x[:, ::-1].argmax(axis=1), -200)[:, None] for x in (struck, held)]
    cost += _HOLD * ((low[0] < _SPLITS) & (low[1] < _SPLITS))
    cost += _HOLD * ((high[0] >= _SPLITS) & (high[1] >= _SPLITS))
    pitch = np.arange(128)
    stray_right = np.cumsum((struck * np.maximum(_MIDDLE - 2 - pitch, 0))[:, ::-1], axis=1)[:, ::-1][:, _SPLITS]
    stray_left = np.cumsum(struck * np.maximum(pitch - _MIDDLE - 2, 0), axis=1)[:, _SPLITS - 1]
    cost += _STRAY * (stray_right + stray_left)
    cost -= _EDGE * np.minimum(_edges(sounding), 6)
    return cost + _LINK * _broken_links(groups)


def _broken_links(groups: list[list[Note]]) -> np.ndarray:
    """How many melodic steps each division would break off between the hands: int (onsets, splits)."""
    broken = np.zeros((len(groups), len(_SPLITS)))
    ended: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        for before in ended.pop(group[0].start, ()):
            for note in group:
                if 0 < abs(note.pitch - before) <= _STEP:
                    low, high = sorted((note.pitch, before))
                    broken[i] += (low < _SPLITS) & (high >= _SPLITS)
        for note in group:
            ended.setdefault(note.end, []).append(note.pitch)
    return broken


def _presence(groups: list[list[Note]]) -> tuple[np.ndarray, np.ndarray]:
    """Which pitches are struck and which held at each onset: bool (onsets, 128) each."""
    times = np.array([group[0].start for group in groups])
    struck, held = (np.zeros((len(groups), 128), dtype=bool) for _ in range(2))
    for i, group in enumerate(groups):
        for note in group:
            struck[i, note.pitch] = True
            held[i + 1 : np.searchsorted(times, note.end), note.pitch] = True
    return struck, held & ~struck


def _neighbours(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next present pitch below each division and at or above it; far away for none."""
    pitch = np.arange(128)
    below = np.maximum.accumulate(np.where(present, pitch, -200), axis=1)[:, _SPLITS - 1]
    above = np.minimum.accumulate(np.where(present, pitch, 400)[:, ::-1], axis=1)[:, ::-1][:, _SPLITS]
    return below, above


def _reaches(sounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the lowest to the highest pitch of the left and of the right hand: int (onsets, splits)."""
    below, above = _neighbours(sounding)
    lowest = sounding.argmax(axis=1)[:, None]
    highest = 127 - sounding[:, ::-1].argmax(axis=1)[:, None]
    return np.maximum(below - lowest, 0), np.maximum(highest - above, 0)


def _edges(present: np.ndarray) -> np.ndarray:
    """How far each division is from the nearest pitch on either side: float (onsets, splits)."""
    below, above = _neighbours(present)
    return np.minimum(above - _SPLITS + 0.5, _SPLITS - 0.5 - below)


@dataclasses.dataclass(frozen=True)
class _Line:
    """The last notes of one line: when they end, their lowest and highest pitch, and the line's mean pitch."""

    end: int
    low: int
    high: int


def split_two(notes: Sequence[Note]) -> tuple[list[Note], list[Note]]:
    """Divide the merged stream of two equal melody instruments, the higher line first.

    Args:
        notes: For example both violins of a quartet.

    Returns:
        The notes of the first and of the second instrument.
    """
    beam: list[tuple[float, tuple[_Line | None, _Line | None], tuple | None]] = [(0.0, (None, None), None)]
    groups = slices(notes)
    for group in groups:
        best: dict[tuple, tuple] = {}
        for cost, lines, history in beam:
            for cut in range(len(group) + 1):
                taken = (group[cut:], group[:cut])  # the upper notes to the first instrument
                step = sum(_line_cost(lines[i], taken[i]) for i in (0, 1)) + _crossing_cost(lines, taken)
                after = tuple(_advance(lines[i], taken[i]) for i in (0, 1))
                if after not in best or cost + step < best[after][0]:
                    best[after] = (cost + step, after, (history, cut))
        beam = sorted(best.values(), key=lambda item: item[0])[:_BEAM]
    first: list[Note] = []
    second: list[Note] = []
    history = beam[0][2]
    for group in reversed(groups):
        history, cut = history
        first += group[cut:]
        second += group[:cut]
    return first, second


def _advance(line: _Line | None, taken: list[Note]) -> _Line | None:
    if not taken:
        return line
    return _Line(max(note.end for note in taken), taken[0].pitch, taken[-1].pitch)


def _line_cost(line: _Line | None, taken: list[Note]) -> float:
    if not taken:
        return 0.0
    cost = 2.5 * (len(taken) - 1)  # double stops
    if line is not None:
        if line.end > taken[0].start:
            cost += 4.0
        leap = abs(taken[0].pitch + taken[-1].pitch - line.low - line.high) / 2
        rest = max(taken[0].start - line.end, 0) / UNITS
        cost += 0.12 * leap / (1 + rest)
    return cost


def _crossing_cost(lines: tuple[_Line | None, ...], taken: tuple[list[Note], list[Note]]) -> float:
    """A new note beyond what the other line is still holding, or each below or above its own region."""
    cost = 0.0
    for i, other in ((0, lines[1]), (1, lines[0])):
        if not taken[i] or taken[1 - i] or other is None:
            continue
        pitch = taken[i][0].pitch if i == 0 else taken[i][-1].pitch
        beyond = other.high - pitch if i == 0 else pitch - other.low
        if beyond > 0:
            cost += 1.5 if other.end > taken[i][0].start else 0.5
    return cost
