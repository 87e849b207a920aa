"""How fast blocks come, and what they cost in memory: `python scripts/bench_blocks.py CORPUS TOKENIZER [copies]`.

Prints, for the training split of a corpus: tokens/s of one process that makes chunks (reading, transposing, merging,
packing), with ids from the corpus and computed from MIDI; the waits of a training that takes `--step` milliseconds a
batch, for 0, 1 and 2 workers; and resident memory from one end of the corpus to the other, with its shards `copies`
times over (hard links, or copies where the file system has none).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from musegen.blocks import BlockOptions, ParquetBlockStream, ShardedPieces, StreamPosition
from musegen.tokenizer import load_tokenizer

BLOCK, BATCH = 512, 8


def making(pieces: ShardedPieces, buffer: int, chunks: int) -> float:
    """Tokens a second of one process that makes chunks."""
    run = ParquetBlockStream(pieces, BlockOptions(block_size=BLOCK), batch_size=BATCH, shuffle_buffer=buffer)
    start = time.perf_counter()
    blocks = sum(len(run.chunk_blocks(0, chunk)) for chunk in range(min(chunks, run.chunks(0))))
    return blocks * BLOCK / (time.perf_counter() - start)


def waits(pieces: ShardedPieces, buffer: int, workers: int, step: float, batches: int) -> np.ndarray:
    """Seconds that each batch was waited for, by a training that sleeps in the place of its steps."""
    options = BlockOptions(block_size=BLOCK)
    run = ParquetBlockStream(pieces, options, batch_size=BATCH, shuffle_buffer=buffer, workers=workers)
    found = []
    for _ in range(batches):
        start = time.perf_counter()
        next(run)
        found.append(time.perf_counter() - start)
        time.sleep(step)
    run.close()
    return np.array(found)


def resident() -> float:
    """Megabytes of this process in memory."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def memory(pieces: ShardedPieces, buffer: int) -> list[float]:
    """Megabytes after a batch from each of ten places of an epoch."""
    run = ParquetBlockStream(pieces, BlockOptions(block_size=BLOCK), batch_size=BATCH, shuffle_buffer=buffer)
    found = []
    for place in range(10):
        run.position = StreamPosition(0, place * run.chunks(0) // 10)
        next(run)
        found.append(resident())
    return found


def multiplied(corpus: Path, folder: Path, copies: int) -> Path:
    """The same corpus with each training shard several times."""
    (folder / "data").mkdir()
    for path in (corpus / "data").glob("train-*.parquet"):
        for copy in range(copies):
            target = folder / "data" / f"train-{copy:05d}-{path.name}"
            try:
                os.link(path, target)
            except OSError:
                shutil.copy(path, target)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("--copies", type=int, default=30)
    parser.add_argument("--buffer", type=int, default=512)
    parser.add_argument("--step", type=float, default=40.0, help="milliseconds")
    parser.add_argument("--midi", action="store_true", help="compute ids from MIDI too, which is slow")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    pieces = ShardedPieces(args.corpus, tokenizer)
    print(f"{pieces.rows:,} pieces, {pieces.notes:,} notes, {len(pieces.groups)} row groups")
    print(f"one process makes {making(pieces, args.buffer, 4):,.0f} tokens/s")
    if args.midi:
        computed = ShardedPieces(args.corpus, tokenizer)
        computed._tables = [None] * len(computed.files)
        print(f"with ids computed from MIDI {making(computed, args.buffer // 8, 1):,.0f} tokens/s")
    rate = BATCH * BLOCK / args.step * 1000
    print(f"waits of a training of {rate:,.0f} tokens/s, after its first batch:")
    for workers in (0, 1, 2):
        found = waits(pieces, args.buffer, workers, args.step / 1000, 250)[1:]
        print(f"  {workers} workers: {found.sum():6.2f} s in all, {found.max():.3f} s at most")
    with tempfile.TemporaryDirectory(dir=args.corpus.parent) as folder:
        for copies in (1, args.copies):
            large = multiplied(args.corpus, Path(folder), copies) if copies > 1 else args.corpus
            opened = ShardedPieces(large, tokenizer)
            size = sum(path.stat().st_size for path in opened.files) / 1e6
            found = memory(opened, args.buffer)
            print(f"{size:7.1f} MB, {opened.notes:,} notes: {found[0]:.0f} MB resident, {found[-1]:.0f} MB at the end")


if __name__ == "__main__":
    main()
