"""Names of the models that come with the package, in transformers' own functions."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from musegen import shipped
from musegen.composing import compose, load_model
from musegen.grid import bar_grid, note_array
from musegen.models import PRESETS, build_model
from musegen.sampling import SamplingOptions
from musegen.scores import content_hash, parse_midi
from musegen.training_config import TrainingConfig
from musegen.wishes import Wishes

ROOT = Path(__file__).parents[1]

# What a process does with a name alone, without a network.
PROGRAM = """
import sys
{imports}
import musegen.shipped
from pathlib import Path
musegen.shipped.CHECKPOINTS = Path(sys.argv[1])
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
assert AutoConfig.from_pretrained("little").vocab_size == len(AutoTokenizer.from_pretrained("little"))
by_keyword = AutoModelForCausalLM.from_pretrained(pretrained_model_name_or_path="little")
print(type(by_keyword).__name__, type(AutoTokenizer.from_pretrained("little")).__name__)
from transformers import pipeline
print(len(pipeline("music-generation", model="little")(bars=1, max_tokens=60, seed=3)["midi"]) > 20)
print(len(pipeline(task="music-generation", model="little", tokenizer="little")(bars=1, max_tokens=60)["midi"]) > 20)
"""


@pytest.fixture(scope="module", params=["gpt-tiny", "lstm-tiny"])
def checkpoints(request, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2} if "gpt" in request.param else {"hidden_size": 32}
    torch.manual_seed(0)
    model = build_model(request.param, vocab_size=len(tokenizer), n_positions=128, **ids, **sizes)
    model.save_pretrained(folder / "little")
    tokenizer.save_pretrained(folder / "little")
    return folder, type(model).__name__


@pytest.mark.parametrize("imports", ["import musegen", "import transformers.pipelines\nimport musegen"])
def test_a_name_is_enough_in_a_fresh_process(checkpoints, tmp_path, imports):
    folder, kind = checkpoints
    # In a folder where no `little` lies, and where no Hub answers.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-c", PROGRAM.format(imports=imports), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [kind, "MusicTokenizer", "True", "True"]


def test_only_plain_names_of_models_that_are_there(checkpoints, tmp_path, monkeypatch):
    folder, _ = checkpoints
    monkeypatch.setattr(shipped, "CHECKPOINTS", folder)
    monkeypatch.chdir(tmp_path)
    assert shipped.shipped_names() == ["little"]
    assert shipped.shipped_folder("little") == folder / "little"
    for name in ("nosuch", "org/little", "../little", ".", "..", "", None, 3, str(folder / "little")):
        assert shipped.shipped_folder(name) is None
    # As everywhere in transformers, a folder that lies here comes first.
    (tmp_path / "little").mkdir()
    assert shipped.shipped_folder("little") is None


def test_teaching_twice_wraps_once_and_changes_nothing_else():
    before = AutoModelForCausalLM.from_pretrained.__func__
    shipped.teach(AutoModelForCausalLM)
    assert AutoModelForCausalLM.from_pretrained.__func__ is before
    with pytest.raises(OSError, match="cached files"):
        AutoModelForCausalLM.from_pretrained("nosuch-org/nosuch", local_files_only=True)


NAMES = ["mozart-gpt", "mozart-lstm"]
# By name alone, with transformers' own functions.
BY_NAME = """
import sys
import musegen
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
for name in sys.argv[1:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    ids = model.generate(max_new_tokens=8, do_sample=False)
    piece = pipeline("music-generation", model=name)(bars=4, composer="Mozart", key="D major", seed=5)
    print(type(model).__name__, model.dtype, len(tokenizer), ids.shape[1], piece["ended"], len(piece["midi"]) > 200)
"""


def test_what_ships_is_complete_and_small():
    assert shipped.shipped_names() == NAMES
    for name in NAMES:
        folder = shipped.CHECKPOINTS / name
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 25_000_000
        assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["model_type"] != "gpt2" or config["n_positions"] >= 1024
        # The package is the code; a copy beside the weights, which publishing makes, would grow old here.
        assert not list(folder.glob("*.py")) and "auto_map" not in config


def test_shipped_models_write_music_by_name_in_a_fresh_process(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-c", BY_NAME, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    sizes = {name: len(AutoTokenizer.from_pretrained(name)) for name in NAMES}
    assert done.stdout.splitlines() == [
        f"GPT2LMHeadModel torch.float32 {sizes['mozart-gpt']} 9 True True",
        f"MusicLstmForCausalLM torch.float32 {sizes['mozart-lstm']} 9 True True",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_shipped_model_is_asked_for_it_does(name):
    model, tokenizer = load_model(name)
    wishes = Wishes(composer="Mozart", key="G minor", time_signature="3/4", tempo=100, instruments="violin, cello")
    piece = compose(model, tokenizer, bars=8, wishes=wishes, options=SamplingOptions(seed=2))[0]
    notes = note_array(piece.score)
    assert piece.ended and len(bar_grid(piece.score)) == 8 and len(notes) > 16
    assert {track.program for track in piece.score.tracks} == {40, 42}
    assert {(t.numerator, t.denominator) for t in piece.score.time_signatures} == {(3, 4)}
    assert content_hash(parse_midi(piece.midi).score) == content_hash(piece.score)


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_the_recipes_are_what_the_weights_were_made_by(kind):
    """`training.json` is what training itself wrote down; the script runs its stages in their order."""
    script = (ROOT / f"scripts/reproduce_mozart_{kind}.sh").read_text(encoding="utf-8")
    *stages, calibration = json.loads((shipped.CHECKPOINTS / f"mozart-{kind}" / "training.json").read_text("utf-8"))
    names = [f"{kind}-1-pretrain", f"{kind}-2-tune"]
    assert f"for part in {' '.join(names)}; do" in script
    assert calibration["bits_per_note"] < calibration["bits_per_note_before"]
    for name, stage in zip(names, stages, strict=True):
        told = dataclasses.asdict(TrainingConfig.from_yaml(ROOT / f"scripts/mozart/{name}.yaml"))
        ran = {**told, **stage["config"], "save_every": told["save_every"]}  # checkpoints change no weights
        assert json.loads(json.dumps(ran)) == json.loads(json.dumps(told))
    model = AutoModelForCausalLM.from_pretrained(f"mozart-{kind}")
    own = model.generation_config
    settings = f"--temperature {own.temperature}" + (" --repetition 4" if kind == "gpt" else "")
    assert f"{settings} --out runs/mozart/shipped/mozart-{kind}\n" in script and own.top_p == 0.97


@pytest.mark.parametrize("place", ["", "cpu"])
def test_every_stage_of_a_recipe_goes_on_from_one_before(place):
    made = set()
    for path in sorted((ROOT / "scripts/mozart" / place).glob("*-[0-9]-*.yaml")):
        config = TrainingConfig.from_yaml(path)
        assert config.model in PRESETS or config.model in made, path
        made.add(config.out)
    assert {Path(out).name for out in made} >= set(NAMES)
