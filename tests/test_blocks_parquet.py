"""A corpus that is streamed: nothing missed, nothing twice, the same batches after any interruption."""

import collections
import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from block_reading import bars_of, windows_of

from musegen.blocks import BlockOptions, BlockStream, ParquetBlockStream, ShardedPieces, StreamPosition, training_piece
from musegen.controls import controls_of
from musegen.corpus import build_corpus
from musegen.errors import ConfigError, CorpusError, WorkerError
from musegen.layout import StreamLayout
from musegen.remi import vocabulary_hash

OPTIONS = {"block_size": 64, "seed": 3}


def write(folder, tables, about=None):
    """Shards of row groups: a list of tables for each shard."""
    (folder / "data").mkdir(parents=True)
    for number, groups in enumerate(tables):
        schema = groups[0].schema
        schema = schema if about is None else schema.with_metadata({**schema.metadata, b"musegen": json.dumps(about)})
        path = folder / "data" / f"train-{number:05d}-of-{len(tables):05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for group in groups:
                writer.write_table(group.cast(schema))
    return folder


def with_column(table, name, values):
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, type=table.schema.field(index).type))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, movement_paths):
    """All rows of a corpus of the movements, with ids of the package's own vocabulary."""
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    build_corpus([str(path) for path in movement_paths.values()], folder, tokenizer="remi", workers=1, progress=False)
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "data").glob("*.parquet"))])


@pytest.fixture(scope="module")
def corpus(whole, tokenizer, tmp_path_factory):
    """53 pieces of a few bars in 11 row groups of 3 shards."""
    from musegen.remi import plain_vocabulary

    bar, first = plain_vocabulary()["Bar_None"], plain_vocabulary()["Pitch_0"]
    rows = []
    for row, ids in enumerate(whole.column("input_ids").to_pylist()):
        bars = np.split(np.array(ids), np.flatnonzero(np.array(ids) == bar)[1:])
        rows += [(row, np.concatenate(bars[i : i + 5])) for i in range(0, len(bars), 5)]
    rows = rows[:53]
    table = whole.take([row for row, _ in rows])
    table = with_column(table, "input_ids", [ids for _, ids in rows])
    table = with_column(table, "notes", [int(((ids >= first) & (ids < first + 128)).sum()) for _, ids in rows])
    groups = [table.slice(i, 5) for i in range(0, len(table), 5)]
    return write(tmp_path_factory.mktemp("sharded"), [groups[:4], groups[4:5], groups[5:]])


@pytest.fixture(scope="module")
def pieces(corpus, tokenizer):
    return ShardedPieces(corpus, tokenizer)


def stream(pieces, *, batch_size=2, buffer=8, rank=0, world=1, workers=0, position=None, **settings):
    return ParquetBlockStream(
        pieces,
        BlockOptions(**{**OPTIONS, **settings}),
        batch_size=batch_size,
        rank=rank,
        world=world,
        shuffle_buffer=buffer,
        workers=workers,
        position=position,
    )


def epoch_of(run, epoch):
    return [run.chunk_blocks(epoch, chunk) for chunk in range(run.chunks(epoch))]


def test_pieces_are_the_same_however_their_ids_come(whole, tokenizer, scores, tmp_path):
    """From the column as it is, by translating it, or out of the MIDI bytes."""
    plain = write(tmp_path / "plain", [[whole]])
    translated = ShardedPieces(plain, tokenizer)
    computed = ShardedPieces(write(tmp_path / "none", [[whole.drop_columns("input_ids")]]), tokenizer)
    assert translated.tokenized and not computed.tokenized and translated.rows == 4
    own = with_column(whole, "input_ids", [piece.base_ids for _, piece in translated.read(0)])
    vocabulary = {"vocabulary": vocabulary_hash(tokenizer.remi.vocab)}
    stored = ShardedPieces(write(tmp_path / "own", [[own]], vocabulary), tokenizer)
    assert stored.tokenized
    foreign = ShardedPieces(write(tmp_path / "foreign", [[own]], {"vocabulary": "of another"}), tokenizer)
    assert not foreign.tokenized
    references = {training_piece(tokenizer, s).base_ids.tobytes(): controls_of(s) for s in scores.values()}
    for source in (translated, computed, stored, foreign):
        for _, piece in source.read(0):
            reference = references[piece.base_ids.tobytes()]
            assert tokenizer.header_ids(piece.controls) == tokenizer.header_ids(reference)
    assert {piece.base_ids.tobytes() for _, piece in stored.read(0)} == set(references)
    assert [n for n, _ in stored.read(0, part=1, parts=2)] == [1, 3]


def test_an_epoch_reads_each_piece_once(pieces):
    for world in (1, 2, 3):
        orders = set()
        for epoch in range(3):
            runs = [stream(pieces, rank=rank, world=world) for rank in range(world)]
            read = [[n for c in range(run.chunks(epoch)) for n in run.read_by(epoch, c)] for run in runs]
            assert sorted(n for part in read for n in part) == list(range(pieces.rows))
            assert max(map(len, read)) <= 1.5 * min(map(len, read))
            orders.add(tuple(map(tuple, read)))
        assert len(orders) == 3


_RANKS = """
import json, sys
import torch.distributed as dist
from musegen.blocks import *
from musegen.tokenizer import load_tokenizer
folder, tokenizer, out = json.loads(sys.argv[1])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
pieces = ShardedPieces(folder, load_tokenizer(tokenizer))
read, plain = [], pieces.read
pieces.read = lambda *where: [read.append(n) or (n, piece) for n, piece in plain(*where)]
run = ParquetBlockStream(pieces, BlockOptions(block_size=64, seed=3), batch_size=2, shuffle_buffer=8,
    rank=rank, world=world)
while run.position.epoch == 0:
    before = len(read)
    next(run)
open(f"{out}/{rank}.json", "w").write(json.dumps([world, read[:before]]))
dist.destroy_process_group()
"""


def test_two_processes_read_everything_once(pieces, corpus, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "ranks.py").write_text(_RANKS)
    argument = json.dumps([str(corpus), str(tmp_path / "tokenizer"), str(tmp_path)])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*torchrun, str(tmp_path / "ranks.py"), argument], capture_output=True, text=True, check=True)
    (world, one), (_, two) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert world == 2 and sorted(one + two) == list(range(pieces.rows)) and len(one) > 15 < len(two)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("transpose", [False, True])
def test_an_epoch_holds_what_it_holds_in_memory(pieces, tokenizer, world, transpose):
    """The same bars in the same keys, but for less than a block a chunk, and bars that end where a block does."""
    layout = StreamLayout(tokenizer)
    inside = [piece for group in range(len(pieces.groups)) for _, piece in pieces.read(group)]
    settings = {"transpose": transpose, "control_dropout": 0.0}
    reference = BlockStream(inside, tokenizer, BlockOptions(**{**OPTIONS, **settings}), batch_size=1)
    for epoch in (0, 1):
        chunks = [
            blocks
            for rank in range(world)
            for blocks in epoch_of(stream(pieces, buffer=24, rank=rank, world=world, **settings), epoch)
        ]
        blocks = np.concatenate(chunks)
        assert tokenizer.pad_token_id not in blocks and blocks.shape[1] == 64
        assert layout.opens[blocks[:, 0]].all()
        for window in (window for block in blocks for window in windows_of(block, layout)):
            bars = layout.bar_starts(window)
            if len(bars):  # the header, and then a bar line
                assert not layout.begins_bar[window[: bars[0]]].any() and layout.left[window[bars[0]]] > 0
        found, expected = (bars_of(b, tokenizer, layout) for b in (blocks, reference.epoch_blocks(epoch)))
        found.pop(None), expected.pop(None)
        missing = sum(len(bar) * n for bar, n in (expected - found).items())
        assert missing < 64 * (len(chunks) + 3) and (expected & found).total() > 0.8 * expected.total()
        # More than in memory is only what was dropped there, or not seen to be whole at the end of a block.
        assert sum(len(bar) * n for bar, n in (found - expected).items()) < 4 * 64


def test_batches_do_not_depend_on_workers_or_on_when_one_begins(pieces):
    run = stream(pieces)
    batches, positions = [], []
    while run.position.epoch < 3:
        positions.append(run.position)
        batches.append(next(run))
    assert positions[40].chunk > 0 and any(p.epoch == 2 for p in positions)
    for workers, at in ((0, 1), (1, 0), (2, 17), (2, 40), (1, len(batches) - 3)):
        other = stream(
            pieces, workers=workers, position=StreamPosition(*json.loads(json.dumps(tuple_of(positions[at]))))
        )
        for expected in batches[at : at + 20]:
            assert np.array_equal(next(other), expected)
        other.close()


def tuple_of(position):
    return [position.epoch, position.chunk, position.block]


_NEXT = """
import hashlib, json, sys
from musegen.blocks import *
from musegen.tokenizer import load_tokenizer
folder, tokenizer, position, count = json.loads(sys.argv[1])
pieces = ShardedPieces(folder, load_tokenizer(tokenizer))
for workers in (0, 2):
    run = ParquetBlockStream(pieces, BlockOptions(block_size=64, seed=3), batch_size=2, shuffle_buffer=8,
        rank=1, world=2, workers=workers, position=StreamPosition(*position))
    print(hashlib.sha256(b"".join(next(run).tobytes() for _ in range(count))).hexdigest())
    run.close()
"""


def test_a_fresh_process_goes_on_with_the_very_batches(pieces, corpus, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = stream(pieces, rank=1, world=2)
    for _ in range(13):
        next(run)
    argument = json.dumps([str(corpus), str(tmp_path / "tokenizer"), tuple_of(run.position), 30])
    done = subprocess.run([sys.executable, "-c", _NEXT, argument], capture_output=True, text=True, check=True)
    expected = hashlib.sha256(b"".join(next(run).tobytes() for _ in range(30))).hexdigest()
    assert done.stdout.split()[-2:] == [expected] * 2


def test_resuming_reads_one_chunk(pieces, monkeypatch):
    run = stream(pieces)
    late = StreamPosition(1, run.chunks(1) - 1, 2)
    read = []
    monkeypatch.setattr(ParquetBlockStream, "chunk_blocks", counted(ParquetBlockStream.chunk_blocks, read))
    next(stream(pieces, position=late))
    assert read == [(1, late.chunk)]


def counted(method, calls):
    def call(self, *key):
        calls.append(key)
        return method(self, *key)

    return call


def test_epochs_seeds_and_shuffles_differ(pieces):
    first = np.concatenate(epoch_of(stream(pieces), 0))
    again = np.concatenate(epoch_of(stream(pieces), 0))
    assert np.array_equal(first, again)
    for other in (epoch_of(stream(pieces), 1), epoch_of(stream(pieces, seed=4), 0)):
        assert not np.array_equal(first[:8], np.concatenate(other)[:8])
    keys = collections.Counter()
    for epoch in range(12):
        keys[stream(pieces, control_dropout=0.0).chunk_blocks(epoch, 0).tobytes()] += 1
    assert len(keys) == 12


_RESIDENT = """
import json, sys
from musegen.blocks import *
from musegen.tokenizer import load_tokenizer
def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
folder, tokenizer = json.loads(sys.argv[1])
pieces = ShardedPieces(folder, load_tokenizer(tokenizer))
run = ParquetBlockStream(pieces, BlockOptions(block_size=256), batch_size=4, shuffle_buffer=64)
last, seen = run.chunks(0), []
for step in range(16):
    run.position = StreamPosition(0, step * last // 16)
    next(run)
    seen.append(resident())
print(json.dumps({"chunks": last, "megabytes": seen}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc")  # noqa: PTH110
def test_memory_does_not_grow_with_the_corpus(whole, tokenizer, tmp_path):
    """100 MB of ids, in which a stream goes from one end to the other within 30 MB."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    group = whole.drop_columns(["midi"]).take(np.arange(256) % len(whole))
    count = -(-100_000_000 // group.column("input_ids").nbytes)
    folder = write(tmp_path / "large", [[group] * (count // 2), [group] * (count - count // 2)])
    assert sum(path.stat().st_size for path in folder.rglob("*.parquet")) > 95_000_000
    argument = json.dumps([str(folder), str(tmp_path / "tokenizer")])
    done = subprocess.run([sys.executable, "-c", _RESIDENT, argument], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["chunks"] > 500
    assert max(found["megabytes"]) - found["megabytes"][1] < 30, found


def test_what_is_wrong_is_named(pieces, corpus, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="do not fill one block of 100000"):
        next(stream(pieces, block_size=100_000))
    with pytest.raises(ConfigError, match="fewer than processes"):
        stream(pieces, world=500)
    with pytest.raises(CorpusError, match="no test split"):
        ShardedPieces(corpus, tokenizer, "test")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(CorpusError, match=r"train-0\.parquet: cannot be read"):
        ShardedPieces(tmp_path, tokenizer)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_breaks_while_training_is_named(corpus, tokenizer, tmp_path, workers):
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_bytes((corpus / "data" / "train-00000-of-00003.parquet").read_bytes())
    run = stream(ShardedPieces(tmp_path, tokenizer), workers=workers)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorpusError, match=r"train-00000-of-00001\.parquet: cannot be read"):
        next(run)


def test_a_worker_that_dies_is_named(pieces):
    run = stream(pieces, workers=1)
    next(run)
    (worker,) = run._ahead._workers
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="workers: 0"):
        for _ in range(100):
            next(run)
