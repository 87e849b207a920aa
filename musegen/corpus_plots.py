"""What is inside a corpus, as one picture.

Colours: Okabe and Ito, "Color Universal Design", 2008. The figure is built without pyplot, so that nothing global
changes, and written without date and version, so that equal corpora give equal files.

Units: inches.
"""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from musegen.corpus_stats import UNKNOWN, Summary, instrument
from musegen.errors import CorpusError

PICTURE = "contents.png"  # its place in the folder of a corpus
BARS = 10  # of a panel
_BLUE, _ORANGE, _GREEN, _GREY, _RED = "#0072B2", "#E69F00", "#009E73", "#B8B8B8", "#D55E00"
_SPLIT_COLOURS = {"train": _BLUE, "validation": _ORANGE, "test": _GREEN}
# By fifths; a minor key stands with the major key of the same signature.
_FIFTHS = ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#")
_MINORS = ("ab", "eb", "bb", "f", "c", "g", "d", "a", "e", "b", "f#", "c#", "g#", "d#", "a#")
_INK = "#333333"


def draw(summary: Summary, path: str | Path, title: str = "") -> None:
    """Draw a summary.

    Args:
        summary: Of `musegen.corpus_stats.summarize`.
        path: File to write; its ending tells the kind, `.png` or `.svg` for instance.
        title: Of the picture.

    Raises:
        CorpusError: If the file cannot be written, or its ending is no picture's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    settings = {"font.size": 9, "svg.hashsalt": "musegen", "axes.edgecolor": "#888888", "text.color": _INK}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(15, 9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15, hspace=0.04, wspace=0.03)
        panels = figure.subplots(2, 4)
        _heading(figure, summary, title)
        _splits(panels[0, 0], summary)
        _lengths(panels[0, 1], summary)
        _ranked(panels[0, 2], "Composers, by notes", summary.composers)
        programs = collections.Counter({instrument(p): n for p, n in summary.programs.items()})
        _ranked(panels[0, 3], "Instruments, by pieces", programs)
        _keys(panels[1, 0], summary)
        _ranked(panels[1, 1], "Metres, by pieces", summary.metres)
        licenses: collections.Counter = collections.Counter()
        for (_, name), count in summary.licenses.items():
            licenses[name] += count
        _ranked(panels[1, 2], "Licences, by pieces", licenses)
        _files(panels[1, 3], summary)
        aside = path.with_name(f".{path.stem}.partial{path.suffix}")
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}}.get(path.suffix.lower())
        try:
            figure.savefig(aside, dpi=130, metadata=metadata)
            aside.replace(path)
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: the picture cannot be written ({error})") from None
        finally:
            aside.unlink(missing_ok=True)


def _heading(figure, summary: Summary, title: str) -> None:
    total = summary.total
    groups = f" in {_counted(total.groups, 'group')}" if total.groups else ""
    about = "" if summary.total.seconds else " at 120 beats a minute"
    line = (
        f"{_counted(total.pieces, 'piece')} of {_counted(total.works, 'work')}{groups}, "
        f"{_counted(total.notes, 'note')}, {_counted(total.bars, 'bar')}, {summary.hours:,.1f} hours{about}"
    )
    figure.suptitle(f"{title}\n{line}" if title else line, fontsize=13, color=_INK, linespacing=1.5)


def _plain(axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=_INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK)


def _ranked(axes, title: str, counts: collections.Counter, colours: dict[str, str] | None = None) -> None:
    """Bars from the most frequent value down; what is left is summed up, and the unknown is grey."""
    _plain(axes, title)
    shown = counts.most_common(BARS)
    rest = len(counts) - len(shown)
    if rest:
        shown.append((f"{rest} others", counts.total() - sum(n for _, n in shown)))
    labels = [_short(str(name)) for name, _ in shown]
    values = [count for _, count in shown]
    grey = {f"{rest} others", UNKNOWN, "not stated"}
    shades = [(colours or {}).get(name, _GREY if name in grey else _BLUE) for name, _ in shown]
    places = np.arange(len(shown))
    axes.barh(places, values, color=shades, height=0.72)
    axes.set_yticks(places, labels)
    # The same bar height in every panel, however few values there are.
    axes.set_ylim(BARS + 0.6, -0.6)
    top = max(values, default=1)
    axes.set_xlim(0, 1.22 * top)
    for place, value in zip(places, values):
        axes.text(value + 0.015 * top, place, _count(value), va="center", fontsize=8, color=_INK)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])


def _splits(axes, summary: Summary) -> None:
    _plain(axes, "Splits, share of")
    whats = ("notes", "pieces", "groups" if summary.total.groups else "works")
    names = list(summary.splits)
    for place, what in enumerate(whats):
        left, total = 0.0, sum(getattr(summary.splits[name], what) for name in names)
        for name in names:
            count = getattr(summary.splits[name], what)
            share = count / total if total else 0
            axes.barh(
                place, share, left=left, color=_SPLIT_COLOURS[name], height=0.55, label=name if not place else None
            )
            if share > 0.06:
                text = f"{_count(count)}\n{share:.0%}" if share > 0.14 else f"{share:.0%}"
                axes.text(left + share / 2, place, text, ha="center", va="center", color="white", fontsize=8)
            left += share
    axes.set_yticks(range(len(whats)), whats)
    axes.set_ylim(len(whats) - 0.5, -1.1)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=8.5, handlelength=1, columnspacing=1.2)


def _lengths(axes, summary: Summary) -> None:
    _plain(axes, "Lengths in notes, pieces")
    every = np.concatenate(list(summary.lengths.values()))
    median = float(np.median(every))
    low, high = max(min(every.min(), median / 4), 1), max(every.max(), 4 * median)
    edges = np.geomspace(low, high * 1.001, 25)
    names = list(summary.lengths)
    colours = [_SPLIT_COLOURS[name] for name in names]
    axes.hist([summary.lengths[name] for name in names], bins=edges, stacked=True, color=colours, label=names)
    axes.set_xscale("log")
    ticks = [10**k * m for k in range(7) for m in (1, 3) if low <= 10**k * m <= high]
    axes.set_xticks(ticks, [_count(t) for t in ticks])
    axes.minorticks_off()
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.axvline(median, color=_INK, linewidth=1, linestyle=":")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.text(median * 1.06, axes.get_ylim()[1] * 0.97, f"median {median:,.0f}", va="top", fontsize=8, color=_INK)


def _keys(axes, summary: Summary) -> None:
    _plain(axes, "Keys by fifths, pieces")
    majors = [summary.keys.get(f"{name} major", 0) for name in _FIFTHS]
    minors = [summary.keys.get(f"{name} minor", 0) for name in _MINORS]
    used = [i for i in range(len(_FIFTHS)) if majors[i] or minors[i]]
    places = np.arange(len(used))
    axes.set_xlim(-0.7, max(len(used), 6) - 0.3)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.bar(places - 0.2, [majors[i] for i in used], width=0.38, color=_BLUE, label="major")
    axes.bar(places + 0.2, [minors[i] for i in used], width=0.38, color=_ORANGE, label="minor")
    axes.set_xticks(places, [f"{_FIFTHS[i]}\n{_MINORS[i]}" for i in used], fontsize=7.5)
    unknown = summary.keys.get(UNKNOWN, 0)
    if unknown:
        axes.plot([], [], " ", label=f"not told: {_count(unknown)}")
    axes.legend(frameon=False, fontsize=8.5, handlelength=1, loc="upper right")


def _files(axes, summary: Summary) -> None:
    files = summary.files
    if not files:
        _plain(axes, "Files")
        axes.set_axis_off()
        axes.text(0, 0.9, "no report.json", transform=axes.transAxes, color=_INK)
        return
    found = summary.report.get("found", sum(files.values()))
    counts = collections.Counter({name: count for name, count in files.items() if count or name != "duplicates"})
    colours = dict.fromkeys(counts, _RED) | {"kept": _GREEN, "duplicates": _GREY}
    _ranked(axes, f"What became of {_count(found)} files", counts, colours)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _count(value: float) -> str:
    if value >= 9_999_500:
        return f"{value / 1e6:.0f} M"
    if value >= 999_500:
        return f"{value / 1e6:.1f} M"
    if value >= 99_500:
        return f"{value / 1e3:.0f} k"
    return f"{value:,.0f}"
