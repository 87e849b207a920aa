"""The band in which real held-out music lies: what a group of samples is measured against.

A band answers: if the samples of a group were excerpts of real music that nobody trained on, where would their
mean lie, 19 times out of 20? Two things make it wide: which works happen to be held out, and which samples
happened to be generated. Both are bootstrapped over works, not over excerpts, because excerpts of one work
are alike. A draw is the mean of as many random excerpts, of random works, as the group has samples, minus the
mean of as many random works as are held out, both as deviations from the mean of real music.

How works differ cannot be seen in one or two of them. So real works besides the held-out ones may be given
(training works, each measured as if it had been held out): they widen the pool of deviations, while the mean
stays that of the held-out music. What little is known of few works is allowed for twice: deviations
are scaled by sqrt(n / (n - 1)) and the quantiles by Student's t over the normal distribution's.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Davison and Hinkley, "Bootstrap Methods
and their Application", 1997, section 3.8, for clustered data; Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 2015, for the correction for small samples.

Units: those of the metric, none of which can be negative; what is largest is told by `highest`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

DRAWS = 2000
LEVEL = 0.95
NORMAL_QUANTILE = 1.959964  # of the standard normal distribution, at (1 + LEVEL) / 2
INSIDE, BELOW, ABOVE, UNDEFINED = "inside", "below", "above", "undefined"


@dataclasses.dataclass(frozen=True)
class Band:
    """Where the mean of a group of real excerpts lies.

    Args:
        mean: Of held-out music: the mean over works of the means of their excerpts.
        low: 2.5 % of groups lie below.
        high: 2.5 % of groups lie above.
        size: Excerpts in a group.
    """

    mean: float
    low: float
    high: float
    size: int

    def place(self, value: float) -> str:
        """`inside`, `below`, `above`, or `undefined` if there is no value or no band."""
        if not all(map(math.isfinite, (value, self.low, self.high))):
            return UNDEFINED
        # A metric that real music has no spread in must not fail a group for the last bit of a mean.
        slack = 1e-9 * max(abs(self.low), abs(self.high), 1.0)
        if value < self.low - slack:
            return BELOW
        return ABOVE if value > self.high + slack else INSIDE


class RealMusic:
    """Excerpts of real music and their works, for any number of metrics and group sizes.

    Attributes:
        works: Names of all works, sorted.
        held_out: Names of those that give the mean.
        widening: Factor by which few works widen every band.
    """

    def __init__(
        self,
        works: Sequence[str],
        held_out: Sequence[bool] | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ):
        """Remember which excerpt is of which work.

        Args:
            works: The work of each excerpt.
            held_out: Whether it gives the mean, at least one does; False for works that only show how works
                differ. All do by default. A work is one or the other.
            seed: The same seed gives the same bands.
            draws: Of the bootstrap.
        """
        held_out = np.ones(len(works), dtype=bool) if held_out is None else np.asarray(held_out, dtype=bool)
        keys = sorted(set(zip(works, held_out.tolist())))
        self.works = sorted({name for name, _ in keys})
        self.held_out = sorted(name for name, held in keys if held)
        index = {key: i for i, key in enumerate(keys)}
        self._of = np.array([index[key] for key in zip(works, held_out.tolist())], dtype=np.int64)
        self._held = np.array([held for _, held in keys], dtype=bool)  # (works,)
        self._excerpt_held = held_out
        # A set with a single work says nothing of how works differ.
        sizes = {held: int((self._held == held).sum()) for held in (True, False)}
        self._pool = np.array([i for i, held in enumerate(self._held) if sizes[bool(held)] >= 2], dtype=np.int64)
        self._scale = {held: math.sqrt(n / (n - 1)) if n >= 2 else 1.0 for held, n in sizes.items()}
        freedom = sum(n - 1 for n in sizes.values() if n >= 2)
        self.widening = student_quantile(freedom) / NORMAL_QUANTILE if freedom else 1.0
        self._seed, self._draws = seed, draws
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def knows_works(self) -> bool:
        """Whether there are works enough to see how works differ; if not, bands only show how excerpts do."""
        return len(self._pool) > 0

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over held-out works of the means of their excerpts.

        Args:
            values: float64 (excerpts, ...), NaN where there is none.

        Returns:
            float64 (...).
        """
        return _nanmean(self._work_means(values)[self._held])

    def band(self, values: np.ndarray, size: int, highest: float = math.inf) -> Band:
        """The band of one metric for groups of one size.

        Args:
            values: float64 (excerpts,), NaN where there is none.
            size: Samples in the group that is judged.
            highest: What the metric cannot exceed.
        """
        mean, low, high = self.curve_band(values[:, None], size, highest)
        return Band(float(mean[0]), float(low[0]), float(high[0]), size)

    def curve_band(
        self, curves: np.ndarray, size: int, highest: np.ndarray | float = math.inf
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, low and high of many metrics, or of the points of a curve: float64 (points,) each.

        Args:
            curves: float64 (excerpts, points), NaN where there is no value.
            size: Samples in the group that is judged.
            highest: What each cannot exceed: float64 (points,), or one number for all.
        """
        mean = self.mean(curves)
        low, high = np.array([interval(column) for column in self.deviations(curves, size).T]).T
        return mean, np.maximum(mean + low, 0.0), np.minimum(mean + high, highest)

    def error_band(self, curves: np.ndarray, size: int, scale: np.ndarray | float = 1.0) -> Band:
        """The band of a group's mean absolute distance from the mean of real music.

        Args:
            curves: float64 (excerpts, points).
            size: Samples in the group that is judged.
            scale: What each distance is divided by: float64 (points,).

        Returns:
            A band that begins at 0: no group is too near to real music.
        """
        errors = _nanmean(np.abs(self.deviations(curves, size)) / scale, axis=1)
        errors = errors[np.isfinite(errors)]
        if not len(errors):
            return Band(float("nan"), float("nan"), float("nan"), size)
        return Band(float(errors.mean()), 0.0, float(np.quantile(errors, (1 + LEVEL) / 2)), size)

    def deviations(self, values: np.ndarray, size: int) -> np.ndarray:
        """How far the means of random groups lie from the mean of the works that happen to be held out.

        Args:
            values: float64 (excerpts, points), NaN where there is none.
            size: Excerpts in a group.

        Returns:
            float64 (draws, points), NaN where nothing is known.
        """
        by_work = self._work_means(values)
        center = np.stack([_nanmean(by_work[self._held == held]) for held in (False, True)])  # (2, points)
        scale = np.array([self._scale[False], self._scale[True]])[:, None]
        group, works = self._draw(size)
        held = self._excerpt_held.astype(np.int64)
        drawn = _weighted(group, (values - center[held]) * scale[held])
        if self.knows_works:
            held = self._held.astype(np.int64)
            drawn = drawn - _weighted(works, (by_work - center[held]) * scale[held])
        return drawn * self.widening

    def _work_means(self, values: np.ndarray) -> np.ndarray:
        return np.stack([_nanmean(values[self._of == w]) for w in range(len(self._held))])

    def _draw(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """How often each excerpt, and each work, is in each random group: float64 (draws, ...) each."""
        if size not in self._drawn:
            rng = np.random.default_rng([self._seed, 2, size])
            pool = self._pool if self.knows_works else np.arange(len(self._held))
            chosen = pool[rng.integers(len(pool), size=(self._draws, size))]
            by_work = np.argsort(self._of, kind="stable")
            sizes = np.bincount(self._of, minlength=len(self._held))
            first = np.cumsum(sizes) - sizes
            excerpts = by_work[first[chosen] + (rng.random(chosen.shape) * sizes[chosen]).astype(np.int64)]
            works = pool[rng.integers(len(pool), size=(self._draws, int(self._held.sum())))]
            self._drawn[size] = (_counts(excerpts, len(self._of)), _counts(works, len(self._held)))
        return self._drawn[size]


def student_quantile(freedom: int) -> float:
    """The quantile of Student's t at (1 + `LEVEL`) / 2.

    Args:
        freedom: Degrees of freedom, at least 1.

    Returns:
        12.706 for 1, falling to `NORMAL_QUANTILE`.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4, inverted by bisection.
    """

    def inside(angle: float) -> float:
        """Probability of lying within plus and minus sqrt(freedom) * tan(angle)."""
        cosine, odd = math.cos(angle), freedom % 2
        term = total = cosine if odd else 1.0
        for k in range(3 if odd else 2, freedom - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        if not odd:
            return math.sin(angle) * total
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < LEVEL else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of some values, NaN left out; NaN if none is left."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Bootstrap interval of the mean of a group's own samples, each drawn for itself.

    Args:
        values: float64 (samples,), NaN where there is none.
        seed: The same seed gives the same interval.
        draws: Of the bootstrap.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng([seed, 3, len(values)])
    return interval(values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1))


def _counts(chosen: np.ndarray, kinds: int) -> np.ndarray:
    """How often each kind is in each row: float64 (rows, kinds)."""
    rows = np.repeat(np.arange(len(chosen)), chosen.shape[1])
    flat = np.bincount(rows * kinds + chosen.ravel(), minlength=len(chosen) * kinds)
    return flat.reshape(len(chosen), kinds).astype(np.float64)


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means of the rows, NaN left out: float64 (weightings, points)."""
    defined = np.isfinite(values)
    total, count = weights @ np.where(defined, values, 0.0), weights @ defined
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _nanmean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """numpy's nanmean without its warning where nothing is defined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
