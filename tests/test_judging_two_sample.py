"""The two-sample test: an independent optimum, chance for equal music, and no peeking at works."""

import math

import numpy as np
import pytest
from scipy import optimize

from musegen.judging.two_sample import auc_of, fit_logistic, two_sample_test

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
    assert grouped.auc < 0.65 and leaking.auc > 0.85


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
