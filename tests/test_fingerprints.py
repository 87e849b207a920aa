"""Fingerprints: what they must not hear, what they must, and that they are the same everywhere."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import symusic
from alterations import changed
from datasketch import MinHash

from musegen import fingerprints as f
from musegen import grid as g
from musegen.work_groups import overlap


def twice(onset, duration, pitch):
    return np.concatenate([onset, onset + 96 * 10_000]), np.tile(duration, 2), np.tile(pitch, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda on, du, pi: (on, du, pi + 5),
        lambda on, du, pi: (on, du, pi - 12),
        lambda on, du, pi: (on * 2, du * 2, pi),
        lambda on, du, pi: (on, np.maximum(du // 2, 1), pi),
    ],
    ids=["transposed", "an octave down", "note values doubled", "staccato"],
)
def test_what_does_not_change_the_music_changes_nothing(scores, change):
    for score in scores.values():
        assert np.array_equal(f.fingerprint(changed(score, change)), f.fingerprint(score))


def test_repeats_written_out_add_little(scores):
    for score in scores.values():
        once, again = f.shingles(score), f.shingles(changed(score, twice))
        assert np.isin(once, again).all() and len(again) - len(once) < 20 * len(score.tracks)


def test_a_single_part_is_in_its_score(scores):
    quartet = scores["k155/movement3"]
    for track in quartet.tracks:
        part = symusic.Score(g.TICKS_PER_QUARTER)
        part.tracks.append(track)
        assert np.isin(f.shingles(part), f.shingles(quartet)).all()
        assert overlap(f.fingerprint(part), f.fingerprint(quartet)) > 0.6


def test_grace_notes_are_not_heard():
    rng = np.random.default_rng(0)
    onset = np.cumsum(rng.choice([48, 96, 144], 60))
    pitch = 60 + rng.integers(0, 12, 60)
    plain = symusic.Score(g.TICKS_PER_QUARTER)
    plain.tracks.append(symusic.Track("", 0, False))
    plain.tracks[0].notes = symusic.Note.from_numpy(
        onset.astype(np.int32), np.full(60, 24, np.int32), pitch.astype(np.int8), np.full(60, 64, np.int8)
    )

    def add(on, du, pi):
        some = np.arange(5, 60, 9)
        return np.append(on, on[some] - 8), np.append(du, np.full(len(some), 8)), np.append(pi, pi[some] + 2)

    # Each grace note shortens the note before it a little; the classes of lengths forgive that.
    assert overlap(f.fingerprint(changed(plain, add)), f.fingerprint(plain)) > 0.7


def test_different_works_hardly_overlap(scores):
    names = list(scores)
    prints = {name: f.fingerprint(scores[name]) for name in names}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert overlap(prints[one], prints[other]) < 0.12
            assert f.set_overlap(f.shingles(scores[one]), f.shingles(scores[other])) < 0.1


@pytest.mark.parametrize(
    "pitches",
    [[60] * 80, [60, 62] * 40, [60, 64, 67, 64] * 20, [60, 67, 64, 67] * 20, list(range(40, 80))],
    ids=["repeated", "trill", "broken chord", "Alberti bass", "chromatic scale"],
)
def test_what_every_piece_has_is_no_shingle(pitches):
    line = f.Line(np.arange(len(pitches)) * 24, np.array(pitches))
    assert len(f.line_shingles([line])) == 0


def test_shingles_are_numbered_without_collision():
    """Against a count of the runs as tuples."""
    rng = np.random.default_rng(1)
    line = f.Line(np.cumsum(rng.integers(1, 5, 3000)), 60 + rng.integers(0, 3, 3000))
    intervals, lengths = f.symbols(line)
    width = f.NOTES - 1
    runs = {
        (tuple(intervals[i : i + width]), tuple(lengths[i : i + width - 1]))
        for i in range(len(intervals) - width + 1)
        if len(set(intervals[i : i + width])) >= 4
        and not any((intervals[i + p : i + width] == intervals[i : i + width - p]).all() for p in range(1, 5))
    }
    assert len(f.line_shingles([line])) == len(runs) > 500


def test_estimates_are_near_the_exact_overlap():
    rng = np.random.default_rng(2)
    for size, other, shared in [(300, 300, 150), (200, 2000, 200), (500, 1500, 100), (400, 400, 0)]:
        members = rng.choice(2**40, size + other - shared, replace=False).astype(np.uint64)
        one, two = np.sort(members[:size]), np.sort(members[size - shared :])
        assert f.set_overlap(one, two) == shared / min(size, other)
        assert overlap(f.sketch(one), f.sketch(two)) == pytest.approx(shared / min(size, other), abs=0.15)


@pytest.mark.parametrize("score", [symusic.Score(g.TICKS_PER_QUARTER)], ids=["no notes"])
def test_a_piece_without_melody_has_an_empty_fingerprint(score):
    prints = f.fingerprint(score)
    assert prints.dtype == np.uint32 and prints.shape == (f.SIZE,) and prints[:2].tolist() == [f.VERSION, 0]
    assert overlap(prints, prints) == 0


# If this fails, fingerprints that lie in built corpora no longer fit: raise VERSION.
FROZEN = "bd5884f30193ee58491b0049cc897f3c70aad781f24af18e39165d9863e12b43"


def test_fingerprints_never_change_unnoticed():
    rng = np.random.default_rng(3)
    line = f.Line(np.cumsum(rng.integers(1, 4, 400)), 50 + rng.integers(0, 24, 400))
    digest = hashlib.sha256(f.sketch(f.line_shingles([line])).astype("<u4").tobytes()).hexdigest()
    assert digest == FROZEN


def test_workers_need_nothing_heavy():
    code = (
        "import sys\nimport symusic\nfrom musegen.fingerprints import fingerprint\nfingerprint(symusic.Score(96))\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'miditok') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("count", [0, 1, 511, 513, 3000])
def test_minima_are_those_of_datasketch(count):
    members = np.unique(np.random.default_rng(count).integers(2**63, size=count).astype(np.uint64))
    reference = MinHash(f.PERMUTATIONS, seed=f._SEED, scheme="affine32", hashfunc=int)
    reference.update_batch(f._hash(members).tolist())
    found = f.sketch(members)
    assert found.dtype == np.uint32 and found[2:].tolist() == reference.hashvalues.tolist()
