"""The command: every verb on real input, and one clear line with exit code 2 for what a user can cure."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from musegen import grid as g
from musegen.scores import midi_bytes
from musegen.training import save_model


def musegen(*words, cwd, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "musegen", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def work(tmp_path_factory, scores, tokenizer, tiny_model):
    """A folder with a model, scores and damaged files."""
    root = tmp_path_factory.mktemp("work")
    for name, score in scores.items():
        path = root / "scores" / f"{name.replace('/', '-')}.mid"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(midi_bytes(score))
    (root / "excerpt.mid").write_bytes(midi_bytes(g.slice_bars(scores["k156/movement4"], 0, 3)))
    save_model(tiny_model, tokenizer, root / "model")
    (root / "torn.mid").write_bytes(b"MThd\x00\x00")
    (root / "empty").mkdir()
    (root / "text.txt").write_text("hello")
    (root / "half-model").mkdir()
    (root / "half-model" / "config.json").write_text('{"model_type": "gpt2"}')
    return root


def test_from_scores_to_music_by_the_verbs_alone(work):
    built = musegen("corpus", "build", "scores", "--out", "corpus", cwd=work)
    assert "4 files found: 4 kept" in built.stdout
    assert "pieces" in musegen("corpus", "show", "corpus", cwd=work).stdout
    trained = musegen("tokenizer", "train", "corpus", "--vocab-size", 1200, "--out", "tok", cwd=work)
    assert "notes come back exactly" in trained.stdout
    settings = {
        "corpus": "corpus",
        "tokenizer": "tok",
        "out": "run",
        "model": "gpt-tiny",
        "model_settings": {"n_layer": 1, "n_embd": 32, "n_head": 2},
        "block_size": 64,
        "steps": 4,
        "eval_every": 2,
    }
    (work / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "bits a note" in musegen("train", "config.yaml", "--set", "steps=6", cwd=work).stdout
    made = musegen(
        "generate", "run", "--bars", 1, "--num", 2, "--seed", 3, "--out", "music", "--roll", cwd=work
    ).stdout.split()
    assert sorted(Path(p).suffix for p in made) == [".mid", ".mid", ".png", ".png"]
    assert all((work / p).stat().st_size > 20 for p in made)


def test_generate_goes_on_from_a_prompt(work):
    out = musegen(
        "generate", "model", "--prompt", "scores/k545.mid", "--bars", 1, "--prompt-bars", 2, "--out", "more", cwd=work
    )
    assert "more/model-0-0.mid" in out.stdout


def test_bars_anew_and_a_variation(work):
    out = musegen("infill", "model", "scores/k545.mid", "--bars", "2-3", "--out", "more", cwd=work)
    assert "more/k545-infill-0-0.mid" in out.stdout
    out = musegen("vary", "model", "excerpt.mid", "--keep", "violin", "--out", "more", cwd=work)
    assert "more/excerpt-vary-0-0.mid" in out.stdout


def test_render(work):
    out = musegen("render", "scores/k545.mid", "--out", "pictures", cwd=work).stdout.split()
    assert {".mid", ".png"} <= {Path(p).suffix for p in out} and all((work / p).stat().st_size for p in out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["corpus", "build", "nowhere"], "nowhere: no such file or folder"),
        (["corpus", "build", "empty"], "empty: no score in it"),
        (["corpus", "build", "torn.mid"], "torn.mid: unreadable"),
        (["corpus", "build", "text.txt"], "text.txt: not a kind of score"),
        (["corpus", "build"], "name a file"),
        (["corpus", "build", "scores", "--test", "2"], "shares from 0"),
        (["corpus", "show", "empty"], "empty: no corpus there"),
        (["corpus", "show", "nowhere"], "nowhere: no such folder"),
        (["tokenizer", "train", "empty"], "empty: no corpus there"),
        (["train", "nothing.yaml"], "nothing.yaml: no such file"),
        (["train", "text.txt"], "text.txt: settings are needed"),
        (["generate", "nowhere/at/all"], "nowhere/at/all"),
        (["generate", "empty"], "empty"),
        (["generate", "half-model"], "half-model"),
        (["generate", "model", "--bars", "100000"], "bars: from 1 to 2000"),
        (["generate", "model", "--prompt", "torn.mid"], "torn.mid: unreadable"),
        (["generate", "model", "--prompt", "none.mid"], "none.mid: missing"),
        (["generate", "model", "--temperature", "99"], "temperature: between 0 and 5"),
        (["generate", "model", "--num", "0"], "--num: from 1"),
        (["generate", "model", "--instruments", "kazoo"], "kazoo"),
        (["infill", "model", "scores/k545.mid", "--bars", "0-2"], "the piece has bars 1 to"),
        (["vary", "model", "scores/k545.mid", "--keep", "violin"], "the piece has Acoustic Grand Piano"),
        (["evaluate", "model", "--corpus", "empty"], "empty: no corpus there"),
        (["render", "torn.mid"], "torn.mid: unreadable"),
        (["render", "text.txt"], "text.txt: format"),
        (["render", "empty"], "empty: missing: it is a folder"),
    ],
)
def test_what_a_user_can_cure_is_one_line_and_code_2(work, words, says):
    done = musegen(*words, cwd=work, code=2)
    # Progress bars may stand before it; nothing else may.
    lines = [line for line in done.stderr.strip().splitlines() if "%|" not in line and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("musegen: ") and says in lines[0], done.stderr
