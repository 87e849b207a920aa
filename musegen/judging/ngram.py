"""An n-gram model over notewise tokens, or any others: the least that a model of music must beat.

Source: interpolated Witten-Bell smoothing after Chen and Goodman, "An Empirical Study of Smoothing Techniques
for Language Modeling", 1999: with c tokens seen after a context, t of them distinct,

    p(token | context) = (count + t * p(token | shorter context)) / (c + t),

down to the uniform distribution over the whole vocabulary, so that no token is impossible.

Units: probabilities are of tokens; bits a note are the bits of all tokens over the notes that they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from musegen import notewise

# Tokens: the context is three. Of 3 to 7, the best on held-out Mozart, trained on other Mozart or on all styles.
ORDER = 4
_KEY_BITS = 63  # an n-gram is one integer


def max_order(vocabulary: int) -> int:
    """The longest n-gram over so many tokens, and one that stands before a piece, that one integer holds."""
    return _KEY_BITS // vocabulary.bit_length()


class NgramModel:
    """Counts of all n-grams up to an order, as sorted integers.

    Attributes:
        order: Tokens of the longest n-gram.
        vocabulary: How many tokens share the uniform distribution at the bottom.
    """

    def __init__(
        self, sequences: Iterable[np.ndarray], order: int = ORDER, vocabulary: int = len(notewise.VOCABULARY)
    ):
        """Count n-grams.

        Args:
            sequences: Ids, one array a piece.
            order: 1 to `max_order(vocabulary)`: 7 for notewise tokens, 4 for some thousands.
            vocabulary: All ids are below it; that of notewise tokens by default.

        Raises:
            ValueError: Another order.
        """
        if not 1 <= order <= max_order(vocabulary):
            raise ValueError(f"order must be 1 to {max_order(vocabulary)}, not {order}")
        self.order = order
        self.vocabulary = vocabulary
        self._bits = vocabulary.bit_length()
        begin = np.full(order - 1, vocabulary, dtype=np.int64)  # stands before a piece
        parts = [np.concatenate([begin, ids.astype(np.int64)]) for ids in sequences]
        text = np.concatenate([*parts, np.empty(0, np.int64)])
        real = np.concatenate([np.arange(len(part)) >= order - 1 for part in parts] or [np.empty(0, bool)])
        self._grams, self._counts, self._contexts, self._totals, self._types = [], [], [], [], []
        key = np.zeros(len(text), dtype=np.int64)
        for n in range(order):
            key[n:] |= text[: len(text) - n] << (self._bits * n)
            grams, counts = _count(key[real])
            contexts, first = _firsts(grams >> self._bits)
            self._grams.append(grams)
            self._counts.append(counts)
            self._contexts.append(contexts)
            self._totals.append(np.add.reduceat(counts, first) if len(first) else counts)
            self._types.append(np.diff(np.append(first, len(grams))))

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Of each token after those before it: float64 (tokens,)."""
        ids = np.asarray(ids, dtype=np.int64)
        text = np.concatenate([np.full(self.order - 1, self.vocabulary), ids])
        probability = np.full(len(ids), 1.0 / self.vocabulary)
        key = np.zeros(len(ids), dtype=np.int64)
        for n in range(self.order):
            start = self.order - 1 - n
            key = key | text[start : start + len(ids)] << (self._bits * n)
            count = _look_up(self._grams[n], self._counts[n], key)
            total = _look_up(self._contexts[n], self._totals[n], key >> self._bits)
            types = _look_up(self._contexts[n], self._types[n], key >> self._bits)
            seen = total > 0
            probability[seen] = ((count + types * probability) / np.maximum(total + types, 1))[seen]
        return probability

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Of the token after a context: float64 (vocabulary,), summing to 1.

        Args:
            context: All tokens so far; the last `order` - 1 count.
        """
        text = [self.vocabulary] * (self.order - 1) + list(context[max(len(context) - self.order + 1, 0) :])
        probability = np.full(self.vocabulary, 1.0 / self.vocabulary)
        for n in range(self.order):
            key = 0
            for token in text[len(text) - n :]:
                key = key << self._bits | int(token)
            first, last = np.searchsorted(self._grams[n], [key << self._bits, (key + 1) << self._bits])
            if first == last:
                break
            counts = self._counts[n][first:last]
            total, types = counts.sum(), last - first
            probability *= types / (total + types)
            probability[self._grams[n][first:last] & ((1 << self._bits) - 1)] += counts / (total + types)
        return probability

    def bits(self, ids: np.ndarray) -> float:
        """Bits of all tokens of a piece."""
        return -float(np.log2(self.probabilities(ids)).sum())

    def bits_per_note(self, pieces: Iterable[np.ndarray]) -> float:
        """Bits that a model of notewise tokens needs for each note of some music; lower is better.

        Args:
            pieces: Notewise ids, one array a piece.

        Returns:
            Total bits of all tokens over the number of notes; NaN without notes.
        """
        bits = notes = 0.0
        for ids in pieces:
            bits += self.bits(ids)
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
