"""Bars that stand still: what a model falls into when it has lost its way, told from what music does on purpose.

Music repeats itself: notes, motifs, phrases and whole sections come back, and no id is punished for having been used.
What real music does not do is to go on and on with the same bars, be they equal or only nearly so. A bar is *like*
another if it has at least half of its notes (`LIKE`), struck at the same places by the same instruments. Once each
bar has been like the one n bars before it for as many bars in a row as `RUNS` allows, every note of that one that
would be struck again loses some nats, until the new bar has half as many notes of its own. So the figure may go on
while the harmony moves, and the piece leaves where the model is least sure of staying.

The bounds are the 95th percentile of the longest run in each of 137 pieces by Mozart (Mutopia), rounded:
`python scripts/measure_loops.py FOLDER MozartWA`.
"""

from __future__ import annotations

import weakref

import numpy as np

from musegen.grammar import Grammar
from musegen.id_tables import BAR, PITCH, POSITION, PROGRAM

LIKE = 0.5  # share of the notes of the fuller of two bars
RUNS = {1: 3, 2: 4, 3: 3, 4: 5, 8: 8}  # bars back -> bars in a row that may be like those

Strike = tuple[int, int, int]  # position, program (-1 for drums and for none), pitch


class Strikes:
    """The notes that each id strikes.

    Args:
        grammar: Of the tokenizer.
    """

    def __init__(self, grammar: Grammar):
        self.kinds, self.values = grammar._kind, grammar._value
        self.expansions = grammar._expansions
        rows: list[tuple[int, int, int, int]] = []
        for token, expansion in enumerate(self.expansions):
            if len(expansion) and self.kinds[expansion[0]] != BAR:  # which bar it would be is not known before
                rows += [(token, *strike) for strike in self.of(token, _OPEN, _OPEN)[0]]
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.token, self.position, self.program, self.pitch = table.T
        self.size = len(self.expansions)

    def of(self, token: int, position: int, program: int) -> tuple[list[Strike], int, int]:
        """What an id strikes after a position and a program; and the position and program after it."""
        found: list[Strike] = []
        for base in self.expansions[token]:
            kind, value = self.kinds[base], int(self.values[base])
            if kind == BAR:
                position, program = 0, _NONE
            elif kind == POSITION:
                position = value
            elif kind == PROGRAM:
                program = value
            elif kind == PITCH:
                found.append((position, program, value))
        return found, position, program

    def again(self, bar: set[Strike], position: int, program: int) -> np.ndarray:
        """How many notes of a bar each id would strike, float32 (vocabulary,)."""
        own_position = np.where(self.position == _OPEN, position, self.position)
        own_program = np.where(self.program == _OPEN, program, self.program)
        known = np.array([_code(*strike) for strike in bar], dtype=np.int64)
        hit = np.isin(_code(own_position, own_program, self.pitch), known)
        return np.bincount(self.token[hit], minlength=self.size).astype(np.float32)


_OPEN, _NONE = -9, -2  # as before the id; no program named yet
_TABLES: weakref.WeakKeyDictionary[Grammar, Strikes] = weakref.WeakKeyDictionary()


def _strikes_of(grammar: Grammar) -> Strikes:
    """One table for all pieces of a request."""
    if grammar not in _TABLES:
        _TABLES[grammar] = Strikes(grammar)
    return _TABLES[grammar]


def _code(position, program, pitch):
    return (position * 256 + program + 2) * 256 + pitch


class BarLoops:
    """The bars of one piece so far, and how long they have been like earlier ones.

    Args:
        grammar: Of the tokenizer.
    """

    def __init__(self, grammar: Grammar):
        self._strikes = _strikes_of(grammar)
        self._begins_bar = grammar.first == BAR
        self._bars: list[set[Strike]] = []  # only what the longest look back needs
        self._now: set[Strike] | None = None
        self._runs = dict.fromkeys(RUNS, 0)  # bars in a row like the one so many bars before
        self._position, self._program = 0, _NONE

    def advance(self, token: int) -> None:
        """Take the next id of the piece."""
        if self._begins_bar[token]:
            if self._now is not None:
                self._close()
            self._now = set()
        if self._now is not None:
            found, self._position, self._program = self._strikes.of(token, self._position, self._program)
            self._now.update(found)

    def _close(self) -> None:
        for back in RUNS:
            same = len(self._bars) >= back and _alike(self._bars[-back], self._now)
            self._runs[back] = self._runs[back] + 1 if same else 0
        self._bars = [*self._bars, self._now][-max(RUNS) :]

    def punish(self, scores: np.ndarray, nats: float) -> None:
        """Take `nats` for each note that goes on with what has stood still for too long.

        Args:
            scores: (vocabulary,), changed in place.
            nats: How much.
        """
        if self._now is None:
            return
        stale = [self._bars[-back] for back, most in RUNS.items() if self._runs[back] >= most]
        stale = [bar for bar in stale if 2 * len(self._now - bar) < len(bar)]
        if stale:
            scores -= nats * self._strikes.again(set().union(*stale), self._position, self._program)


def _alike(one: set[Strike], other: set[Strike]) -> bool:
    fuller = max(len(one), len(other))
    return fuller > 0 and len(one & other) >= LIKE * fuller
