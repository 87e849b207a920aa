"""Token ids to training blocks: transposition, packing, and one order of batches for any number of processes.

A block is `block_size` ids of one stream in which pieces follow each other; nothing is padded, so nothing is
computed in vain. `position_ids` begin anew with each piece, by which transformers' attention keeps the pieces of
one block apart. Everything random is drawn from the seed, the epoch and the piece, never from a running state:
the same batches come in any process, and after any interruption.

Shapes: (batch, block_size), int64. Units: tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import symusic

from musegen.errors import ConfigError
from musegen.tokenizer import MusicTokenizer

MAX_TRANSPOSITION = 6  # semitones up or down; with 0 these are the twelve keys, and one of them twice


@dataclasses.dataclass
class StreamPosition:
    """Where a stream of batches stands: all that resuming needs.

    Args:
        epoch: Passes over the corpus that are done.
        block: Blocks of this epoch that have been used.
    """

    epoch: int = 0
    block: int = 0


class BlockStream:
    """An endless stream of training batches.

    Args:
        pieces: REMI ids of each piece (`MusicTokenizer.base_ids`).
        tokenizer: That made them.
        block_size: Tokens a block.
        batch_size: Blocks a batch, over all processes.
        transpose: Move each piece to another key each epoch.
        seed: Of keys and order.
        position: Where to begin.

    Raises:
        ConfigError: If the pieces do not fill one batch.
    """

    def __init__(
        self,
        pieces: Sequence[np.ndarray],
        tokenizer: MusicTokenizer,
        *,
        block_size: int,
        batch_size: int,
        transpose: bool = True,
        seed: int = 0,
        position: StreamPosition | None = None,
    ):
        self.pieces = list(pieces)
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.batch_size = batch_size
        self.transpose = transpose
        self.seed = seed
        self.position = position or StreamPosition()
        self._epoch: int | None = None
        self._blocks = np.empty((0, block_size), np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch: int64 (batch_size, block_size)."""
        rows = []
        while len(rows) < self.batch_size:
            blocks = self._load(self.position.epoch)
            if self.position.block >= len(blocks):
                self.position = StreamPosition(self.position.epoch + 1, 0)
                continue
            take = blocks[self.position.block : self.position.block + self.batch_size - len(rows)]
            rows += list(take)
            self.position = StreamPosition(self.position.epoch, self.position.block + len(take))
        return np.stack(rows)

    def _load(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            self._blocks, self._epoch = self.epoch_blocks(epoch), epoch
            if not len(self._blocks):
                raise ConfigError(
                    f"the training pieces do not fill one block of {self.block_size} tokens; "
                    "take a smaller block_size or a larger corpus"
                )
        return self._blocks

    def epoch_blocks(self, epoch: int) -> np.ndarray:
        """All blocks of one epoch, in order: int64 (blocks, block_size)."""
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.pieces))
        parts = []
        for piece in order.tolist():
            parts.append([self.tokenizer.bos_token_id, *self._in_key(epoch, piece), self.tokenizer.eos_token_id])
        stream = np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
        # Another cut each epoch, so that a model does not always see the same notes first.
        rng = np.random.default_rng((self.seed, epoch, 1))
        stream = np.roll(stream, -int(rng.integers(0, self.block_size)))
        blocks = stream[: len(stream) // self.block_size * self.block_size].reshape(-1, self.block_size)
        return blocks[rng.permutation(len(blocks))]

    def _in_key(self, epoch: int, piece: int) -> list[int]:
        base = self.pieces[piece]
        if self.transpose:
            low, high = self.tokenizer.transpositions(base)
            rng = np.random.default_rng((self.seed, epoch, 2, piece))
            base = self.tokenizer.transposed(
                base, int(rng.integers(max(low, -MAX_TRANSPOSITION), min(high, MAX_TRANSPOSITION) + 1))
            )
        return self.tokenizer.merge(base)


def position_ids(input_ids: np.ndarray, bos_token_id: int) -> np.ndarray:
    """Positions that begin anew at every BOS.

    Args:
        input_ids: int64 (batch, time).
        bos_token_id: With which a piece begins.

    Returns:
        int64 (batch, time).
    """
    time = np.arange(input_ids.shape[1])
    starts = np.maximum.accumulate(np.where(input_ids == bos_token_id, time, 0), axis=1)
    return time - starts


def base_ids_of(tokenizer: MusicTokenizer, scores: Iterable[symusic.Score]) -> list[np.ndarray]:
    """REMI ids of each score: what `BlockStream` is made of."""
    return [tokenizer.base_ids(score) for score in scores]
