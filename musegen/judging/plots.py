"""The report's plots. Everything real is grey, models are coloured, baselines are hollow.

The figures are built without pyplot, so that nothing global changes. Colours: Okabe and Ito, "Color Universal
Design", 2008; each series has a marker of its own besides, for print and for the colour-blind.

Units: inches at `DPI`. On a phone 360 pixels wide a point of a font becomes a pixel, so no font is below 7.5.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from musegen.judging.measures import BLEU, METRICS

DPI = 170
WIDTH = 5.0
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "D", "^", "v", "P")
_BASELINE_COLOUR = "#555555"
_BASELINE_MARKERS = {"markov": "x", "shuffled_bars": "<", "copy_machine": ">", "random_in_key": "+"}
_REAL = "#9a9a9a"
_BAND = "#d9d9d9"
_FAR = 4.0  # half bands; what lies farther out is drawn at the edge
STRIPS = (
    "polyphony", "note_density", "pitch_class_entropy_4", "mean_duration", "structureness_middle",
    "bar_similarity_1", "copied_notes_transposed", BLEU,
)  # fmt: skip


def style_of(results: dict) -> dict[str, dict]:
    """Colour, marker and fill of each group, the same in all plots."""
    styles, models = {}, 0
    for name, group in results["groups"].items():
        if group["role"] == "model":
            i = models % len(_COLOURS)
            styles[name] = {"color": _COLOURS[i], "marker": _MARKERS[i], "fill": True, "z": 4}
            models += 1
        else:
            styles[name] = {
                "color": _BASELINE_COLOUR, "marker": _BASELINE_MARKERS[name], "fill": False, "z": 3,
            }  # fmt: skip
    return styles


def png(figure: Figure) -> bytes:
    """The figure as PNG, without the date and version that would make equal figures differ."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()


def draw_all(results: dict) -> dict[str, bytes]:
    """All plots of the report that there is material for, PNG by name."""
    figures = {
        "bands": bands(results),
        "samples": samples(results),
        "similarity": similarity(results),
        "two_sample": two_sample(results),
        "bleu": bleu(results),
        "learning": learning(results),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _axes(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _mark(axis, x, y, style: dict, size: float = 6.0, **more) -> None:
    face = style["color"] if style["fill"] else "white"
    axis.plot(
        x, y, linestyle="none", marker=style["marker"], markersize=size, color=style["color"],
        markerfacecolor=face, markeredgewidth=1.1, zorder=style["z"], **more,
    )  # fmt: skip


def _legend(figure: Figure, results: dict, styles: dict, columns: int = 2, real: bool = True) -> None:
    handles = [
        Line2D([], [], linestyle="none", marker=s["marker"], color=s["color"], markersize=6,
               markerfacecolor=s["color"] if s["fill"] else "white", label=results["groups"][name]["label"])
        for name, s in styles.items()
    ]  # fmt: skip
    if real:
        handles.append(Line2D([], [], linewidth=8, color=_BAND, label="real held-out music"))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def bands(results: dict) -> Figure:
    """Every figure of every group on one scale: real music's mean in the middle, its band between -1 and 1."""
    styles = style_of(results)
    names = list(METRICS)
    rows = np.arange(len(names))[::-1]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.26 * len(names)), layout="constrained")
    axis = figure.add_subplot()
    axis.axvspan(-1, 1, color=_BAND, zorder=0)
    axis.axvline(0, color=_REAL, linewidth=1, zorder=1)
    for y, name in zip(rows, names):
        axis.axhline(y, color="#eeeeee", linewidth=0.6, zorder=0.5)
        for offset, (group, style) in zip(np.linspace(0.22, -0.22, len(styles)), styles.items()):
            place = _relative(results["groups"][group]["metrics"][name])
            if np.isfinite(place):
                _mark(axis, [np.clip(place, -_FAR, _FAR)], [y + offset], style, 5.0 if style["fill"] else 4.2)
    kinds = [METRICS[name].kind for name in names]
    for y, kind, before in zip(rows[1:], kinds[1:], kinds):
        if kind != before:
            axis.axhline(y + 0.5, color="#444444", linewidth=0.8)
    axis.set_yticks(rows, [METRICS[name].label for name in names], fontsize=8)
    axis.set_xticks([-_FAR, 0, _FAR], ["far\nbelow", "mean of\nreal music", "far\nabove"], fontsize=8)
    axis.set_xlim(-_FAR - 0.4, _FAR + 0.4)
    axis.set_ylim(-0.7, len(names) - 0.3)
    _axes(axis)
    _legend(figure, results, styles)
    return figure


def _relative(figure: dict) -> float:
    """Where a mean lies: 0 at real music's mean, -1 and 1 at the ends of its band."""
    band = figure["band"]
    value, mean, low, high = map(_number, (figure["mean"], band["mean"], band["low"], band["high"]))
    if not np.isfinite([value, mean, low, high]).all():
        return float("nan")
    width = high - mean if value > mean else mean - low
    if width <= 0:
        return 0.0 if abs(value - mean) < 1e-9 else float(np.sign(value - mean)) * _FAR
    return (value - mean) / width


def samples(results: dict) -> Figure:
    """Single samples, one panel a metric: who lies where, and how widely they scatter."""
    styles = style_of(results)
    series = [("real", results["real"]["pieces"])]
    series += [(name, group["pieces"]) for name, group in results["groups"].items()]
    figure = Figure(figsize=(WIDTH, 0.8 + 2.0 * ((len(STRIPS) + 1) // 2)), layout="constrained")
    axes = figure.subplots((len(STRIPS) + 1) // 2, 2)
    for axis, name in zip(axes.flat, STRIPS):
        metric = METRICS[name]
        band = results["real"]["metrics"][name]
        if band["low"] is not None:
            axis.axhspan(band["low"], band["high"], color=_BAND, zorder=0)
        for x, (group, pieces) in enumerate(series):
            values = np.array([_number(piece["metrics"][name]) for piece in pieces])
            _strip(axis, x, values, styles.get(group))
        axis.set_title(f"{metric.label}\n({metric.unit})", fontsize=8)
        axis.set_xticks([])
        axis.set_xlim(-0.6, len(series) - 0.4)
        if name.startswith("copied_notes"):
            axis.set_yscale("log")
        _axes(axis)
    for axis in axes.flat[len(STRIPS) :]:
        axis.set_axis_off()
    _legend(figure, results, styles)
    return figure


def _strip(axis, x: int, values: np.ndarray, style: dict | None) -> None:
    """One column of points beside each other, and their mean as a line."""
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return
    # Spread sideways by rank, not by chance: the same figure every time.
    sideways = x + 0.28 * (((np.arange(len(values)) * 0.618) % 1.0) * 2 - 1)
    style = style or {"color": _REAL, "marker": ".", "fill": True, "z": 2}
    _mark(axis, sideways, values, style, 3.6, alpha=0.75)
    axis.plot([x - 0.36, x + 0.36], [values.mean()] * 2, color="black", linewidth=1.4, zorder=5)


def similarity(results: dict) -> Figure:
    """Bar similarity by lag."""
    styles = style_of(results)
    real = results["real"]["similarity_by_lag"]
    mean, low, high = (np.array([*map(_number, real[key])]) for key in ("mean", "low", "high"))
    last = int(np.flatnonzero(np.isfinite(mean)).max(initial=0)) + 1
    lags = np.arange(1, last + 1)
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axis = figure.add_subplot()
    axis.fill_between(lags, low[:last], high[:last], color=_BAND, zorder=0)
    axis.plot(lags, mean[:last], color=_REAL, linewidth=1.5, zorder=1)
    for name, style in styles.items():
        curve = np.array([*map(_number, results["groups"][name]["similarity"]["curve"])])[:last]
        axis.plot(
            lags, curve, color=style["color"], marker=style["marker"], markersize=4,
            linewidth=1.4 if style["fill"] else 0.8, linestyle="-" if style["fill"] else ":",
            markerfacecolor=style["color"] if style["fill"] else "white", zorder=style["z"],
        )  # fmt: skip
    axis.set_xlabel("bars apart", fontsize=9)
    axis.set_ylabel("notes in common (share)", fontsize=9)
    axis.set_ylim(bottom=0)
    _axes(axis)
    _legend(figure, results, styles)
    return figure


def two_sample(results: dict) -> Figure:
    """AUC of each group with its interval, and the band of real works told from real works; 0.5 is the goal."""
    styles = style_of(results)
    names = list(styles)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(names)), layout="constrained")
    axis = figure.add_subplot()
    # Bands of groups of other sizes differ a little; the plot shows that of the models, which come first.
    band = results["groups"][names[0]]["two_sample"]["band"]
    if band["high"] is not None:
        axis.axvspan(band["low"], band["high"], color=_BAND, zorder=0)
        figure.legend(
            handles=[Line2D([], [], linewidth=8, color=_BAND, label="real works, told from other real works")],
            loc="outside upper center", fontsize=8, frameon=False,
        )  # fmt: skip
    axis.axvline(0.5, color=_REAL, linewidth=1.2)
    axis.text(0.51, len(names) - 0.45, "goal: chance", ha="left", va="bottom", fontsize=8, color="#555555")
    for y, name in zip(range(len(names))[::-1], names):
        test = results["groups"][name]["two_sample"]
        if test["auc"] is None:
            continue
        axis.plot([test["low"], test["high"]], [y, y], color=styles[name]["color"], linewidth=2, zorder=2)
        _mark(axis, [test["auc"]], [y], styles[name], 7)
    axis.set_yticks(range(len(names))[::-1], [results["groups"][name]["label"] for name in names], fontsize=8)
    axis.set_xlim(0, 1.03)
    axis.set_ylim(-0.6, len(names))
    axis.set_xlabel("how often a classifier is right (AUC)", fontsize=9)
    _axes(axis)
    return figure


def bleu(results: dict) -> Figure:
    """Cumulative BLEU for 1- to 9-grams: above real music means copying."""
    styles = style_of(results)
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    axis = figure.add_subplot()
    band = results["real"]["bleu"]["band"]
    real, low, high = (np.array([*map(_number, band[key])]) for key in ("mean", "low", "high"))
    orders = np.arange(1, len(real) + 1)
    axis.fill_between(orders, low, high, color=_BAND, zorder=0)
    axis.plot(orders, real, color=_REAL, linewidth=1.5, zorder=1)
    for name, style in styles.items():
        scores = [*map(_number, results["groups"][name]["bleu"]["mean_cumulative"])]
        axis.plot(
            orders, scores, color=style["color"], marker=style["marker"], markersize=5,
            linewidth=1.4 if style["fill"] else 0.8, linestyle="-" if style["fill"] else ":",
            markerfacecolor=style["color"] if style["fill"] else "white", zorder=style["z"],
        )  # fmt: skip
    axis.set_xticks(orders)
    axis.set_xlabel("n-grams up to", fontsize=9)
    axis.set_ylabel("cumulative BLEU", fontsize=9)
    axis.set_ylim(0, 1.03)
    _axes(axis)
    _legend(figure, results, styles)
    return figure


def learning(results: dict) -> Figure | None:
    """Learning curves of the models, where they were handed in."""
    curves = {name: rows for name, rows in results["learning_curves"].items() if rows}
    columns = [
        ("valid_nats", "train_nats", "nats a token (solid: held out; dotted: training)"),
        ("bits_per_note", None, "bits a note, held out"),
    ]
    columns = [c for c in columns if any(_points(rows, key)[0] for rows in curves.values() for key in c[:2] if key)]
    if not columns:
        return None
    figure = Figure(figsize=(WIDTH, 0.5 + 2.6 * len(columns)), layout="constrained")
    styles = style_of(results)
    for axis, (solid, dotted, label) in zip(np.atleast_1d(figure.subplots(len(columns), 1)), columns):
        for i, (name, rows) in enumerate(curves.items()):
            style = styles.get(name) or {"color": _COLOURS[i % len(_COLOURS)], "marker": "."}
            colour, marker = style["color"], style["marker"]
            axis.plot(*_points(rows, solid), color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=name)
            if dotted:
                axis.plot(*_points(rows, dotted), color=colour, linewidth=0.9, linestyle=":")
        axis.set_ylabel(label.replace(" (", "\n("), fontsize=8)
        axis.set_xlabel("training steps", fontsize=8)
        axis.legend(fontsize=8, frameon=False)
        _axes(axis)
    return figure


def _points(rows: Sequence[dict], key: str) -> tuple[list[float], list[float]]:
    known = [(row["step"], row[key]) for row in rows if row.get(key) is not None and row.get("step") is not None]
    return [step for step, _ in known], [value for _, value in known]


def piano_roll(score, bars: int = 16) -> bytes:
    """A plain piano roll of the first bars, PNG, for samples that come with no picture.

    Args:
        score: A canonical score.
        bars: At most so many.
    """
    from musegen.judging.pieces import barred_notes, cut_bars

    notes = barred_notes(cut_bars(score, 0, bars))
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axis = figure.add_subplot()
    beats = 96.0
    axis.barh(notes.pitch, notes.duration / beats * 0.94, left=notes.onset / beats, height=0.85, color=_COLOURS[0])
    for line in notes.grid.starts / beats:
        axis.axvline(line, color="#cccccc", linewidth=0.7, zorder=0)
    axis.set_xticks(notes.grid.starts[:-1] / beats, [str(i + 1) for i in range(notes.bars)], fontsize=7)
    octaves = np.arange(0, 128, 12)
    axis.set_yticks(octaves, [f"C{p // 12 - 1}" for p in octaves], fontsize=7)
    axis.set_xlim(0, notes.grid.starts[-1] / beats)
    if len(notes):
        axis.set_ylim(notes.pitch.min() - 2, notes.pitch.max() + 2)
    axis.set_xlabel("bar", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return png(figure)
