"""Pieces to training blocks: keys, packing, gaps, and an order of batches that any process can find again.

A block is `block_size` ids without padding, so nothing is computed in vain. It holds windows: a piece from its
beginning, or from a bar line inside it, with its header (`musegen.layout`); a window that the end of a block cuts goes
on in the next block from the bar that was cut. `position_ids` begin anew with each window, by which transformers'
attention keeps the pieces of one block apart. Some blocks have a gap that is filled at the end
(`musegen.controls`). Everything random is drawn from the seed, the epoch and the piece, never from a running state:
the same batches come in any process, and after any interruption.

- `packing`: a piece to a key, a header and bars; these to blocks.
- `streams`: what all streams of batches share: chunks of blocks, made ahead in worker processes, in one order.
- `memory`: pieces that memory holds; a chunk is an epoch.
- `shards`: the pieces of a corpus folder, read row group by row group.
- `parquet`: a corpus larger than memory; a chunk is as many blocks as are shuffled at a time.

Shapes: (batch, block_size), int64. Units: tokens.
"""

from musegen.blocks.memory import BlockStream
from musegen.blocks.packing import (
    MAX_TRANSPOSITION,
    BlockOptions,
    LaidPiece,
    TrainingPiece,
    infill_ids,
    lay_piece,
    pack,
    piece_ids,
    position_ids,
    training_piece,
)
from musegen.blocks.parquet import ParquetBlockStream
from musegen.blocks.shards import ShardedPieces
from musegen.blocks.streams import StreamPosition

__all__ = [
    "MAX_TRANSPOSITION",
    "BlockOptions",
    "BlockStream",
    "LaidPiece",
    "ParquetBlockStream",
    "ShardedPieces",
    "StreamPosition",
    "TrainingPiece",
    "infill_ids",
    "lay_piece",
    "pack",
    "piece_ids",
    "position_ids",
    "training_piece",
]
