"""A stream of batches of pieces that memory holds. A chunk is an epoch.

All processes of a training see the same global batches, however many they are, and each takes its share of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musegen.blocks.packing import CUTS, ORDER, BlockOptions, TrainingPiece, shuffled_blocks
from musegen.blocks.streams import ChunkedStream, StreamPosition
from musegen.tokenizer import MusicTokenizer


class BlockStream(ChunkedStream):
    """An endless stream of training batches of pieces that memory holds.

    Args:
        pieces: The training pieces.
        tokenizer: That made them.
        options: How pieces become blocks.
        batch_size: Blocks a batch, over all processes.
        workers: Processes that make the next epoch while this one is used.
        position: Where to begin.
    """

    def __init__(
        self,
        pieces: Sequence[TrainingPiece],
        tokenizer: MusicTokenizer,
        options: BlockOptions,
        *,
        batch_size: int,
        workers: int = 0,
        position: StreamPosition | None = None,
    ):
        super().__init__(options.block_size, batch_size, workers, position)
        self.pieces, self.tokenizer, self.options = list(pieces), tokenizer, options

    def chunks(self, epoch: int) -> int:
        """One."""
        return 1

    def chunk_blocks(self, epoch: int, chunk: int) -> np.ndarray:
        """All blocks of an epoch."""
        return self.epoch_blocks(epoch)

    def epoch_blocks(self, epoch: int) -> np.ndarray:
        """All blocks of one epoch, in order: int64 (blocks, block_size)."""
        seed = self.options.seed
        order = np.random.default_rng((seed, epoch, ORDER)).permutation(len(self.pieces)).tolist()
        pieces = ((index, self.pieces[index]) for index in order)
        rng = np.random.default_rng((seed, epoch, CUTS))
        return shuffled_blocks(pieces, self.tokenizer, self.options, epoch, rng)
