"""A piece to a key, a header and bars; these to blocks.

Units: tokens; bars; semitones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import symusic

from musegen.controls import Controls, controls_of
from musegen.errors import ConfigError
from musegen.tokenizer import MusicTokenizer

MAX_TRANSPOSITION = 6  # semitones up or down; with 0 these are the twelve keys, and one of them twice
MAX_GAP = 8  # bars; two phrases
ORDER, CUTS, KEYS, PIECES = range(4)  # what a random stream is for, beside seed and epoch


@dataclasses.dataclass(frozen=True)
class TrainingPiece:
    """What training reads of a piece.

    Args:
        base_ids: REMI ids (`MusicTokenizer.base_ids`), int32 (tokens,).
        controls: Its header.
    """

    base_ids: np.ndarray
    controls: Controls = dataclasses.field(default_factory=Controls)


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """How pieces become blocks.

    Args:
        block_size: Tokens a block.
        transpose: Move each piece to another key each epoch.
        control_dropout: How often each of composer, key, tempo and programs is left out of a header.
        infill: Share of blocks with a gap that is filled at the end; 0 for a tokenizer without control tokens.
        seed: Of keys, order, cuts and gaps.
    """

    block_size: int = 512
    transpose: bool = True
    control_dropout: float = 0.1
    infill: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.block_size < 8:
            raise ConfigError(f"block_size: 8 tokens or more, not {self.block_size}")
        for name in ("control_dropout", "infill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: a share from 0 to 1, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class LaidPiece:
    """A piece in the key of one epoch.

    Args:
        header: Ids of its header.
        bars: Ids of each bar.
        first: Where to begin.
        stop: Where to end, exclusive.
    """

    header: list[int]
    bars: list[list[int]]
    first: int
    stop: int


def training_piece(tokenizer: MusicTokenizer, score: symusic.Score, composer: str = "") -> TrainingPiece:
    """What training reads of a canonical score."""
    return TrainingPiece(tokenizer.base_ids(score), controls_of(score, composer))


def piece_ids(tokenizer: MusicTokenizer, piece: TrainingPiece) -> list[int]:
    """The ids of a whole piece with its header, BOS and EOS, in its own key."""
    ids = tokenizer.stream(tokenizer.merge_bars(piece.base_ids), tokenizer.header_ids(piece.controls), eos=False)
    return [*ids, tokenizer.eos_token_id]


def lay_piece(
    piece: TrainingPiece, tokenizer: MusicTokenizer, options: BlockOptions, rng: np.random.Generator
) -> LaidPiece:
    """Move a piece to a key that `rng` draws within its compass, merge it, and write its header."""
    base, controls = piece.base_ids, piece.controls
    if options.transpose:
        low, high = tokenizer.transpositions(base)
        semitones = int(rng.integers(max(low, -MAX_TRANSPOSITION), min(high, MAX_TRANSPOSITION) + 1))
        base, controls = tokenizer.transposed(base, semitones), controls.transposed(semitones)
    controls = controls.kept(rng.random(4) >= options.control_dropout)
    bars = tokenizer.merge_bars(base)
    return LaidPiece(tokenizer.header_ids(controls), bars, 0, len(bars))


def lay_pieces(
    pieces: Iterable[tuple[int, TrainingPiece]],
    tokenizer: MusicTokenizer,
    options: BlockOptions,
    epoch: int,
    rng: np.random.Generator,
) -> Iterator[LaidPiece]:
    """Lay one piece after the other, the first from a bar that `rng` draws: what comes before it is laid last.

    So that each epoch cuts elsewhere, also where one piece is all there is.

    Args:
        pieces: Each with its number in the corpus, from which, with seed and epoch, its key is drawn.
        tokenizer: Of the ids.
        options: Of the keys and headers.
        epoch: From 0.
        rng: Draws the bar.
    """
    head = None
    for index, piece in pieces:
        laid = lay_piece(piece, tokenizer, options, np.random.default_rng((options.seed, epoch, KEYS, index)))
        if head is None and laid.stop > 1:
            cut = int(rng.integers(0, laid.stop))
            head = dataclasses.replace(laid, stop=cut)
            laid = dataclasses.replace(laid, first=cut)
        yield laid
    if head is not None:
        yield head


def shuffled_blocks(
    pieces: Iterable[tuple[int, TrainingPiece]],
    tokenizer: MusicTokenizer,
    options: BlockOptions,
    epoch: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Lay, pack and shuffle pieces: int64 (blocks, block_size); the arguments are those of `lay_pieces`."""
    blocks = list(pack(lay_pieces(pieces, tokenizer, options, epoch, rng), tokenizer, options, rng))
    if not blocks:
        return np.empty((0, options.block_size), np.int64)
    return np.stack(blocks)[rng.permutation(len(blocks))]


def pack(
    pieces: Iterable[LaidPiece], tokenizer: MusicTokenizer, options: BlockOptions, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Fill blocks with pieces, one after the other; what does not fill a last block is dropped.

    Args:
        pieces: In the order in which they are to come.
        tokenizer: That laid them.
        options: `block_size` and `infill`.
        rng: Draws the gaps.

    Yields:
        int64 (block_size,).
    """
    size, block = options.block_size, []
    for piece in pieces:
        first = piece.first
        while first < piece.stop:
            room = size - len(block)
            gap = None
            if room == size and options.infill and rng.random() < options.infill and tokenizer.has_controls:
                gap = _with_gap(piece, first, tokenizer, size, rng)
            ids, following = gap or _window(piece, first, tokenizer, room)
            if following == first and room == size:
                following = first + 1  # a bar longer than a block
            first = following
            block += ids
            if len(block) == size:
                yield np.array(block, dtype=np.int64)
                block = []


def _window(piece: LaidPiece, first: int, tokenizer: MusicTokenizer, room: int) -> tuple[list[int], int]:
    """At most `room` ids from bar `first` on, and the first bar that is not wholly among them."""
    ids = tokenizer.stream(piece.bars, piece.header, first=first, stop=first)
    for index in range(first, piece.stop):
        if len(ids) >= room:
            return ids[:room], index
        ids += tokenizer.left_before(len(piece.bars) - index, index == first)
        ids += piece.bars[index]
        if len(ids) > room:
            return ids[:room], index
    if piece.stop == len(piece.bars):
        ids.append(tokenizer.eos_token_id)
    return ids[:room], piece.stop


def _with_gap(
    piece: LaidPiece, first: int, tokenizer: MusicTokenizer, room: int, rng: np.random.Generator
) -> tuple[list[int], int] | None:
    """A window with some bars moved to its end, whole within `room`; None if fewer than three bars fit."""
    used = len(piece.header) + 7  # opening, GAP, SEP, EOS, three `Left` tokens
    stop = first
    while stop < piece.stop:
        used += len(piece.bars[stop]) + len(tokenizer.left_before(len(piece.bars) - stop, False))
        if used > room:
            break
        stop += 1
    count = stop - first
    if count < 3:
        return None
    length = int(rng.integers(1, min(MAX_GAP, count - 2) + 1))
    start = first + int(rng.integers(0, count - length))  # at least one bar after the gap
    return infill_ids(tokenizer, piece.bars, piece.header, start, start + length, first=first, stop=stop), stop


def infill_ids(
    tokenizer: MusicTokenizer,
    bars: Sequence[Sequence[int]],
    header: Sequence[int],
    start: int,
    end: int,
    *,
    first: int = 0,
    stop: int | None = None,
    filled: bool = True,
) -> list[int]:
    """Bars `first` to `stop` with the bars from `start` to `end` moved behind the others.

    Args:
        tokenizer: With control tokens.
        bars: Of the whole piece.
        header: Of the piece.
        start: First bar of the gap.
        end: First bar after it.
        first: First bar to write.
        stop: First bar not to write; all by default.
        filled: Write the bars of the gap and EOS; False leaves off where a model is to begin.
    """
    stop = len(bars) if stop is None else stop
    ids = tokenizer.stream(bars, header, first=first, stop=start, eos=False)
    ids += [tokenizer.gap_id, *tokenizer.stream(bars, first=end, stop=stop, bos=False, eos=False)]
    ids.append(tokenizer.sep_token_id)
    if filled:
        ids += [*tokenizer.stream(bars, first=start, stop=end, bos=False, eos=False), tokenizer.eos_token_id]
    return ids


def position_ids(input_ids: np.ndarray, opening_ids: Sequence[int] | int) -> np.ndarray:
    """Positions that begin anew at every piece and window.

    Args:
        input_ids: int64 (batch, time).
        opening_ids: With which a piece or a window begins: BOS and CNT.

    Returns:
        int64 (batch, time).
    """
    time = np.arange(input_ids.shape[1])
    opens = np.isin(input_ids, opening_ids)
    starts = np.maximum.accumulate(np.where(opens, time, 0), axis=1)
    return time - starts
