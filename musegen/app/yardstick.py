"""A piece beside real music: the customised BLEU and the longest copied span, and where real works lie.

Pieces are compared at a few lengths, for each of which the bands of real held-out music are measured once, in the
background. Without a corpus of the operator's, the music is the Mozart that music21 carries, built once as the
demo builds it and kept in the user's cache folder.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import symusic

from musegen import notewise
from musegen.demo import SOURCE
from musegen.errors import ConfigError, CorpusError
from musegen.evaluation import corpus_pieces
from musegen.judging import bleu
from musegen.judging.bands import Band, RealMusic
from musegen.judging.material import ENOUGH_WORKS, EXCERPTS_A_PIECE, MAX_EXCERPTS, Yardstick, excerpts, stand_ins
from musegen.judging.measures import BLEU, table
from musegen.judging.originality import CopiedSpan
from musegen.judging.pieces import Piece, cut_bars

LENGTHS = (32, 16, 8, 4)  # bars at which pieces are compared
SPAN = "copied_notes_transposed"
OWN = "Mozart's string quartets K. 80, 155, 156 and 458 and the exposition of the sonata K. 545"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A piece beside real music.

    Args:
        bars: Of the piece that were compared: its first new ones.
        bleu: Customised BLEU of these bars.
        bleu_band: Of single held-out excerpts.
        span: Longest run of notes that stands in the music, in any key.
        span_band: Its length in single held-out excerpts.
        against: The music, in words.
        works: How many works the bands were learnt from.
    """

    bars: int
    bleu: float
    bleu_band: Band
    span: CopiedSpan
    span_band: Band
    against: str
    works: int


class RealYardstick:
    """Real music to judge by, read when it is first needed.

    Args:
        corpus: A corpus folder; None for the Mozart of music21.
    """

    def __init__(self, corpus: str | Path | None = None):
        self._corpus = None if corpus is None else Path(corpus)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="yardstick")
        self._lock = threading.Lock()
        self._made: dict[int, Future] = {}
        self._pieces: tuple[list[Piece], list[Piece]] | None = None

    @property
    def against(self) -> str:
        """The music, in words."""
        return OWN if self._corpus is None else f"the works in {self._corpus.name}"

    def judge(self, score: symusic.Score, first: int, count: int, *, seconds: float) -> Judgement | None:
        """Compare some bars of a piece.

        Args:
            score: Canonical.
            first: First new bar, from 0.
            count: New bars.
            seconds: To wait for the bands, the first time.

        Returns:
            None if the bands are not measured yet.

        Raises:
            ConfigError: If the bars are too few, or empty, or there is no music to compare with.
        """
        length = next((n for n in LENGTHS if n <= count), None)
        if length is None:
            raise ConfigError(f"fewer than {LENGTHS[-1]} new bars are too few to be compared")
        part = cut_bars(score, first, length)
        if len(notewise.encode_ids(part)) < bleu.MIN_LENGTH:
            raise ConfigError("too few notes to be compared")
        future = self._measured(length)
        if not wait([future], timeout=seconds).done:
            return None
        yardstick, bands, works, length = future.result()
        part = cut_bars(score, first, length)
        if len(notewise.encode_ids(part)) < bleu.MIN_LENGTH:
            raise ConfigError(f"too few notes in its first {length} bars to be compared")
        (found,), _ = yardstick.measure([Piece("piece", "piece", part)])
        return Judgement(
            length, found.values[BLEU], bands[BLEU], found.transposed, bands[SPAN], self.against, works
        )  # fmt: skip

    def close(self) -> None:
        """Begin no further measurement."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _measured(self, length: int) -> Future:
        with self._lock:
            old = self._made.get(length)
            if old is None or (old.done() and old.exception() is not None):  # what failed is tried again
                self._made[length] = self._thread.submit(self._measure, length)
            return self._made[length]

    def _measure(self, most: int) -> tuple[Yardstick, dict[str, Band], int, int]:
        """What is to be measured with, for so many bars or the most that a held-out piece has."""
        train, held_out = self._read()
        for length in (n for n in LENGTHS if n <= most):
            real = excerpts(held_out, length, min(EXCERPTS_A_PIECE * len(held_out), MAX_EXCERPTS))
            if real:
                break
        else:
            raise ConfigError(f"no held-out piece of the corpus is long enough for {LENGTHS[-1]} bars")
        tokens = bleu.common_length([notewise.encode_ids(piece.score) for piece in real])
        yardstick = Yardstick(train, tokens)
        held, _ = yardstick.measure(real)
        works = {piece.work for piece in real}
        others = stand_ins(train, works, length, tokens) if len(works) < ENOUGH_WORKS else []
        music = RealMusic([m.piece.work for m in held + others], np.arange(len(held + others)) < len(held))
        values = table(held + others, (BLEU, SPAN))
        bands = {BLEU: music.band(values[:, 0], 1, 1.0), SPAN: music.band(values[:, 1], 1)}
        return yardstick, bands, len(music.works), length

    def _read(self) -> tuple[list[Piece], list[Piece]]:
        if self._pieces is None:
            from musegen.corpus import load_corpus

            splits = load_corpus(self._corpus or own_corpus())
            if "test" not in splits:
                raise CorpusError(f"{self.against}: no test split; a corpus of three works or more has one")
            self._pieces = corpus_pieces(splits["train"]), corpus_pieces(splits["test"])
        return self._pieces


def own_corpus() -> Path:
    """The folder of music21's Mozart as a corpus, built if it is not there."""
    from musegen.corpus import build_corpus, load_corpus

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "musegen" / SOURCE.replace(":", "-")
    try:
        load_corpus(folder)
    except CorpusError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        build_corpus([SOURCE], folder, progress=False)
    return folder
