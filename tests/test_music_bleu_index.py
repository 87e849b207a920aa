"""The metric's reference index: counts against naive counting, saving, memory-mapping, and damage on disk."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from unittest import mock

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score

from musegen.metrics.music_bleu import reference_index
from musegen.metrics.music_bleu.ngram_tables import build_tables
from musegen.metrics.music_bleu.reference_index import ReferenceIndex, ReferenceIndexError

FOLDER = Path(__file__).resolve().parents[1] / "musegen" / "metrics" / "music_bleu"

sequences = st.lists(st.integers(0, 3), min_size=0, max_size=40)


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("metric")))


def music(seed, pieces):
    """Pieces of cut and repeated scales: long matches, and counts that differ by piece."""
    rng = np.random.default_rng(seed)
    scale = [token for pitch in (60, 62, 64, 65, 67) for token in (f"p{pitch}", "wait6", f"endp{pitch}")]
    cuts = rng.integers(1, len(scale) + 1, (pieces, 6))
    return [[token for cut in row[: rng.integers(1, 7)] for token in scale[-cut:]] for row in cuts]


def naive_matches(references, prediction, max_order):
    """Clipped matches by counting, as the definition reads."""
    matches = []
    for n in range(1, max_order + 1):
        counts = [Counter(tuple(r[i : i + n]) for i in range(len(r) - n + 1)) for r in references]
        own = Counter(tuple(prediction[i : i + n]) for i in range(len(prediction) - n + 1))
        matches.append(sum(min(own[gram], max(count[gram] for count in counts)) for gram in own))
    return matches


@settings(max_examples=60, deadline=None)
@given(
    references=st.lists(sequences, min_size=1, max_size=6),
    predictions=st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=4),
    max_order=st.integers(1, 10),
)
def test_index_counts_as_the_definition(references, predictions, max_order):
    index = ReferenceIndex.build(references, max_order=max_order)
    expected = [naive_matches(references, prediction, max_order) for prediction in predictions]
    assert index.matches(predictions).tolist() == expected


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 70_000])
def test_index_at_the_edges_of_integer_types(vocabulary):
    rng = np.random.default_rng(vocabulary)
    # Every token once, so that the vocabulary has this size; then runs over few tokens, so that n-grams repeat.
    references = [list(range(vocabulary)), *(rng.integers(max(0, vocabulary - 3), vocabulary, (4, 400)).tolist())]
    predictions = [references[1][50:150], references[0][-40:], [vocabulary, *references[2][:30]]]
    expected = [naive_matches(references, prediction, 9) for prediction in predictions]
    assert ReferenceIndex.build(references).matches(predictions).tolist() == expected


@pytest.mark.parametrize("block_size", [1, 7, 200])
def test_index_is_the_same_in_blocks_of_any_size(block_size):
    rng = np.random.default_rng(block_size)
    tokens = np.append(rng.integers(0, 6, 900), np.arange(6)).astype(np.uint8)
    lengths = np.array([0, 400, 3, 0, 503])
    whole, blocks = (build_tables(tokens, lengths, 6, 9, size) for size in (2**20, block_size))
    for one, other in zip(whole.keys + whole.counts, blocks.keys + blocks.counts, strict=True):
        assert one.tolist() == other.tolist() and one.dtype == other.dtype


def test_counts_above_a_byte_are_kept():
    index = ReferenceIndex.build([["a"] * 70_000, ["a", "b"] * 300])
    assert index.matches([["a"] * 80_000, ["b", "a"] * 400])[:, :2].tolist() == [[70_000, 69_999], [700, 599]]


def test_closest_length_is_nltks():
    references = [["a"] * length for length in (3, 9, 9, 17, 30)]
    index = ReferenceIndex.build(references)
    for length in range(40):
        assert index.closest_length(length) == bleu_score.closest_ref_length(references, length)


def test_generators_are_read_once_and_encodings_are_checked(metric):
    pieces = music(5, 8)
    index = metric.build_index((piece for piece in pieces), encoding="notewise")
    assert index.content_hash == metric.build_index(pieces).content_hash
    assert (index.pieces, index.tokens) == (8, sum(map(len, pieces)))
    assert "enc:notewise" in metric.compute(predictions=pieces[:1], reference_corpus=index)["signature"]
    with pytest.raises(ValueError, match="'remi'"):
        metric.compute(predictions=pieces[:1], reference_corpus=index, encoding="remi")


@pytest.fixture
def saved(tmp_path):
    """A saved index, its pieces and predictions for it."""
    pieces = music(6, 12)
    folder = ReferenceIndex.build(pieces, encoding="notewise").save(tmp_path / "deep" / "index")
    return folder, pieces, music(7, 4)


def test_saved_index_scores_the_same_and_is_memory_mapped(metric, saved):
    folder, pieces, predictions = saved
    index = metric.load_index(folder)
    assert all(isinstance(array, np.memmap) for array in index.tables.keys + index.tables.counts)
    expected = metric.compute(predictions=predictions, reference_corpus=pieces, encoding="notewise")
    assert 0 < expected["score"] < 1
    for corpus in (index, folder, str(folder), metric.load_index(folder, verify=False)):
        assert metric.compute(predictions=predictions, reference_corpus=corpus) == expected
    separate = metric.compute(predictions=predictions, references=[pieces] * len(predictions))
    assert separate["per_prediction"] == expected["per_prediction"]
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_processes_share_the_pages_of_one_index(tmp_path):
    """What a process maps of the files is read-only and shared with the page cache: no private copy is made."""
    pieces = np.random.default_rng(0).integers(0, 90, (40, 5_000)).tolist()
    folder = ReferenceIndex.build(pieces).save(tmp_path / "index")
    index = ReferenceIndex.load(folder)
    index.matches([list(range(90)) * 5])
    blocks = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    mapped = [block for block in blocks if str(folder) in block]
    assert len(mapped) >= 18 and index.nbytes > 1_000_000
    for block in mapped:
        assert block.split()[1] == "r--s" and re.search(r"Anonymous: +0 kB", block), block
    with pytest.raises(ValueError, match="read-only"):
        index.tables.counts[0][0] = 1


@pytest.mark.parametrize("pieces", [[[]], [["a"]], [["a", "b"], []]])
def test_tiny_index_survives_saving(tmp_path, pieces):
    built = ReferenceIndex.build(pieces)
    loaded = ReferenceIndex.load(built.save(tmp_path / "index"))
    for prediction in ([], ["a"], ["a", "b", "a"]):
        assert loaded.matches([prediction]).tolist() == [naive_matches(pieces, prediction, 9)]
        assert loaded.closest_length(len(prediction)) == built.closest_length(len(prediction))


def test_save_keeps_what_exists_unless_told(metric, saved):
    folder, _, predictions = saved
    other = metric.build_index(music(8, 3))
    before = metric.compute(predictions=predictions, reference_corpus=folder)["signature"]
    with pytest.raises(FileExistsError, match="overwrite"):
        other.save(folder)
    assert metric.compute(predictions=predictions, reference_corpus=folder)["signature"] == before
    other.save(folder, overwrite=True)
    after = metric.compute(predictions=predictions, reference_corpus=folder)["signature"]
    assert after != before and other.content_hash[:16] in after
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    index = ReferenceIndex.build(music(9, 2))
    monkeypatch.setattr(np, "save", mock.Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        index.save(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def edit_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


DAMAGES = {
    "no folder": (shutil.rmtree, "manifest.json"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json"),
    "torn manifest": (lambda f: os.truncate(f / "manifest.json", 100), "manifest.json"),
    "foreign manifest": (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json"),
    "edited manifest": (lambda f: edit_manifest(f, max_order=3), "manifest.json"),
    "newer format": (lambda f: edit_manifest(f, format_version=99), "version 99"),
    "no array": (lambda f: (f / "keys_4.npy").unlink(), "keys_4.npy"),
    "torn array": (lambda f: os.truncate(f / "counts_5.npy", 130), "counts_5.npy"),
    "flipped bit in an array": (lambda f: flip(f / "keys_3.npy", -1), "keys_3.npy"),
    "flipped bit in a header": (lambda f: flip(f / "lengths.npy", 3), "lengths.npy"),
    "flipped bit in the vocabulary": (lambda f: flip(f / "vocabulary.json", 3), "vocabulary.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(metric, saved, damage):
    folder, _, predictions = saved
    harm, named = DAMAGES[damage]
    harm(folder)
    with pytest.raises(ReferenceIndexError, match=re.escape(named)) as caught:
        ReferenceIndex.load(folder)
    assert str(folder) in str(caught.value) and "build and save it again" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(named)):
        metric.compute(predictions=predictions, reference_corpus=str(folder))


def test_pickled_arrays_are_never_loaded(saved):
    folder, *_ = saved
    np.save(folder / "lengths.npy", np.array([{}], dtype=object), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "lengths.npy"
    manifest["files"]["lengths.npy"] = {"bytes": path.stat().st_size, "sha256": reference_index._file_hash(path)}
    manifest["manifest_sha256"] = reference_index._manifest_hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ReferenceIndexError, match="cannot be read"):
        ReferenceIndex.load(folder)


def test_reference_hash_sees_where_pieces_end():
    early = ReferenceIndex.build([["a"], ["b", "c"]])
    late = ReferenceIndex.build([["a", "b"], ["c"]])
    assert early.content_hash != late.content_hash
