"""From the measures of single pieces to the figures of a group and its place in the bands.

Units: those of the metrics; a distance is in standard deviations of real excerpts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from musegen.judging.bands import ABOVE, BELOW, INSIDE, Band, RealMusic, mean_interval
from musegen.judging.measures import CLASSIFIED, METRICS, ORIGINALITY, Measured, table
from musegen.judging.structure import FORM_LAGS, mean_curve, similarity_error
from musegen.judging.two_sample import real_auc, two_sample_test


def real_figures(
    held: Sequence[Measured], others: Sequence[Measured], music: RealMusic, bleu: dict, size: int
) -> dict:
    """The figures of real music.

    Args:
        held: The held-out excerpts.
        others: Excerpts that stand in for works that are not held out.
        music: The works of both, in this order.
        bleu: What the metric returned for the held-out excerpts.
        size: Of the groups whose bands are given here.
    """
    names = list(METRICS)
    values = table([*held, *others], names)
    mean, low, high = _bands(values, music, size)
    smallest, largest = _extremes(values[: len(held)])
    metrics = {
        name: {"mean": mean[i], "low": low[i], "high": high[i], "smallest": smallest[i], "largest": largest[i]}
        for i, name in enumerate(names)
    }
    curve, curve_low, curve_high = music.curve_band(np.stack([m.curve for m in [*held, *others]]), size, 1.0)
    cumulative = np.stack([m.cumulative for m in [*held, *others]])
    bleu_mean, bleu_low, bleu_high = music.curve_band(cumulative, size, 1.0)
    return {
        "excerpts": len(held),
        "band_size": size,
        "metrics": metrics,
        "similarity_by_lag": {"mean": curve, "low": curve_low, "high": curve_high},
        "bleu": {**_bleu(bleu, held), "band": {"mean": bleu_mean, "low": bleu_low, "high": bleu_high}},
        "pieces": [_piece(m) for m in held],
    }


def auc_band(real: Sequence[Measured], size: int, seed: int) -> Band:
    """The band of the two-sample test's AUC: what real works get that are told from the other works.

    Args:
        real: Excerpts of real music, held out and standing in.
        size: Samples in the group that is judged.
        seed: Of the draws.
    """
    return Band(*real_auc(table(real, CLASSIFIED), [m.piece.work for m in real], size, seed), size)


def group_figures(
    group: Sequence[Measured], real: Sequence[Measured], music: RealMusic, bleu: dict, seed: int, aucs: Band
) -> dict:
    """All figures of one group of samples.

    Args:
        group: The samples.
        real: Excerpts of real music, held out and standing in.
        music: Their works.
        bleu: What the metric returned for the group.
        seed: Of bootstrap and splits.
        aucs: From `auc_band`, for groups of this size.
    """
    metrics = _metrics(group, real, music, seed)
    mine, truth = table(group, CLASSIFIED), table(real, CLASSIFIED)
    works, sources = ([m.piece.work for m in pieces] for pieces in (real, group))
    test = two_sample_test(mine, truth, works, CLASSIFIED, seed, sources=sources)
    places = [metrics[name]["place"] for name in CLASSIFIED]
    return {
        "samples": len(group),
        "inside": places.count(INSIDE),
        "judged": len(places),
        "distance": _distance(mine, truth, music, len(group)),
        "metrics": metrics,
        "similarity": _similarity(group, real, music),
        "originality": _originality(group, real),
        "bleu": _bleu(bleu, group),
        "two_sample": {
            **dataclasses.asdict(test),
            "band": {"mean": aucs.mean, "low": aucs.low, "high": aucs.high},
            # No music is too hard to tell from real music.
            "place": dataclasses.replace(aucs, low=min(aucs.low, 0.0)).place(test.auc),
        },
        "median_sample": group[_median(mine)].piece.name,
        "pieces": [_piece(m) for m in group],
    }


def _metrics(group: Sequence[Measured], real: Sequence[Measured], music: RealMusic, seed: int) -> dict:
    """Each metric's mean, interval, band and place."""
    names = list(METRICS)
    mine = table(group, names)
    means, lows, highs = _bands(table(real, names), music, len(group))
    found = {}
    for i, name in enumerate(names):
        band = Band(float(means[i]), float(lows[i]), float(highs[i]), len(group))
        mean = float(mean_curve(mine[:, i : i + 1])[0])
        low, high = mean_interval(mine[:, i], seed)
        place = band.place(mean)
        fault = place == ABOVE or (place == BELOW and METRICS[name].kind != ORIGINALITY)
        limits = {"mean": band.mean, "low": band.low, "high": band.high}
        found[name] = {"mean": mean, "low": low, "high": high, "band": limits, "place": place, "fault": fault}
    return found


def _bands(values: np.ndarray, music: RealMusic, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of all `METRICS`, with their tolerance: float64 (metrics,) each."""
    highest, tolerance = np.array([(metric.highest, metric.tolerance) for metric in METRICS.values()]).T
    mean, low, high = music.curve_band(values, size, highest)
    return mean, np.maximum(np.minimum(low, mean - tolerance), 0.0), np.maximum(high, mean + tolerance)


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each column, NaN where it has none."""
    defined = np.isfinite(values)
    none = ~defined.any(axis=0)
    low = np.where(defined, values, np.inf).min(axis=0)
    high = np.where(defined, values, -np.inf).max(axis=0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def _distance(mine: np.ndarray, truth: np.ndarray, music: RealMusic, size: int) -> dict:
    """How far the group's means are from real music's, in standard deviations of real excerpts, on average.

    Returns:
        `value`; `high`, what 97.5 % of groups of real excerpts stay below; `place`.
    """
    spread = np.nanstd(np.where(np.isfinite(truth).any(axis=0), truth, 0.0), axis=0)
    usable = spread > 0
    if not usable.any():
        return {"value": float("nan"), "high": float("nan"), "place": Band(0, 0, float("nan"), size).place(0)}
    away = np.abs(mean_curve(mine) - music.mean(truth))[usable] / spread[usable]
    value = float(mean_curve(away[:, None])[0])
    band = music.error_band(truth[:, usable], size, spread[usable])
    return {"value": value, "high": band.high, "place": band.place(value)}


def _similarity(group: Sequence[Measured], real: Sequence[Measured], music: RealMusic) -> dict:
    """Museformer's curve of bar similarity by lag, with its band, and the error against real music's."""
    truth = np.stack([m.curve for m in real])
    curve = mean_curve(np.stack([m.curve for m in group]))
    mean, low, high = music.curve_band(truth, len(group), 1.0)
    error = similarity_error(curve, mean)
    first, last = FORM_LAGS
    band = music.error_band(truth, len(group))
    return {
        "curve": curve,
        "low": low,
        "high": high,
        "error": error,
        "error_of_form": similarity_error(curve[first - 1 : last], mean[first - 1 : last]),
        "error_of_real": band.mean,
        "error_limit": band.high,
        "place": band.place(error),
    }


def _originality(group: Sequence[Measured], real: Sequence[Measured]) -> dict:
    """The longest copies, and the samples that copy more than any real excerpt does."""
    longest = max(group, key=lambda m: m.transposed.notes)
    exact = max(group, key=lambda m: m.exact.notes)
    limit = max(m.transposed.notes for m in real)
    return {
        "longest": {"sample": longest.piece.name, **dataclasses.asdict(longest.transposed)},
        "longest_exact": {"sample": exact.piece.name, **dataclasses.asdict(exact.exact)},
        "real_longest": limit,
        "to_check": [
            {"sample": m.piece.name, **dataclasses.asdict(m.transposed)}
            for m in sorted(group, key=lambda m: -m.transposed.notes)
            if m.transposed.notes > limit
        ],
    }


def _bleu(result: dict, group: Sequence[Measured]) -> dict:
    scores = np.array(result["prediction_scores"], dtype=np.float64)
    return {
        "score": result["score"],
        "mean": float(scores.mean()),
        "deviation": float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
        "cumulative": result["cumulative_scores"],
        "mean_cumulative": np.stack([m.cumulative for m in group]).mean(axis=0),
        "precisions": result["precisions"],
        "signature": result["signature"],
    }


def _median(values: np.ndarray) -> int:
    """The sample nearest to its group's median in all features, each in its own deviations."""
    filled = np.where(np.isfinite(values), values, np.nan_to_num(mean_curve(values)))
    center, spread = np.median(filled, axis=0), filled.std(axis=0)
    away = np.abs(filled - center) / np.where(spread > 0, spread, 1.0)
    # Rounded: samples that are equally near must not be told apart by the last bit.
    return int(np.argmin(np.round(away.mean(axis=1), 9)))


def _piece(m: Measured) -> dict:
    return {
        "name": m.piece.name,
        "work": m.piece.work,
        "tokens": len(m.ids),
        "metrics": m.values,
        "copied": dataclasses.asdict(m.transposed),
        "copied_exact": dataclasses.asdict(m.exact),
    }
