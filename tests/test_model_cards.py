"""Model cards from measured results: what the Hub reads of them, what people read, and what is refused."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from hub_double import card_problems
from huggingface_hub import ModelCard

from musegen import grid as g
from musegen import rendering
from musegen.errors import ConfigError, HubError
from musegen.hub.cards import CardFacts, find_samples, model_card, write_model_card
from musegen.hub.checks import check_model_license, sharing_problems, staged_files
from musegen.judging import Piece, judge
from musegen.training import save_model

ROOT = Path(__file__).parents[1]
FACTS = {
    "name": "Mozart GPT",
    "repository": "org/mozart-gpt",
    "license": "cc-by-sa-4.0",
    "summary": "It composes in the manner of Mozart.",
    "group": "gpt",
    "datasets": ["org/mozart-scores"],
    "data": [
        {
            "name": "Mutopia",
            "license": "CC-BY-SA-4.0",
            "pieces": 1044,
            "use": "pretraining",
            "url": "https://mutopia.org",
        },
        {"name": "quartets", "license": "Public Domain"},
    ],
    "training": {"hardware": "two cores of an Intel Xeon", "hours": 8.5, "tokens": 120_000_000},
    "limits": ["It knows no trombones."],
}


@pytest.fixture(scope="module")
def results(scores, tmp_path_factory):
    """A judgement of excerpts as if a model had written them."""
    out = tmp_path_factory.mktemp("judged")

    def pieces(name, bars):
        return [Piece(f"{name}-{i}", name, g.slice_bars(scores[name], i, i + 6)) for i in bars]

    likelihood = {"bits_per_note": 8.25, "nats_per_token": 3.0, "markov_bits_per_note": 9.5, "parameters": 12_600_000}
    judge(
        {"gpt": pieces("k545", range(0, 4, 2))},
        train=[Piece("k80", "k80", scores["k80/movement3"])],
        held_out=[Piece("k155", "k155", scores["k155/movement3"])],
        out_dir=out,
        likelihoods={"gpt": likelihood},
        bars=6,
        progress=False,
    )
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def card(results):
    config = {"model_type": "gpt2", "n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 1024}
    samples = {"seed-0": [".mid", ".mp3", ".png", "-roll.png"], "seed-1": [".mid"]}
    return model_card(CardFacts(**FACTS), results=results, config=config, samples=samples)


def test_the_hub_reads_its_metadata(card, results):
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.datasets) == ("cc-by-sa-4.0", "transformers", ["org/mozart-scores"])
    assert {"music", "midi"} <= set(data.tags)
    told = {row["name"]: row["value"] for row in results["groups"]["gpt"]["verdict"]["told"]}
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["bits_per_note"] == 8.25 and found["music_bleu"] == pytest.approx(told["music_bleu"], abs=1e-4)
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert card_problems(card) == []
    assert card_problems(card.replace("license: cc-by-sa-4.0", "license: mine")) != []


def test_people_read_what_was_measured(card, results):
    group = results["groups"]["gpt"]
    assert group["verdict"]["headline"] in card and all(text in card for text in group["verdict"]["sentences"])
    for row in group["verdict"]["told"]:
        assert f"| {row['label']} |" in card
    for words in (
        "12.6 million parameters", "6 layers of width 384", "k155 (1 piece)", "8.5 hours on two cores of an Intel",
        "120,000,000 tokens", "[Mutopia](https://mutopia.org) | 1,044 | CC-BY-SA-4.0 | pretraining",
        "It knows no trombones.", 'pipeline("music-generation", model="org/mozart-gpt")',
        '<audio controls src="https://huggingface.co/org/mozart-gpt/resolve/main/samples/seed-0.mp3">',
        "![Piano roll of seed-0](samples/seed-0-roll.png)", "8.25 bits for a note", group["bleu"]["signature"],
    ):  # fmt: skip
        assert words in card, words
    assert all(warning in card for warning in results["setting"]["warnings"])
    assert "None" not in card and "nan" not in card.split()


def test_its_code_runs(card, tmp_path):
    """The Python in the card compiles; that it does what it says, the story of publishing tells."""
    blocks = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")


def test_without_results_it_says_so():
    text = model_card(CardFacts("Mine", "org/mine", "mit"))
    assert "Not measured" in text and "Not stated." in text and "None" not in text
    assert ModelCard(text, ignore_metadata_errors=False).data.eval_results is None


def test_the_script_writes_cards_and_samples(results, tiny_model, tokenizer, tmp_path, monkeypatch, capsys):
    """All but engraving and sound, which take seconds and are tested elsewhere."""
    real, asked = rendering.render_all, []

    def light(score, folder, stem, **options):
        asked.append(options)
        return real(score, folder, stem, sheet=False, roll=False, audio=False)

    monkeypatch.setattr(rendering, "render_all", light)
    save_model(tiny_model, tokenizer, tmp_path / "model")
    folder = tmp_path / "cards" / "mozart-gpt"
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(yaml.safe_dump(FACTS))
    (folder / "results.json").write_text(json.dumps(results))
    words = ["--root", tmp_path / "cards", "--model", tmp_path / "model", "--samples", "--bars", 2, "mozart-gpt"]
    monkeypatch.setattr(sys, "argv", ["make_model_cards.py", *map(str, words)])
    runpy.run_path(str(ROOT / "scripts" / "make_model_cards.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    assert [options["title"] for options in asked] == [f"Mozart GPT, seed {i}" for i in range(4)]
    assert asked[0]["audio_format"] == "mp3"
    assert set(find_samples(folder / "samples")) == {f"seed-{i}" for i in range(4)}
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "### Seed 3: [mid](samples/seed-3.mid)" in text and "a GPT-2 of 1 layer of width 32" in text
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "card.yaml", "results.json", "samples"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"licence": "mit"}, ConfigError, "no key licence"),
        ({"license": ""}, ConfigError, "license missing"),
        ({"data": [{"name": "x", "license": "CC-BY-NC-4.0"}]}, HubError, "choose one with -nc"),
        ({"data": [{"name": "x"}]}, HubError, "x: say its license"),
    ],
)
def test_facts_that_cannot_be(tmp_path, change, error, message):
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**FACTS, **change}))
    with pytest.raises(error, match=message):
        write_model_card(tmp_path)


def test_another_model_s_results_are_refused(results):
    with pytest.raises(ConfigError, match="no model other; it has gpt"):
        model_card(CardFacts(**{**FACTS, "group": "other"}), results=results)


@pytest.mark.parametrize(
    ("name", "doubtful"),
    [
        ("Public Domain", False), ("CC0-1.0", False), ("CC-BY-SA-3.0", False), ("CC-BY-NC-SA-4.0", False),
        ("MIT", False),        ("", True), ("CC-BY-ND-4.0", True), ("All rights reserved", True), ("CC-BY-SA", True),
        ("cc-by-4.0 maybe", True),
    ],
)  # fmt: skip
def test_licences(name, doubtful):
    assert bool(sharing_problems({name: 2})) is doubtful


def test_a_model_s_licence_gives_no_more_than_its_sources():
    sources = [{"name": "x", "license": "CC-BY-NC-SA-4.0"}]
    check_model_license("cc-by-nc-sa-4.0", sources)
    with pytest.raises(HubError, match="forbids commercial use"):
        check_model_license("cc-by-sa-4.0", sources)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (".env", "x", "not among the files"),
        ("optimizer.pt", "x", "not among the files"),
        ("README.md", "token: hf_" + "a1B2" * 9, "looks like a Hugging Face token"),
        ("config.json", "-----BEGIN RSA PRIVATE KEY-----", "looks like a private key"),
        ("README.md", "AKIA" + "ABCDEFGH12345678", "access key of a cloud"),
        ("README.md", "hf_transfer is a package", None),
    ],
)
def test_what_must_not_leave(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    if message is None:
        assert [file.path for file in staged_files(tmp_path, "model")] == [name]
        return
    with pytest.raises(HubError, match=message) as caught:
        staged_files(tmp_path, "model")
    assert "a1B2" not in str(caught.value)
