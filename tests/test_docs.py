"""The documents are true: every block runs as it stands there, every link leads somewhere, every verb is described."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doc_blocks import ROOT, Workplace, blocks_of, documents
from musegen.models.loading import CHECKPOINTS
from musegen.scores import midi_bytes
from musegen.training import save_model
from musegen.training_config import TrainingConfig

LANGUAGES = ("python", "bash", "yaml", "text", "bibtex")
# How many blocks of a document may stand there without being run, and why; a new one is a decision to be made here.
REASONS = ("installs packages", "takes minutes", "takes another machine", "takes an account on the Hub")
NOT_RUN = {
    "README.md": 2,
    "docs/demo.md": 1,
}
# What a document takes for granted, beside the scores in `my-scores` that all of them have.
NEEDS = {}
TINY = {"gpt": {"n_layer": 1, "n_embd": 32, "n_head": 2}, "lstm": {"hidden_size": 32, "embedding_size": 32}}
METADATA = """file,composer,work,license
k80/movement3.mxl,Mozart,K. 80,public domain
k155/movement3.mxl,Mozart,K. 155,public domain
k156/movement4.mxl,Mozart,K. 156,public domain
k545/movement1.mxl,Mozart,K. 545,public domain
"""


def smaller(config: TrainingConfig) -> TrainingConfig:
    """What a document's configuration says, with few and small steps of a small model."""
    kind = config.model.split("-")[0]
    settings = TINY.get(kind, {}) if config.model in ("gpt-tiny", "gpt-small", "lstm-tiny", "lstm-small") else {}
    few = {name: min(getattr(config, name), 4) for name in ("steps", "eval_every", "save_every")}
    return dataclasses.replace(
        config,
        model_settings={**config.model_settings, **settings},
        block_size=min(config.block_size, 128),
        batch_size=min(config.batch_size, 2),
        shuffle_buffer=min(config.shuffle_buffer, 8),
        warmup=1,
        **few,
    )


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, movement_paths, scores, tokenizer, tiny_model):
    """What documents may take for granted: scores with metadata, and a model in each place that they name."""
    shelf = tmp_path_factory.mktemp("shelf")
    for name, path in movement_paths.items():
        place = shelf / "my-scores" / (f"{name}.mxl" if "/" in name else f"{name}/movement1.mxl")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (shelf / "my-scores" / "metadata.csv").write_text(METADATA)
    save_model(tiny_model, tokenizer, shelf / "model")
    (shelf / "piece.mid").write_bytes(midi_bytes(scores["k155/movement3"]))
    return shelf


@pytest.fixture
def workplace(request, shelf, tmp_path, monkeypatch):
    """A folder with what the document needs, the clone's `musegen` and `scripts` in it, and small trainings."""
    needs = NEEDS.get(request.param, ())
    shutil.copytree(shelf / "my-scores", tmp_path / "my-scores")
    for name in ("musegen", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in needs:
        if name.endswith(".mid"):
            shutil.copyfile(shelf / "piece.mid", tmp_path / name)
        else:
            shutil.copytree(shelf / "model", tmp_path / name)
    if not (CHECKPOINTS / "mozart-gpt").is_dir():
        shutil.copytree(shelf / "model", tmp_path / "mozart-gpt")
    commands = tmp_path / ".bin"
    commands.mkdir()
    (commands / "musegen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m musegen "$@"\n')
    (commands / "musegen").chmod(0o755)
    (commands / "python").symlink_to(sys.executable)
    read = TrainingConfig.from_yaml.__func__
    monkeypatch.setattr(
        TrainingConfig, "from_yaml", classmethod(lambda cls, path, **more: smaller(read(cls, path, **more)))
    )
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path)


WITH_BLOCKS = [name for name in documents() if any(b.language in ("python", "bash", "yaml") for b in blocks_of(name))]


@pytest.mark.parametrize(
    ("workplace", "document"), [(name, name) for name in WITH_BLOCKS], indirect=["workplace"], ids=WITH_BLOCKS
)
def test_every_block_runs(workplace, document):
    ran = [workplace.run(block) for block in blocks_of(document) if not block.not_run]
    assert ran or NOT_RUN.get(document)
