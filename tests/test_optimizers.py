"""Optimisers: which parameter belongs to whom, and a state that survives a checkpoint."""

import pytest
import torch

from musegen import checkpointing
from musegen.errors import ConfigError
from musegen.models import build_model
from musegen.optimizers import PairedOptimizer, make_optimizer
from musegen.training_config import TrainingConfig


def small(name):
    torch.manual_seed(0)
    width = {"n_layer": 1, "n_embd": 32, "n_head": 2} if name == "gpt-tiny" else {"hidden_size": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return build_model(name, vocab_size=50, n_positions=16, **ids, **width)


def steps(model, optimizer, count):
    for step in range(count):
        torch.manual_seed(step)
        ids = torch.randint(3, 50, (4, 16))
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["gpt-tiny", "lstm-tiny"])
def test_muon_takes_the_matrices_inside(name):
    model = small(name)
    optimizer = make_optimizer(model, TrainingConfig(optimizer="muon"))
    assert isinstance(optimizer, PairedOptimizer)
    muon, adamw = ({id(p) for g in part.param_groups for p in g["params"]} for part in optimizer.parts)
    names = {id(p): n for n, p in model.named_parameters()}
    assert not muon & adamw and muon | adamw == set(names)
    inner = {names[i] for i in muon}
    assert inner and not any("wte" in n or "wpe" in n or "embed" in n or "bias" in n for n in inner)
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {n for n, p in model.named_parameters() if p.ndim >= 2}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_checkpoint_holds_all_of_the_state(tmp_path, kind):
    """Five steps, a checkpoint into a fresh model, three more: bit for bit eight steps."""
    config = TrainingConfig(optimizer=kind, learning_rate=1e-2)
    whole, first, second = small("gpt-tiny"), small("gpt-tiny"), small("gpt-tiny")
    steps(whole, make_optimizer(whole, config), 8)
    optimizer = make_optimizer(first, config)
    steps(first, optimizer, 5)
    path = checkpointing.save_checkpoint(tmp_path, checkpointing.snapshot(first, optimizer), {"step": 5})
    optimizer = make_optimizer(second, config)
    checkpointing.read_state(path)
    checkpointing.load_checkpoint(path, second, optimizer)
    for step in range(5, 8):
        torch.manual_seed(step)
        ids = torch.randint(3, 50, (4, 16))
        second(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, a), b in zip(whole.named_parameters(), second.parameters()):
        assert torch.equal(a, b), name


def test_the_rate_of_both_is_set_through_the_groups():
    model = small("gpt-tiny")
    optimizer = make_optimizer(model, TrainingConfig(optimizer="muon"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(model, optimizer, 1)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_no_such_optimizer():
    with pytest.raises(ConfigError, match="adamw or muon"):
        TrainingConfig(optimizer="sgd")
