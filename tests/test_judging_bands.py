"""Bands: rows by hand, the right width for few works, and a false alarm about one time in twenty."""

import math

import numpy as np
import pytest
from scipy import stats

from musegen.judging.bands import NORMAL_QUANTILE, Band, RealMusic, interval, mean_interval, student_quantile


def test_places():
    band = Band(mean=2.0, low=1.0, high=3.0, size=8)
    assert [band.place(v) for v in (0.9, 1.0, 2.5, 3.0, 3.1)] == ["below", "inside", "inside", "inside", "above"]
    assert band.place(float("nan")) == "undefined"
    assert Band(2.0, float("nan"), 3.0, 8).place(2.0) == "undefined"


def test_no_spread_is_no_fault_for_the_last_bit():
    band = RealMusic(["a", "b", "c"]).band(np.array([0.1, 0.1, 0.1]), 4)
    assert band.low == pytest.approx(0.1) and band.place(0.1 + 1e-15) == "inside" and band.place(0.11) == "above"


def test_the_mean_is_over_works_not_over_excerpts():
    values = np.array([1.0, 1.0, 1.0, 5.0])
    assert RealMusic(["a", "a", "a", "b"]).mean(values) == 3.0
    assert RealMusic(["a", "a", "a", "b"]).band(values, 4).mean == 3.0


def test_missing_values_are_left_out():
    values = np.array([1.0, np.nan, 3.0, np.nan])
    music = RealMusic(["a", "a", "b", "c"])
    assert music.mean(values) == 2.0
    assert math.isfinite(music.band(values, 4).low)
    assert music.band(np.full(4, np.nan), 4).place(1.0) == "undefined"


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 31, 200])
def test_student_quantile(freedom):
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert pytest.approx(stats.norm.ppf(0.975), abs=1e-6) == NORMAL_QUANTILE


def test_width_by_theory():
    """Many works, one excerpt each: the band of k is 1.96 deviations times sqrt(1/k + 1/works) on each side."""
    rng = np.random.default_rng(0)
    values = 50 + rng.normal(size=400)
    music = RealMusic([f"{i}" for i in range(400)], draws=6000)
    for size in (4, 25):
        band = music.band(values, size)
        expected = 1.96 * values.std(ddof=1) * math.sqrt(1 / size + 1 / 400)
        assert (band.high - band.low) / 2 == pytest.approx(expected, rel=0.05)


def test_few_works_widen_by_student():
    assert RealMusic(["a", "b"]).widening == pytest.approx(12.706 / 1.96, rel=1e-3)
    assert RealMusic(["a", "b", "c", "c"]).widening == pytest.approx(4.303 / 1.96, rel=1e-3)
    # Stand-ins add what they know: 5 works have 4 degrees of freedom, one held-out work none.
    music = RealMusic(["a", *"bcdef"], [True] + [False] * 5)
    assert music.widening == pytest.approx(2.776 / 1.96, rel=1e-3)
    assert music.held_out == ["a"] and music.knows_works


def test_stand_ins_give_the_spread_and_not_the_mean():
    values = np.array([10.0, 1.0, 2.0, 3.0, 4.0])
    band = RealMusic(list("abcde"), [True] + [False] * 4).band(values, 8)
    assert band.mean == 10.0 and band.low < 10.0 < band.high
    alone = RealMusic(["a"]).band(values[:1], 8)
    assert alone.low == alone.high == 10.0 and not RealMusic(["a"]).knows_works


def test_nothing_is_below_zero():
    assert RealMusic(["a", "b"]).band(np.array([0.0, 1.0]), 2).low == 0.0


def simulate(rng, works, excerpts, between):
    """Excerpts of works whose means differ: values and works."""
    means = rng.normal(0, between, works)
    values = 100 + (means[:, None] + rng.normal(0, 1, (works, excerpts))).ravel()
    return values, np.repeat([f"{i}" for i in range(works)], excerpts).tolist()


@pytest.mark.parametrize("works, stand_ins", [(3, 0), (12, 0), (1, 6), (2, 8)])
def test_real_music_is_faulted_about_one_time_in_twenty(works, stand_ins):
    """New works as the group: the band must hold its mean about as often as it says."""
    rng = np.random.default_rng(7)
    outside, trials = 0, 300
    for trial in range(trials):
        values, names = simulate(rng, works + stand_ins, 4, between=1.0)
        held = np.arange(len(values)) < 4 * works
        group = simulate(rng, 8, 1, between=1.0)[0]
        outside += RealMusic(names, held, seed=trial, draws=400).band(values, 8).place(group.mean()) != "inside"
    # With three works, Student's t also widens for what many excerpts tell well: careful rather than exact.
    assert 0.003 <= outside / trials <= 0.09, outside / trials


def test_a_different_group_is_found():
    rng = np.random.default_rng(3)
    values, names = simulate(rng, 12, 4, between=1.0)
    band = RealMusic(names).band(values, 16)
    assert band.place(103.0) == "above" and band.place(97.0) == "below"


def test_curve_and_error_bands():
    rng = np.random.default_rng(5)
    curves = 1 + rng.normal(0, 0.1, (40, 6))
    music = RealMusic([f"{i}" for i in range(40)], draws=1000)
    mean, low, high = music.curve_band(curves, 10)
    assert mean == pytest.approx(curves.mean(axis=0)) and (low < mean).all() and (mean < high).all()
    single = music.band(curves[:, 2], 10)
    assert (low[2], high[2]) == pytest.approx((single.low, single.high))
    error = music.error_band(curves, 10)
    assert error.low == 0.0 < error.mean < error.high < (high - mean).max()
    assert music.error_band(curves, 10, np.full(6, 2.0)).high == pytest.approx(error.high / 2)


def test_seeds():
    values = np.random.default_rng(0).normal(10, 1, 20)
    names = [f"{i // 2}" for i in range(20)]
    assert RealMusic(names, seed=1).band(values, 8) == RealMusic(names, seed=1).band(values, 8)
    assert RealMusic(names, seed=1).band(values, 8) != RealMusic(names, seed=2).band(values, 8)


def test_intervals():
    assert interval(np.append(np.arange(1001.0), np.nan)) == pytest.approx((25.0, 975.0))
    assert all(map(math.isnan, interval(np.array([np.nan]))))
    low, high = mean_interval(np.random.default_rng(0).normal(0, 1, 400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1) and low < 0.1 and high > -0.1
