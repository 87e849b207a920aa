"""Publishing to a double of the Hub on the loopback address, and loading what lies there with the real clients.

Everything happens in fresh processes with empty caches. One test tells the whole story, because what it needs takes
most of its time; see `hub_double` for what this can and cannot prove.
"""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_double import HubDouble
from safetensors.torch import load_file

from musegen.controls import Controls
from musegen.corpus import build_corpus
from musegen.errors import HubError
from musegen.grammar import Grammar
from musegen.hub import pipeline_symbolic_music, publishing
from musegen.hub.publishing import Request, next_tag, publish
from musegen.models import build_model, load_causal_lm, save_with_code
from musegen.repetition import BarLoops
from musegen.scores import midi_bytes
from musegen.shipped import CHECKPOINTS
from musegen.training import save_model

CARD = "---\nlicense: cc-by-sa-4.0\nlibrary_name: transformers\ntags: [music]\n---\n\n# A model\n\nEdition {}.\n"

# Verbs one after another, each with what it says; trials are left out of repetitions, which takes half a minute less.
PUBLISHER = """
import json, sys
from musegen.cli import app
from musegen.errors import HubError
from musegen.hub import publishing
real = publishing.try_out
for words in json.loads(sys.argv[1]):
    publishing.try_out = real if words.pop(0) else lambda *_: "left out"
    try:
        app(["publish", *words], standalone_mode=False)
    except HubError as error:
        print("HubError:", error)
    print("----")
"""
WITH_MUSEGEN = """
import json, os, sys
import musegen
import datasets, evaluate
from huggingface_hub import snapshot_download
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
found = {}
for name in ("gpt", "lstm"):
    found[name] = type(AutoModelForCausalLM.from_pretrained(f"org/mozart-{name}")).__module__
found["tokenizer"] = type(AutoTokenizer.from_pretrained("org/mozart-gpt")).__name__
for name in ("gpt", "lstm"):
    piece = pipeline("music-generation", model=f"org/mozart-{name}")(bars=1, seed=1, max_tokens=60)
    found[f"{name} midi"] = piece["midi"][:4].decode()
splits = datasets.load_dataset("org/mozart-scores")
found["rows"] = {name: len(rows) for name, rows in splits.items()}
if len(sys.argv) == 1:  # a stream reads from the Hub alone
    stream = datasets.load_dataset("org/mozart-scores", streaming=True)
    found["streamed"] = {name: [row["midi"][:4] for row in rows].count(b"MThd") for name, rows in stream.items()}
metric = evaluate.load("org/music_bleu")
piece = "p60 wait6 endp60 p62 wait6 endp62 p64 wait12 endp64".split()
found["bleu"] = metric.compute(predictions=[piece], references=[[piece]])["score"]
for revision in ("v0.1.0", "v0.2.0"):
    folder = Path(snapshot_download("org/mozart-gpt", revision=revision))
    found[revision] = [folder.joinpath("README.md").read_text()[-3], folder.joinpath("samples/seed-1.mid").exists()]
print(json.dumps(found), flush=True)
os._exit(0)  # threads of pyarrow that read a stream may abort Python while it closes
"""
WITHOUT_MUSEGEN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import trial
sys.meta_path.insert(0, trial.Hide())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline
found = {}
for name, trusted in (("gpt", False), ("lstm", True)):
    model = AutoModelForCausalLM.from_pretrained(f"org/mozart-{name}", trust_remote_code=trusted)
    tokenizer = AutoTokenizer.from_pretrained(f"org/mozart-{name}", trust_remote_code=trusted)
    ids = model.generate(torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=5, do_sample=False)
    found[name] = [type(model).__name__, isinstance(tokenizer, PreTrainedTokenizerFast), len(tokenizer), ids.shape[1]]
    composer = pipeline(model=f"org/mozart-{name}", trust_remote_code=True)
    piece = composer(bars=3, key="D major", time_signature="3/4", seed=1, max_tokens=300)
    found[f"{name} midi"] = [piece["midi"][:4].decode(), len(piece["notes"]) > 0]
try:
    composer("opening.mid")
except ImportError as error:
    found["prompt"] = str(error)
try:
    AutoModelForCausalLM.from_pretrained("org/mozart-lstm", trust_remote_code=False)
except ValueError as error:
    found["untrusted"] = "trust_remote_code=True" in str(error)
print(json.dumps(found))
"""
DOWNLOAD = """
import hashlib, sys
from huggingface_hub import constants, hf_hub_download
constants.DOWNLOAD_CHUNK_SIZE = 4096  # the client keeps whole chunks; with its own of 10 MB small files begin anew
path = hf_hub_download(sys.argv[1], "model.safetensors", revision="v0.1.0")
print(hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


def python(code, *words, hub, home, token=False, **environment):
    """Run code in a fresh process that speaks to the double alone."""
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=hub.environment(home, token, **environment),
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process):
    out, error = process.communicate(timeout=1800)
    assert process.returncode == 0, out + error
    return out


def answer(process):
    return json.loads(said(process).strip().splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory, scores, tokenizer, tiny_model):
    """Two models, one with a card and samples and with what must stay at home, and a corpus."""
    root = tmp_path_factory.mktemp("publishing")
    save_model(tiny_model, tokenizer, root / "gpt")
    (root / "gpt" / "training.log").write_text("password: 1234")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lstm = build_model(
        "lstm-tiny", vocab_size=len(tokenizer), n_positions=128, hidden_size=32, num_hidden_layers=1, **ids
    )
    save_with_code(lstm, root / "lstm")
    tokenizer.save_pretrained(root / "lstm")
    for edition, seeds in ((1, (0, 1)), (2, (0,))):
        samples = root / f"card-{edition}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "README.md").write_text(CARD.format(edition))
        (samples / "notes.txt").write_text("not a sample")
        for seed in seeds:
            (samples / f"seed-{seed}.mid").write_bytes(b"MThd" + bytes([seed]) * 20)
    (root / "scores").mkdir()
    for name, score in scores.items():
        (root / "scores" / f"{name.replace('/', '-')}.mid").write_bytes(midi_bytes(score))
    build_corpus([str(root / "scores")], root / "corpus", workers=1)
    return root


def test_what_is_published_works_for_everybody(place, tmp_path):
    gpt = ["model", str(place / "gpt"), "--to", "org/mozart-gpt", "--public", "--card"]
    verbs = [
        [True, *gpt, str(place / "card-1")],
        [False, *gpt, str(place / "card-1")],
        [False, *gpt, str(place / "card-1")],
        [False, *gpt, str(place / "card-2")],
        [False, *gpt, str(place / "card-2"), "--tag", "v0.2.0"],
        [True, "model", str(place / "lstm"), "--to", "org/mozart-lstm"],
        [True, "dataset", str(place / "corpus"), "--to", "org/mozart-scores"],
        [True, "metric", "--to", "org/music_bleu"],
    ]
    with HubDouble() as hub:
        hub.refuse_after = 1
        told = said(python(PUBLISHER, json.dumps(verbs), hub=hub, home=tmp_path / "p", token=True)).split("----\n")
        check_what_was_said(told)
        check_what_lies_there(hub, place)
        online = python(WITH_MUSEGEN, hub=hub, home=tmp_path / "with", token=True)
        strange = python(
            WITHOUT_MUSEGEN, Path(publishing.__file__).parent, hub=hub, home=tmp_path / "without", token=True
        )
        known, found = answer(online), answer(strange)
        check_cut_and_private(hub, tmp_path)
    # The double has ended: what follows comes from the cache or not at all.
    offline = answer(
        python(WITH_MUSEGEN, "offline", hub=hub, home=tmp_path / "with", HF_HUB_OFFLINE="1", HF_EVALUATE_OFFLINE="1")
    )
    streamed = known.pop("streamed")
    assert offline == known
    assert streamed == known["rows"] and sum(streamed.values()) == 4
    assert known["gpt"].startswith("transformers.models.gpt2") and known["lstm"].startswith("musegen.models")
    assert (known["tokenizer"], known["gpt midi"], known["lstm midi"]) == ("MusicTokenizer", "MThd", "MThd")
    assert known["bleu"] == pytest.approx(1)
    assert (known["v0.1.0"], known["v0.2.0"]) == (["1", True], ["2", False])
    assert found["gpt"] == ["GPT2LMHeadModel", True, 1300, 6] and found["lstm"] == [
        "MusicLstmForCausalLM",
        True,
        1300,
        6,
    ]
    assert found["gpt midi"] == found["lstm midi"] == ["MThd", True]
    assert "pip install musegen" in found["prompt"] and found["untrusted"]


def check_what_was_said(told):
    first, again, same, other, newer, lstm, dataset, metric, _ = told
    assert "loaded back with musegen: notes" in first and "loaded back without musegen: notes" in first
    assert "HubError: org/mozart-gpt: the Hub answered 507" in first and "goes on from what has arrived" in first
    assert "left where they are: training.log" in first and "published" not in first
    assert "published: http://127.0.0.1" in again and again.rstrip().endswith("as v0.1.0")
    assert "v0.1.0 is there already, with this very content" in same
    assert "a tag is never moved; the next one is --tag v0.1.1" in other and "published" not in other
    assert newer.rstrip().endswith("as v0.2.0")
    assert "to check before it is made public: the model has no licence" in lstm
    assert "4 pieces without a licence" in dataset and "loaded back without musegen: rows" in dataset
    assert all("private, v0.1.0" in text and "published" in text for text in (lstm, dataset, metric))


def check_what_lies_there(hub, place):
    model = hub.repositories["model", "org/mozart-gpt"]
    assert [len(files) for _, files in model.commits] == [1, 11, 10]  # none of what failed, nothing twice
    assert not model.private and list(model.tags) == ["v0.1.0", "v0.2.0"]
    first, second = (model.at(tag)[1] for tag in model.tags)
    assert set(first) - set(second) == {"samples/seed-1.mid"}
    assert not {"training.log", "samples/notes.txt"} & set(first)
    # Three large files, one of them refused once: what had arrived was not sent again.
    sent = [path for method, path, _ in hub.log if method == "PUT"]
    digests = [hashlib.sha256(first[path]).hexdigest() for path in first if path.endswith((".safetensors", ".mid"))]
    assert sorted(sum(digest in path for path in sent) for digest in digests) == [1, 1, 2]
    lstm, corpus = hub.repositories["model", "org/mozart-lstm"], hub.repositories["dataset", "org/mozart-scores"]
    assert lstm.private and corpus.private and corpus.tags
    assert {"modeling_music_lstm.py", "pipeline_symbolic_music.py"} <= set(lstm.commits[-1][1])
    card = corpus.commits[-1][1]["README.md"].decode()
    assert 'load_dataset("org/mozart-scores")' in card
    sums = corpus.commits[-1][1]["SHA256SUMS"].decode()
    assert f"{hashlib.sha256(card.encode()).hexdigest()}  README.md" in sums
    own = place / "corpus"  # is as it was
    assert "load_dataset" not in (own / "README.md").read_text() and not (own / "leakage.json").exists()


def check_cut_and_private(hub, tmp_path):
    """A connection cut half way is taken up where it broke; a private repository is not there for strangers."""
    hub.cut = {"model.safetensors"}
    stranger = python(DOWNLOAD, "org/mozart-lstm", hub=hub, home=tmp_path / "stranger")
    assert "401" in stranger.communicate(timeout=1800)[1] and stranger.returncode == 1
    seen = len(hub.log)
    weights = hub.repositories["model", "org/mozart-gpt"].at("v0.1.0")[1]["model.safetensors"]
    got = said(python(DOWNLOAD, "org/mozart-gpt", hub=hub, home=tmp_path / "cut"))
    assert got.split()[-1] == hashlib.sha256(weights).hexdigest()
    ranges = [asked for method, path, asked in hub.log[seen:] if method == "GET" and "/cdn/" in path]
    half = len(weights) // 2
    assert ranges == [None, f"bytes={half - half % 4096}-"] and not hub.cut


@pytest.fixture
def tried(monkeypatch):
    """Folders that would have been tried in fresh processes; what a trial finds is tested with the story above."""
    folders = []
    monkeypatch.setattr(publishing, "try_out", lambda kind, folder, manner: folders.append((kind, manner)) or "fine")
    return folders


def test_a_dry_run_names_every_file_and_needs_no_hub(place, tried):
    lines = []
    request = Request("model", "org/mozart-gpt", str(place / "gpt"), card=place / "card-1")
    assert publish(request, dry_run=True, say=lines.append) is None
    listing = next(line for line in lines if line.startswith("model org/mozart-gpt, private"))
    rows = [line.split() for line in listing.splitlines()[1:]]
    size = (place / "gpt" / "model.safetensors").stat().st_size
    assert ["model.safetensors", f"{size:,}", "bytes"] in rows
    assert rows[-1][:2] == ["10", "files"] and tried == [("model", "with"), ("model", "without")]
    assert lines[-1] == "dry run: nothing was sent"


def test_offline_says_so(place, tried):
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        publish(Request("metric", "org/music_bleu"), say=lambda _: None)


def test_a_model_that_makes_no_music_is_not_sent(place, tmp_path):
    """A damaged file is found by loading it back, whatever the staging thought of it."""
    folder = tmp_path / "model"
    publishing.stage(Request("model", "org/mozart-gpt", str(place / "gpt")), folder_of(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(HubError, match="not sent: loaded back without musegen, it failed"):
        publishing.try_out("model", folder, "without")


@pytest.mark.parametrize("name", ["mozart-gpt", "mozart-lstm"])
def test_weights_that_ship_as_halves_are_sent_as_halves_and_computed_with_in_float32(tmp_path, name):
    folder = folder_of(tmp_path / "model")
    publishing.stage(Request("model", f"org/{name}", name), folder)
    sent, ships = (load_file(place / "model.safetensors") for place in (folder, CHECKPOINTS / name))
    assert {value.dtype for value in sent.values()} == {torch.float16}
    assert sent.keys() == ships.keys() and all(torch.equal(sent[key], ships[key]) for key in ships)
    assert load_causal_lm(folder).dtype == torch.float32


@pytest.mark.parametrize(("key", "tonic"), [(None, None), ("g minor", (7, True)), ("Eb", (3, False))])
def test_without_musegen_ids_are_weighed_as_with_it(tmp_path, tokenizer, scores, key, tonic):
    """Against standing still and for a key, in a real piece whose bars are sometimes played again and again."""
    tokenizer.save_pretrained(tmp_path)
    guard = pipeline_symbolic_music.Guard(
        pipeline_symbolic_music.Tokens(tokenizer, tmp_path / "miditok.json"), 4.0, key
    )
    grammar = Grammar(tokenizer, key=tonic)
    loops, state, rng = BarLoops(grammar), grammar.read(()), random.Random(0)
    bars = tokenizer.merge_bars(tokenizer.base_ids(scores["k155/movement3"]))[:60]
    bars = [bar for bar in bars for _ in range(rng.choice([1, 1, 1, 5]))]
    ids = tokenizer.stream(bars, tokenizer.header_ids(Controls(tempo=96.0)))
    start = shown = punished = 0
    guard.begin([], 0)
    for i, token in enumerate(ids):
        if i and rng.random() < 0.02:  # a new window, in which the model is shown the last ids
            start, shown = i, min(i, 7)
            guard.begin(ids[:i], shown)
        window = ids[start - shown : i + 1]
        loops.advance(token)
        state = grammar.advance(state, token)
        wanted = np.zeros(len(tokenizer), np.float32)
        loops.punish(wanted, 4.0)
        foreign = grammar.foreign_notes(state)
        wanted -= 0 if foreign is None else foreign
        found = guard(torch.tensor([window]), torch.zeros(1, len(tokenizer)))[0].numpy()
        assert np.allclose(found, wanted), i
        punished += bool(np.any(wanted < -2))
    assert 20 < punished < len(ids) / 2


def folder_of(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "model", "repo_id": "mozart"}, "ORG/NAME"),
        ({"kind": "model", "repo_id": "../x/y"}, "ORG/NAME"),
        ({"kind": "song", "repo_id": "org/x"}, "not among model"),
        ({"kind": "metric", "repo_id": "org/x", "tag": "main"}, "written as v0.1.0"),
    ],
)
def test_requests_that_cannot_be(settings, message):
    with pytest.raises(HubError, match=message):
        Request(**settings)


def test_what_may_not_be_shared_is_not_made_public(place, tried):
    for request in (
        Request("model", "org/mozart-lstm", str(place / "lstm"), public=True),
        Request("dataset", "org/mozart-scores", str(place / "corpus"), public=True),
    ):
        with pytest.raises(HubError, match=r"not sent: .*without --public"):
            publish(request, dry_run=True, say=lambda _: None)
    lines = []
    request = Request("model", "org/mozart-lstm", str(place / "lstm"), public=True, license="cc-by-4.0")
    publish(request, dry_run=True, say=lines.append)
    assert not any("to check" in line for line in lines)


def test_the_metric_keeps_its_name(tried):
    with pytest.raises(HubError, match="must be ORG/music_bleu"):
        publish(Request("metric", "org/bleu"), dry_run=True, say=lambda _: None)


def test_the_page_carries_its_package(tmp_path, monkeypatch):
    from musegen.hub import staging
    from musegen.hub.checks import read_card, staged_files

    monkeypatch.setattr(staging, "_gradio_version", lambda: "6.31.0")
    staging.stage_app(tmp_path, repo_id="org/musegen")
    names = {file.path for file in staged_files(tmp_path, "app")}
    assert {"app.py", "README.md", "requirements.txt", "musegen/pipeline.py", "musegen/judging/report.html"} <= names
    assert not any("__pycache__" in name for name in names)
    needs = (tmp_path / "requirements.txt").read_text().split()
    assert any(need.startswith("torch") for need in needs) and not any("pytest" in n or "gradio" in n for n in needs)
    card = read_card(tmp_path, "space")
    assert (card.data.sdk, card.data.app_file, card.data.license) == ("gradio", "app.py", "apache-2.0")


def test_versions_count_up():
    assert next_tag("v0.1.0", {"v0.1.0", "v0.1.1"}) == "v0.1.2"
    assert next_tag("v1", {"v1"}) == "v2" and next_tag("v9.9", {}) == "v9.9"
