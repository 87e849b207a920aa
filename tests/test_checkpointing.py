"""Checkpoints: whole or not at all, whenever the process dies, and every damage named."""

import errno
import json
import math
import os
import pathlib
import shutil

import pytest
import torch
from safetensors import SafetensorError

from musegen import checkpointing
from musegen.errors import CheckpointError


def trained(steps):
    """A model and its optimiser after so many steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, step):
    return checkpointing.save_checkpoint(folder, checkpointing.snapshot(*trained(step)), {"step": step, "best": None})


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


def die_at(monkeypatch, count):
    """Die instead of doing the `count`-th thing that a disk would see."""
    seen = [0]

    def watched(action):
        def act(*args, **kwargs):
            seen[0] += 1
            if seen[0] > count:
                raise Killed
            return action(*args, **kwargs)

        return act

    for owner, name in (
        (pathlib.Path, "mkdir"),
        (pathlib.Path, "rename"),
        (pathlib.Path, "write_text"),
        (checkpointing, "save_file"),
        (checkpointing.os, "fsync"),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


def test_death_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path):
    """Every moment in turn, until a save gets through; each time the newest checkpoint is whole."""
    died = 0
    while True:
        folder = tmp_path / str(died)
        save(folder, 1)
        save(folder, 2)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, died)
            try:
                save(folder, 3)
                break
            except Killed:
                died += 1
        newest = checkpointing.checkpoints(folder)[-1]
        step = checkpointing.read_state(newest)["step"]
        assert step in (2, 3) and newest.name == f"step-{step}"
        model, optimizer = trained(0)
        checkpointing.load_checkpoint(newest, model, optimizer)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained(step)[0].parameters()))
        save(folder, 4)
        assert {p.name for p in folder.iterdir()} in ({"step-2", "step-4"}, {"step-3", "step-4"})
    assert died > 12


def test_the_newest_are_kept_and_one_of_the_same_step_is_replaced(tmp_path):
    for step in (1, 2, 10, 9, 10):
        save(tmp_path, step)
    assert [p.name for p in checkpointing.checkpoints(tmp_path)] == ["step-9", "step-10"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", checkpointing.FILES)
def test_every_damage_is_named(tmp_path, name):
    file = save(tmp_path, 1) / name
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole + b" "):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: torn or altered"):
            checkpointing.read_state(file.parent)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        checkpointing.read_state(file.parent)
    file.write_bytes(whole)
    (file.parent / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"notes\.txt: not a file of the checkpoint"):
        checkpointing.read_state(file.parent)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "torn one"),
        ("[]", "format None"),
        ('{"model.safetensors": "ab"}', "format None"),
        ('{"format": 99, "files": {}}', "format 99, where this version of musegen reads format 1"),
        ('{"format": 1, "files": {"../../secret": "ab"}}', "names other files"),
        ('{"format": 1, "files": 3}', "names other files"),
    ],
)
def test_manifests_of_another_version_or_making(tmp_path, manifest, message):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=message):
        checkpointing.read_state(path)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no manifest"):
        checkpointing.read_state(path)


def test_a_checkpoint_of_another_model(tmp_path):
    path = save(tmp_path, 1)
    other = torch.nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="another model"):
        checkpointing.load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_and_costs_nothing(tmp_path, monkeypatch, error):
    save(tmp_path, 1)

    def full(*args):
        raise error

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(CheckpointError, match="step-2: not saved: the disk is full"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert checkpointing.read_state(tmp_path / "step-1")["step"] == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not saved"):
        save(tmp_path / "file", 1)


def test_a_state_is_strict_json_and_comes_back(tmp_path):
    state = {"step": 5, "window": [0.1 + 0.2, 1e-300], "best": None, "history": [{"step": 4}]}
    path = checkpointing.save_checkpoint(tmp_path, checkpointing.snapshot(*trained(1)), state)
    assert checkpointing.read_state(path) == json.loads((path / "state.json").read_text()) == state
    with pytest.raises(ValueError, match="JSON"):
        checkpointing.save_checkpoint(tmp_path, checkpointing.snapshot(*trained(1)), {"step": 6, "best": math.nan})
