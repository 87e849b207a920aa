"""The loop: any number of processes, micro-batches or interruptions, the same weights."""

import dataclasses
import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from musegen.blocks import ShardedPieces
from musegen.corpus import build_corpus
from musegen.errors import CheckpointError, ConfigError
from musegen.models import load_causal_lm
from musegen.tokenizer import load_tokenizer
from musegen.training import make_accelerator, train_from_config
from musegen.training_config import TrainingConfig, learning_rate_at

ROOT = Path(__file__).parents[1]
SMALL = {"n_layer": 1, "n_embd": 32, "n_head": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def ground(tmp_path_factory, movement_paths, tokenizer):
    """A corpus and a tokenizer on disk."""
    root = tmp_path_factory.mktemp("ground")
    build_corpus([str(path) for path in movement_paths.values()], root / "corpus", workers=1, progress=False)
    tokenizer.save_pretrained(root / "tokenizer")
    return root


def config_of(ground, out, **settings):
    return TrainingConfig(
        **{
            "corpus": str(ground / "corpus"),
            "tokenizer": str(ground / "tokenizer"),
            "out": str(out),
            "model_settings": SMALL,
            "block_size": 64,
            "batch_size": 4,
            "steps": 8,
            "warmup": 2,
            "eval_every": 4,
            "save_every": 4,
            "precision": "no",
            **settings,
        }
    )


def train_cli(config, *command):
    """Train in another process; YAML in, weights out."""
    path = Path(config.out).with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**dataclasses.asdict(config), "betas": list(config.betas)}))
    return subprocess.run(
        [*command, str(ROOT / "scripts" / "train.py"), str(path)], capture_output=True, text=True, timeout=240
    )


def launched(config, processes=2):
    """Train under `accelerate launch`, in processes that are really as many."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    more = ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = train_cli(config, sys.executable, *launch, *more, "--main_process_port", "0")
    assert done.returncode == 0, done.stderr[-2000:]


def weights(out):
    return load_file(sorted(Path(out, "checkpoints").glob("step-*"))[-1] / "model.safetensors")


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    return all(torch.allclose(a[k], b[k], rtol=0, atol=tolerance) for k in a)


@pytest.fixture(scope="module")
def straight(ground, tmp_path_factory):
    """The run that the others are measured by."""
    config = config_of(ground, tmp_path_factory.mktemp("straight") / "model")
    return config, train_from_config(config, progress=False)


def test_training_learns_and_leaves_a_hub_folder(straight):
    config, result = straight
    assert [row["step"] for row in result.history] == [4, 8]
    assert result.history[-1]["validation_nats"] < result.history[0]["validation_nats"]
    out = Path(config.out)
    names = {p.name for p in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "miditok.json", "tensorboard"} <= names
    assert not [p for p in out.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    assert json.loads((out / "training.json").read_text())["best_step"] == result.best_step
    load_causal_lm(out)


@pytest.mark.parametrize("model", ["gpt-tiny", "lstm-tiny", "bilstm-study"])
def test_every_kind_of_model_trains(ground, tmp_path, model):
    settings = SMALL if model == "gpt-tiny" else {"hidden_size": 16, "embedding_size": 16, "num_layers": 1}
    config = config_of(ground, tmp_path / "m", model=model, model_settings=settings, steps=6, learning_rate=0.01)
    history = train_from_config(config, progress=False).history
    assert history[-1]["validation_nats"] < history[0]["validation_nats"]


def test_micro_batches_equal_the_whole_batch(ground, straight, tmp_path):
    config = config_of(ground, tmp_path / "m", micro_batch_size=1)
    train_from_config(config, progress=False)
    assert same(weights(config.out), weights(straight[0].out), 2e-5)


def test_resumed_run_is_bit_identical(ground, straight, tmp_path):
    """Dropout on, stopped in the middle of an epoch by the step count, then told to go on."""
    settings = {"model_settings": {**SMALL, "dropout": 0.3}}
    whole = config_of(ground, tmp_path / "whole", save_every=3, **settings)
    train_from_config(whole, progress=False)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"))
    torn = subprocess.Popen(
        [sys.executable, "-c", _STOP_AFTER, json.dumps(dataclasses.asdict(cut))], stdout=subprocess.DEVNULL
    )
    torn.wait(timeout=240)
    assert torn.returncode == -signal.SIGKILL
    assert [p.name for p in Path(cut.out, "checkpoints").iterdir()] == ["step-3"]
    result = train_from_config(cut, progress=False)
    assert result.resumed_from == 3
    assert same(weights(cut.out), weights(whole.out))
    assert Path(cut.out, "history.jsonl").read_text() == Path(whole.out, "history.jsonl").read_text()
    assert (Path(cut.out) / "model.safetensors").read_bytes() == (Path(whole.out) / "model.safetensors").read_bytes()


_STOP_AFTER = """
import json, os, signal, sys
from musegen import training
from musegen.training_config import TrainingConfig
step = training.Trainer._train_step
def until_five(self, blocks):
    if self.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, blocks)
training.Trainer._train_step = until_five
training.train_from_config(TrainingConfig(**json.loads(sys.argv[1])), progress=False)
"""


def test_two_processes_equal_one(ground, straight, tmp_path):
    """`accelerate launch` with two processes that are really two, on the same global batches."""
    config = config_of(ground, tmp_path / "two")
    launched(config)
    record = json.loads((Path(config.out) / "training.json").read_text())
    assert record["processes"] == 2
    for ours, theirs in zip(record["history"], straight[1].history):
        for name in ("train_nats", "validation_nats", "bits_per_note"):
            assert abs(ours[name] - theirs[name]) < 1e-4
    assert same(weights(config.out), weights(straight[0].out), 2e-5)


def test_streamed_run_of_two_processes_goes_on_exactly(ground, tmp_path):
    """Each process from its own place in its own share; and not with another number of processes."""
    settings = {"streaming": True, "shuffle_buffer": 8, "batch_size": 2, "steps": 6, "save_every": 3, "eval_every": 3}
    whole = config_of(ground, tmp_path / "whole", **settings)
    launched(whole)
    state = json.loads(Path(whole.out, "checkpoints", "step-3", "state.json").read_text())
    assert len(state["positions"]) == 2
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"), workers=2)
    shutil.copytree(Path(whole.out, "checkpoints", "step-3"), Path(cut.out, "checkpoints", "step-3"))
    launched(cut)
    assert same(weights(cut.out), weights(whole.out))
    with pytest.raises(CheckpointError, match="of 2 processes, which cannot go on with 1"):
        train_from_config(cut, progress=False)


def test_streamed_run_is_bit_identical_when_it_goes_on(ground, tmp_path):
    settings = {"streaming": True, "shuffle_buffer": 8, "steps": 6, "save_every": 2, "eval_every": 6}
    whole = config_of(ground, tmp_path / "whole", workers=0, **settings)
    train_from_config(whole, progress=False)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"), workers=1)
    shutil.copytree(Path(whole.out, "checkpoints", "step-4"), Path(cut.out, "checkpoints", "step-4"))
    assert train_from_config(cut, progress=False).resumed_from == 4
    assert same(weights(cut.out), weights(whole.out))
    with pytest.raises(CheckpointError, match="other settings or another corpus"):
        train_from_config(dataclasses.replace(cut, streaming=False), progress=False)


def test_a_large_corpus_is_streamed_unless_told_otherwise(ground, tmp_path, monkeypatch):
    from musegen import training_data

    config = config_of(ground, tmp_path / "m")
    assert not training_data.is_streamed(config)
    tokenizer = load_tokenizer(config.tokenizer)
    inside = training_data.load_training_data(config, tokenizer, progress=False)
    monkeypatch.setattr(training_data, "STREAMED_ABOVE", 1000)
    assert training_data.is_streamed(config)
    assert not training_data.is_streamed(dataclasses.replace(config, streaming=False))
    streamed = training_data.load_training_data(config, tokenizer, progress=False)
    assert isinstance(streamed.train, ShardedPieces) and streamed.train.rows == len(inside.train)
    assert streamed.validation == inside.validation and all(notes > 0 for _, notes in inside.validation)
    # Another corpus, or the same pieces in a changed file, is another run.
    signature = training_data.run_signature(config, tokenizer, streamed.train)
    copy = shutil.copytree(ground / "corpus", tmp_path / "copy")
    assert training_data.run_signature(config, tokenizer, ShardedPieces(copy, tokenizer)) == signature
    (copy / "SHA256SUMS").unlink()
    assert training_data.run_signature(config, tokenizer, ShardedPieces(copy, tokenizer)) != signature


def test_torn_checkpoint_is_named(ground, tmp_path):
    config = config_of(ground, tmp_path / "m", steps=4)
    train_from_config(config, progress=False)
    checkpoint = Path(config.out) / "checkpoints" / "step-4"
    whole = (checkpoint / "optimizer.safetensors").read_bytes()
    (checkpoint / "optimizer.safetensors").write_bytes(whole[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: torn"):
        train_from_config(config, progress=False)
    (checkpoint / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: missing"):
        train_from_config(config, progress=False)
    (checkpoint / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        train_from_config(config, progress=False)


def test_checkpoint_of_another_run_is_not_taken_for_this_one(ground, tmp_path):
    config = config_of(ground, tmp_path / "m", steps=4)
    train_from_config(config, progress=False)
    with pytest.raises(CheckpointError, match="other settings"):
        train_from_config(dataclasses.replace(config, learning_rate=1.0), progress=False)


def test_patience_ends_training(ground, tmp_path):
    config = config_of(ground, tmp_path / "m", steps=40, eval_every=1, patience=2, learning_rate=5.0, warmup=1)
    assert len(train_from_config(config, progress=False).history) < 40


def test_schedule_warms_up_and_comes_down():
    config = TrainingConfig(steps=100, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and max(rates) == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:])) and 0.1 <= rates[-1] < 0.11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 0", "steps: a whole number"),
        ("stepps: 5", "no setting stepps"),
        ("[1, 2", "not readable as YAML"),
        ("just words", "one a line"),
        ("precision: fp8", "precision: auto"),
        ("streaming: always", "streaming: true, false or auto"),
        ("workers: -1", "workers: a whole number from 0"),
        ("shuffle_buffer: 0", "shuffle_buffer: a whole number"),
        ("learning_rate: fast", "learning_rate: a number"),
    ],
)
def test_bad_configurations_name_file_and_setting(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        TrainingConfig.from_yaml(path)
    assert "config.yaml" in str(caught.value)


def test_batch_that_does_not_part_among_processes_is_refused(ground, tmp_path, monkeypatch):
    from musegen import training

    class Three:
        num_processes, process_index, is_main_process = 3, 0, True

    monkeypatch.setattr(training, "make_accelerator", lambda config: Three())
    with pytest.raises(ConfigError, match="does not part evenly"):
        train_from_config(config_of(ground, tmp_path / "m"), progress=False)


def test_a_process_can_train_in_one_precision_after_another():
    found = [make_accelerator(TrainingConfig(precision=p)).mixed_precision for p in ("bf16", "no", "bf16")]
    assert found == ["bf16", "no", "bf16"]
