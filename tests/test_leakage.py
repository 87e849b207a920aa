"""The leakage audit, against counts by hand and by brute force."""

import numpy as np
import pytest
import symusic
from alterations import changed

from musegen import fingerprints as f
from musegen import grid as g
from musegen.leakage import FLAG_OVERLAP, audit, longest_span, overlap_of


def test_a_copy_in_another_key_is_found_and_flagged(scores):
    training = [(name, score) for name, score in scores.items()]
    copied = changed(scores["k155/movement3"], lambda on, du, pi: (on + 96, du, pi - 3))
    (found,) = audit({"test": [("copy", copied)]}, training)
    assert (found.split, found.source, found.nearest) == ("test", "copy", "k155/movement3")
    assert found.overlap == found.share == 1 and found.flagged
    longest = max(len(line) for line in f.lines(copied))
    assert found.span == longest - 1  # all but the last note, which no note follows


def test_real_different_works_are_not_flagged(scores):
    names = list(scores)
    for name in names:
        training = [(other, scores[other]) for other in names if other != name]
        (found,) = audit({"validation": [(name, scores[name])]}, training)
        assert not found.flagged and found.overlap < FLAG_OVERLAP / 2 and found.span < 40
        assert bool(found.nearest) == (found.overlap > 0)
        assert found.overlap == pytest.approx(max(overlap_of(scores[name], s) for _, s in training), abs=1e-4)


def test_a_part_or_a_whole_is_found_in_either_direction(scores):
    quartet = scores["k156/movement4"]
    cello = symusic.Score(g.TICKS_PER_QUARTER)
    cello.tracks.append(quartet.tracks[-1])
    part, whole = audit({"test": [("cello", cello), ("quartet", quartet)]}, [("quartet", quartet)])
    assert part.overlap == 1 and part.share == 1
    (whole,) = audit({"test": [("quartet", quartet)]}, [("cello", cello)])
    assert whole.overlap == 1 and whole.share < 0.4 and whole.flagged


def test_overlaps_are_counts(scores):
    """Two held-out pieces at once, against set operations."""
    held = [("a", scores["k545"]), ("b", scores["k80/movement3"])]
    other = changed(scores["k545"], lambda on, du, pi: (on[: len(on) // 2], du[: len(on) // 2], pi[: len(on) // 2]))
    found = audit({"test": held}, [("half", other)])
    half = set(f.shingles(other).tolist())
    for entry, (_, score) in zip(found, held):
        own = set(f.shingles(score).tolist())
        assert entry.overlap == pytest.approx(len(own & half) / max(min(len(own), len(half)), f.SMALLEST), abs=1e-4)
        assert entry.share == pytest.approx(len(own & half) / len(own), abs=1e-4)


def test_nothing_to_compare(scores):
    empty = symusic.Score(g.TICKS_PER_QUARTER)
    found = audit({"test": [("empty", empty), ("k545", scores["k545"])]}, [])
    assert [(e.nearest, e.overlap, e.span, e.flagged) for e in found] == [("", 0.0, 0, False)] * 2
    assert audit({}, [("k545", scores["k545"])]) == []
    (found,) = audit({"test": [("empty", empty)]}, [("k545", scores["k545"])])
    assert found.overlap == 0 and found.nearest == ""


def brute_force(one, other):
    """Every pair of places in every pair of lines."""
    best = 0
    for mine in one:
        for theirs in other:
            a, b = (list(zip(*(part.tolist() for part in f.symbols(line)))) for line in (mine, theirs))
            for i in range(len(a)):
                for j in range(len(b)):
                    k = 0
                    while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                        k += 1
                    best = max(best, k)
    return best + 1 if best else 0


@pytest.mark.parametrize("seed", range(40))
def test_longest_span_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)

    def piece():
        sizes = rng.integers(0, 24, rng.integers(0, 4))
        return [f.Line(np.cumsum(rng.integers(1, 3, n)), 60 + np.cumsum(rng.integers(0, 2, n))) for n in sizes]

    one, other = piece(), piece()
    assert longest_span(one, other) == brute_force(one, other)
