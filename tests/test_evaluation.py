"""`musegen evaluate` as a function: models and folders against a corpus, from samples to what it says."""

import json
import math
import shutil

import numpy as np
import pytest
from test_judging_baselines import naive_probability

from musegen import evaluation
from musegen.corpus import build_corpus, load_corpus
from musegen.errors import ConfigError, RequestError
from musegen.evaluation import SUMMARY, evaluate_models, measure_likelihood
from musegen.judging.report import data_uri
from musegen.scores import midi_bytes
from musegen.training import save_model

SHEET = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture(scope="module", autouse=True)
def without_engraving():
    """Engraving and audio take seconds and are tested with the demo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "render_for_report", lambda piece: {"pictures": [SHEET]})
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, scores, tokenizer, tiny_model):
    """A corpus of four works, a model, and a folder with copies of its training works, nested and with a torn file."""
    root = tmp_path_factory.mktemp("evaluation")
    (root / "scores").mkdir()
    for name, score in scores.items():
        (root / "scores" / f"{name.replace('/', '-')}.mid").write_bytes(midi_bytes(score))
    build_corpus([str(root / "scores")], root / "corpus", workers=1)
    save_model(tiny_model, tokenizer, root / "model")
    for i, row in enumerate(load_corpus(root / "corpus")["train"]):
        path = root / "copies" / ("deep/er" if i else "") / f"copy-{i}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["midi"])
    (root / "copies" / "torn.mid").write_bytes(b"MThd\0\0")
    return root


def judged(place, out):
    return evaluate_models(
        [place / "model", place / "copies"], place / "corpus", place / out, num=2, bars=5, seed=3, progress=False
    )


@pytest.fixture(scope="module")
def said(place):
    return judged(place, "out")


@pytest.fixture(scope="module")
def results(place, said):
    return json.loads((place / "out" / "results.json").read_text(encoding="utf-8"))


def test_models_and_folders_are_judged_at_one_length(results):
    assert results["setting"]["bars"] == 5
    copies = results["groups"]["copies"]
    assert {piece["name"] for piece in copies["pieces"]} == {"copy-0", "deep/er/copy-1"} and copies["cut"] == 2
    assert copies["verdict"]["headline"] == "It copies the training music."
    assert results["groups"]["model"]["samples"] == 2


def test_the_page_shows_the_sheet_music_of_each_median_sample(place, results):
    page = (place / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count(data_uri(SHEET)) == 2
    for name in ("model", "copies"):
        assert f"of {results['groups'][name]['median_sample']} by {name}" in page


def test_what_could_not_be_read_is_said(results):
    assert results["setting"]["warnings"][0] == (
        "1 of the 3 scores in copies could not be read and are not judged: torn.mid (unreadable)."
    )


def test_likelihood_has_the_n_gram_model_on_the_same_tokens(results):
    found = results["likelihood"]
    assert "copies" not in found and 0 < found["model"]["markov_bits_per_note"] < found["model"]["bits_per_note"]
    assert found["markov"]["bits_per_note"] > 0 and found["model"]["nats_per_token"] > 0
    assert results["groups"]["model"]["beats"]["markov_likelihood"] is False  # it was never trained


def test_the_command_line_is_told_inside_below_or_above(said, results):
    lines = said.splitlines()
    assert lines[0] == f"model: {results['groups']['model']['verdict']['headline']}"
    assert "copies: It copies the training music." in lines and lines[-1].startswith("report: ")
    assert sum("above: check for copying (real music " in line for line in lines) >= 2
    for name in ("model", "copies"):
        rows = [row for row in results["groups"][name]["verdict"]["told"] if row["name"] in SUMMARY]
        assert len(rows) == len(SUMMARY)
        assert all(any(f"{row['label']}: " in line and row["words"] in line for line in lines) for row in rows)


def test_all_over_again_gives_the_same_bytes(place, said):
    """Samples, likelihoods and judgement anew, in another folder."""
    judged(place, "again")
    for name in ("results.json", "report.html", "samples/model/model-0.mid", "plots/bands.png"):
        assert (place / "again" / name).read_bytes() == (place / "out" / name).read_bytes(), name


def test_samples_of_the_same_weights_are_used_again(place, said, monkeypatch):
    monkeypatch.setattr(evaluation, "compose", lambda *a, **k: pytest.fail("sampled again"))
    before = (place / "out" / "results.json").read_bytes()
    (place / "out" / "plots" / "of-an-earlier-one.png").write_bytes(b"")
    judged(place, "out")
    assert (place / "out" / "results.json").read_bytes() == before
    assert not (place / "out" / "plots" / "of-an-earlier-one.png").exists()
    with pytest.raises(BaseException, match="sampled again"):
        evaluate_models([place / "model"], place / "corpus", place / "out", num=2, bars=5, seed=4, progress=False)


def test_bits_of_the_n_gram_model_on_any_tokens(monkeypatch, tiny_model, tokenizer):
    """Against a model that counts with dictionaries, over tokens of a vocabulary as large as BPE's."""
    rng = np.random.default_rng(0)
    train, held = ([rng.choice([3, 600, 1100], 20).tolist() for _ in range(n)] for n in (3, 2))

    monkeypatch.setattr(evaluation, "encoded_pieces", lambda _, rows: ((row["ids"], row["notes"]) for row in rows))
    rows = [[{"ids": [0, *ids, 1], "notes": 4} for ids in split] for split in (held, train)]
    found = measure_likelihood(tiny_model, tokenizer, *rows, progress=False)
    texts = [[*ids, 1] for ids in train]
    bits = {
        order: -sum(
            math.log2(naive_probability(texts, order, [*ids, 1][:i], token, len(tokenizer)))
            for ids in held
            for i, token in enumerate([*ids, 1])
        )
        for order in range(1, 6)
    }
    assert found["markov_bits_per_note"] == pytest.approx(min(bits.values()) / 8, rel=1e-9)
    assert found["markov_order"] == min(bits, key=bits.get)


def test_what_cannot_be_judged_is_refused(place, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match=r"neither a model, for it has no config\.json, nor a folder with scores"):
        evaluate_models([tmp_path / "nothing"], place / "corpus", tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match="name a model"):
        evaluate_models([], place / "corpus", tmp_path / "out", progress=False)
    with pytest.raises(RequestError, match="bars: from 4"):
        evaluate_models([place / "copies"], place / "corpus", tmp_path / "out", bars=2, progress=False)
    assert not (tmp_path / "out" / "results.json").exists()


def test_folders_of_one_name_stay_apart(place, tmp_path):
    shutil.copytree(place / "copies", tmp_path / "copies")
    assert list(evaluation._labels([str(place / "copies"), str(tmp_path / "copies")])) == ["copies", "copies+"]
