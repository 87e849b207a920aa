"""A piano roll as SVG inside the page: quick enough to be drawn anew with every bar, in the colours of the page.

Units: ticks of `musegen.grid.TICKS_PER_QUARTER` for music, pixels of a drawing `_WIDTH` wide for places.
"""

from __future__ import annotations

import html

import numpy as np
import symusic

from musegen import grid as g
from musegen.instruments import printed_name, score_position

COLOURS = 8  # of the style sheet: .c0 to .c7
_WIDTH, _LEFT, _TOP, _BOTTOM = 1000, 34, 8, 22
_PITCH = 5.2  # height of a semitone
_LEAST_PITCHES = 30
_BAR_PIXELS = 24  # no bar gets narrower on a phone; the roll scrolls then
_LEAST_PIXELS = 560
_MOST_LABELS = 17


class Roll:
    """Bars laid one after the other.

    Args:
        total: Bars that the piece will have; the drawing keeps room for them.
        given: Bars at the beginning that were given.
        fresh: First and last bar that were written anew, from 1, if the rest was given.
    """

    def __init__(self, total: int, given: int = 0, fresh: tuple[int, int] | None = None):
        self.total, self.given, self.fresh = total, given, fresh
        self._notes: list[np.ndarray] = []
        self._starts = [0]

    @property
    def bars(self) -> int:
        """So far."""
        return len(self._starts) - 1

    def add(self, score: symusic.Score) -> None:
        """Append a score, whole bars from tick 0."""
        notes = g.note_array(score).copy()
        notes["onset"] += self._starts[-1]
        self._notes.append(notes)
        self._starts += [int(start) + self._starts[-1] for start in g.bar_grid(score).starts[1:]]

    def svg(self) -> str:
        """The drawing and its legend, as HTML."""
        notes = np.concatenate(self._notes) if self._notes else np.empty(0, g.NOTE_DTYPE)
        bars = max(self.total, self.bars)
        length = self._starts[-1] if self.bars else g.TICKS_PER_WHOLE
        last = self._starts[-1] - self._starts[-2] if self.bars else length
        starts = [*self._starts, *(self._starts[-1] + last * (i + 1) for i in range(bars - self.bars))]
        scale = (_WIDTH - _LEFT) / max(starts[-1], 1)
        low, high = _range(notes)
        height = _TOP + (high - low + 1) * _PITCH + _BOTTOM
        parts = [*self._ground(starts, scale, low, high, height), *_note_boxes(notes, scale, high)]
        wide = max(bars * _BAR_PIXELS, _LEAST_PIXELS)
        label = html.escape(f"Piano roll of {self.bars} bars and {len(notes)} notes")
        return (
            f'<div class="mg-roll"><svg viewBox="0 0 {_WIDTH} {height:.0f}" style="min-width:{wide}px" role="img" '
            f'aria-label="{label}">{"".join(parts)}</svg></div>{_legend(notes)}'
        )

    def _ground(self, starts: list[int], scale: float, low: int, high: int, height: float) -> list[str]:
        floor = height - _BOTTOM
        parts = [f'<rect class="paper" x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT}" height="{floor - _TOP:.1f}"/>']
        for first, last, kind in self._shades():
            x, end = (_LEFT + starts[bar] * scale for bar in (first, last))
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{_TOP}" width="{end - x:.1f}" height="{floor - _TOP:.1f}"/>'
            )
        for pitch in range(low, high + 1):
            y = _TOP + (high - pitch) * _PITCH
            if pitch % 12 in (1, 3, 6, 8, 10):
                parts.append(
                    f'<rect class="black" x="{_LEFT}" y="{y:.1f}" width="{_WIDTH - _LEFT}" height="{_PITCH}"/>'
                )
            if pitch % 12 == 0:
                parts.append(f'<text x="{_LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">C{pitch // 12 - 1}</text>')
        every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if (len(starts) - 1) / n < _MOST_LABELS)
        for bar, start in enumerate(starts[:-1]):
            x = _LEFT + start * scale
            parts.append(f'<path class="line" d="M{x:.1f} {_TOP}V{floor:.1f}"/>')
            if bar % every == 0:
                parts.append(f'<text x="{x + 3:.1f}" y="{height - 6:.1f}">{bar + 1}</text>')
        return parts

    def _shades(self) -> list[tuple[int, int, str]]:
        """Bars that get another ground: first, last exclusive, class."""
        if self.fresh is not None:
            return [(self.fresh[0] - 1, self.fresh[1], "fresh")]
        return [(0, self.given, "given")] if self.given else []


def _range(notes: np.ndarray) -> tuple[int, int]:
    low, high = (int(notes["pitch"].min()) - 2, int(notes["pitch"].max()) + 2) if len(notes) else (48, 84)
    missing = max(_LEAST_PITCHES - (high - low), 0)
    return max(low - missing // 2, 0), min(high + (missing + 1) // 2, 127)


def _programs(notes: np.ndarray) -> list[int]:
    found = np.unique(notes["program"]).tolist()
    return sorted(found, key=lambda p: score_position(max(p, 0), p < 0))


def _note_boxes(notes: np.ndarray, scale: float, high: int) -> list[str]:
    """One path an instrument, which keeps the page small."""
    parts = []
    for i, program in enumerate(_programs(notes)):
        boxes, tall = [], _PITCH - 0.8
        for note in notes[notes["program"] == program]:
            x, y = _LEFT + note["onset"] * scale, _TOP + (high - note["pitch"]) * _PITCH + 0.4
            wide = max(note["duration"] * scale - 0.8, 1.4)
            boxes.append(f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z")
        parts.append(f'<path class="note c{i % COLOURS}" d="{"".join(boxes)}"/>')
    return parts


def _legend(notes: np.ndarray) -> str:
    names = [html.escape(printed_name(max(p, 0), p < 0)[0]) for p in _programs(notes)]
    items = "".join(f'<li><i class="c{i % COLOURS}"></i>{name}</li>' for i, name in enumerate(names))
    return f'<ul class="mg-legend">{items}</ul>' if items else ""
