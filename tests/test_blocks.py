"""Blocks: nothing lost, nothing padded, the same in any process and after any interruption."""

import collections

import numpy as np
import pytest
import torch

from musegen.blocks import BlockStream, StreamPosition, position_ids
from musegen.errors import ConfigError


@pytest.fixture(scope="module")
def pieces(tokenizer, scores):
    return [tokenizer.base_ids(score) for score in scores.values()]


def stream(tokenizer, pieces, **settings):
    return BlockStream(pieces, tokenizer, **{"block_size": 64, "batch_size": 4, "seed": 3, **settings})


def test_an_epoch_holds_every_token_once_but_for_the_rest(tokenizer, pieces):
    blocks = stream(tokenizer, pieces, transpose=False).epoch_blocks(0)
    whole = collections.Counter()
    for piece in pieces:
        whole.update([tokenizer.bos_token_id, *tokenizer.merge(piece), tokenizer.eos_token_id])
    seen = collections.Counter(blocks.ravel().tolist())
    assert not seen - whole  # nothing twice, nothing that is not in a piece
    assert sum((whole - seen).values()) < 64
    assert tokenizer.pad_token_id not in seen


def test_batches_do_not_depend_on_when_one_begins(tokenizer, pieces):
    run = stream(tokenizer, pieces)
    batches, positions = [], []
    for _ in range(75):
        positions.append(StreamPosition(run.position.epoch, run.position.block))
        batches.append(next(run))
    assert run.position.epoch >= 2  # so that the test crosses epochs
    for at in (1, 17, 39, 74):
        assert np.array_equal(next(stream(tokenizer, pieces, position=positions[at])), batches[at])


def test_epochs_and_seeds_differ(tokenizer, pieces):
    one = stream(tokenizer, pieces)
    assert not np.array_equal(one.epoch_blocks(0)[:8], one.epoch_blocks(1)[:8])
    assert not np.array_equal(one.epoch_blocks(0)[:8], stream(tokenizer, pieces, seed=4).epoch_blocks(0)[:8])


def test_pieces_come_in_many_keys(tokenizer, pieces):
    run = BlockStream(pieces[:1], tokenizer, block_size=64, batch_size=1, seed=0)
    low, high = tokenizer.transpositions(pieces[0])
    first = int(pieces[0][tokenizer._pitched(pieces[0])][0])
    offsets = set()
    for epoch in range(120):
        moved = tokenizer.split(run._in_key(epoch, 0))
        offsets.add(int(moved[tokenizer._pitched(moved)][0]) - first)
    assert offsets == set(range(max(low, -6), min(high, 6) + 1))


def test_too_little_music_for_a_block(tokenizer, pieces):
    with pytest.raises(ConfigError, match="do not fill one block"):
        next(stream(tokenizer, pieces[-1:], block_size=100_000))


def test_positions_begin_anew_with_each_piece():
    ids = np.array([[5, 6, 1, 7, 8], [1, 5, 6, 7, 1]])
    assert position_ids(ids, 1).tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]


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
