"""A suffix array over many sequences, and the longest matches of other sequences in it, in numpy.

Source: prefix doubling after Manber and Myers, "Suffix Arrays: A New Method for On-Line String Searches", 1993;
as in Larsson and Sadakane, 2007, a round sorts only those suffixes that are still equal to another.

Units: positions count from 0; symbols are any non-negative int64, and sequences never match across their ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Matches:
    """The longest match that begins at each position of a query.

    Args:
        length: int64 (positions,), symbols.
        place: int64 (positions,), where in the indexed text one such match begins (the first of them in the
            order of the text); -1 for length 0.
    """

    length: np.ndarray
    place: np.ndarray


class SuffixArray:
    """All suffixes of some sequences in order.

    Attributes:
        text: int32 (symbols + sequences,): dense symbols from `sequences` on; before that, the ends of sequences.
        order: int32, the same shape: where the suffixes begin, sorted.
        starts: int64 (sequences + 1,): where each sequence begins in `text`, and the end of the last.
    """

    def __init__(self, sequences: Sequence[np.ndarray]):
        """Index sequences; time and memory are near linear: about 2 s and 100 MB a million symbols."""
        lengths = np.array([len(s) for s in sequences], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        everything = np.concatenate([*sequences, np.empty(0, np.int64)]).astype(np.int64)
        self._symbols, dense = np.unique(everything, return_inverse=True)
        text = np.empty(self.starts[-1], dtype=np.int64)
        ends = self.starts[1:] - 1
        inner = np.ones(len(text), dtype=bool)
        inner[ends] = False
        # Every sequence ends in a symbol of its own, so that no match runs on into the next.
        text[ends] = np.arange(len(lengths))
        text[inner] = dense + len(lengths)
        self.text = text.astype(np.int32)
        self.order = _sort_suffixes(text).astype(np.int32)

    def sequence_of(self, place: int) -> tuple[int, int]:
        """Which sequence a position of `text` is in, and where."""
        index = int(np.searchsorted(self.starts, place, side="right")) - 1
        return index, int(place - self.starts[index])

    def encode(self, symbols: np.ndarray) -> np.ndarray:
        """Dense symbols of a query: int64 (symbols,), -1 for those that are not in the text."""
        if not len(self._symbols):
            return np.full(len(symbols), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._symbols, symbols), len(self._symbols) - 1)
        known = self._symbols[at] == symbols
        return np.where(known, at + len(self.starts) - 1, -1)

    def matches(self, symbols: np.ndarray) -> Matches:
        """The longest match at each position of a query, all positions growing together symbol by symbol."""
        query = self.encode(np.asarray(symbols, dtype=np.int64))
        count = len(query)
        length = np.zeros(count, dtype=np.int64)
        low = np.zeros(count, dtype=np.int64)
        high = np.full(count, len(self.order), dtype=np.int64)
        active = np.arange(count)
        depth = 0
        while len(active):
            active = active[active + depth < count]
            wanted = query[active + depth]
            new_low = self._bound(low[active], high[active], depth, wanted)
            new_high = self._bound(new_low, high[active], depth, wanted + 1)
            grown = (new_high > new_low) & (wanted >= 0)
            active = active[grown]
            low[active], high[active] = new_low[grown], new_high[grown]
            depth += 1
            length[active] = depth
        return Matches(length, self._first_places(length, low, high))

    def _bound(self, low: np.ndarray, high: np.ndarray, depth: int, wanted: np.ndarray) -> np.ndarray:
        """The first suffix in each range whose symbol at `depth` is not below the wanted one."""
        low, high = low.copy(), high.copy()
        open_ = np.flatnonzero(low < high)
        while len(open_):
            middle = (low[open_] + high[open_]) // 2
            # A suffix in the range is longer than depth, because a sequence's own end never matches a query.
            below = self.text[self.order[middle] + depth] < wanted[open_]
            low[open_] = np.where(below, middle + 1, low[open_])
            high[open_] = np.where(below, high[open_], middle)
            open_ = open_[low[open_] < high[open_]]
        return low

    def _first_places(self, length: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        place = np.full(len(length), -1, dtype=np.int64)
        if not len(length):
            return place
        # Where a match is found often, looking at some of its places is enough to name one of them.
        for i in np.flatnonzero(length > 0).tolist():
            place[i] = self.order[low[i] : min(high[i], low[i] + 64)].min()
        return place


def _sort_suffixes(text: np.ndarray) -> np.ndarray:
    """Starts of the suffixes of a text in order; every sequence in it ends in a symbol of its own."""
    size = len(text)
    if not size:
        return np.empty(0, np.int64)
    bits = max(int(text.max()).bit_length(), 1)
    width = max(62 // bits, 1)
    # The first sort takes as many symbols as fit into one integer; past the end stand zeros.
    key = np.zeros(size, dtype=np.int64)
    for k in range(width):
        key <<= bits
        key[: max(size - k, 0)] |= text[k:]
    order = np.argsort(key, kind="stable")
    rank = np.empty(size, dtype=np.int64)
    changed = np.append(True, key[order][1:] != key[order][:-1])
    rank[order] = np.maximum.accumulate(np.where(changed, np.arange(size), 0))
    while True:
        # A suffix's rank is the place of the first in its group, so a group of one never moves again.
        single = np.append(changed[1:], True) & changed
        open_ = np.flatnonzero(~single)
        if not len(open_):
            return order
        suffix = order[open_]
        following = np.where(suffix + width < size, rank[np.minimum(suffix + width, size - 1)], -1)
        inner = np.lexsort((following, rank[suffix]))
        suffix, following = suffix[inner], following[inner]
        group = rank[suffix]
        order[open_] = suffix
        fresh = np.append(True, (group[1:] != group[:-1]) | (following[1:] != following[:-1]))
        rank[suffix] = np.maximum.accumulate(np.where(fresh, open_, 0))
        changed[open_] = fresh
        width *= 2
