"""The main job in small: every artefact it promises, and a second run that does nothing twice."""

import json
import re
import wave

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from musegen import demo
from musegen import grid as g
from musegen.scores import load_score


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Both models for a few steps each, on the real corpus."""
    patch = pytest.MonkeyPatch()
    small = {
        "gpt": {"n_layer": 1, "n_embd": 32, "n_head": 2},
        "lstm": {"hidden_size": 32, "embedding_size": 32},
    }
    for name, settings in demo.MODELS.items():
        patch.setitem(settings, "model_settings", small[name])
        for key, value in {"steps": 3, "eval_every": 3, "save_every": 3, "block_size": 128, "warmup": 1}.items():
            patch.setitem(settings, key, value)
    for name, value in {"SAMPLES": 2, "BARS": 4, "CONTINUATIONS": 1, "CONTINUED_BARS": 2, "MAX_TOKENS": 200}.items():
        patch.setattr(demo, name, value)
    out = tmp_path_factory.mktemp("demo") / "run"
    report = demo.run_demo(out, progress=False)
    yield out, report
    patch.undo()


def test_corpus_tokenizer_and_models_are_hub_folders(run):
    out, _ = run
    assert {"train", "validation", "test"} == set(load_dataset(str(out / "corpus")))
    for name in ("gpt", "lstm"):
        model = AutoModelForCausalLM.from_pretrained(out / name)
        assert len(AutoTokenizer.from_pretrained(out / name)) == model.config.vocab_size == demo.VOCAB_SIZE
    assert json.loads((out / "tokenizer" / "round_trip.json").read_text())["exact"] >= 0.995 * 38_009


def test_samples_have_midi_sheet_roll_and_sound(run):
    out, _ = run
    shipped = ("mozart-gpt/mozart-gpt", "mozart-lstm/mozart-lstm")
    for stem in (*shipped, "gpt/gpt-0", "gpt/gpt-1", "lstm/lstm-0", "gpt-continued/gpt-continued-0"):
        base = out / "samples" / stem
        assert len(g.note_array(load_score(base.with_suffix(".mid")).score)) >= 1  # hardly trained, they write little
        for suffix in (".musicxml", ".png", "-roll.png", ".wav"):
            assert base.with_name(base.name + suffix).stat().st_size > 500, (stem, suffix)
        with wave.open(str(base.with_suffix(".wav"))) as sound:
            frames = sound.readframes(sound.getnframes())
        assert max(frames) > 10  # not silent


def test_report_is_one_file_with_the_figures_in_it(run):
    out, report = run
    page = report.read_text(encoding="utf-8")
    assert report == out / "report.html" and not re.search(r"(src|href)=[\"']https?://", page)
    assert "<script src" not in page and "data:image/png;base64," in page and "data:audio/" in page
    results = json.loads((out / "results.json").read_text())
    for name in ("gpt", "lstm"):
        assert results["groups"][name]["role"] == "model"
        bits = results["likelihood"][name]["bits_per_note"]
        assert bits > 5 and f"{bits:.3g} bits" in page
        assert results["learning_curves"][name]


def test_a_second_run_uses_what_is_done(run, capsys):
    out, _report = run
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    results = (out / "results.json").read_bytes()
    demo.run_demo(out, progress=True)
    said = capsys.readouterr().out
    assert "using the one in" in said and said.count("using the trained model") == 2
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert (out / "results.json").read_bytes() == results
