"""The metric against nltk and against values derived by hand; its inputs, its signature, its folder."""

import ast
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import evaluate
import numpy as np
import pytest
from huggingface_hub import SpaceCard, SpaceCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score

from musegen.metrics.music_bleu import bleu_scoring
from musegen.metrics.music_bleu.music_bleu import DEFAULT_WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "musegen" / "metrics" / "music_bleu"
NLTK_METHODS = [f"method{number}" for number in range(8)]
UNIFORM = [(1 / n,) * n for n in range(1, 10)]

# Mozart, K 545, first bars of the right hand and of the left: (pitch, sixteenths).
MELODY = [(72, 8), (76, 4), (79, 4), (71, 6), (72, 1), (74, 1), (72, 8), (81, 8), (79, 4), (84, 4), (79, 4)]
ALBERTI = [(60, 2), (67, 2), (64, 2), (67, 2)] * 2 + [(62, 2), (67, 2), (65, 2), (67, 2)] + [(60, 2), (67, 2)] * 2


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("metric")))


def notewise(notes, transpose=0):
    """Notes one after the other as notewise tokens."""
    tokens = []
    for pitch, sixteenths in notes:
        tokens += [f"p{pitch + transpose}", f"wait{3 * sixteenths}", f"endp{pitch + transpose}"]
    return tokens


def music(seed, pieces, phrases=6):
    """Pieces that repeat, transpose and cut real phrases: long matches, and counts that differ by piece."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(pieces):
        tokens = []
        for _ in range(rng.integers(1, phrases + 1)):
            phrase = notewise((MELODY, ALBERTI)[rng.integers(2)], int(rng.choice([0, 0, 2, 5])))
            tokens += phrase[: rng.integers(1, len(phrase) + 1)]
        out.append(tokens)
    return out


def nltk_corpus(references, predictions, weights, method="method0", auto_reweigh=False, **numbers):
    """nltk's score, or None where it has none; a list for a list of weights."""
    smoothing = getattr(bleu_score.SmoothingFunction(**numbers), method)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bleu_score.corpus_bleu(references, predictions, weights, smoothing, auto_reweigh)
    except (AssertionError, IndexError):  # method6 without a trigram
        return None


def close(found, expected):
    # Relative above 1: method6 over several predictions leaves nltk with scores in the thousands.
    return abs(found - expected) <= 1e-9 * max(1.0, abs(expected))


# ---------------------------------------------------------------- equality with nltk

sequences = st.lists(st.integers(0, 3), min_size=0, max_size=40)
pairs = st.lists(st.tuples(sequences, st.lists(sequences, min_size=1, max_size=4)), min_size=1, max_size=3)
parameters = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from([0.05, 0.3, 1, 2.5, 7]) for name in ("epsilon", "alpha", "k")}
)
weightings = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=11).filter(any)


@pytest.mark.parametrize("method", NLTK_METHODS)
@settings(max_examples=25, deadline=None)
@given(pairs=pairs, weights=weightings, auto_reweigh=st.booleans(), numbers=parameters)
def test_equal_to_nltk_on_random_sequences(metric, method, pairs, weights, auto_reweigh, numbers):
    predictions, references = map(list, zip(*pairs, strict=True))
    weights = tuple(weights)
    expected = nltk_corpus(references, predictions, weights, method, auto_reweigh, **numbers)
    arguments = {"weights": weights, "smoothing": method, "auto_reweigh": auto_reweigh, **numbers}
    if expected is None:
        with pytest.raises(ValueError, match="prior"):
            metric.compute(predictions=predictions, references=references, **arguments)
        return
    result = metric.compute(predictions=predictions, references=references, **arguments)
    blocked = {n for n, weight in enumerate(weights, 1) if weight} & set(result["zero_orders"])
    if method == "method0" and blocked and not auto_reweigh:
        assert result["score"] == 0.0
    else:
        assert close(result["score"], expected)
    assert all(math.isfinite(p) and 0 <= p <= 1 for p in result["precisions"])


@pytest.mark.parametrize("method", NLTK_METHODS)
@pytest.mark.parametrize("weights", [DEFAULT_WEIGHTS, (0.25,) * 4, (0, 0, 1)], ids=["default", "four", "third"])
def test_equal_to_nltk_on_music(metric, method, weights):
    references = [music(seed, 3) for seed in range(6)]
    predictions = [piece[0] for piece in (music(seed + 50, 1) for seed in range(6))]
    result = metric.compute(predictions=predictions, references=references, weights=weights, smoothing=method)
    assert close(result["score"], nltk_corpus(references, predictions, weights, method))
    cumulative = nltk_corpus(references, predictions, UNIFORM, method)
    assert all(map(close, result["cumulative_scores"], cumulative))
    assert result["score"] > 0
    for i, alone in enumerate(result["per_prediction"]):
        pair = references[i : i + 1], predictions[i : i + 1]
        expected = nltk_corpus(*pair, weights, method)
        if expected is None:
            assert alone["score"] is None
        elif method != "method0" or not alone["zero_orders"]:
            assert close(alone["score"], expected)
            assert all(map(close, alone["cumulative_scores"], nltk_corpus(*pair, UNIFORM, method)))
        assert alone["score"] == result["prediction_scores"][i]


def test_several_weightings_as_nltk_takes_them(metric):
    references, prediction = music(1, 4), music(2, 1)[0]
    many = [DEFAULT_WEIGHTS, (0.5, 0.5), (0.25,) * 4]
    result = metric.compute(predictions=[prediction], references=[references], weights=many)
    assert result["score"] == pytest.approx(bleu_score.sentence_bleu(references, prediction, many), abs=1e-9)
    assert result["prediction_scores"] == [result["score"]]


def test_smoothing_parameters_reach_the_formula(metric):
    references, prediction = [list("abcabd")], list("abdcab")
    for name, method in [("epsilon", "method1"), ("length", "method4"), ("prior", "method6")]:
        function = getattr(bleu_score.SmoothingFunction(epsilon=0.3, alpha=2, k=7), method)
        expected = bleu_score.sentence_bleu(references, prediction, (0.25,) * 4, function)
        arguments = {"weights": (0.25,) * 4, "smoothing": name, "epsilon": 0.3, "alpha": 2, "k": 7}
        if name == "prior":  # needs a trigram
            prediction = [*prediction, "c"]
            expected = bleu_score.sentence_bleu(references, prediction, (0.25,) * 4, function)
        result = metric.compute(predictions=[prediction], references=[references], **arguments)
        assert close(result["score"], expected)


# ---------------------------------------------------------------- values derived by hand

E = math.exp
ROWS = [
    # id, prediction, references, weights, score, first matches, first totals, zero orders, reference length
    ("identical", "abcd", ["abcd"], (0.25,) * 4, 1.0, [4, 3, 2, 1], [4, 3, 2, 1], [5, 6, 7, 8, 9], 4),
    ("clipped", "aaaaaaa", ["abcdaef", "bdafcad"], (1,), 2 / 7, [2, 0], [7, 6], [2, 3, 4, 5, 6, 7, 8, 9], 7),
    ("maximum, not sum", "aaa", ["ab", "ac"], (1,), 1 / 3, [1], [3], [2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("repeated references", "aab", ["aab", "aab"], (1,), 1.0, [3, 2, 1], [3, 2, 1], [4, 5, 6, 7, 8, 9], 3),
    ("brevity", "ab", ["abcd"], (0.5, 0.5), E(-1), [2, 1], [2, 1], [3, 4, 5, 6, 7, 8, 9], 4),
    ("tie: the shorter", "abc", ["ab", "abcd"], (1,), 1.0, [3, 2, 1], [3, 2, 1], [4, 5, 6, 7, 8, 9], 2),
    ("not across pieces", "bc", ["ab", "cd"], (1,), 1.0, [2, 0], [2, 1], [2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("unseen tokens", "xyz", ["abc"], (1,), 0.0, [0, 0], [3, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9], 3),
    ("one unseen token", "axb", ["ab"], (1,), 2 / 3, [2, 0], [3, 2], [2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("weight 0, count 0", "ba", ["ab"], (1, 0), 1.0, [2, 0], [2, 1], [2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("weight 1, count 0", "ba", ["ab"], (0, 1), 0.0, [2, 0], [2, 1], [2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("one token", "a", ["a"], (1,), 1.0, [1, 0], [1, 1], [2, 3, 4, 5, 6, 7, 8, 9], 1),
    ("one token, default", "a", ["a"], DEFAULT_WEIGHTS, 0.0, [1], [1], [2, 3, 4, 5, 6, 7, 8, 9], 1),
    ("shorter than 9", "abcdefgh", ["abcdefghi"], DEFAULT_WEIGHTS, 0.0, [8], [8], [9], 9),
    ("nine", "abcdefghi", ["abcdefghi"], DEFAULT_WEIGHTS, 1.0, [9, 8, 7, 6, 5, 4, 3, 2, 1], [9], [], 9),
    ("empty prediction", "", ["ab"], (1,), 0.0, [0] * 9, [1] * 9, [1, 2, 3, 4, 5, 6, 7, 8, 9], 2),
    ("empty reference", "ab", [""], (1,), 0.0, [0, 0], [2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9], 0),
    ("both empty", "", [""], (1,), 0.0, [0], [1], [1, 2, 3, 4, 5, 6, 7, 8, 9], 0),
    ("one of two empty", "ab", ["", "ab"], (0.5, 0.5), 1.0, [2, 1], [2, 1], [3, 4, 5, 6, 7, 8, 9], 2),
]


@pytest.mark.parametrize("corpus", [False, True], ids=["references", "reference_corpus"])
@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_hand_derived(metric, row, corpus):
    _, prediction, references, weights, score, matches, totals, zero_orders, reference_length = row
    references = [list(reference) for reference in references]
    given = {"reference_corpus": references} if corpus else {"references": [references]}
    result = metric.compute(predictions=[list(prediction)], weights=weights, **given)
    assert result["score"] == pytest.approx(score, abs=1e-15)
    assert result["matches"][: len(matches)] == matches
    assert result["totals"][: len(totals)] == totals
    assert result["zero_orders"] == zero_orders
    assert (result["prediction_length"], result["reference_length"]) == (len(prediction), reference_length)
    assert len(result["precisions"]) == len(result["cumulative_scores"]) == 9


def test_counts_are_summed_and_scores_are_not_averaged(metric):
    result = metric.compute(predictions=[["a"], ["x", "y", "z"]], references=[[["a"]], [["a"]]], weights=(1,))
    assert result["prediction_scores"] == [1.0, 0.0]
    assert result["score"] == 1 / 4
    assert [each["zero_orders"][0] for each in result["per_prediction"]] == [2, 1]


def test_zero_counts_do_not_warn(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metric.compute(predictions=[["a", "b"]], references=[[["b", "a"]]], weights=(0.5, 0.5))
    assert result["score"] == 0.0 and 2 in result["zero_orders"]


def test_undefined_smoothing_fails_one_prediction_only(metric):
    given = {"references": [list("abcd"), list("ab")], "smoothing": "prior", "weights": (0.25,) * 4}
    result = metric.compute(predictions=[list("abcd"), list("ab")], **given)
    assert result["prediction_scores"][1] is None and result["prediction_scores"][0] > 0
    with pytest.raises(ValueError, match="trigram"):
        metric.compute(predictions=[list("ab"), list("ab")], **given)


# ---------------------------------------------------------------- inputs


def test_integers_strings_and_arrays(metric):
    strings = metric.compute(predictions=[list("1231")], references=[list("12312")])
    integers = metric.compute(predictions=[[1, 2, 3, 1]], references=[[1, 2, 3, 1, 2]])
    arrays = metric.compute(predictions=np.array([[1, 2, 3, 1]]), references=[np.array([1, 2, 3, 1, 2])])
    assert strings["matches"] == integers["matches"] == arrays["matches"] == [4, 3, 2, 1, 0, 0, 0, 0, 0]
    assert integers["signature"] == arrays["signature"] != strings["signature"]
    assert metric.compute(predictions=[[1, 2, "x"]], reference_corpus=[["1", "2", "x"]])["matches"][0] == 1
    index = metric.build_index([np.array([7, 5, 5], dtype=np.int32), (5, "p5")])
    assert index.vocabulary == [5, 7, "p5"]
    assert index.matches([[np.int64(5), 5, 5]]).tolist()[0][:3] == [2, 1, 0]


def test_add_and_add_batch_without_references(metric):
    references = music(3, 5)
    first, second, third = music(4, 3)
    expected = metric.compute(predictions=[first, second, third], reference_corpus=references)
    metric.add_batch(predictions=[first])
    metric.add_batch(predictions=[second, third])
    assert metric.compute(reference_corpus=references) == expected
    for prediction in (first, second, third):
        metric.add(prediction=prediction)
    assert metric.compute(reference_corpus=references) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"predictions": ["p60 p62"], "references": [["p60"]]}, TypeError, "prediction 0 is a str"),
        ({"predictions": "p60 p62", "references": [["p60"]]}, TypeError, "predictions is a str"),
        ({"predictions": [["a"]], "references": ["a"]}, TypeError, "reference of prediction 0"),
        ({"predictions": [["a"]], "reference_corpus": ["abc"]}, TypeError, "reference 0 is a str"),
        ({"predictions": [[1.5]], "references": [[1]]}, TypeError, "holds a float"),
        ({"predictions": [[["a"]]], "references": [["a"]]}, TypeError, "prediction 0: tokens are strings"),
        ({"predictions": [["a"]], "reference_corpus": [[None]]}, TypeError, "holds a NoneType"),
        ({"predictions": []}, ValueError, "no predictions"),
        ({"predictions": [["a"]]}, ValueError, "prediction 0 has no references"),
        ({"predictions": [["a"]], "references": [["a"]], "wieghts": (1,)}, TypeError, "wieghts"),
        ({"predictions": [["a"], ["a"]], "references": [["a"], []]}, ValueError, "prediction 1 has no"),
        ({"predictions": [["a"]], "references": [["a"], ["a"]]}, ValueError, "references for 2"),
        ({"predictions": [["a"]], "reference_corpus": []}, ValueError, "no references"),
        ({"predictions": [["a"]], "references": [["a"]], "reference_corpus": [["a"]]}, ValueError, "not both"),
        ({"predictions": [["a"]], "references": [["a"]], "smoothing": "laplace"}, ValueError, "method7"),
        ({"predictions": [["a"]], "references": [["a"]], "epsilon": 0}, ValueError, "epsilon"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": (0, 0)}, ValueError, "weights"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": (1, -1)}, ValueError, "weights"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": []}, ValueError, "weights"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": 0.25}, ValueError, "one for each order"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": "uniform"}, ValueError, "weights 'uniform'"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": [[1], 0.5]}, ValueError, "weights"),
        ({"predictions": [["a"]], "references": [["a"]], "weights": [0.5, "1"]}, ValueError, "weights"),
        ({"predictions": [["a"]], "references": [["a"]], "k": "5"}, ValueError, "k must be a positive number"),
        ({"predictions": [["a"]], "references": [["a"]], "alpha": float("nan")}, ValueError, "alpha"),
        ({"predictions": [["a"]], "references": [["a"]], "encoding": "a|b"}, ValueError, "without '|'"),
        ({"predictions": [["a"]], "references": [["a"]], "encoding": 12}, ValueError, "encoding is 12"),
        ({"predictions": [[1, 2]], "references": [["1", "2"]]}, TypeError, "predictions are integers and the ref"),
        ({"predictions": [["1"], []], "reference_corpus": [[1], []]}, TypeError, "are strings and the references int"),
    ],
)
def test_refusals_name_the_cause_and_leave_the_metric_usable(metric, arguments, error, words):
    with pytest.raises(error, match=words):
        metric.compute(**arguments)
    assert not list(Path(metric.data_dir).rglob("*.arrow"))  # nothing is left to wait for
    assert metric.compute(predictions=[["a"]], references=[["a"]], weights=(1,))["score"] == 1.0


def test_weights_beyond_the_index_are_refused(metric):
    index = metric.build_index([["a"] * 20], max_order=4)
    with pytest.raises(ValueError, match="order 4"):
        metric.compute(predictions=[["a"] * 20], reference_corpus=index)
    short = metric.compute(predictions=[["a"] * 20], reference_corpus=index, weights=(0.25,) * 4)
    long = metric.compute(predictions=[["a"] * 20], reference_corpus=[["a"] * 20], weights=(0,) * 11 + (1,))
    assert (len(short["precisions"]), len(long["precisions"])) == (4, 12)
    assert short["score"] == long["score"] == 1.0


# ---------------------------------------------------------------- signature


def test_signature_is_stable_and_tells_settings_apart(metric):
    references, predictions = music(10, 5), music(11, 2)

    def signature(corpus=references, **arguments):
        return metric.compute(predictions=predictions, reference_corpus=corpus, **arguments)["signature"]

    base = signature()
    assert re.fullmatch(
        r"music_bleu\|weights:0,1/12,1/12,1/6,1/6,1/6,1/6,1/12,1/12\|orders:9\|enc:unnamed\|smooth:none\|"
        r"reweigh:no\|refs:shared-5-[0-9a-f]{16}\|version:\d+\.\d+\.\d+",
        base,
    )
    assert signature() == signature(references[::-1]) == signature(smoothing="method0", epsilon=0.5) == base
    others = [
        signature(weights=(0.25,) * 4),
        signature(weights=(0.1234567, 1)),
        signature(weights=[(0.25,) * 4, (1,)]),
        signature(smoothing="epsilon"),
        signature(smoothing="epsilon", epsilon=0.5),
        signature(smoothing="epsilon", epsilon=0.50000001),
        signature(auto_reweigh=True),
        signature(encoding="notewise"),
        signature(references[1:]),
        signature([[*references[0], "p60"], *references[1:]]),
        metric.compute(predictions=predictions, references=[references, references])["signature"],
    ]
    assert len({base, *others}) == len(others) + 1


# ---------------------------------------------------------------- the folder on its own

SCORE_IN_A_PROCESS = '''
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    """As if these were not installed."""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("musegen", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import evaluate
metric = evaluate.load(sys.argv[1])
predictions = json.load(open(sys.argv[3]))
print("RESULT", json.dumps(metric.compute(predictions=predictions, reference_corpus=sys.argv[2])))
'''


def test_copied_folder_scores_in_another_process_without_musegen(metric, tmp_path):
    predictions = music(7, 4)
    folder = metric.build_index(music(6, 12), encoding="notewise").save(tmp_path / "index")
    copy = tmp_path / "elsewhere" / "music_bleu"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    done = subprocess.run(
        [sys.executable, "-c", SCORE_IN_A_PROCESS, str(copy), str(folder), str(tmp_path / "predictions.json")],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("RESULT ", 1)[1])
    assert found == metric.compute(predictions=predictions, reference_corpus=folder)


def test_folder_imports_only_what_it_declares():
    declared = {"evaluate", "datasets", "numpy"}
    assert {re.split("[>=<]", line)[0] for line in (FOLDER / "requirements.txt").read_text().split()} == declared
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {node.module.split(".")[0]}
            else:
                continue
            allowed = declared | sys.stdlib_module_names | ({"gradio"} if path.name == "app.py" else set())
            assert roots <= allowed, f"{path.name}: {roots - allowed}"


def test_evaluate_loads_by_relative_path(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert evaluate.load("musegen/metrics/music_bleu").name == "music_bleu"


def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "musegen").symlink_to(ROOT / "musegen")
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(code) == 2
    namespace = {}
    for block in code:
        exec(block, namespace)
    assert namespace["result"]["score"] > 0 and "True" in capsys.readouterr().out


def test_app_scores_what_is_pasted(monkeypatch):
    gradio = mock.MagicMock()
    gradio.Error = type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    namespace = {"__file__": str(FOLDER / "app.py"), "__name__": "app"}
    exec(compile((FOLDER / "app.py").read_text(encoding="utf-8"), "app.py", "exec"), namespace)
    result = namespace["score"]("a b c\n\n", "a b c d\na b", "1/2, 0.5", "none", " notewise ")
    assert result["score"] == 1.0 and "weights:1/2,1/2|" in result["signature"]
    assert namespace["article"]().lstrip().startswith("# Metric card")
    example = namespace["score"](
        namespace["PREDICTION"], namespace["REFERENCES"], namespace["DEFAULT_WEIGHTS"], "none", ""
    )
    assert 0 < example["score"] < 1 and "weights:0,1/12,1/12,1/6,1/6,1/6,1/6,1/12,1/12|" in example["signature"]
    bad = [(("", "a", "1"), "no predictions"), (("a", "a", "1 x"), "'x' is no"), (("a", "", "1/0"), "'1/0' is no")]
    for pasted, words in bad:
        with pytest.raises(gradio.Error, match=words):
            namespace["score"](*pasted, "none", "")
    assert set(namespace["SMOOTHINGS"]) == set(bleu_scoring.NLTK_METHODS)


def test_readme_heads_a_metric_space():
    """The front matter as the Hub's card classes read it, within what a Space may say."""
    card = SpaceCard.load(FOLDER / "README.md")
    data = card.data.to_dict()
    assert data["sdk"] == "gradio" and re.fullmatch(r"\d+\.\d+\.\d+", data["sdk_version"])
    assert (FOLDER / data["app_file"]).is_file() and data["title"] == FOLDER.name == "music_bleu"
    assert {"evaluate", "metric"} <= set(data["tags"]) and data["license"] == "apache-2.0"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {data["colorFrom"], data["colorTo"]} <= colours and len(data["emoji"]) == 1
    assert isinstance(data["pinned"], bool) and card.text.lstrip().startswith("# Metric card")
    known = {"emoji", "colorFrom", "colorTo", "description", "pinned", *inspect.signature(SpaceCardData).parameters}
    assert set(data) <= known


def test_readme_names_every_argument_and_result(metric):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    result = metric.compute(predictions=[["a"]], references=[["a"]])
    for name in [*result, *inspect.signature(type(metric)._score).parameters]:
        assert name == "self" or f"`{name}`" in text, name
