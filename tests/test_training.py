"""The loop: any number of processes, micro-batches or interruptions, the same weights."""

import dataclasses
import functools
import itertools
import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from musegen import training
from musegen.blocks import ShardedPieces
from musegen.corpus import build_corpus, load_corpus
from musegen.errors import CheckpointError, ConfigError, TrainingError
from musegen.models import load_causal_lm
from musegen.scores import load_score
from musegen.starting import starting_model
from musegen.tokenizer import load_tokenizer
from musegen.tokenizer_training import train_tokenizer
from musegen.training import Trainer, make_accelerator, packed_mask, train_from_config
from musegen.training_config import TrainingConfig, learning_rate_at
from musegen.training_data import load_training_data
from musegen.wishes import Wishes

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


def launch(config, script, file, *words):
    """`accelerate launch` in another process, with one of the launch files."""
    path = Path(config.out).with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**dataclasses.asdict(config), "betas": list(config.betas)}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "scripts/accelerate" / file]
    command = [str(word) for word in (*command, *words, script, path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def launched(config):
    """Train under `accelerate launch` in two processes that are really two."""
    process = launch(config, ROOT / "scripts" / "train.py", "cpu.yaml")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]


def weights(out):
    return load_file(sorted(Path(out, "checkpoints").glob("step-*"))[-1] / "model.safetensors")


def same(a, b, tolerance=0.0):
    """Equal to a tolerance; to the last bit where there is none."""
    assert a.keys() == b.keys()
    if not tolerance:
        return all(torch.equal(a[k], b[k]) for k in a)
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


def test_a_compiled_model_learns_the_same_and_saves_plain_weights(ground, straight, tmp_path, monkeypatch):
    # Captured as for a device, run by PyTorch's own kernels: no C++ compiler is needed, and nothing rounds otherwise.
    captured = []
    compile = functools.partial(torch.compile, backend=lambda graph, _: captured.append(graph) or graph.forward)
    monkeypatch.setattr(training.torch, "compile", compile)
    train_from_config(config_of(ground, tmp_path / "m", compile=True), progress=False)
    assert same(weights(tmp_path / "m"), weights(straight[0].out), 1e-6)
    # From embeddings to logits in one piece: a compiler makes nothing faster across two.
    parts = [" ".join(str(node.target) for node in graph.graph.nodes) for graph in captured]
    wanted = ("embedding", "scaled_dot_product_attention", "linear")
    assert [all(name in part for name in wanted) for part in parts] == [True] + [False] * (len(parts) - 1)


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_equal_the_whole_batch(ground, straight, tmp_path, size):
    """Of 3 and 1 too: the loss is a sum over targets, so that the smaller one weighs no more."""
    config = config_of(ground, tmp_path / "m", micro_batch_size=size)
    train_from_config(config, progress=False)
    assert same(weights(config.out), weights(straight[0].out), 2e-5)


def test_resumed_run_is_bit_identical(ground, straight, tmp_path):
    """Dropout on, stopped in the middle of an epoch by the step count, then told to go on."""
    settings = {"model_settings": {**SMALL, "dropout": 0.3}}
    whole = config_of(ground, tmp_path / "whole", save_every=3, **settings)
    train_from_config(whole, progress=False)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"))
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump({**dataclasses.asdict(cut), "betas": list(cut.betas)}))
    torn = subprocess.Popen([sys.executable, "-c", _UNTIL_FIVE, str(tmp_path / "cut.yaml")], stdout=subprocess.DEVNULL)
    torn.wait(timeout=240)
    assert torn.returncode == -signal.SIGKILL
    assert [p.name for p in Path(cut.out, "checkpoints").iterdir()] == ["step-3"]
    result = train_from_config(cut, progress=False)
    assert result.resumed_from == 3
    assert same(weights(cut.out), weights(whole.out))
    assert Path(cut.out, "history.jsonl").read_text() == Path(whole.out, "history.jsonl").read_text()
    assert (Path(cut.out) / "model.safetensors").read_bytes() == (Path(whole.out) / "model.safetensors").read_bytes()


def test_two_processes_equal_one_and_resume_exactly(ground, straight, tmp_path):
    """Two processes that are really two equal one to rounding; killed, as two machines of one process each, and
    started again as two of one machine, they reach the weights of two that were left alone, to the last bit."""
    whole = config_of(ground, tmp_path / "whole", save_every=3)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"))
    (tmp_path / "until_five.py").write_text(_UNTIL_FIVE)
    (tmp_path / "both.py").write_text(_BOTH)
    nodes = ["--num_processes", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", _free_port()]
    nodes += ["--machine_rank"]
    machines = [launch(cut, tmp_path / "until_five.py", "multi_node.yaml", *nodes, rank) for rank in (0, 1)]
    errors = [machine.communicate(timeout=240)[1] for machine in machines]
    assert all(machine.returncode for machine in machines)
    assert [p.name for p in Path(cut.out, "checkpoints").glob("step-*")] == ["step-3"], errors[0][-2000:]
    # One launch for both runs, since starting costs more than training.
    done = launch(whole, tmp_path / "both.py", "cpu.yaml")
    errors = done.communicate(timeout=240)[1]
    assert done.returncode == 0, errors[-2000:]

    records = [json.loads((Path(config.out) / "training.json").read_text()) for config in (whole, cut)]
    assert [record["processes"] for record in records] == [2, 2]
    assert [record["resumed_from"] for record in records] == [0, 3]
    for ours, theirs in zip(records[0]["history"], straight[1].history):
        for name in ("train_nats", "validation_nats", "bits_per_note"):
            assert abs(ours[name] - theirs[name]) < 1e-4
    assert same(weights(whole.out), weights(straight[0].out), 2e-5)
    assert same(weights(cut.out), weights(whole.out))
    for name in ("history.jsonl", "model.safetensors"):
        assert (Path(cut.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()


def test_composers_choose_pieces_of_both_splits(ground, tmp_path, tokenizer):
    splits = load_corpus(ground / "corpus")
    first, held = splits["train"]["composer"][0], splits["validation"]["composer"][0]
    assert first != held
    config = config_of(ground, tmp_path / "a", composers=[first, held])
    chosen = load_training_data(config, tokenizer, progress=False)
    assert len(chosen.train) == len(splits["train"]) and len(chosen.validation) == len(splits["validation"])
    for name, split in ((first, "validation"), (held, "train")):
        with pytest.raises(ConfigError, match=f"no piece of {name} in its {split} split"):
            load_training_data(dataclasses.replace(config, composers=[name]), tokenizer, progress=False)
    with pytest.raises(ConfigError, match="no piece of Salieri in its train split"):
        load_training_data(config_of(ground, tmp_path / "a", composers=["Salieri"]), tokenizer, progress=False)
    with pytest.raises(ConfigError, match="with `composers` leave it out"):
        config_of(ground, tmp_path / "a", composers=["Salieri"], streaming=True)


def test_tuned_to_one_composer_a_model_says_so(ground, tmp_path, movement_paths):
    scores = [load_score(path, isolate=False).score for path in list(movement_paths.values())[:1]]
    tokenizer = train_tokenizer(scores, 1100, composers=["W.A. Mozart", "Joseph Haydn"], progress=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    settings = {"tokenizer": str(tmp_path / "tokenizer"), "steps": 1}
    config = config_of(ground, tmp_path / "all", **settings)
    train_from_config(config, progress=False)
    assert not getattr(load_causal_lm(config.out).config, "task_specific_params", None)
    # A word that all names of him in this corpus have; the tokenizer knows one of them.
    tuned = config_of(ground, tmp_path / "tuned", composers=["W"], model=config.out, model_settings={}, **settings)
    train_from_config(tuned, progress=False)
    model = load_causal_lm(tuned.out)
    assert model.config.task_specific_params == {"music-generation": {"composer": "w-a-mozart"}}
    assert Wishes().filled(model, tokenizer).composer == "w-a-mozart"


def test_two_processes_with_muon_equal_one(ground, tmp_path):
    """Muon makes steps orthogonal in bf16, so equality is to the rounding of that: a few hundredths of the way."""
    settings = {"optimizer": "muon", "learning_rate": 0.004, "steps": 3, "eval_every": 3, "save_every": 3}
    one, two = (config_of(ground, tmp_path / name, **settings) for name in ("one", "two"))
    train_from_config(one, progress=False)
    launched(two)
    start = weights_at_birth(one)
    alone, together = weights(one.out), weights(two.out)
    for name, value in alone.items():
        moved = (value - start[name]).norm()
        assert (together[name] - value).norm() <= 0.1 * moved


_IN_SHARDS = """
import pathlib, shutil, sys
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from musegen import training
from musegen.training_config import TrainingConfig
step = training.Trainer._train_step
def in_shards(self, blocks):
    for kind in (p for p in self.bare.parameters() if p.shape[0] > 1):
        assert isinstance(kind, DTensor) and kind.to_local().numel() * 2 == kind.numel()
    loss = step(self, blocks)
    slots = [s for _, values in self.optimizer.state.items() for n, s in values.items() if n != "step"]
    assert slots and all(isinstance(slot, DTensor) for slot in slots)
    return loss
training.Trainer._train_step = in_shards
for path in map(pathlib.Path, pathlib.Path(sys.argv[1]).read_text().split()):
    config = TrainingConfig.from_yaml(path)
    out = pathlib.Path(config.out)
    if out.name == "cut":
        if dist.get_rank() == 0:
            shutil.copytree(out.parent / "whole/checkpoints/step-6", out / "checkpoints/step-6")
        dist.barrier()
    training.train_from_config(config, progress=False)
"""


def test_weights_in_shards_equal_whole_ones(ground, straight, tmp_path):
    """Two processes with half of every weight each: the same curve, checkpoints and folder; and exact resume."""
    whole = config_of(ground, tmp_path / "whole", save_every=3, micro_batch_size=1)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"))
    settings = {"hidden_size": 16, "embedding_size": 16, "num_layers": 2, "dropout": 0.0, "recurrent_dropout": 0.0}
    changes = {"optimizer": "muon", "learning_rate": 0.004, "steps": 3, "eval_every": 3, "save_every": 3}
    lstm = config_of(ground, tmp_path / "lstm", model="lstm-tiny", model_settings=settings, **changes)
    paths = [tmp_path / f"{name}.config" for name in ("whole", "cut", "lstm")]
    for path, config in zip(paths, (whole, cut, lstm)):
        path.write_text(yaml.safe_dump({**dataclasses.asdict(config), "betas": list(config.betas)}))
    (tmp_path / "in_shards.py").write_text(_IN_SHARDS)
    (tmp_path / "whole.yaml").write_text("\n".join(map(str, paths)))
    command = ["--config_file", ROOT / "scripts/accelerate/fsdp.yaml", "--num_processes", 2]
    command = [sys.executable, "-m", "accelerate.commands.launch", *command, tmp_path / "in_shards.py"]
    command = [str(word) for word in (*command, tmp_path / "whole.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "UserWarning" not in done.stderr

    records = [json.loads((Path(config.out) / "training.json").read_text()) for config in (whole, cut)]
    assert [record["resumed_from"] for record in records] == [0, 6]
    assert records[0]["parameters"] == sum(v.numel() for v in weights(straight[0].out).values())
    for ours, theirs in zip(records[0]["history"], straight[1].history):
        for name in ("train_nats", "validation_nats", "bits_per_note"):
            assert abs(ours[name] - theirs[name]) < 1e-4
    assert same(weights(whole.out), weights(straight[0].out), 2e-5)
    assert same(weights(cut.out), weights(whole.out))
    folders = [Path(config.out) for config in (whole, straight[0])]
    names = [{p.name for p in folder.iterdir() if p.is_file()} for folder in folders]
    assert names[0] == names[1]
    assert folders[0].joinpath("config.json").read_text() == folders[1].joinpath("config.json").read_text()
    saved = [load_file(folder / "model.safetensors") for folder in folders]
    assert saved[0].keys() == saved[1].keys()
    # The checkpoint goes on without shards, and the LSTM with Muon goes the way that it goes alone.
    alone = dataclasses.replace(whole, out=str(tmp_path / "alone"))
    shutil.copytree(folders[0] / "checkpoints" / "step-6", tmp_path / "alone" / "checkpoints" / "step-6")
    assert train_from_config(alone, progress=False).resumed_from == 6
    assert same(weights(alone.out), weights(whole.out), 2e-5)
    one = dataclasses.replace(lstm, out=str(tmp_path / "one"))
    train_from_config(one, progress=False)
    start, together = weights_at_birth(one), weights(lstm.out)
    for name, value in weights(one.out).items():
        assert (together[name] - value).norm() <= 0.1 * (value - start[name]).norm()
    load_causal_lm(lstm.out)


def weights_at_birth(config):
    """The weights that a run of this configuration begins with."""
    torch.manual_seed(config.seed)
    return starting_model(config, load_tokenizer(config.tokenizer)).state_dict()


_UNTIL_FIVE = """
import os, signal, sys
from musegen import training
from musegen.training_config import TrainingConfig
step = training.Trainer._train_step
def until_five(self, blocks):
    if self.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, blocks)
training.Trainer._train_step = until_five
training.train_from_config(TrainingConfig.from_yaml(sys.argv[1]), progress=False)
"""


_BOTH = """
import dataclasses, os, runpy, sys
from musegen.training import train_from_config
from musegen.training_config import TrainingConfig
whole = TrainingConfig.from_yaml(sys.argv[1])
train_from_config(dataclasses.replace(whole, out=os.path.join(os.path.dirname(whole.out), "cut")), progress=False)
sys.exit(runpy.run_path(TRAIN)["main"]())
""".replace("TRAIN", repr(str(ROOT / "scripts" / "train.py")))


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Killed(BaseException):
    """Ends a run as a kill would: nothing in the package may catch it."""


@pytest.mark.parametrize(
    ("at", "model", "settings"),
    [
        (2, "gpt-tiny", {**SMALL, "dropout": 0.2}),
        (5, "lstm-tiny", {"hidden_size": 16, "embedding_size": 16, "dropout": 0.2, "recurrent_dropout": 0.2}),
        (7, "bilstm-study", {"hidden_size": 8, "embedding_size": 8, "window": 8}),
    ],
)
def test_any_model_and_muon_resume_exactly(ground, tmp_path, monkeypatch, at, model, settings):
    """Ended after a step that was not yet saved, before the first checkpoint too; dropout and drawn positions on."""
    changes = {"optimizer": "muon", "save_every": 3, "eval_every": 2, "micro_batch_size": 3}
    whole = config_of(ground, tmp_path / "whole", model=model, model_settings=settings, **changes)
    train_from_config(whole, progress=False)
    cut = dataclasses.replace(whole, out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        step = Trainer._train_step

        def killed(self, blocks):
            loss = step(self, blocks)
            if self.step == at:
                raise Killed
            return loss

        patch.setattr(Trainer, "_train_step", killed)
        with pytest.raises(Killed):
            train_from_config(cut, progress=False)
    result = train_from_config(cut, progress=False)
    assert result.resumed_from == at // 3 * 3
    assert same(weights(cut.out), weights(whole.out))
    assert Path(cut.out, "history.jsonl").read_text() == Path(whole.out, "history.jsonl").read_text()


def test_a_step_never_waits_for_the_device(ground, tmp_path, monkeypatch):
    """No value is read back from a tensor in a step, by any of the ways that would make a GPU wait."""
    seen = {}

    def watched(self, blocks):
        before = dict.fromkeys(("item", "__bool__", "__float__", "__int__", "tolist", "cpu", "numpy"))
        with pytest.MonkeyPatch.context() as patch:
            for name in before:
                method = getattr(torch.Tensor, name)

                def read(tensor, *args, _method=method, _name=name, **kwargs):
                    seen[_name] = traceback.format_stack()
                    return _method(tensor, *args, **kwargs)

                patch.setattr(torch.Tensor, name, read)
            return step(self, blocks)

    step = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", watched)
    lstm = {"hidden_size": 16, "embedding_size": 16}
    for model, settings in (("gpt-tiny", SMALL), ("lstm-tiny", lstm)):
        config = config_of(ground, tmp_path / model, model=model, model_settings=settings, steps=2)
        train_from_config(config, progress=False)
    assert not seen, "".join(itertools.chain(*seen.values()))


def test_packed_pieces_do_not_see_each_other(straight):
    """The mask is the one that transformers makes of the positions, and gives each piece its logits alone."""
    model = load_causal_lm(straight[0].out)
    ids = torch.randint(3, 50, (2, 12))
    positions = torch.arange(12).repeat(2, 1)
    positions[0, 5:] -= 5
    packed = model(input_ids=ids, position_ids=positions, attention_mask=packed_mask(positions)).logits
    # With a cache transformers would not look for packed pieces.
    torch.testing.assert_close(packed, model(input_ids=ids, position_ids=positions, use_cache=False).logits)
    torch.testing.assert_close(packed[:1, 5:], model(input_ids=ids[:1, 5:]).logits)
    torch.testing.assert_close(packed[1:], model(input_ids=ids[1:]).logits)


def test_a_loss_that_is_no_number_ends_training_and_spares_what_was_saved(ground, tmp_path):
    config = config_of(ground, tmp_path / "m", save_every=1, eval_every=2)
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer._train_step
        patch.setattr(Trainer, "_train_step", lambda s, b: step(s, b) * (math.nan if s.step == 3 else 1))
        with pytest.raises(TrainingError, match="no number any more, at some step up to 4"):
            train_from_config(config, progress=False)
    assert sorted(p.name for p in Path(config.out, "checkpoints").iterdir()) == ["step-2", "step-3"]
    assert train_from_config(config, progress=False).resumed_from == 3


def test_tuning_goes_on_from_a_folder_with_another_dropout(ground, straight, tmp_path):
    """From weights saved in half precision, in float32, with a shorter block; the folder says the new dropout."""
    before = load_causal_lm(straight[0].out).to(torch.bfloat16)
    half = tmp_path / "half"
    before.save_pretrained(half)
    settings = {"model": str(half), "block_size": 32, "steps": 2, "learning_rate": 1e-4}
    config = config_of(ground, tmp_path / "tuned", **{**settings, "model_settings": {"dropout": 0.25}})
    train_from_config(config, progress=False)
    tuned = load_causal_lm(config.out)
    assert (tuned.config.resid_pdrop, tuned.config.embd_pdrop, tuned.config.attn_pdrop) == (0.25, 0.25, 0.0)
    assert tuned.dtype == torch.float32 and tuned.config.n_positions == 64
    moved = [(a - b.float()).abs().max() for a, b in zip(tuned.parameters(), before.parameters())]
    assert 0 < max(moved) < 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 65}, "block_size 65: the model .* has 64 positions at most"),
        ({"model_settings": {"n_layer": 2}}, "n_layer cannot be set for a model that is loaded; it takes attn_pdrop"),
        ({"model_settings": {"dropout": 1.5}}, "resid_pdrop is 1.5"),
        ({"model": "gpt-tiny", "model_settings": {**SMALL, "n_positions": 32}}, "block_size 64: .* has 32 positions"),
    ],
)
def test_tuning_that_cannot_be_is_refused_by_name(ground, straight, tmp_path, changes, message):
    config = config_of(ground, tmp_path / "m", **{"model": straight[0].out, "model_settings": {}, **changes})
    with pytest.raises(ConfigError, match=message):
        train_from_config(config, progress=False)


def test_tuning_with_another_vocabulary_of_the_same_size_is_refused(ground, straight, tmp_path):
    from musegen.tokenizer import load_tokenizer

    other = tmp_path / "other"
    shutil.copytree(straight[0].out, other, ignore=shutil.ignore_patterns("checkpoints"))
    text = (other / "tokenizer.json").read_text("utf-8")
    content = json.loads(text)
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert load_tokenizer(other).get_vocab() != load_tokenizer(straight[0].out).get_vocab()
    with pytest.raises(ConfigError, match="another vocabulary"):
        train_from_config(config_of(ground, tmp_path / "m", model=str(other), model_settings={}), progress=False)


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
    class Three:
        num_processes, process_index, is_main_process = 3, 0, True

    monkeypatch.setattr(training, "make_accelerator", lambda config: Three())
    with pytest.raises(ConfigError, match="does not part evenly"):
        train_from_config(config_of(ground, tmp_path / "m"), progress=False)


def test_a_process_can_train_in_one_precision_after_another():
    found = [make_accelerator(TrainingConfig(precision=p)).mixed_precision for p in ("bf16", "no", "bf16")]
    assert found == ["bf16", "no", "bf16"]
