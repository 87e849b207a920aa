"""An n-gram model over notewise tokens: the least that a model of music must beat.

Source: interpolated Witten-Bell smoothing after Chen and Goodman, "An Empirical Study of Smoothing Techniques
for Language Modeling", 1999: with c tokens seen after a context, t of them distinct,

    p(token | context) = (count + t * p(token | shorter context)) / (c + t),

down to the uniform distribution over the whole vocabulary, so that no token is impossible.

Units: probabilities are of notewise tokens; `bits_per_note` divides by the notes that the encoding holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from musegen import notewise

# Tokens: the context is three. Of 3 to 7, the best on held-out Mozart, trained on other Mozart or on all styles.
ORDER = 4
_BITS = 9
_BEGIN = len(notewise.VOCABULARY)  # stands before a piece
MAX_ORDER = 63 // _BITS


class NgramModel:
    """Counts of all n-grams up to an order, as sorted integers.

    Attributes:
        order: Tokens of the longest n-gram.
        vocabulary: How many tokens share the uniform distribution at the bottom.
    """

    def __init__(self, sequences: Iterable[np.ndarray], order: int = ORDER):
        """Count n-grams.

        Args:
            sequences: Notewise ids, one array a piece.
            order: 1 to `MAX_ORDER`.

        Raises:
            ValueError: Another order.
        """
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"order must be 1 to {MAX_ORDER}, not {order}")
        self.order = order
        self.vocabulary = len(notewise.VOCABULARY)
        begin = np.full(order - 1, _BEGIN, dtype=np.int64)
        parts = [np.concatenate([begin, ids.astype(np.int64)]) for ids in sequences]
        text = np.concatenate([*parts, np.empty(0, np.int64)])
        real = np.concatenate([np.arange(len(part)) >= order - 1 for part in parts] or [np.empty(0, bool)])
        self._grams, self._counts, self._contexts, self._totals, self._types = [], [], [], [], []
        key = np.zeros(len(text), dtype=np.int64)
        for n in range(order):
            key[n:] |= text[: len(text) - n] << (_BITS * n)
            grams, counts = _count(key[real])
            contexts, first = _firsts(grams >> _BITS)
            self._grams.append(grams)
            self._counts.append(counts)
            self._contexts.append(contexts)
            self._totals.append(np.add.reduceat(counts, first) if len(first) else counts)
            self._types.append(np.diff(np.append(first, len(grams))))

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Of each token after those before it: float64 (tokens,)."""
        ids = np.asarray(ids, dtype=np.int64)
        text = np.concatenate([np.full(self.order - 1, _BEGIN), ids])
        probability = np.full(len(ids), 1.0 / self.vocabulary)
        key = np.zeros(len(ids), dtype=np.int64)
        for n in range(self.order):
            start = self.order - 1 - n
            key = key | text[start : start + len(ids)] << (_BITS * n)
            count = _look_up(self._grams[n], self._counts[n], key)
            total = _look_up(self._contexts[n], self._totals[n], key >> _BITS)
            types = _look_up(self._contexts[n], self._types[n], key >> _BITS)
            seen = total > 0
            probability[seen] = ((count + types * probability) / np.maximum(total + types, 1))[seen]
        return probability

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Of the token after a context: float64 (vocabulary,), summing to 1.

        Args:
            context: All tokens so far; the last `order` - 1 count.
        """
        text = [_BEGIN] * (self.order - 1) + list(context[max(len(context) - self.order + 1, 0) :])
        probability = np.full(self.vocabulary, 1.0 / self.vocabulary)
        for n in range(self.order):
            key = 0
            for token in text[len(text) - n :]:
                key = key << _BITS | int(token)
            first, last = np.searchsorted(self._grams[n], [key << _BITS, (key + 1) << _BITS])
            if first == last:
                break
            counts = self._counts[n][first:last]
            total, types = counts.sum(), last - first
            probability *= types / (total + types)
            probability[self._grams[n][first:last] & ((1 << _BITS) - 1)] += counts / (total + types)
        return probability

    def bits_per_note(self, pieces: Iterable[np.ndarray]) -> float:
        """Bits that the model needs for each note of some music; lower is better.

        Args:
            pieces: Notewise ids, one array a piece.

        Returns:
            Total bits of all tokens over the number of notes; NaN without notes.
        """
        bits = notes = 0.0
        for ids in pieces:
            bits -= float(np.log2(self.probabilities(ids)).sum())
            notes += notewise.count_notes(ids)
        return bits / notes if notes else float("nan")


def _count(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in order, and how often each stands."""
    values, first = _firsts(np.sort(keys))
    return values, np.diff(np.append(first, len(keys)))


def _firsts(sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array, and where each begins."""
    first = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1])[: len(sorted_keys)])
    return sorted_keys[first], first


def _look_up(table: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The value at each key of a sorted table, 0 for keys that are not in it."""
    if not len(table):
        return np.zeros(len(keys), dtype=np.int64)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, values[at], 0)
