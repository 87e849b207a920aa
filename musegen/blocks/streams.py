"""What all streams of batches share: chunks of blocks, made ahead in worker processes, in one order.

A stream is a row of chunks; a chunk is a function of the settings, the epoch and its number alone. So a position is
three numbers, resuming makes one chunk again, and the batches are the same for any number of workers: who makes a
chunk does not matter, and they are used in their order.

Workers are processes of torch's `DataLoader`, not threads: more than half of the making of a chunk is Python code, and
a thread would take the interpreter's lock from the training step. They live as long as the stream, each with one chunk
in the making or waiting.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator

import numpy as np

from musegen.errors import ConfigError, MusegenError, WorkerError


@dataclasses.dataclass(frozen=True)
class StreamPosition:
    """Where a stream of batches stands: all that resuming needs.

    Args:
        epoch: Passes over the corpus that are done.
        chunk: Chunks of this epoch that are done.
        block: Blocks of this chunk that have been used.
    """

    epoch: int = 0
    chunk: int = 0
    block: int = 0


class ChunkedStream(abc.ABC):
    """An endless stream of batches, int64 (batch_size, block_size), out of chunks.

    Args:
        block_size: Tokens.
        batch_size: Blocks.
        workers: Processes that make chunks ahead; 0 makes each when it is needed.
        position: Where to begin.

    Attributes:
        position: Of the next batch; may be set.
    """

    def __init__(self, block_size: int, batch_size: int, workers: int = 0, position: StreamPosition | None = None):
        self.block_size, self.batch_size, self.workers = block_size, batch_size, workers
        self.position = position or StreamPosition()
        self._key: tuple[int, int] | None = None  # of the chunk at hand
        self._blocks = np.empty((0, block_size), np.int32)
        self._ahead: Iterator | None = None
        self._ahead_key: tuple[int, int] | None = None  # of the chunk that it gives next

    @abc.abstractmethod
    def chunks(self, epoch: int) -> int:
        """How many chunks an epoch has, 1 or more."""

    @abc.abstractmethod
    def chunk_blocks(self, epoch: int, chunk: int) -> np.ndarray:
        """The blocks of a chunk, in order: int64 (blocks, block_size), possibly none."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch: int64 (batch_size, block_size).

        Raises:
            ConfigError: If the pieces do not fill one block.
            WorkerError: If a worker process died.
        """
        parts, missing, empty = [], self.batch_size, 0
        while missing:
            at = self.position
            blocks = self._chunk((at.epoch, at.chunk))
            take = blocks[at.block : at.block + missing]
            if len(take):
                parts.append(take)
                missing -= len(take)
                self.position = dataclasses.replace(at, block=at.block + len(take))
                continue
            empty = 0 if len(blocks) else empty + 1
            if empty >= self.chunks(at.epoch):
                raise ConfigError(
                    f"the training pieces do not fill one block of {self.block_size} tokens; "
                    "take a smaller block_size or a larger corpus"
                )
            self.position = StreamPosition(*self._after((at.epoch, at.chunk)))
        return np.concatenate(parts).astype(np.int64)

    def close(self) -> None:
        """End the workers; the next batch would start them again."""
        self._ahead = self._ahead_key = None

    def _after(self, key: tuple[int, int]) -> tuple[int, int]:
        epoch, chunk = key
        return (epoch, chunk + 1) if chunk + 1 < self.chunks(epoch) else (epoch + 1, 0)

    def _chunk(self, key: tuple[int, int]) -> np.ndarray:
        if self._key != key:
            if self._ahead is None or self._ahead_key != key:
                self._ahead = self._open(key)
            # Let go of the old chunk before the new one comes: there is room for one.
            self._key, self._blocks = None, self._blocks[:0].copy()
            self._blocks = self._take()
            self._key, self._ahead_key = key, self._after(key)
        return self._blocks

    def _take(self) -> np.ndarray:
        try:
            found = next(self._ahead)
        except RuntimeError as error:
            self.close()
            detail = "a process that makes blocks ended; workers: 0 makes them in the training process"
            raise WorkerError("crashed", f"{detail} ({' '.join(str(error).split())[:160]})") from error
        if isinstance(found, MusegenError):
            self.close()
            raise found
        return np.asarray(found)

    def _open(self, key: tuple[int, int]) -> Iterator:
        made = _Chunks(self)
        keys = _keys_from(self, key)
        if not self.workers:
            return map(made.__getitem__, keys)
        from torch.utils.data import DataLoader

        loader = DataLoader(made, batch_size=None, sampler=keys, num_workers=self.workers, prefetch_factor=1)
        return iter(loader)

    def __getstate__(self):
        # What goes to a worker: how to make chunks, not those that are made.
        empty = np.empty((0, self.block_size), np.int32)
        return {**self.__dict__, "_ahead": None, "_ahead_key": None, "_key": None, "_blocks": empty}


class _Chunks:
    """The chunks of a stream as a dataset of `DataLoader`; an error of the package's own comes back as a value."""

    def __init__(self, stream: ChunkedStream):
        self.stream = stream

    def __getitem__(self, key: tuple[int, int]):
        import torch

        try:
            # int32: half the memory of what waits, and of what is copied between processes.
            return torch.from_numpy(self.stream.chunk_blocks(*key).astype(np.int32))
        except MusegenError as error:
            return error


class _keys_from:
    """Endless: the keys of a stream's chunks from one on. A class, since `DataLoader` may iterate it again."""

    def __init__(self, stream: ChunkedStream, key: tuple[int, int]):
        self.stream, self.key = stream, key

    def __iter__(self) -> Iterator[tuple[int, int]]:
        key = self.key
        while True:
            yield key
            key = self.stream._after(key)
