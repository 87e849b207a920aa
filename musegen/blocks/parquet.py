"""A stream of batches of a corpus that need not fit into memory.

The unit is a part of a row group: small enough that a chunk, which is what is shuffled at a time, mixes several of
them from anywhere in the corpus. An epoch is one order of all units; process r of n takes units r, r + n, ... of it,
cuts them into chunks of about `shuffle_buffer` blocks, and shuffles first the pieces and then the blocks of each. So
three shuffles, each by seed and epoch: units over all shards, pieces in a chunk, blocks in a chunk.

- Within an epoch no piece is read by two processes or two workers, and none is missed.
- Processes whose shares differ go on into their next epoch each by itself. Nobody waits, since steps end a training
  and not epochs, and nothing is dropped or read twice to make shares equal. Every epoch deals the units anew, so
  that no piece is always in the larger share.
- The batches of a process depend on how many processes there are.
- What does not fill the last block of a chunk is dropped: below `block_size` tokens of `shuffle_buffer` times as many,
  other ones each epoch.
- Memory: the pieces of one chunk and two or three chunks of blocks, with one worker; twice that with two. It does not
  grow with the corpus, but for about 100 bytes a row group.
- Resuming makes one chunk again: what comes before it in the epoch is neither read nor tokenized.

Row groups are read by pyarrow rather than through `datasets.IterableDataset`: its state is exact without a shuffle
buffer only, and after a resume a buffer is filled anew with other examples than it held; its documentation says so.
A chunk that is a function of its number needs no state.
"""

from __future__ import annotations

import math

import numpy as np

from musegen.blocks.packing import CUTS, ORDER, PIECES, BlockOptions, shuffled_blocks
from musegen.blocks.shards import ShardedPieces
from musegen.blocks.streams import ChunkedStream, StreamPosition
from musegen.errors import ConfigError

# Of a trained tokenizer with its headers: from 1.3 for one of 4,000 ids to 2.2 for one of 1,000. It sizes chunks, and
# nothing else depends on it.
TOKENS_A_NOTE = 1.7
MIXED = 8  # units in a chunk, at least; each costs reading its row group once more


class ParquetBlockStream(ChunkedStream):
    """An endless stream of one process's training batches of a corpus folder.

    Args:
        pieces: The split to train on.
        options: How pieces become blocks.
        batch_size: Blocks a batch, of this process alone.
        rank: This process.
        world: How many processes there are.
        shuffle_buffer: Blocks that are shuffled at a time.
        workers: Processes that make chunks ahead.
        position: Where to begin; of the same `rank` and `world`.

    Raises:
        ConfigError: If there are fewer pieces than processes.
    """

    def __init__(
        self,
        pieces: ShardedPieces,
        options: BlockOptions,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        shuffle_buffer: int = 2048,
        workers: int = 0,
        position: StreamPosition | None = None,
    ):
        super().__init__(options.block_size, batch_size, workers, position)
        self.pieces, self.options = pieces, options
        self.rank, self.world, self.shuffle_buffer = rank, world, shuffle_buffer
        self._units = self._cut()  # int64 (units, 3): group, part, parts
        if len(self._units) < world:
            raise ConfigError(
                f"{pieces.folder}: {pieces.rows} pieces in the {pieces.split} split, fewer than processes"
            )
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    def chunks(self, epoch: int) -> int:
        """How many chunks this process makes of its share of an epoch."""
        return len(self._planned(epoch))

    def chunk_blocks(self, epoch: int, chunk: int) -> np.ndarray:
        """The blocks of one chunk, shuffled."""
        stream = (self.options.seed, epoch)
        place = (self.world, self.rank, chunk)
        found = [
            piece
            for unit in self._planned(epoch)[chunk]
            for piece in self.pieces.read(*(int(part) for part in self._units[unit]))
        ]
        order = np.random.default_rng((*stream, PIECES, *place)).permutation(len(found))
        rng = np.random.default_rng((*stream, CUTS, *place))
        pieces = (found[i] for i in order)
        return shuffled_blocks(pieces, self.pieces.tokenizer, self.options, epoch, rng)

    def read_by(self, epoch: int, chunk: int) -> list[int]:
        """Numbers of the pieces of a chunk, without reading them."""
        numbers = []
        for unit in self._planned(epoch)[chunk]:
            group, part, parts = self._units[unit]
            where = self.pieces.groups[group]
            numbers += range(where.first + int(part), where.first + where.rows, int(parts))
        return numbers

    def _cut(self) -> np.ndarray:
        groups = self.pieces.groups
        notes = np.array([group.notes for group in groups], dtype=np.float64)
        blocks = notes * TOKENS_A_NOTE / self.block_size
        # Parts small enough for a chunk to mix `MIXED` of them, and enough of them for every process.
        largest = min(self.shuffle_buffer, math.ceil(blocks.sum() / self.world)) / MIXED
        rows = np.array([group.rows for group in groups])
        parts = np.clip(np.ceil(blocks / max(largest, 1e-9)), 1, rows).astype(int)
        self._blocks_a_unit = np.repeat(blocks / parts, parts)
        return np.array([(i, part, n) for i, n in enumerate(parts.tolist()) for part in range(n)], dtype=np.int64)

    def _planned(self, epoch: int) -> list[np.ndarray]:
        """Units of each chunk of this process."""
        if self._plan[0] != epoch:
            order = np.random.default_rng((self.options.seed, epoch, ORDER)).permutation(len(self._units))
            own = order[self.rank :: self.world]
            blocks = np.cumsum(self._blocks_a_unit[own])
            count = max(1, round(blocks[-1] / self.shuffle_buffer))
            cuts = np.searchsorted(blocks, np.arange(1, count) * blocks[-1] / count)
            self._plan = epoch, [chunk for chunk in np.split(own, cuts) if len(chunk)]
        return self._plan[1]
