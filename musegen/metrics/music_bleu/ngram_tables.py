"""Exact n-gram tables of a corpus of pieces, and clipped counts against them; numpy arrays only.

For every order n = 1..N the tables hold the distinct n-grams of the corpus and, for each, the maximum over
pieces of its count in one piece. That maximum is all that BLEU's clipping asks of the references
(Papineni et al. 2002, section 2.1), so nothing else is kept.

An n-gram is named by (the rank of its first n-1 tokens among the distinct (n-1)-grams, its last token), packed
into one integer key `prefix_rank * vocabulary_size + last`. Keys are pairs of dense ids and never hashes, so two
n-grams cannot collide. Sorted keys are in lexicographic order of the n-grams, which gives:

- building: positions sorted by (n-1)-gram lie in groups; sorting each group by the token that follows sorts them
  by n-gram. Groups never mix, so the corpus is refined in blocks of groups that fit the processor's cache, and an
  n-gram that occurs once, as most long ones do, is never sorted again;
- counting: the sorts are stable, so the positions of one n-gram ascend, its occurrences in one piece are
  adjacent, and counts per piece are run lengths;
- looking up: one binary search per order, and an n-gram whose prefix is unknown is unknown without searching.

Positions and ranks are counted from 0; orders from 1. Token ids are dense: every id below the vocabulary's
size occurs in the corpus.
"""

from dataclasses import dataclass

import numpy as np

# Positions refined together: the arrays of a block, some 20 MB, stay near the cache, and numpy reuses them.
BLOCK_SIZE = 2**20


@dataclass(frozen=True)
class NgramTables:
    """The distinct n-grams of a corpus, order by order.

    Args:
        vocabulary_size: Number of distinct tokens.
        keys: For orders 2..N, ascending unsigned keys, shape (distinct n-grams,). Order 1 needs none: there,
            the rank is the token id.
        counts: For orders 1..N, the largest count within one piece by rank, shape (distinct n-grams,).
    """

    vocabulary_size: int
    keys: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]

    @property
    def max_order(self) -> int:
        """Largest n in the tables."""
        return len(self.counts)


def smallest_unsigned(limit: int) -> np.dtype:
    """The narrowest unsigned integer type that holds every value below `limit`."""
    return np.min_scalar_type(max(limit - 1, 0))


def build_tables(
    tokens: np.ndarray, lengths: np.ndarray, vocabulary_size: int, max_order: int, block_size: int = BLOCK_SIZE
) -> NgramTables:
    """Build the tables of a corpus in memory proportional to its length.

    Args:
        tokens: Dense token ids of all pieces, one after the other, shape (total,).
        lengths: Length of each piece, shape (pieces,), summing to total.
        vocabulary_size: Number of distinct tokens.
        max_order: Largest n.
        block_size: About how many positions to refine together; it changes nothing but speed and memory.

    Returns:
        The tables for orders 1..max_order; n-grams never cross from one piece to the next.
    """
    # Behind each piece stands a separator, which sorts behind all tokens and ends every n-gram.
    text = np.full(len(tokens) + len(lengths), vocabulary_size, dtype=smallest_unsigned(vocabulary_size + 1))
    is_token = np.ones(len(text), dtype=bool)
    is_token[np.cumsum(lengths + 1) - 1] = False
    text[is_token] = tokens
    piece_of = np.repeat(np.arange(len(lengths), dtype=smallest_unsigned(len(lengths))), lengths + 1)
    order = np.argsort(text, kind="stable")[: len(tokens)].astype(_at_least_32_bits(len(text)))  # (total,)

    keys, counts = [[] for _ in range(max_order - 1)], [[] for _ in range(max_order)]
    distinct = [0] * max_order  # n-grams of the blocks so far, for each order
    for block in _blocks(order, text, block_size):
        refined = _refine(block, text, piece_of, vocabulary_size, max_order)
        before = list(distinct)
        for i, (block_keys, block_counts) in enumerate(refined):
            counts[i].append(block_counts)
            distinct[i] += len(block_counts)
            if i > 0:  # ranks of prefixes start anew in each block
                prefixes = min(vocabulary_size**i, len(tokens))
                key = block_keys.astype(_at_least_32_bits(prefixes * vocabulary_size + 1))
                key += key.dtype.type(before[i - 1] * vocabulary_size)
                keys[i - 1].append(key)
    return NgramTables(
        vocabulary_size,
        tuple(np.concatenate(parts) for parts in keys),
        tuple(np.concatenate(parts) for parts in counts),
    )


def _at_least_32_bits(limit: int) -> np.dtype:
    """An unsigned type for values below `limit`, not so narrow that arithmetic on them could overflow early."""
    return smallest_unsigned(max(limit, 2**16 + 1))


def _blocks(order: np.ndarray, text: np.ndarray, block_size: int) -> list[np.ndarray]:
    """Cut positions sorted by token into blocks of about `block_size`, never between positions of one token."""
    starts = np.flatnonzero(_changes(text[order]))
    return np.split(order, starts[1:][np.diff(starts // block_size) > 0])


def _refine(order, text, piece_of, vocabulary_size, max_order):
    """From unigrams to n-grams of one block.

    Args:
        order: Positions sorted by token, then by position, shape (occurrences,).
        text: Token ids with separators, shape (total + pieces,).
        piece_of: Piece of each position, shape (total + pieces,).
        vocabulary_size: Number of distinct tokens, and the separator's id.
        max_order: Largest n.

    Yields:
        For n = 1, 2, ...: ascending keys with ranks counted within the block, and counts aligned with them.
    """
    key = text[order]
    for n in range(1, max_order + 1):
        new = _changes(key)
        rank = np.cumsum(new, dtype=order.dtype)
        rank -= order.dtype.type(1)
        distinct = np.count_nonzero(new)
        yield key[new], _largest_counts(new, rank, piece_of, order, distinct)
        if n < max_order:
            order, key = _extend(order, rank, distinct, text[order + order.dtype.type(n)], vocabulary_size)


def _extend(order, rank, distinct, following, vocabulary_size) -> tuple[np.ndarray, np.ndarray]:
    """From n-grams to (n+1)-grams: sorted positions and keys, without the n-grams that end a piece.

    Args:
        order: Positions sorted by n-gram, shape (occurrences,); changed in place.
        rank: Rank of each n-gram, ascending, shape (occurrences,).
        distinct: Number of distinct n-grams.
        following: Token id behind each n-gram, shape (occurrences,).
        vocabulary_size: Number of distinct tokens, and the separator's id.
    """
    inside = following != vocabulary_size
    if not inside.all():
        order, rank, following = order[inside], rank[inside], following[inside]
    key = rank.astype(_at_least_32_bits(distinct * vocabulary_size))
    key *= key.dtype.type(vocabulary_size)
    key += following
    repeated = _repeated(_changes(rank))  # the others are in their places already
    unsorted = key[repeated]
    by_key = np.argsort(unsorted, kind="stable")
    key[repeated] = unsorted[by_key]
    order[repeated] = order[repeated[by_key]]
    return order, key


def _repeated(new: np.ndarray) -> np.ndarray:
    """The places of all values that occur more than once, given where new values start in a sorted array."""
    return np.flatnonzero(~(new & np.append(new[1:], True)))


def _changes(values: np.ndarray) -> np.ndarray:
    """Where an adjacent-equal sequence starts a new value; True at 0. Shape of `values`."""
    new = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def _largest_counts(new, rank, piece_of, order, distinct) -> np.ndarray:
    """The largest count within one piece for each n-gram, in the narrowest type that holds them all.

    Args:
        new: Where each n-gram's occurrences begin, shape (occurrences,).
        rank: Rank of the n-gram of each occurrence, ascending, shape (occurrences,).
        piece_of: Piece of each position, shape (total + pieces,).
        order: Position of each occurrence, ascending within an n-gram, shape (occurrences,).
        distinct: Number of distinct n-grams.
    """
    repeated = _repeated(new)
    if not len(repeated):
        return np.ones(distinct, dtype=np.uint8)
    new = new[repeated]
    runs = np.flatnonzero(new | _changes(piece_of[order[repeated]]))
    run_lengths = np.diff(runs, append=len(repeated))
    largest = np.maximum.reduceat(run_lengths, np.flatnonzero(new[runs]))  # (repeated n-grams,)
    counts = np.ones(distinct, dtype=smallest_unsigned(int(largest.max()) + 1))
    counts[rank[repeated[new]]] = largest
    return counts


def clipped_matches(tables: NgramTables, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Count each prediction's n-grams, each clipped to its largest count in one piece of the corpus.

    Args:
        tables: The corpus.
        tokens: Token ids of all predictions, one after the other, -1 where the corpus has no such token,
            shape (total,), int64.
        lengths: Length of each prediction, shape (predictions,).

    Returns:
        Clipped counts, shape (predictions, max_order), int64.
    """
    matches = np.zeros((len(lengths), tables.max_order), dtype=np.int64)
    owner = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)  # (total,)
    end = np.cumsum(lengths)[owner]  # (total,)
    position = np.flatnonzero(tokens >= 0)
    rank = tokens[position]
    distinct = tables.vocabulary_size
    for n in range(1, tables.max_order + 1):
        if n > 1:
            whole = position + n - 1 < end[position]
            position, rank = position[whole], rank[whole]
            known, rank = _ranks(tables.keys[n - 2], tables.vocabulary_size, rank, tokens[position + n - 1])
            position = position[known]
            distinct = len(tables.keys[n - 2])
        if not len(position):
            break
        pairs, occurrences = np.unique(owner[position] * distinct + rank, return_counts=True)
        clipped = np.minimum(occurrences, tables.counts[n - 1][pairs % distinct])
        np.add.at(matches[:, n - 1], pairs // distinct, clipped)
    return matches


def _ranks(table, vocabulary_size, prefix_rank, last) -> tuple[np.ndarray, np.ndarray]:
    """Look n-grams up: which of them the corpus has, shape (looked up,), and the ranks of those, shape (known,).

    Args:
        table: Keys of order n.
        vocabulary_size: Number of distinct tokens.
        prefix_rank: Rank of the first n-1 tokens, shape (looked up,).
        last: Last token, -1 where unknown, shape (looked up,).
    """
    # Looking up ascending distinct keys walks the memory-mapped table once, front to back.
    wanted, which = np.unique(prefix_rank * vocabulary_size + last, return_inverse=True)
    found = np.searchsorted(table, wanted.astype(table.dtype))  # of another type, it would copy the whole table
    exists = found < len(table)
    exists[exists] = table[found[exists]] == wanted[exists]
    known = exists[which.reshape(-1)] & (last >= 0)
    return known, found[which.reshape(-1)][known]
