"""The two-sample test: an independent optimum, chance for equal music, and no peeking at works."""

import math

import numpy as np
import pytest
from scipy import optimize

from musegen.judging import two_sample as module
from musegen.judging.two_sample import _deal, auc_of, fit_logistic, real_auc, two_sample_test

NAMES = ["a", "b", "c", "d"]


def works(count, each):
    return np.repeat([f"w{i}" for i in range(count)], each).tolist()


def test_auc_by_hand():
    assert auc_of(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == (1 + 0.5 + 1 + 1) / 4
    assert auc_of(np.array([1.0, np.nan]), np.array([2.0])) == 0.0
    assert math.isnan(auc_of(np.array([np.nan]), np.array([2.0])))


def test_fit_equals_an_independent_optimiser():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), (rng.random(40) < 0.3).astype(float)
    weights, intercept = fit_logistic(x, y, penalty=0.7)
    balance = np.where(y == 1, 20 / y.sum(), 20 / (40 - y.sum()))

    def loss(theta):
        margin = (x @ theta[:3] + theta[3]) * np.where(y == 1, 1, -1)
        return (balance * np.logaddexp(0, -margin)).sum() + 0.35 * (theta[:3] ** 2).sum()

    best = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    assert [*weights, intercept] == pytest.approx(best.tolist(), abs=1e-5)


def test_equal_music_is_near_chance():
    rng = np.random.default_rng(1)
    aucs = []
    for seed in range(8):
        result = two_sample_test(rng.normal(size=(16, 4)), rng.normal(size=(40, 4)), works(10, 4), NAMES, seed)
        aucs.append(result.auc)
        assert result.low < 0.55
    assert 0.4 < np.mean(aucs) < 0.6


def test_different_music_is_told():
    rng = np.random.default_rng(2)
    generated = rng.normal(size=(16, 4)) + [0, 2.0, 0, 0]
    result = two_sample_test(generated, rng.normal(size=(40, 4)), works(10, 4), NAMES)
    assert result.auc > 0.8 and result.low > 0.6
    first = result.give_aways[0]
    assert first.feature == "b" and first.auc > 0.85 and first.coefficient > 0.5
    turned = two_sample_test(-generated, rng.normal(size=(40, 4)), works(10, 4), NAMES)
    assert turned.give_aways[0].feature == "b"


def test_perfect_separation_is_not_taken_for_certainty():
    result = two_sample_test(np.arange(10.0, 16)[:, None], np.zeros((8, 1)), works(4, 2), ["a"])
    assert result.auc == result.high == 1.0
    assert result.low == pytest.approx(0.025 ** (1 / 10))


def test_excerpts_of_a_work_are_never_on_both_sides():
    """Features that only say which work an excerpt is of: no use for a work that was not trained on."""
    rng = np.random.default_rng(3)
    real = np.repeat(rng.normal(size=(8, 30)), 6, axis=0)
    generated = rng.normal(size=(24, 30))
    names = [f"f{i}" for i in range(30)]
    grouped = two_sample_test(generated, real, works(8, 6), names)
    leaking = two_sample_test(generated, real, [f"{i}" for i in range(48)], names)
    assert (grouped.works, leaking.works) == (8, 48)
    assert grouped.auc < 0.65 and leaking.auc > 0.8


def test_copies_are_never_tested_beside_the_work_that_they_are_of():
    """Generated pieces that are copies of the works: to know the work would be to mistake the copy for it."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(8, 30))
    real, generated = np.repeat(centres, 4, axis=0), np.repeat(centres, 2, axis=0)
    names, sources = [f"f{i}" for i in range(30)], works(8, 2)
    straddling = two_sample_test(generated, real, works(8, 4), names)
    kept = two_sample_test(generated, real, works(8, 4), names, sources=sources)
    assert straddling.auc < 0.45 and abs(kept.auc - 0.5) < abs(straddling.auc - 0.5)
    unit = np.array([*range(8), *range(8)]).repeat([2] * 8 + [4] * 8)
    y = np.repeat([1.0, 0.0], [16, 32])
    for seed in range(20):
        fold = _deal(unit, y, 5, np.random.default_rng(seed))
        assert all(len(set(fold[unit == u])) == 1 for u in range(8)) and len(set(fold)) == 5


def test_folds_are_even_and_whole():
    rng = np.random.default_rng(8)
    for seed in range(50):
        unit = np.concatenate([rng.integers(0, 9, 20), 100 + rng.integers(0, 12, 60)])
        y = np.repeat([1.0, 0.0], [20, 60])
        fold = _deal(unit, y, 5, np.random.default_rng(seed))
        assert all(len(set(fold[unit == u])) == 1 for u in unit)
        for kind, largest in ((1, 20), (0, 60)):
            sizes = np.bincount(fold[y == kind], minlength=5)
            assert sizes.min() > 0 and sizes.max() <= largest / 5 + np.bincount(unit[y == kind]).max()


def test_auc_counts_pairs_as_they_are():
    """The AUC of a plain loop over folds and pairs, with the classifier taken as given."""
    rng = np.random.default_rng(9)
    generated, real = rng.normal(size=(9, 3)) + 0.7, rng.normal(size=(14, 3))
    unit = np.concatenate([np.arange(9), 9 + np.arange(14) // 2])
    x, y = np.concatenate([generated, real]), np.repeat([1.0, 0.0], [9, 14])
    wins, tested = module._cross_validate(x, y, unit, 4, np.random.default_rng(5), repeats=3)
    again, right, pairs = np.random.default_rng(5), 0.0, 0
    for _ in range(3):
        fold = _deal(unit, y, 4, again)
        for k in range(4):
            train, test = x[fold != k], x[fold == k]
            mean, deviation = train.mean(axis=0), train.std(axis=0)
            weights, _ = fit_logistic(np.clip((train - mean) / deviation, -4, 4), y[fold != k])
            scores = np.clip((test - mean) / deviation, -4, 4) @ weights
            for a in scores[y[fold == k] == 1]:
                for b in scores[y[fold == k] == 0]:
                    right, pairs = right + (a > b), pairs + 1
    assert tested.sum() == pairs and wins.sum() / pairs == pytest.approx(right / pairs, abs=1e-12)


def test_real_music_has_a_band_of_its_own():
    """Works that are alike give chance; works that differ are told from each other, and the band says so."""
    rng = np.random.default_rng(10)
    alike = rng.normal(size=(60, 4))
    mean, low, high = real_auc(alike, works(15, 4), 8)
    assert 0.4 < mean < 0.6 and low < 0.45 and 0.55 < high < 0.95
    assert real_auc(alike, works(15, 4), 8) == (mean, low, high) != real_auc(alike, works(15, 4), 8, seed=1)
    assert math.isnan(real_auc(alike[:12], works(3, 4), 8)[1])
    # What new real music gets lies in the band about as often as the band says.
    inside = [
        low <= two_sample_test(rng.normal(size=(8, 4)), alike, works(15, 4), NAMES, seed).auc <= high
        for seed in range(60)
    ]
    assert np.mean(inside) > 0.85
    told = two_sample_test(rng.normal(size=(8, 4)) + [3.0, 0, 0, 0], alike, works(15, 4), NAMES)
    assert told.auc > high


def test_one_work_is_said_to_be_one():
    rng = np.random.default_rng(4)
    result = two_sample_test(rng.normal(size=(6, 4)), rng.normal(size=(9, 4)), ["w"] * 9, NAMES)
    assert not result.grouped and result.works == 1 and 0 <= result.low <= result.auc <= result.high <= 1


def test_missing_and_constant_features_do_no_harm():
    rng = np.random.default_rng(5)
    generated, real = rng.normal(size=(12, 4)), rng.normal(size=(20, 4))
    generated[0, 0] = real[3, 0] = np.nan
    generated[:, 2], real[:, 2] = 7.0, 7.0
    generated[:, 3] = np.nan
    result = two_sample_test(generated, real, works(5, 4), NAMES)
    assert sorted(g.feature for g in result.give_aways) == ["a", "b"] and math.isfinite(result.auc)


def test_too_few_pieces():
    result = two_sample_test(np.array([[1.0]]), np.array([[0.0], [0.5]]), ["v", "w"], ["a"])
    assert math.isnan(result.auc) and result.give_aways[0].auc == 1.0
    nothing = two_sample_test(np.ones((4, 1)), np.ones((4, 1)), works(2, 2), ["a"])
    assert math.isnan(nothing.auc) and nothing.give_aways == []


def test_seeds():
    rng = np.random.default_rng(6)
    generated, real = rng.normal(size=(10, 4)) + 0.5, rng.normal(size=(20, 4))
    assert two_sample_test(generated, real, works(5, 4), NAMES, 1) == two_sample_test(
        generated, real, works(5, 4), NAMES, 1
    )
    assert (
        two_sample_test(generated, real, works(5, 4), NAMES, 2).auc
        != two_sample_test(generated, real, works(5, 4), NAMES, 1).auc
    )
