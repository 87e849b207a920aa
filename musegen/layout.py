"""Where the bars of a token stream lie, and how a window into a piece is opened again.

Works on ids alone: one table look-up an id. A window that begins inside a piece is written as a piece is: CNT, the
header of the piece, the `Left` token in force, bars. Models are trained on such windows (`musegen.blocks`), measured
on them (`musegen.likelihood`) and go on from them when a piece outgrows their context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musegen.tokenizer import MusicTokenizer


class StreamLayout:
    """What the ids of one tokenizer mean for the layout of a stream.

    Args:
        tokenizer: Any.

    Attributes:
        begins_bar: bool (vocabulary,), whether an id begins with a bar line.
        left: int64 (vocabulary,), the step of a `Left` token; 0 for any other id.
        opens: bool (vocabulary,), whether an id begins a piece or a window: BOS and CNT.
    """

    def __init__(self, tokenizer: MusicTokenizer):
        size = len(tokenizer)
        self.begins_bar, self.left = np.zeros(size, bool), np.zeros(size, np.int64)
        for i, expansion in enumerate(tokenizer.expansions):
            self.begins_bar[i] = len(expansion) > 0 and expansion[0] == tokenizer.bar_id
        for name, i in tokenizer.remi.vocab.items():
            if name.startswith("Left_"):
                self.left[i] = int(name.partition("_")[2])
        self.opens = np.zeros(size, bool)
        self.bos, self.continued = tokenizer.bos_token_id, tokenizer.continued_id
        self.opens[[self.bos, self.continued]] = True
        self.has_controls = tokenizer.has_controls

    def bar_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where each bar begins, with the `Left` token before it: int64 (bars,)."""
        ids = np.asarray(ids, dtype=np.int64)
        starts = np.flatnonzero(self.begins_bar[ids]) if len(ids) else np.empty(0, np.int64)
        announced = (starts > 0) & (self.left[ids[np.maximum(starts - 1, 0)]] > 0)
        return starts - announced

    def header(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        """What stands between the opening of a stream and its first bar."""
        ids = np.asarray(ids, dtype=np.int64)
        starts = self.bar_starts(ids)
        stop = int(starts[0]) if len(starts) else len(ids)
        return ids[int(stop > 0 and self.opens[ids[0]]) : stop].tolist()

    def reopen(self, ids: Sequence[int] | np.ndarray, start: int) -> list[int]:
        """What to write before `ids[start:]` so that it is a window like those that models are trained on.

        Args:
            ids: A piece or a window, from its opening on.
            start: Of a bar (`bar_starts`).

        Returns:
            CNT, the header, and the `Left` token in force where the bar has none; nothing where the stream has no
            control tokens.
        """
        if not self.has_controls:
            return []
        ids = np.asarray(ids, dtype=np.int64)
        opening = [self.continued, *self.header(ids)]
        if self.left[ids[start]]:
            return opening
        before = np.flatnonzero(self.left[ids[:start]])
        return [*opening, int(ids[before[-1]])] if len(before) else opening
