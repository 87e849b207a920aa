"""The two-sample test: can a classifier tell generated music from real music by these numbers?

A logistic regression is trained on some of the pieces and asked about the others. Its AUC is the chance that
it takes, of one generated and one real excerpt that it has not seen, the right one for generated: 0.5 is the
goal, 1 is found out every time. Excerpts of one work are always on one side of a split, or the classifier
would know the work.

Source: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017, with the AUC of Hanley and
McNeil, 1982, for its accuracy.

1. Within a split only: scores of classifiers trained on different pieces are not compared.
2. Splits are drawn `REPEATS` times; the AUC is that of all pairs ever tested.
3. The interval is a bootstrap over works and samples of the tested pairs, widened by Student's t for as
   few of either as there are. It does not train anew, so that it tells how sure the AUC is for these pieces,
   not for another training of the classifier.
4. An AUC below 0.5 is chance too: a work that is left out pulls the mean of the others to its other side.
5. What real music gets is measured too: some of the works are taken for generated and told from the others. That
   is the band of the AUC; where works are few, real music is told from real music easily.
6. With fewer than two held-out works, excerpts stand for works, and `grouped` is False: the classifier then
   may know the work, and the AUC is too high if anything.

Units: features are standardised on the training part of each split; a missing value is its mean, 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from musegen.judging.bands import LEVEL, NORMAL_QUANTILE, interval, student_quantile

FOLDS = 5
REPEATS = 10
DRAWS = 1000
PENALTY = 1.0  # L2, on standardised features and the mean loss times the pieces: scikit-learn's C = 1
CLIP = 4.0  # standard deviations: one odd piece must not decide
_STEPS = 25
BAND_DRAWS = 100  # groups of real music; each is a test of its own
BAND_WORKS = 4  # fewer cannot be parted into two groups of two


@dataclasses.dataclass(frozen=True)
class GiveAway:
    """How one feature alone tells the groups apart.

    Args:
        feature: Its name.
        auc: Chance that a generated piece has more of it than a real one, ties half; 0.5 tells nothing.
        coefficient: Of the standardised feature in a classifier trained on everything: its weight besides all
            others, positive where more of it means generated.
    """

    feature: str
    auc: float
    coefficient: float


@dataclasses.dataclass(frozen=True)
class TwoSample:
    """The result of the test.

    Args:
        auc: Cross-validated, 0 to 1; NaN if there are too few pieces for any split.
        low: Lower end of the bootstrap 95 % interval.
        high: Upper end.
        generated: Number of generated pieces.
        real: Number of real excerpts.
        works: Of the real excerpts.
        grouped: Whether works were kept whole.
        give_aways: All features, the most telling first.
    """

    auc: float
    low: float
    high: float
    generated: int
    real: int
    works: int
    grouped: bool
    give_aways: list[GiveAway]


def two_sample_test(
    generated: np.ndarray,
    real: np.ndarray,
    works: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    *,
    sources: Sequence[str] | None = None,
) -> TwoSample:
    """Test whether two groups of pieces differ.

    Args:
        generated: float64 (pieces, features), NaN where a piece has no value.
        real: float64 (excerpts, features).
        works: The work of each real excerpt.
        names: Of the features.
        seed: The same seed gives the same result.
        sources: The work that each generated piece is of, for copies and for folders of real music: pieces of one
            work are kept together, with the real excerpts of that work too. By default each is its own.
    """
    count = len(set(works))
    grouped = count >= 2
    mine = [("work", s) for s in sources] if sources is not None else [("piece", i) for i in range(len(generated))]
    theirs = [("work", w) for w in works] if grouped else [("excerpt", i) for i in range(len(real))]
    usable, x, y, unit, folds = _prepare(generated, real, mine, theirs)
    kept = [name for name, use in zip(names, usable) if use]
    give_aways = _give_aways(x, y, kept)
    wins = tested = np.zeros((len(generated), len(real)))
    if folds >= 2 and kept:
        wins, tested = _cross_validate(x, y, unit, folds, np.random.default_rng([seed, 4]))
    if not tested.any():
        nan = float("nan")
        return TwoSample(nan, nan, nan, len(generated), len(real), count, grouped, give_aways)
    auc, low, high = _with_interval(wins, tested, unit, y, np.random.default_rng([seed, 5]))
    return TwoSample(auc, low, high, len(generated), len(real), count, grouped, give_aways)


def real_auc(real: np.ndarray, works: Sequence[str], size: int, seed: int = 0) -> tuple[float, float, float]:
    """The AUC that real music gets: works taken for generated, told from the other works.

    Args:
        real: float64 (excerpts, features).
        works: The work of each excerpt.
        size: Samples in the group that is judged; a real group has as many excerpts, or as many as there are, of
            at most half of the works.
        seed: The same seed gives the same result.

    Returns:
        Mean, and the ends of the middle 95 % of groups; NaN with fewer than `BAND_WORKS` works.
    """
    of = np.unique(np.asarray(works, dtype=str), return_inverse=True)[1]
    count = int(of.max(initial=-1)) + 1
    if count < BAND_WORKS:
        return (float("nan"),) * 3
    drawn = np.full(BAND_DRAWS, np.nan)
    for i in range(BAND_DRAWS):
        rng = np.random.default_rng([seed, 6, i])
        chosen = rng.permutation(count)[: min(size, count // 2)]
        # In turn from each work, as one draws excerpts where samples are as many as works or more.
        turns = rng.permutation(np.flatnonzero(np.isin(of, chosen)))
        turn = np.array([(of[turns[:j]] == of[t]).sum() for j, t in enumerate(turns)])
        group = turns[np.argsort(turn, kind="stable")][:size]
        others = np.flatnonzero(~np.isin(of, chosen))
        usable, x, y, unit, folds = _prepare(real[group], real[others], of[group], of[others])
        if folds >= 2 and usable.any():
            wins, tested = _cross_validate(x, y, unit, folds, rng, repeats=1)
            drawn[i] = wins.sum() / tested.sum() if tested.any() else np.nan
    low, high = interval(drawn)
    known = drawn[np.isfinite(drawn)]
    return (float(known.mean()) if len(known) else float("nan")), low, high


def _prepare(generated, real, sources: Sequence, works: Sequence) -> tuple:
    """Features that can be used, both groups in them, their labels, their units and the number of folds.

    Returns:
        bool (features,), float64 (pieces, usable), float64 (pieces,), int64 (pieces,), int.
    """
    usable = _usable(generated, real)
    x = np.concatenate([generated, real])[:, usable]
    y = np.repeat([1.0, 0.0], [len(generated), len(real)])
    # One numbering for both sides: a copy and the work that it is of have the same number.
    mine, theirs = list(sources), list(works)
    number = {key: i for i, key in enumerate(dict.fromkeys(mine + theirs))}
    unit = np.array([number[key] for key in mine + theirs], dtype=np.int64)
    return usable, x, y, unit, min(FOLDS, len(set(mine)), len(set(theirs)))


def auc_of(scores: np.ndarray, others: np.ndarray) -> float:
    """Chance that one of the scores is above one of the others, ties half; NaN if either has none."""
    scores, others = scores[np.isfinite(scores)], others[np.isfinite(others)]
    if not len(scores) or not len(others):
        return float("nan")
    return float(_wins(scores, others).mean())


def _wins(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where the first is above, 0.5 where both are equal: float64 (scores, others)."""
    return (scores[:, None] > others[None]) + 0.5 * (scores[:, None] == others[None])


def _usable(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Features that at least half of both groups have, and that are not the same everywhere."""
    enough = np.isfinite(generated).mean(axis=0) >= 0.5
    enough &= np.isfinite(real).mean(axis=0) >= 0.5
    both = np.concatenate([generated, real])
    filled = np.where(np.isfinite(both), both, np.inf)
    low = filled.min(axis=0)
    high = np.where(np.isfinite(both), both, -np.inf).max(axis=0)
    return enough & (high > low)


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the mean and deviation of the first, clipped, missing values 0."""
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return tuple(np.nan_to_num(np.clip((x - mean) / deviation, -CLIP, CLIP)) for x in (train, test))


def fit_logistic(x: np.ndarray, y: np.ndarray, penalty: float = PENALTY) -> tuple[np.ndarray, float]:
    """L2-regularised logistic regression with both classes weighing the same, by Newton's method.

    Args:
        x: float64 (pieces, features), standardised.
        y: float64 (pieces,), 0 or 1, both present.
        penalty: Half of it times the squared weights is added to the loss; the intercept is free.

    Returns:
        Weights, float64 (features,), and the intercept.
    """
    pieces = len(y)
    weight = np.where(y == 1, pieces / (2 * y.sum()), pieces / (2 * (pieces - y.sum())))
    design = np.concatenate([x, np.ones((pieces, 1))], axis=1)
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 0.0
    theta = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weight * (p - y)) + ridge * theta
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        theta -= step
        if np.abs(step).max() < 1e-8:
            break
    return theta[:-1], float(theta[-1])


def _cross_validate(
    x, y, unit, folds: int, rng: np.random.Generator, repeats: int = REPEATS
) -> tuple[np.ndarray, np.ndarray]:
    """For each generated and real piece, how often they were tested together, and how often it was right.

    Returns:
        Wins and tests: float64 (generated, real) each.
    """
    generated, real = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    wins = np.zeros((len(generated), len(real)))
    tested = np.zeros_like(wins)
    for _ in range(repeats):
        fold = _deal(unit, y, folds, rng)
        for k in range(folds):
            train, test = fold != k, fold == k
            if len(np.unique(y[train])) < 2:
                continue
            inside, outside = _standardise(x[train], x[test])
            weights, _ = fit_logistic(inside, y[train])
            scores = np.full(len(y), np.nan)
            # Rounded, so that pieces with equal features tie in spite of the last bit.
            scores[test] = np.round(outside @ weights, 9)
            rows, columns = fold[generated] == k, fold[real] == k
            cell = np.ix_(rows, columns)
            wins[cell] += _wins(scores[generated][rows], scores[real][columns])
            tested[cell] += 1
    return wins, tested


def _deal(unit: np.ndarray, y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each piece, as even in generated pieces and in real ones as whole units allow: int64 (pieces,)."""
    sizes = np.stack([np.bincount(unit[y == kind], minlength=unit.max() + 1) for kind in (1, 0)])  # (2, units)
    total = sizes.sum(axis=1, keepdims=True)
    fold = np.zeros(sizes.shape[1], dtype=np.int64)
    load = np.zeros((2, folds))
    order = rng.permutation(sizes.shape[1])
    # Large units first, into the fold that holds least of what they are; among equals as chance has it.
    for i in order[np.argsort(-(sizes / total).max(axis=0)[order], kind="stable")]:
        fold[i] = int(np.argmin((sizes[:, i] / total[:, 0]) @ load))
        load[:, fold[i]] += sizes[:, i]
    return fold[unit]


def _with_interval(wins, tested, unit, y, rng: np.random.Generator) -> tuple[float, float, float]:
    """The AUC of all tested pairs and its interval under resampled samples and works."""
    auc = wins.sum() / tested.sum()
    generated, works = (np.unique(unit[y == kind], return_inverse=True)[1] for kind in (1, 0))
    drawn = np.empty(DRAWS)
    for i in range(DRAWS):
        rows, columns = (_resampled(side, rng) for side in (generated, works))
        total = rows @ tested @ columns
        drawn[i] = (rows @ wins @ columns) / total if total else np.nan
    low, high = interval(drawn)
    units = generated.max() + works.max() + 2
    if wins.sum() in (0, tested.sum()):
        # No resampling spreads a perfect separation: the exact interval for so many hits of as many.
        sure = ((1 - LEVEL) / 2) ** (1 / units)
        return float(auc), (sure if auc else 0.0), (1.0 if auc else 1 - sure)
    # The smaller side decides how little is known: see musegen.judging.bands on few works.
    fewest = max(int(min(generated.max(), works.max())) + 1, 2)
    wider = math.sqrt(fewest / (fewest - 1)) * student_quantile(fewest - 1) / NORMAL_QUANTILE
    return float(auc), float(max(auc - wider * (auc - low), 0.0)), float(min(auc + wider * (high - auc), 1.0))


def _resampled(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each piece is in a draw of as many units as there are: int64 (pieces,)."""
    count = int(units.max()) + 1
    return np.bincount(rng.integers(count, size=count), minlength=count)[units]


def _give_aways(x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> list[GiveAway]:
    if not names:
        return []
    weights, _ = fit_logistic(_standardise(x, x)[0], y)
    found = [
        GiveAway(name, auc_of(column[y == 1], column[y == 0]), float(weight))
        for name, column, weight in zip(names, x.T, weights)
    ]
    return sorted(found, key=lambda g: (-abs(g.auc - 0.5), g.feature))
