"""What a training run reads: its pieces in memory or streamed, its validation pieces, and what identifies them.

A corpus whose training shards are above `STREAMED_ABOVE` on the disk is streamed unless told otherwise
(`musegen.blocks.parquet`). Below it, pieces are read once and stay in memory, and the batches are the same for any
number of processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from musegen.blocks import (
    BlockOptions,
    BlockStream,
    ParquetBlockStream,
    ShardedPieces,
    StreamPosition,
    TrainingPiece,
    piece_ids,
)
from musegen.controls import composer_slug
from musegen.errors import CheckpointError, ConfigError
from musegen.tokenizer import MusicTokenizer
from musegen.training_config import TrainingConfig

# Bytes of the training shards. Shards with ids take 3.6 bytes a note, so these are about 18 million notes; in memory
# they and the blocks of an epoch, which are made at once, come to about a gigabyte in each process.
STREAMED_ABOVE = 64 * 1024**2
VALIDATION_PIECES = 256  # of a streamed corpus, spread over the split: more would take longer than it tells
# What may change when a run goes on: where things lie, and how fast batches come.
_NOT_SIGNED = ("corpus", "tokenizer", "out", "save_every", "workers", "streaming", "shuffle_buffer")

Pieces = Sequence[TrainingPiece] | ShardedPieces
ScoredPiece = tuple[Sequence[int], int]  # ids with BOS and EOS, and notes


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a corpus gives to a training.

    Args:
        train: Pieces in memory, or a split to stream.
        validation: Ids and notes of the validation pieces.
    """

    train: Pieces
    validation: list[ScoredPiece]


def is_streamed(config: TrainingConfig) -> bool:
    """Whether a run streams its corpus: as `streaming` says, or by the size of its training shards."""
    if config.composers:
        return False
    if config.streaming != "auto":
        return bool(config.streaming)
    return sum(path.stat().st_size for path in Path(config.corpus).glob("data/train-*.parquet")) > STREAMED_ABOVE


def load_training_data(config: TrainingConfig, tokenizer: MusicTokenizer, *, progress: bool = True) -> TrainingData:
    """Open a corpus for a run.

    Args:
        config: `corpus` and `streaming` are read.
        tokenizer: Of the run.
        progress: Show a bar while pieces are read into memory.

    Raises:
        CorpusError: If the folder is no corpus or, where pieces are read into memory, damaged.
        ConfigError: If it has no validation split.
    """
    from musegen.corpus import load_corpus

    streamed = is_streamed(config)
    if not streamed:
        load_corpus(config.corpus)  # checks the folder, its columns and its checksums
    train = ShardedPieces(config.corpus, tokenizer)
    if not list((Path(config.corpus) / "data").glob("validation-*.parquet")):
        raise ConfigError(f"{config.corpus}: no validation split; a corpus of three works or more has one")
    held = ShardedPieces(config.corpus, tokenizer, "validation")
    most = VALIDATION_PIECES if streamed else held.rows
    chosen = _choose(config)
    validation = [(piece_ids(tokenizer, piece), n) for piece, n in _some(held, most, progress) if chosen(piece)]
    pieces = train if streamed else [piece for piece, _ in _some(train, train.rows, progress) if chosen(piece)]
    for split, found in (("train", pieces), ("validation", validation)):
        if config.composers and not found:
            raise ConfigError(f"{config.corpus}: no piece of {', '.join(config.composers)} in its {split} split")
    return TrainingData(pieces, validation)


def _choose(config: TrainingConfig) -> Callable[[TrainingPiece], bool]:
    """Whether a piece is by one of the composers of a run."""
    return lambda piece: not config.composers or _is_named(piece.controls.composer, config)


def composers_of(config: TrainingConfig, tokenizer: MusicTokenizer) -> list[str]:
    """Composers of a tokenizer whom a run names: those who have all words of one of its names. Empty for all."""
    return [slug for slug in tokenizer.composers if config.composers and _is_named(slug, config)]


def _is_named(slug: str | None, config: TrainingConfig) -> bool:
    words = set((slug or "").split("-"))
    return any(set(composer_slug(name).split("-")) <= words for name in config.composers)


def _some(pieces: ShardedPieces, most: int, progress: bool) -> Iterable[tuple[TrainingPiece, int]]:
    """At most so many pieces and their notes, evenly spread over a split."""
    from tqdm.auto import tqdm

    stride = -(-pieces.rows // max(most, 1))
    quiet = not progress or int(os.environ.get("LOCAL_RANK", "0")) > 0
    groups = tqdm(range(len(pieces.groups)), desc=pieces.split, unit="group", disable=quiet, leave=False)
    for group in groups:
        part = -pieces.groups[group].first % stride
        if part < pieces.groups[group].rows:
            notes = pieces.notes_of(group, part, stride)
            yield from ((piece, n) for (_, piece), n in zip(pieces.read(group, part, stride), notes))


def make_stream(
    pieces: Pieces, tokenizer: MusicTokenizer, config: TrainingConfig, *, rank: int = 0, world: int = 1
) -> BlockStream | ParquetBlockStream:
    """The batches of a run: global ones of pieces in memory, this process's own ones of a streamed corpus.

    Raises:
        ConfigError: If `batch_size` does not part evenly among the processes.
    """
    if config.batch_size % world:
        raise ConfigError(f"batch_size {config.batch_size} does not part evenly among {world} processes")
    options = BlockOptions(
        block_size=config.block_size,
        transpose=config.transpose,
        control_dropout=config.control_dropout,
        infill=config.infill,
        seed=config.seed,
    )
    if not isinstance(pieces, ShardedPieces):
        return BlockStream(pieces, tokenizer, options, batch_size=config.batch_size, workers=config.workers)
    return ParquetBlockStream(
        pieces,
        options,
        batch_size=config.batch_size // world,
        rank=rank,
        world=world,
        shuffle_buffer=config.shuffle_buffer,
        workers=config.workers,
    )


def gather_positions(stream: BlockStream | ParquetBlockStream, accelerator) -> list[list[int]]:
    """Where the streams of all processes stand, as JSON keeps it: one position where all have the same batches.

    Every process must call it.
    """
    import torch

    own = torch.tensor([dataclasses.astuple(stream.position)], device=accelerator.device)
    if isinstance(stream, BlockStream):
        return own.tolist()
    return accelerator.gather(own).tolist()


def position_of(
    positions: Sequence[Sequence[int]], stream: BlockStream | ParquetBlockStream, source: str
) -> StreamPosition:
    """The position at which a process goes on.

    Args:
        positions: Of `gather_positions`.
        stream: Of this process.
        source: Of the positions, for the error.

    Raises:
        CheckpointError: If a streamed run was of another number of processes.
    """
    if isinstance(stream, BlockStream):
        return StreamPosition(*positions[0])
    if len(positions) != stream.world:
        raise CheckpointError(
            f"{source}: a streamed run of {len(positions)} processes, which cannot go on with {stream.world}: each "
            "process reads its own share of the corpus; start as many, or name another `out`"
        )
    return StreamPosition(*positions[stream.rank])


def run_signature(config: TrainingConfig, tokenizer: MusicTokenizer, pieces: Pieces) -> str:
    """By which a checkpoint knows its run: all settings that change the weights, the tokenizer and the corpus.

    Pieces in memory are hashed; of a streamed corpus the checksums of its shards are, which costs nothing.
    """
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_SIGNED}
    streamed = isinstance(pieces, ShardedPieces)
    if streamed:
        settings["shuffle_buffer"] = config.shuffle_buffer
    digest = hashlib.sha256(json.dumps([settings, streamed], sort_keys=True).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    if streamed:
        digest.update(pieces.signature().encode())
        return digest.hexdigest()
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece.base_ids, dtype="<i4").tobytes())
        digest.update(repr(piece.controls).encode())
    return digest.hexdigest()
