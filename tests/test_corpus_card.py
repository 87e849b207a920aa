"""What is inside a corpus: as words, as a picture, as a card that the Hub reads."""

import csv
import hashlib
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from alterations import changed
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from musegen import fingerprints, grid
from musegen.corpus_card import write_card
from musegen.corpus_plots import draw
from musegen.corpus_stats import describe, summarize
from musegen.errors import CorpusError
from musegen.scores import midi_bytes

LICENSES = {"k80/movement3": "CC-BY-SA-4.0", "k155/movement3": "Public Domain", "k156/movement4": "CC-BY-3.0"}


def row(name, score, **others):
    return {
        "midi": midi_bytes(score),
        "work": name.split("/")[0],
        "group": name.split("/")[0],
        "composer": "Wolfgang Amadeus Mozart",
        "title": "with | a bar",
        "license": LICENSES.get(name, ""),
        "provenance": f"Maker of {name}; where it was" if name in LICENSES else "",
        "source": f"mine/{name}.mid",
        "notes": len(grid.note_array(score)),
        "bars": len(grid.bar_grid(score)),
        "beats": grid.last_end(score) / 96,
        "key": "D major" if "155" in name else "",
        "metre": "2/4",
        "programs": sorted({t.program for t in score.tracks}),
        "fingerprint": fingerprints.fingerprint(score).tolist(),
        **others,
    }


def write(folder, parts):
    (folder / "data").mkdir(parents=True)
    for split, rows in parts.items():
        half = (len(rows) + 1) // 2
        for i, shard in enumerate([rows[:half], rows[half:]] if len(rows) > 1 else [rows]):
            name = f"{split}-{i:05d}-of-{min(len(rows), 2):05d}.parquet"
            pq.write_table(pa.Table.from_pylist(shard), folder / "data" / name)
    report = {
        "found": 9,
        "kept": {split: len(rows) for split, rows in parts.items()},
        "duplicates": {"a.mid": "b.mid"},
        "quarantined": {f"{i}.mid": {"reason": r, "detail": ""} for i, r in enumerate(["limits", "empty", "empty"])},
        "repairs": {"shifted_notes": 7, "padded_bars": 0},
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture(scope="module")
def leaky(tmp_path_factory, scores):
    """A corpus whose test split holds a transposed copy of a training piece."""
    copy = changed(scores["k80/movement3"], lambda on, du, pi: (on, du, pi + 2))
    parts = {
        "train": [row(n, scores[n]) for n in ("k80/movement3", "k155/movement3", "k156/movement4")],
        "validation": [row("k545", scores["k545"])],
        "test": [row("copy", copy)],
    }
    folder = write(tmp_path_factory.mktemp("corpora") / "leaky", parts)
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  README.md\n{'1' * 64}  report.json\n")
    message = write_card(folder, name="My *scores*", repository="me/scores", progress=False)
    return folder, message


def test_counts_are_those_of_the_rows(leaky, scores):
    summary = summarize(leaky[0])
    total = sum(len(grid.note_array(s)) for s in scores.values()) + len(grid.note_array(scores["k80/movement3"]))
    assert (summary.total.pieces, summary.total.works, summary.total.groups) == (5, 5, 5)
    assert summary.total.notes == total == sum(int(v.sum()) for v in summary.lengths.values())
    assert summary.splits["train"].pieces == 3 and summary.splits["test"].notes == len(
        grid.note_array(scores["k80/movement3"])
    )
    assert summary.keys == {"D major": 1, "unknown": 4} and summary.metres == {"2/4": 5}
    assert summary.files == {"kept": 5, "duplicates": 1, "empty": 2, "limits": 1}
    assert summary.licenses["mine", "not stated"] == 2


def test_words_name_what_counts(leaky):
    text = describe(leaky[0])
    for words in ("D major 1", "Violin 3", "Wolfgang Amadeus Mozart 5", "CC-BY-3.0 1", "not stated 2", "empty 2",
                  "shifted notes 7", "120 quarter notes a minute"):  # fmt: skip
        assert words in text
    assert "padded" not in text


def test_older_and_newer_corpora_are_described(tmp_path, scores):
    """One without groups, fingerprints and report; one with seconds, counts of files instead of names."""
    old = row("k545", scores["k545"])
    for name in ("group", "fingerprint", "provenance"):
        del old[name]
    folder = write(tmp_path / "old", {"train": [old]})
    (folder / "report.json").unlink()
    assert summarize(folder).files == {} and summarize(folder).total.groups == 0 and "files:" not in describe(folder)
    folder = write(tmp_path / "new", {"train": [row("k545", scores["k545"], seconds=7200.0)]})
    report = {"found": 9, "kept": {"train": 1}, "duplicate_files": 3, "quarantined_files": {"limits": 5}}
    (folder / "report.json").write_text(json.dumps(report))
    assert summarize(folder).files == {"kept": 1, "duplicates": 3, "limits": 5}
    assert summarize(folder).hours == 2 and "120 quarter notes" not in describe(folder)


@pytest.mark.filterwarnings("error")  # of a layout that does not fit
def test_a_picture_of_any_corpus(leaky, tmp_path, scores):
    with Image.open(leaky[0] / "contents.png") as picture:
        assert picture.size[0] > 1500 and len(set(picture.convert("L").tobytes())) > 20
    one = write(tmp_path / "one", {"train": [row("k545", scores["k545"])]})
    (one / "report.json").unlink()
    for name in ("a.svg", "b.svg"):
        draw(summarize(one), tmp_path / name, "one")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(CorpusError, match="cannot be written"):
        draw(summarize(one), tmp_path / "a.nothing")
    with pytest.raises(CorpusError, match="cannot be written"):
        draw(summarize(one), tmp_path / "no folder" / "a.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "one"]


def test_the_card_s_metadata_is_what_the_hub_reads(leaky):
    card = DatasetCard.load(leaky[0] / "README.md", ignore_metadata_errors=False)
    assert isinstance(card.data, DatasetCardData)
    assert card.data.license == ["cc-by-3.0", "cc-by-sa-4.0", "other"] and card.data.size_categories == ["n<1K"]
    front = yaml.safe_load(leaky[0].joinpath("README.md").read_text().split("---\n")[1])
    assert [d["split"] for d in front["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert front["pretty_name"] == "My *scores*"


def test_the_card_names_makers_works_and_the_leak(leaky):
    text, message = leaky[0].joinpath("README.md").read_text(), leaky[1]
    assert "CC-BY-SA-4.0: Maker of k80/movement3 (1)" in text and "shared under the same licence" in text
    assert "Works in test: copy." in text and 'load_dataset("me/scores")' in text
    assert "| test | mine/copy.mid | mine/k80/movement3.mid | 1.000 |" in text and "flagged" in text
    assert "| test | 1 | 1 |" in text and "| validation | 1 | 0 |" in text
    assert "2 held-out pieces, 1 flagged" in message and "1.00 (mine/copy.mid, mine/k80/movement3.mid)" in message
    entries = json.loads((leaky[0] / "leakage.json").read_text())["pieces"]
    assert [e["flagged"] for e in entries] == [True, False]
    for line in text.splitlines():  # no table row is broken by what a file was called
        if line.startswith("| "):
            assert next(csv.reader([line.replace("\\|", "")], delimiter="|"))[-1] == ""


def test_the_card_tells_the_truth_of_checksums(leaky):
    sums = dict(reversed(line.split("  ")) for line in (leaky[0] / "SHA256SUMS").read_text().splitlines())
    assert sums["report.json"] == "1" * 64
    assert sums["README.md"] == hashlib.sha256((leaky[0] / "README.md").read_bytes()).hexdigest()


def test_the_folder_loads_as_it_lies_in_a_fresh_process(leaky):
    code = (
        "import os, sys\nfrom datasets import load_dataset\nfolder = sys.argv[1]\n"
        "corpus = load_dataset(folder)\nprint({k: len(v) for k, v in corpus.items()})\n"
        "rows = list(load_dataset(folder, split='train', streaming=True))\n"
        "print([row['work'] for row in rows], rows[0]['midi'][:4])\n"
        # Left at once: threads of pyarrow that read a stream may abort Python while it closes, now and
        # then, after all is read and said.
        "print('musegen' in sys.modules, flush=True)\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(leaky[0])], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "{'train': 3, 'validation': 1, 'test': 1}", "['k80', 'k155', 'k156'] b'MThd'", "False",
    ]  # fmt: skip


def test_writing_the_card_again_gives_the_same_bytes(leaky):
    names = ("README.md", "leakage.json", "contents.png", "SHA256SUMS")
    before = [(leaky[0] / name).read_bytes() for name in names]
    write_card(leaky[0], name="My *scores*", repository="me/scores", progress=False)
    assert [(leaky[0] / name).read_bytes() for name in names] == before
    assert not list(leaky[0].glob(".*"))


def test_the_verbs(leaky, tmp_path):
    from typer.testing import CliRunner

    from musegen.cli import app

    shown = CliRunner().invoke(app, ["corpus", "show", str(leaky[0]), "--plot", str(tmp_path / "in.svg")])
    assert shown.exit_code == 0 and "Violin 3" in shown.output and (tmp_path / "in.svg").is_file()
    carded = CliRunner().invoke(app, ["corpus", "card", str(leaky[0]), "--name", "My *scores*", "--repo", "me/scores"])
    assert carded.exit_code == 0 and "1 flagged" in carded.output
    failed = CliRunner().invoke(app, ["corpus", "card", str(tmp_path / "nowhere")])
    assert isinstance(failed.exception, CorpusError)


def test_what_is_no_corpus(tmp_path):
    for verb in (summarize, write_card, describe):
        with pytest.raises(CorpusError, match="no such folder"):
            verb(tmp_path / "nowhere")
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="no corpus there"):
        summarize(tmp_path)
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        summarize(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(CorpusError, match="not a musegen corpus, columns composer"):
        summarize(tmp_path)
