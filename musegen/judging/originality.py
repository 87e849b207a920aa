"""How much of a piece stands in the training music: copied spans, n-grams, the nearest training piece.

A piece is the sequence of its notes by onset and pitch. A *copied span* is a run of notes that stands in a
training piece with the same steps between onsets and the same pitches (exact), or the same intervals (under
transposition). Lengths of notes, instruments and velocities are not compared, so that a copy that is only
played differently is still a copy. Music between copied parts does no harm, but a voice added to a copied one
cuts the span, because both are in one sequence.

Every figure means something only next to the same figure of real music that was not trained on: composers
quote each other, and themselves.

Units: notes and onsets as in `musegen.notewise` (steps of a twelfth of a quarter, unisons once, no drums);
intervals in semitones; bars count from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import symusic

from musegen import grid, notewise
from musegen.judging.suffixes import Matches, SuffixArray

NGRAM = 9  # tokens, or notes: the largest order of the study's BLEU
# Spans of so many notes make up the copied share. Excerpts of 32 bars of Mozart share 9 notes in a row with other
# Mozart (median; at most 20, mostly repeated notes and scales), and under 1 % of their notes lie in longer spans.
SPAN_NOTES = 16
_LONGEST_STEP = 255  # steps between onsets that are told apart; longer silences count as this one
_TOKEN_BITS = 9  # notewise ids are below 512


@dataclasses.dataclass(frozen=True)
class CopiedSpan:
    """The longest run of a piece's notes that stands in a training piece.

    Args:
        notes: How many; 0 if not even two notes in a row do.
        transposition: Semitones by which the piece lies above the training piece.
        piece: Name of the training piece.
        bars: First and last bar of the span in the training piece, from 1.
        sample_bars: Likewise in the piece itself.
    """

    notes: int = 0
    transposition: int = 0
    piece: str = ""
    bars: tuple[int, int] = (0, 0)
    sample_bars: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Originality:
    """What `TrainingIndex.measure` finds of one piece.

    Args:
        exact: The longest span at the same pitches.
        transposed: The longest span at any transposition; never shorter than `exact`.
        copied_share: Share of the notes that lie in transposed spans of `SPAN_NOTES` notes or more.
        token_ngrams: Share of the piece's notewise 9-grams that stand in the training music.
        note_ngrams: Share of its runs of 9 notes that do, under transposition.
    """

    exact: CopiedSpan
    transposed: CopiedSpan
    copied_share: float
    token_ngrams: float
    note_ngrams: float

    def figures(self) -> dict[str, float]:
        """The numbers alone, by their names in `results.json`."""
        return {
            "copied_notes_exact": float(self.exact.notes),
            "copied_notes_transposed": float(self.transposed.notes),
            "copied_share": self.copied_share,
            "token_9grams": self.token_ngrams,
            "note_9grams": self.note_ngrams,
        }


class TrainingIndex:
    """An index of all training notes; 1.3 M of them take some seconds, a sample then milliseconds."""

    def __init__(self, names, bars, pitches, exact, moved, ngrams):
        self._names: list[str] = names
        self._bars: list[np.ndarray] = bars  # of each note of each piece, from 0
        self._pitches: list[np.ndarray] = pitches
        self._exact: SuffixArray = exact
        self._moved: SuffixArray = moved
        self._ngrams: NgramSet = ngrams

    @classmethod
    def build(cls, pieces: Iterable[tuple[str, symusic.Score]]) -> TrainingIndex:
        """Index the training music.

        Args:
            pieces: Names and canonical scores.
        """
        names, bars, pitches, exact, moved, tokens = [], [], [], [], [], []
        for name, score in pieces:
            notes = notewise.spans(score)
            names.append(name)
            bars.append(_bars_of(score, notes).astype(np.int32))
            pitches.append(notes["pitch"].astype(np.int16))
            exact.append(_exact_symbols(notes))
            moved.append(_moved_symbols(notes))
            tokens.append(notewise.encode_ids(score))
        return cls(names, bars, pitches, SuffixArray(exact), SuffixArray(moved), NgramSet(tokens))

    def copied_span(self, score: symusic.Score, *, transposed: bool = True) -> CopiedSpan:
        """The longest run of notes that stands in a training piece.

        Args:
            score: A canonical score.
            transposed: At any transposition; False: at the same pitches.
        """
        notes = notewise.spans(score)
        index, symbols = (self._moved, _moved_symbols) if transposed else (self._exact, _exact_symbols)
        return self._longest(index, index.matches(symbols(notes)), notes, _bars_of(score, notes))

    def measure(self, score: symusic.Score) -> Originality:
        """All figures of one piece.

        Args:
            score: A canonical score.
        """
        notes = notewise.spans(score)
        bars = _bars_of(score, notes)
        exact = self._exact.matches(_exact_symbols(notes))
        moved = self._moved.matches(_moved_symbols(notes))
        runs = len(notes) - NGRAM + 1
        return Originality(
            self._longest(self._exact, exact, notes, bars),
            self._longest(self._moved, moved, notes, bars),
            _covered(moved.length, len(notes)),
            self._ngrams.share(notewise.encode_ids(score)),
            float((moved.length[:runs] >= NGRAM - 1).mean()) if runs > 0 else float("nan"),
        )

    def _longest(self, index: SuffixArray, found: Matches, notes, bars) -> CopiedSpan:
        if not len(found.length) or not found.length.max():
            return CopiedSpan()
        start = int(np.argmax(found.length))
        steps = int(found.length[start])  # from note to note, so the span has one note more
        piece, place = index.sequence_of(int(found.place[start]))
        theirs = self._bars[piece]
        return CopiedSpan(
            steps + 1,
            int(notes["pitch"][start]) - int(self._pitches[piece][place]),
            self._names[piece],
            (int(theirs[place]) + 1, int(theirs[place + steps]) + 1),
            (int(bars[start]) + 1, int(bars[start + steps]) + 1),
        )


class NgramSet:
    """All notewise n-grams of some pieces, exact: which of a piece's are among them."""

    def __init__(self, sequences: Iterable[np.ndarray], order: int = NGRAM):
        """Index ids.

        Args:
            sequences: Ids below 512, one array a piece.
            order: Tokens; 8 to 10, for two integers of 63 bits must hold them.
        """
        self.order = order
        heads, tails = zip(*(_head_and_tail(ids, order) for ids in sequences))
        self._heads, rank = np.unique(np.concatenate(heads), return_inverse=True)
        keys = np.sort(self._key(rank, np.concatenate(tails)))
        # Not np.unique, which hashes: on millions of integers that costs several times the sort.
        self._keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys

    def share(self, ids: np.ndarray) -> float:
        """Share of a piece's n-grams that are in the set; NaN for a piece shorter than one."""
        head, tail = _head_and_tail(ids, self.order)
        if not len(head):
            return float("nan")
        rank, known = _find(self._heads, head)
        _, found = _find(self._keys, self._key(rank, tail))
        return float((known & found).mean())

    def _key(self, rank: np.ndarray, tail: np.ndarray) -> np.ndarray:
        return rank.astype(np.int64) << (_TOKEN_BITS * (self.order - 7)) | tail


def _head_and_tail(ids: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The first seven tokens of each n-gram as one integer, and the others as another."""
    count = max(len(ids) - order + 1, 0)
    head = np.zeros(count, dtype=np.int64)
    tail = np.zeros(count, dtype=np.int64)
    for k in range(order):
        part = head if k < 7 else tail
        part <<= _TOKEN_BITS
        part |= ids[k : k + count].astype(np.int64)
    return head, tail


def _find(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values stand in a sorted table, and whether they do."""
    if not len(table):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    at = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return at, table[at] == values


def _steps(notes: np.ndarray) -> np.ndarray:
    return np.minimum(np.diff(notes["onset"]), _LONGEST_STEP)


def _exact_symbols(notes: np.ndarray) -> np.ndarray:
    """One symbol for each two neighbouring notes: both pitches and the step: int64 (notes - 1,)."""
    pitch = notes["pitch"]
    return (_steps(notes) << 14) | (pitch[:-1] << 7) | pitch[1:]


def _moved_symbols(notes: np.ndarray) -> np.ndarray:
    """Likewise of the interval and the step."""
    return (_steps(notes) << 8) | (np.diff(notes["pitch"]) + 128)


def _bars_of(score: symusic.Score, notes: np.ndarray) -> np.ndarray:
    return grid.bar_grid(score).index(notes["onset"] * notewise.TICKS_PER_STEP)


def _covered(length: np.ndarray, notes: int) -> float:
    """Share of the notes that lie in matches of `SPAN_NOTES` notes or more."""
    if not notes:
        return float("nan")
    long = np.flatnonzero(length + 1 >= SPAN_NOTES)
    cover = np.zeros(notes + 1, dtype=np.int64)
    np.add.at(cover, long, 1)
    np.add.at(cover, long + length[long] + 1, -1)
    return float((np.cumsum(cover)[:notes] > 0).mean())
