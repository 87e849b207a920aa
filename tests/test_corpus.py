"""Corpora: every file accounted for, no work in two splits, a folder that `load_dataset` reads."""

import collections
import hashlib
import json
import shutil

import pytest
from datasets import Dataset, load_dataset

from musegen import grid as g
from musegen.corpus import SplitOptions, build_corpus, corpus_scores, features, load_corpus, verify_corpus
from musegen.corpus.reducing import LightRow
from musegen.corpus_stats import describe
from musegen.errors import CorpusError
from musegen.scores import content_hash, load_score, midi_bytes
from musegen.work_groups import split_by_group


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scores):
    """A folder as users have them: works in subfolders, a copy, damaged files, other files."""
    root = tmp_path_factory.mktemp("mine")
    for name, score in scores.items():
        path = root / (name + ".mid" if "/" in name else f"{name}/1.mid")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(midi_bytes(score))
    (root / "copy-of-k545.mid").write_bytes(midi_bytes(scores["k545"]))
    (root / "torn.mid").write_bytes(midi_bytes(scores["k545"])[:50])
    (root / "notes.txt").write_text("no score")
    (root / "broken.mxl").write_bytes(b"PK nothing")
    return root


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    report = build_corpus([str(folder)], out, workers=2, progress=False)
    return out, report


def test_every_file_is_accounted_for(built):
    out, report = built
    assert report.found == 7 == sum(report.kept.values()) + report.duplicate_files + report.bad
    assert sum(report.kept.values()) == 4 and len(report.duplicates) == 1
    assert {source.split("/")[-1]: q["reason"] for source, q in report.quarantined.items()} == {
        "torn.mid": "unreadable",
        "broken.mxl": "unreadable",
    }
    assert json.loads((out / "report.json").read_text())["found"] == 7
    assert "2 quarantined" in str(report) and "unreadable                2" in str(report)
    rows = Dataset.from_parquet(str(out / "files.parquet"), cache_dir=str(out.parent / "cache"))
    assert collections.Counter(rows["status"]) == {"kept": 4, "duplicate": 1, "quarantined": 2}
    assert {row["source"]: row["duplicate_of"] for row in rows if row["duplicate_of"]} == report.duplicates
    assert {row["split"] for row in rows if row["status"] == "kept"} == set(report.kept)


def test_rows_hold_the_music_and_what_is_known_of_it(built, scores):
    rows = [row for split in load_corpus(built[0]).values() for row in split]
    by_hash = {content_hash(score): score for score in scores.values()}
    assert {row["content_hash"] for row in rows} == set(by_hash)
    for row in rows:
        score = by_hash[row["content_hash"]]
        assert row["notes"] == len(g.note_array(score)) and row["bars"] == len(g.bar_grid(score))
        assert row["programs"] == sorted({t.program for t in score.tracks})
    k155 = next(row for row in rows if "k155" in row["source"])
    assert (k155["key"], k155["metre"]) == ("D major", "2/4")


def test_load_dataset_reads_the_folder_as_it_lies(built, tmp_path):
    # A cache of its own: offline, `datasets` takes any cached folder of the same name for this one.
    found = load_dataset(str(built[0]), cache_dir=str(tmp_path))
    corpus = load_corpus(built[0])
    assert set(found) == set(corpus) and found["train"].features == corpus["train"].features == features()


def test_scores_come_back_from_the_corpus(built, scores):
    hashes = {content_hash(score) for score in scores.values()}
    for rows in load_corpus(built[0]).values():
        for _, score in corpus_scores(rows):
            assert content_hash(score) in hashes


def test_building_again_gives_the_same_bytes(built, folder, tmp_path):
    build_corpus([str(folder)], tmp_path / "again", workers=1, progress=False)
    for name in ("train", "validation", "test"):
        file = f"data/{name}-00000-of-00001.parquet"
        assert (built[0] / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_a_flipped_byte_is_found(built, tmp_path):
    out = shutil.copytree(built[0], tmp_path / "copy")
    assert verify_corpus(out) == 3
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    file = out / "data" / "train-00000-of-00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorpusError, match=r"train-00000-of-00001\.parquet: damaged"):
        load_corpus(out)
    file.unlink()
    with pytest.raises(CorpusError, match="missing"):
        verify_corpus(out)


def test_shards_are_cut_by_rows_and_hold_all_in_order(folder, built, tmp_path, monkeypatch):
    monkeypatch.setattr("musegen.corpus.writing.SHARD_ROWS", 1)
    build_corpus([str(folder)], tmp_path / "cut", progress=False)
    names = sorted(p.name for p in (tmp_path / "cut" / "data").iterdir())
    assert "train-00000-of-00002.parquet" in names and "train-00001-of-00002.parquet" in names
    cut, whole = load_corpus(tmp_path / "cut"), load_corpus(built[0])
    assert {n: list(rows["source"]) for n, rows in cut.items()} == {
        n: list(rows["source"]) for n, rows in whole.items()
    }


def test_describe_tells_what_is_inside(built):
    text = describe(load_corpus(built[0]))
    assert "D major 1" in text and "Violin 3" in text and "Acoustic Grand Piano 1" in text


def rows_of(sizes):
    return [LightRow(i, f"{i}", work, "", "", notes, None) for i, (work, notes) in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(0, 20, 3))
@pytest.mark.parametrize("count", [3, 5, 12, 200])
def test_no_group_is_in_two_splits(seed, count):
    rows = rows_of([(f"w{i}", 100 + 37 * (i * seed % 11)) for i in range(count) for _ in range(3)])
    works = [row.work for row in rows]
    parts = split_by_group(rows, works, SplitOptions(seed=seed))
    found = {name: {works[i] for i in part} for name, part in parts.items()}
    assert sorted(i for part in parts.values() for i in part) == list(range(len(rows)))
    assert set(parts) == {"train", "validation", "test"}
    assert sum(map(len, found.values())) == len(set(works))
    if count == 200:
        total = sum(row.notes for row in rows)
        for name in ("validation", "test"):
            assert 0.06 * total < sum(rows[i].notes for i in parts[name]) < 0.13 * total


def test_few_works_of_very_different_size_still_give_real_test_data():
    rows = rows_of([("k80", 8082), ("k155", 5425), ("k156", 7847), ("k458", 16464), ("k545", 191)])
    for seed in range(10):
        parts = split_by_group(rows, [row.work for row in rows], SplitOptions(seed=seed))
        assert all(sum(rows[i].notes for i in parts[n]) > 2000 for n in ("train", "validation", "test"))


def test_a_source_that_is_none_leaves_nothing(tmp_path, folder):
    with pytest.raises(CorpusError, match="no such file or folder"):
        build_corpus([str(folder), "/nowhere"], tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


def test_folder_without_a_score(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CorpusError, match="no score in it"):
        build_corpus([str(tmp_path / "in")], tmp_path / "out", progress=False)


def test_nothing_usable(tmp_path):
    (tmp_path / "bad.mid").write_bytes(b"MThd")
    with pytest.raises(CorpusError, match=r"none of the 1 files.*unreadable"):
        build_corpus([str(tmp_path / "bad.mid")], tmp_path / "out", progress=False)


def test_a_folder_with_other_things_is_not_overwritten(tmp_path, folder):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(CorpusError, match="something else"):
        build_corpus([str(folder)], tmp_path, progress=False)
    assert (tmp_path / "thesis.tex").exists()


def test_not_a_corpus(tmp_path):
    with pytest.raises(CorpusError, match="no corpus there"):
        load_corpus(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        load_corpus(tmp_path)


def test_the_same_piece_from_notation_and_from_midi_is_one_piece(tmp_path, movement_paths):
    source = movement_paths["k80/movement3"]
    (tmp_path / "k80.mid").write_bytes(midi_bytes(load_score(source, isolate=False).score))
    report = build_corpus([str(source), str(tmp_path / "k80.mid")], tmp_path / "out", progress=False)
    assert report.kept == {"train": 1} and len(report.duplicates) == 1
