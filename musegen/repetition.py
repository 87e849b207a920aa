"""Loops of bars: what a model falls into when it has lost its way, told from what music does on purpose.

Music repeats itself: notes, motifs, phrases and whole sections come back, and no id is punished for having been used.
What real music does not do is to play the same bars over and over at once. A *loop* of n bars is a stretch in which
every bar equals the one n bars before it, id for id (but for how many bars are left); it is *played* k times if it is
k * n bars long. Once a loop has been played as often as `PLAYED` allows, each id that would go on with it loses some
nats. The piece leaves the loop where the model is least sure of it, not at a bar line only.

The bounds are the 99th percentile of the longest loop in each of 137 pieces by Mozart (Mutopia), rounded up:
`python scripts/measure_loops.py FOLDER`.
"""

from __future__ import annotations

import numpy as np

from musegen.grammar import Grammar
from musegen.id_tables import BAR, LEFT

PLAYED = {1: 5, 2: 3, 4: 2, 8: 2}  # bars in a loop -> times that music plays it


class BarLoops:
    """The bars of one piece so far, and which loops they are in.

    Args:
        grammar: Of the tokenizer.
    """

    def __init__(self, grammar: Grammar):
        self._begins_bar = grammar.first == BAR
        self._counts = grammar.first == LEFT  # bars that are left: no part of a bar
        self._ways_on = self._begins_bar | self._counts
        # Of each bar its ids; only what the longest loop looks back to is kept.
        self._bars: list[list[int]] = []
        self._now: list[int] | None = None
        self._run = dict.fromkeys(PLAYED, 0)  # bars in a row that equal the one a loop earlier

    def advance(self, token: int) -> None:
        """Take the next id of the piece."""
        if self._counts[token]:
            return
        if self._begins_bar[token]:
            if self._now is not None:
                self._close()
            self._now = []
        if self._now is not None:
            self._now.append(token)

    def _close(self) -> None:
        for period in PLAYED:
            same = len(self._bars) >= period and self._bars[-period] == self._now
            self._run[period] = self._run[period] + 1 if same else 0
        self._bars = [*self._bars, self._now][-max(PLAYED) :]

    def punish(self, scores: np.ndarray, nats: float) -> None:
        """Take `nats` from each id, once, that goes on with a loop which was played often enough.

        Args:
            scores: (vocabulary,), changed in place.
            nats: How much.
        """
        for period, played in PLAYED.items():
            if self._now is None or self._run[period] < (played - 1) * period:
                continue
            model = self._bars[-period]
            at = len(self._now)
            if model[:at] != self._now:
                continue
            if at < len(model):
                scores[model[at]] -= nats
            else:
                scores[self._ways_on] -= nats
            return
