"""The judgement as a whole: the copy machine is caught, the page stands alone, the figures come from the seed."""

import base64
import copy
import html.parser
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nltk.translate.bleu_score
import numpy as np
import pytest
from PIL import Image

from musegen import notewise
from musegen.errors import ConfigError, MusegenError
from musegen.judging import Piece, judge, plots
from musegen.judging.baselines import copy_machine
from musegen.judging.bleu import BleuJudge, common_length
from musegen.judging.material import stand_ins
from musegen.judging.measures import CLASSIFIED, METRICS, ORIGINALITY
from musegen.judging.pieces import windows
from musegen.judging.report import data_uri, render_page
from musegen.judging.results import plain
from musegen.judging.verdict import add_verdicts, headline, number, place_words

BARS = 6
WEIGHTS = (0, 1 / 12, 1 / 12, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 12, 1 / 12)
ODD_NAME = "<b>copies & more</b>"


def make_groups(train, unseen):
    """A model that copies with transposition, under a name that must be escaped, and one that is real music."""
    rng = np.random.default_rng(0)
    copies = [
        Piece(f"copy-{i}", f"copy-{i}", copy_machine(train[i % len(train)], BARS, rng, 3 * (i % 2))) for i in range(4)
    ]
    real = [Piece(f"real-{i}", f"real-{i}", p.score) for i, p in enumerate(windows(unseen, BARS, 4))]
    return {ODD_NAME: copies, "real": real}


CALL = """
import json, pickle, sys
sys.path.insert(0, {tests!r})
from test_judging_judge import make_groups, MOVEMENTS_OF, judge_small
from conftest import MOVEMENTS, MUSIC21
from musegen.scores import load_score
scores = {{name: load_score(MUSIC21 / path, isolate=False).score for name, path in MOVEMENTS.items()}}
judge_small(*MOVEMENTS_OF(scores), {out!r})
"""


def MOVEMENTS_OF(scores):
    """Training pieces of two works, and a held-out piece of a third; the fourth is what a real model wrote."""
    pieces = {name: Piece(name, name.split("/")[0], score) for name, score in scores.items()}
    return [pieces["k80/movement3"], pieces["k155/movement3"]], [pieces["k545"]], pieces["k156/movement4"]


def judge_small(train, held_out, model, out, **more):
    curves = {"real": [{"step": 1, "valid_nats": 2.0}, {"step": 2, "valid_nats": 1.5, "bits_per_note": 9.0}]}
    return judge(
        make_groups(train, model),
        train=train,
        held_out=held_out,
        out_dir=out,
        title="A <test>",
        likelihoods={"real": {"bits_per_note": 5.0, "nats_per_token": 1.2}},
        extras={"learning_curves": curves, "about": {"corpus": "quartets"}, **more.pop("extras", {})},
        progress=False,
        **more,
    )


@pytest.fixture(scope="module")
def music(scores):
    return MOVEMENTS_OF(scores)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("judgement")


@pytest.fixture(scope="module")
def results(music, out):
    return judge_small(*music, out)


@pytest.fixture(scope="module")
def page(results, out):
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_copy_machine_is_caught(results):
    for name in (ODD_NAME, "copy_machine"):
        group = results["groups"][name]
        assert group["verdict"]["headline"] == "It copies the training music."
        assert {"copied_notes_transposed", "copied_share"} <= set(group["verdict"]["copying"])
        assert len(group["originality"]["to_check"]) == group["samples"]
    assert not results["groups"][ODD_NAME]["beats"]["copy_machine"]


def test_real_music_is_not_called_a_copy(results):
    group = results["groups"]["real"]
    assert "copies the training" not in group["verdict"]["headline"]
    assert group["beats"]["copy_machine"] and group["beats"]["markov_likelihood"]
    assert group["originality"]["longest"]["notes"] < 20
    assert results["groups"][ODD_NAME]["beats"]["markov_likelihood"] is None


def test_random_notes_are_told_from_music(results):
    assert results["groups"]["random_in_key"]["two_sample"]["auc"] > 0.85
    assert results["groups"]["markov"]["two_sample"]["auc"] > 0.85
    assert results["groups"]["copy_machine"]["two_sample"]["auc"] < results["groups"]["markov"]["two_sample"]["auc"]


def test_results_are_complete(results, out):
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == results
    assert results["setting"]["bars"] == BARS and results["setting"]["held_out_works"] == ["k545"]
    assert results["setting"]["stand_in_works"] == ["k155", "k80"]
    for group in results["groups"].values():
        assert set(group["metrics"]) == set(METRICS) == set(results["metrics"])
        assert len(group["bleu"]["cumulative"]) == 9 and len(group["similarity"]["curve"]) == 40
        assert group["judged"] == len(CLASSIFIED) and 0 <= group["inside"] <= group["judged"]
        assert group["median_sample"] in [piece["name"] for piece in group["pieces"]]
        for figure in group["metrics"].values():
            assert figure["place"] in ("inside", "below", "above", "undefined")
    assert results["likelihood"]["markov"]["bits_per_note"] > 5.0


def test_means_and_places_follow_from_the_pieces(results):
    for group in results["groups"].values():
        for name, figure in group["metrics"].items():
            values = [p["metrics"][name] for p in group["pieces"] if p["metrics"][name] is not None]
            if not values:
                assert figure["mean"] is None and figure["place"] == "undefined"
                continue
            assert figure["mean"] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6)
            band = figure["band"]
            if figure["place"] == "above":
                assert figure["mean"] > band["high"] and figure["fault"]
            if figure["place"] == "below":
                assert figure["mean"] < band["low"]
                assert figure["fault"] == (METRICS[name].kind != ORIGINALITY)


def test_every_figure_that_decides_is_told_in_words(results, page):
    for group in results["groups"].values():
        told = {row["name"]: row for row in group["verdict"]["told"]}
        assert {n for n, m in METRICS.items() if m.kind == ORIGINALITY} < set(told)
        assert {"similarity_error", "structureness_short", "structureness_long", "distance", "auc"} < set(told)
        for name, row in told.items():
            if name in METRICS:
                figure = group["metrics"][name]
                copies = METRICS[name].kind == ORIGINALITY and figure["place"] == "above"
                place = "not known" if figure["place"] == "undefined" else figure["place"]
                assert row["words"] == ("above: check for copying" if copies else place)
                assert (row["value"], row["low"]) == (figure["mean"], figure["band"]["low"])
            if None not in (row["value"], row["high"]):
                assert row["words"].startswith("above") == (row["value"] > row["high"]), name
    assert place_words("undefined", True) == "not known" and place_words("above", False) == "above"
    assert page.count('<td class="words original above">above: check for copying</td>') >= 3


def test_bands_stay_within_what_a_metric_can_be(results):
    assert METRICS["scale_consistency"].highest == METRICS["music_bleu"].highest == 1.0
    assert METRICS["polyphony"].highest == math.inf
    for group in results["groups"].values():
        for name, figure in group["metrics"].items():
            band = figure["band"]
            if band["high"] is not None:
                assert 0 <= band["low"] <= band["mean"] <= band["high"] <= METRICS[name].highest
        curve = group["similarity"]
        assert all(high <= 1 for high in curve["high"] if high is not None)
        pairs = list(zip(curve["curve"], results["real"]["similarity_by_lag"]["mean"]))[3:32]
        apart = [abs(mine - real) for mine, real in pairs if mine is not None and real is not None]
        assert curve["error_of_form"] == pytest.approx(sum(apart) / len(apart), abs=1e-5) != curve["error"]
    assert max(results["real"]["bleu"]["band"]["high"]) <= 1.0


def test_every_plot_has_the_band_of_real_music(results, monkeypatch):
    """Taking the band away changes every picture but that of the learning curves, which real music has none of."""
    monkeypatch.setattr(plots, "DPI", 50)
    four = copy.deepcopy(results)
    for group in four["groups"].values():  # with four works, the classifier has a band too
        group["two_sample"]["band"] = {"mean": 0.5, "low": 0.3, "high": 0.7}
    with_auc = plots.draw_all(four)
    monkeypatch.setattr(plots, "_BAND", "#ff00ff")
    changed = {name for name, data in plots.draw_all(four).items() if data != with_auc[name]}
    assert changed == set(with_auc) - {"learning"} and len(changed) == 5


def test_warnings_say_what_is_thin(results):
    text = " ".join(results["setting"]["warnings"])
    assert "Only 1 work held out (2 excerpts)" in text and "2 training works" in text and "Only 4 samples" in text


def test_same_seed_same_bytes_in_another_process(results, music, out, tmp_path):
    call = CALL.format(tests=str(Path(__file__).parent), out=str(tmp_path / "again"))
    subprocess.run([sys.executable, "-c", call], check=True, env={**os.environ, "PYTHONHASHSEED": "123"})
    for name in ("results.json", "report.html", "plots/bands.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


class Page(html.parser.HTMLParser):
    """Checks nesting, and collects what would be loaded."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loaded, self.text = [], [], [], []
        self.anchors, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "href", "data", "action") and not v.startswith("#")]
        self.anchors += [v for k, v in attrs if k == "href" and v.startswith("#")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone(page):
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert len(parsed.anchors) == 2 and {a[1:] for a in parsed.anchors} <= set(parsed.ids)
    assert not {"script", "link", "iframe", "object", "b"} & set(parsed.tags)
    assert len(parsed.loaded) >= 8 and all(value.startswith("data:image/png;base64,") for value in parsed.loaded)
    assert not re.search(r"https?://|@import|url\(", page)
    for value in parsed.loaded:
        Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))).verify()


def test_names_are_escaped(page):
    assert ODD_NAME not in page and "&lt;b&gt;copies &amp; more&lt;/b&gt;" in page and "A &lt;test&gt;" in page


def test_the_page_says_the_verdicts_and_warnings(page, results):
    parsed = Page()
    parsed.feed(page)
    text = " ".join(" ".join(parsed.text).split())
    for name in (ODD_NAME, "real"):
        for sentence in results["groups"][name]["verdict"]["sentences"]:
            assert sentence in text
    for warning in results["setting"]["warnings"]:
        assert warning in text
    assert "None" not in text and "nan" not in text.split()


def test_another_seed_a_leak_and_pictures(music, results, tmp_path):
    """One judgement more, for what only a whole one shows."""
    train, held_out, model = music
    asked = []
    svg, wave = b"<svg xmlns='x'/>", b"RIFF\0\0\0\0WAVEfmt "

    def render(piece):
        asked.append(piece.name)
        if piece.name.startswith("real"):
            raise MusegenError("cannot be engraved")
        return {"pictures": [svg], "audio": wave}

    leaked = [*held_out, Piece("leak", "k80", model.score)]
    other = judge_small(train, leaked, model, tmp_path, seed=1, extras={"render": render})
    assert other["groups"]["copy_machine"]["pieces"] != results["groups"]["copy_machine"]["pieces"]
    assert other["groups"]["real"]["pieces"] == results["groups"]["real"]["pieces"]
    assert "in the training music too (k80)" in " ".join(other["setting"]["warnings"])
    assert asked == [other["groups"][name]["median_sample"] for name in (ODD_NAME, "real")]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert data_uri(svg) in page and data_uri(wave) in page
    assert page.count("<audio") == 1 and page.count("Piano roll of") == 1


def test_data_uris_know_their_content(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"OggS123")
    assert data_uri(file) == "data:audio/ogg;base64," + base64.b64encode(b"OggS123").decode()
    assert data_uri(b"\xff\xfb\x90").startswith("data:audio/mpeg")
    with pytest.raises(ConfigError, match="none of them"):
        data_uri(b"<html>")
    with pytest.raises(ConfigError, match="no such file"):
        data_uri(tmp_path / "missing.png")


def test_a_results_file_is_enough_for_the_page(results):
    groups = [name for name, group in results["groups"].items() if group["role"] == "model"]
    media = {name: {"sample": "s", "pictures": [], "roll": True, "audio": None} for name in groups}
    pictures = dict.fromkeys(("bands", "samples", "similarity", "two_sample", "bleu", "learning"), "data:,")
    assert "The verdict" in render_page(json.loads(json.dumps(results)), pictures, media)


def test_headlines(results):
    group = copy.deepcopy(results["groups"]["real"])
    group["originality"]["to_check"] = []
    test = group["two_sample"]
    rows = [
        (0.5, 0.3, "These figures cannot tell it from real music."),
        (0.8, 0.4, "There are too few pieces to tell it from real music with certainty."),
        (0.7, 0.6, "It is hard to tell from real music."),
        (0.85, 0.7, "It can be told from real music."),
        (0.97, 0.9, "It is easily told from real music."),
        (None, None, "Too few pieces for a verdict."),
    ]
    for auc, low, words in rows:
        test.update(auc=auc, low=low)
        assert headline(group, []) == words
    test.update(auc=0.5, low=0.3)
    assert headline(group, ["note_9grams"]).endswith("Check for copying.")
    assert "copying" not in headline(group, ["music_bleu"])  # idiom only; a sentence says so


def test_verdicts_come_from_the_figures_alone(results):
    again = copy.deepcopy(results)
    for group in again["groups"].values():
        del group["verdict"], group["beats"]
    add_verdicts(again)
    assert plain(again) == results


@pytest.mark.parametrize(
    "value, text", [(None, "–"), (0.0, "0"), (3.0, "3"), (0.12345, "0.12"), (0.01234, "0.012"), (12.345, "12.3"),
                    (123.4, "123"), (12345.6, "12,346")]
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_plain_values():
    assert plain({"a": np.float64("nan"), 2: (np.int64(3), True, None), "b": np.array([0.123456789])}) == {
        "a": None,
        "2": [3, True, None],
        "b": [0.123457],
    }


def test_what_cannot_be_judged_is_refused(music, tmp_path):
    train, held_out, model = music
    samples = windows(model, BARS, 4)
    empty = Piece("e", "e", copy.deepcopy(samples[0].score))
    for track in empty.score.tracks:
        track.notes = type(track.notes)()

    def refused(match, groups, train=train, held_out=held_out):
        with pytest.raises(ConfigError, match=match):
            judge(groups, train=train, held_out=held_out, out_dir=tmp_path, progress=False)

    refused("nothing to judge", {})
    refused("no samples in 'm'", {"m": []})
    refused("no sample of 'm' has a note", {"m": [empty]})
    refused("name of a baseline", {"markov": samples})
    refused("same name", {"m": [samples[0], samples[0]]})
    refused("training pieces", {"m": samples}, train=[])
    refused("no held-out piece is long enough", {"m": samples}, held_out=[])
    assert not (tmp_path / "results.json").exists()


def test_stand_ins_are_measured_as_if_held_out(music):
    """A training work is compared with the other works alone, so that it does not count as its own copy."""
    train, held_out, model = music
    found = stand_ins([*train, *held_out, model], {"k545"}, BARS, 200)
    assert {m.piece.work for m in found} == {"k80", "k155", "k156"}
    assert max(m.transposed.notes for m in found) < 30
    assert all(m.values["music_bleu"] < 0.9 for m in found)
    assert stand_ins(train[:1], set(), BARS, 200) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bleu_is_nltk_s_and_has_no_brevity_penalty(music):
    train, held_out, _ = music
    ids = [notewise.encode_ids(p.score) for p in train]
    nearly = ids[0][300:450].copy()
    nearly[::25] = 0
    samples = [nearly, nearly[:90], notewise.encode_ids(held_out[0].score)]
    found = BleuJudge(ids, 150).score(samples)
    references = [notewise.tokens_of(i) for i in ids]
    for sample, score in zip(samples, found["prediction_scores"]):
        tokens = notewise.tokens_of(sample)[:150]
        # Of its own length, a reference without any n-gram of the sample changes nothing but the penalty.
        same_length = [["none"] * len(tokens)]
        expected = nltk.translate.bleu_score.sentence_bleu(references + same_length, tokens, WEIGHTS)
        assert score == pytest.approx(expected, abs=1e-9)
    assert found["brevity_penalty"] == 1.0 and found["prediction_scores"][1] > 0.5 > found["prediction_scores"][2]
    assert BleuJudge(ids, 150).score([ids[0][300:420]])["score"] == 1.0  # a copied passage, however short


def test_common_length():
    assert common_length([np.zeros(n) for n in (100, 300, 900)]) == 300
    assert common_length([np.zeros(2000)]) == 513
    assert common_length([np.zeros(3)]) == 64
