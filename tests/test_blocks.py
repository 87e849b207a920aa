"""Blocks: nothing lost, nothing padded, the same in any process and after any interruption."""

import collections
import copy

import numpy as np
import pytest
import torch
from block_reading import bars_of, windows_of
from torch.nn import functional

from musegen.blocks import BlockOptions, BlockStream, lay_piece, position_ids, training_piece
from musegen.errors import ConfigError
from musegen.layout import StreamLayout
from musegen.training import Trainer
from musegen.training_config import TrainingConfig


@pytest.fixture(scope="module")
def pieces(tokenizer, scores):
    return [training_piece(tokenizer, score) for score in scores.values()]


def stream(tokenizer, pieces, batch_size=4, position=None, **settings):
    options = BlockOptions(**{"block_size": 64, "seed": 3, **settings})
    return BlockStream(pieces, tokenizer, options, batch_size=batch_size, position=position)


@pytest.mark.parametrize("infill", [0.0, 0.5])
def test_an_epoch_holds_every_bar(tokenizer, pieces, infill):
    layout = StreamLayout(tokenizer)
    blocks = stream(tokenizer, pieces, transpose=False, infill=infill, block_size=256).epoch_blocks(0)
    bars = collections.Counter(tuple(bar) for piece in pieces for bar in tokenizer.merge_bars(piece.base_ids))
    seen = bars_of(blocks, tokenizer, layout)
    cut = seen.pop(None)  # the last bar of a block, which the next block has again
    assert not seen - bars and cut <= len(blocks)
    # What does not fill a last block is dropped: at most that many tokens, in a few bars.
    missing = bars - seen
    assert sum(len(bar) * n for bar, n in missing.items()) < 2 * 256
    assert tokenizer.pad_token_id not in blocks
    gaps = (blocks == tokenizer.gap_id).any(axis=1)
    assert gaps.any() == (infill > 0)
    for block in blocks[gaps]:
        gap, sep = (int(np.flatnonzero(block == i)[0]) for i in (tokenizer.gap_id, tokenizer.sep_token_id))
        end = int(np.flatnonzero(block[sep:] == tokenizer.eos_token_id)[0]) + sep
        assert gap < sep < end and 1 <= layout.begins_bar[block[sep:end]].sum() <= 8
        assert layout.begins_bar[block[gap:sep]].sum() >= 1


def test_every_window_is_opened_as_a_piece_is(tokenizer, pieces):
    layout = StreamLayout(tokenizer)
    blocks = stream(tokenizer, pieces, control_dropout=0.0, block_size=128).epoch_blocks(0)
    inside = 0
    for block in blocks:
        assert layout.opens[block[0]]
        for window in windows_of(block, layout):
            kinds = [name.partition("_")[0] for name in tokenizer.token_names(window)]
            if len(kinds) > 12:
                first = kinds.index("Left")
                assert set(kinds[1:first]) <= {"Key", "Tempo", "Program"} and kinds[1] == "Key"
                assert kinds[first + 1] == "Bar"
            inside += bool(len(window) and window[0] == tokenizer.continued_id)
    assert inside > len(blocks) / 2


def test_headers_lose_parts(tokenizer, pieces):
    options = BlockOptions(control_dropout=0.3)
    kept = [
        {name.partition("_")[0] for name in tokenizer.token_names(header)}
        for header in (lay_piece(pieces[0], tokenizer, options, np.random.default_rng(i)).header for i in range(300))
    ]
    for part in ("Key", "Tempo", "Program"):
        assert 0.6 < sum(part in kinds for kinds in kept) / 300 < 0.8


def test_a_bar_longer_than_a_block_stops_nothing(tokenizer, pieces):
    blocks = stream(tokenizer, pieces, block_size=12).epoch_blocks(0)
    assert blocks.shape[1] == 12 and len(blocks) > 50


def test_batches_do_not_depend_on_when_one_begins(tokenizer, pieces):
    run = stream(tokenizer, pieces)
    batches, positions = [], []
    for _ in range(90):
        positions.append(run.position)
        batches.append(next(run))
    assert run.position.epoch >= 2  # so that the test crosses epochs
    for at in (1, 17, 39, 89):
        assert np.array_equal(next(stream(tokenizer, pieces, position=positions[at])), batches[at])


def test_epochs_and_seeds_differ(tokenizer, pieces):
    one = stream(tokenizer, pieces)
    assert not np.array_equal(one.epoch_blocks(0)[:8], one.epoch_blocks(1)[:8])
    assert not np.array_equal(one.epoch_blocks(0)[:8], stream(tokenizer, pieces, seed=4).epoch_blocks(0)[:8])


def test_pieces_come_in_many_keys(tokenizer, pieces):
    """Every key within the compass, and the key of the header moves with the notes."""
    options = BlockOptions(control_dropout=0.0)
    piece = pieces[0]
    low, high = tokenizer.transpositions(piece.base_ids)
    first = int(piece.base_ids[tokenizer._pitched(piece.base_ids)][0])
    offsets = set()
    for draw in range(120):
        laid = lay_piece(piece, tokenizer, options, np.random.default_rng(draw))
        moved = tokenizer.split([i for bar in laid.bars for i in bar])
        offset = int(moved[tokenizer._pitched(moved)][0]) - first
        offsets.add(offset)
        assert laid.header == tokenizer.header_ids(piece.controls.transposed(offset))
    assert offsets == set(range(max(low, -6), min(high, 6) + 1))


def test_too_little_music_for_a_block(tokenizer, pieces):
    with pytest.raises(ConfigError, match="do not fill one block"):
        next(stream(tokenizer, pieces[-1:], block_size=100_000))


def test_positions_begin_anew_with_each_piece():
    ids = np.array([[5, 6, 1, 7, 8], [1, 5, 6, 7, 1]])
    assert position_ids(ids, 1).tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert position_ids(ids, [1, 6]).tolist() == [[0, 0, 0, 1, 2], [0, 1, 0, 1, 0]]


def test_attention_does_not_cross_pieces(tiny_model, tokenizer):
    """With positions that begin anew, the second piece of a block scores as it does alone."""
    rng = np.random.default_rng(0)
    first, second = (rng.integers(4, len(tokenizer), 20) for _ in range(2))
    bos = tokenizer.bos_token_id
    block = np.concatenate([first, [bos], second])[None]
    ids, positions = torch.from_numpy(block), torch.from_numpy(position_ids(block, bos))
    with torch.inference_mode():
        packed = tiny_model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 20:]
        mixed = tiny_model(input_ids=ids, use_cache=False).logits[0, 20:]
        alone = tiny_model(input_ids=ids[:, 20:], use_cache=False).logits[0]
    assert torch.allclose(packed, alone, atol=1e-5)
    assert not torch.allclose(mixed, alone, atol=1e-3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_keeps_the_pieces_of_a_block_apart(tiny_model, tokenizer, pieces, tmp_path, precision):
    """As a training step reads a block: its loss is the sum over its windows, each by itself."""
    config = TrainingConfig(out=str(tmp_path), block_size=128, batch_size=8, precision=precision, workers=0)
    trainer = Trainer(copy.deepcopy(tiny_model), tokenizer, pieces, [], config, progress=False)
    assert trainer.bare.config._attn_implementation == "sdpa"
    blocks = np.concatenate([next(trainer.stream) for _ in range(6)])
    several = blocks[trainer.layout.opens[blocks].sum(axis=1) > 1]
    assert len(several) >= 2

    def nats(ids, **inputs):
        with torch.no_grad(), trainer.accelerator.autocast():
            logits = trainer.model(input_ids=torch.from_numpy(ids), use_cache=False, **inputs).logits.float()
        targets = torch.from_numpy(np.where(trainer.layout.opens[ids], -100, ids))[:, 1:]
        return float(functional.cross_entropy(logits[:, :-1].mT, targets, reduction="sum"))

    inputs = trainer._inputs(several)
    packed = nats(several, position_ids=inputs["position_ids"])
    windows = [window[None] for block in several for window in windows_of(block, trainer.layout) if len(window) > 1]
    alone, mixed = sum(map(nats, windows)), nats(several)
    tolerance = 1e-5 if precision == "no" else 1e-3
    assert abs(packed - alone) < tolerance * alone
    assert abs(mixed - alone) > 3 * abs(packed - alone)
