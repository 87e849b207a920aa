"""A score as a piano roll: time to the right, pitch upwards, one colour an instrument.

Times are in quarters inside this module; the axis counts bars.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import symusic

from musegen.instruments import program_name
from musegen.rendering.files import RenderingError, replacing
from musegen.rendering.meters import UNITS, Bar, lay_bars
from musegen.rendering.parts import bar_marks
from musegen.rendering.quantization import to_units

# Okabe and Ito, "Color Universal Design" (2008), without black and yellow, which a white page swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#666666")
_BLACK_KEYS = (1, 3, 6, 8, 10)
_INCHES_A_QUARTER, _INCHES_A_PITCH = 0.16, 0.095
_WIDTH, _HEIGHT = (7.0, 40.0), (2.6, 9.0)  # least and greatest, inches
_DPI = 144
_FAINTEST = 0.3  # opacity of a note that is hardly heard
_MOST_LABELS = 40  # bar numbers on the axis


def render_roll(
    score: symusic.Score,
    path: str | Path,
    *,
    title: str | None = None,
    prompt_bars: int | None = None,
    width: float | None = None,
) -> Path:
    """Draw a piano roll.

    Args:
        score: Any score in ticks, also one without notes. The loudest notes are opaque, softer
            ones paler.
        path: Where to write, ending in `.png`, `.svg` or `.pdf`.
        title: Above the picture.
        prompt_bars: How many bars at the beginning were given rather than composed; they are shaded.
        width: Inches; by default as wide as the music is long, within 7 to 40.

    Returns:
        The file written.

    Raises:
        RenderingError: The ending of the path is another one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise RenderingError(f"{path}: a piano roll is written as .png, .svg or .pdf")
    bars, notes = _bars_and_notes(score)
    end = bars[-1].end / UNITS
    pitches = [pitch for group in notes.values() for pitch in group["pitch"]] or [60, 72]
    low, high = min(pitches) - 2, max(pitches) + 2
    wide = width or float(np.clip(end * _INCHES_A_QUARTER + 1.0, *_WIDTH))
    tall = float(np.clip((high - low) * _INCHES_A_PITCH + 1.2, *_HEIGHT))
    figure = Figure(figsize=(wide, tall), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_grid(axes, bars, low, high, prompt_bars)
    _draw_marks(axes, bars, bar_marks(score.to("tick"), bars))
    _draw_notes(axes, notes)
    axes.set(xlim=(0, end), ylim=(low, high), xlabel="Bar")
    if title:
        axes.set_title(title, loc="left", fontsize=12)
    if notes:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.5 / tall), ncols=max(1, int(wide / 2.2)),
                    frameon=False, fontsize=9, handlelength=1.2, borderaxespad=0)  # fmt: skip
    with replacing(path) as aside:
        figure.savefig(aside, format=kind, dpi=_DPI)
    return path


def _bars_and_notes(score: symusic.Score) -> tuple[list[Bar], dict[tuple[int, bool], np.ndarray]]:
    """The bars, and by (program, is a drum) the onsets, durations (quarters), pitches and velocities."""
    score = score.to("tick")
    tpq = score.ticks_per_quarter
    groups: dict[tuple[int, bool], list[dict[str, np.ndarray]]] = {}
    for track in score.tracks:
        if len(track.notes):
            key = (0 if track.is_drum else int(track.program) % 128, bool(track.is_drum))
            groups.setdefault(key, []).append(track.notes.numpy())
    notes = {}
    for key in sorted(groups, key=lambda key: (key[1], key[0])):
        soas = groups[key]
        notes[key] = {
            "onset": np.concatenate([soa["time"] for soa in soas]) / tpq,
            "duration": np.concatenate([soa["duration"] for soa in soas]) / tpq,
            "pitch": np.concatenate([soa["pitch"] for soa in soas]).astype(int),
            "velocity": np.concatenate([soa["velocity"] for soa in soas]).astype(float),
        }
    end = max((float((g["onset"] + g["duration"]).max()) for g in notes.values()), default=0.0)
    metres = [(to_units(s.time, tpq), int(s.numerator), int(s.denominator)) for s in score.time_signatures]
    return lay_bars(metres, round(end * UNITS)), notes


def _draw_grid(axes, bars: list[Bar], low: int, high: int, prompt_bars: int | None) -> None:
    """Bar lines and numbers, octaves by name, black keys in grey, the prompt shaded."""
    for pitch in range(low, high + 1):
        if pitch % 12 in _BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
    every = int(np.ceil(len(bars) / _MOST_LABELS))
    starts = [bar.start / UNITS for bar in bars]
    axes.vlines(starts[:: 1 if every < 8 else every], low, high, color="#C8C8C8", linewidth=0.6, zorder=1)
    if prompt_bars:
        stop = bars[min(prompt_bars, len(bars)) - 1].end / UNITS
        axes.axvspan(0, stop, color="#56B4E9", alpha=0.13, linewidth=0, zorder=0.5)
        axes.axvline(stop, color="#56B4E9", linewidth=1.2, zorder=1.5)
        axes.annotate("prompt", (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                      textcoords="offset points", va="top", fontsize=8, color="#20618F")  # fmt: skip
    numbers = range(0, len(bars), every)
    axes.set_xticks([starts[i] for i in numbers], [str(i + 1) for i in numbers], fontsize=8)
    names = {0: "C", 7: "G"} if high - low < 40 else {0: "C"}
    labelled = [pitch for pitch in range(low, high + 1) if pitch % 12 in names]
    axes.set_yticks(labelled, [f"{names[p % 12]}{p // 12 - 1}" for p in labelled], fontsize=8)
    axes.tick_params(length=2, color="#888888")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_marks(axes, bars: list[Bar], marks: dict[int, str]) -> None:
    """Names of sections above the picture, and a line where each begins."""
    for i, text in marks.items():
        start = bars[i].start / UNITS
        axes.axvline(start, color="#666666", linewidth=1.0, zorder=1.6)
        axes.annotate(text, (start, 1), xycoords=("data", "axes fraction"), xytext=(2, 2), textcoords="offset points",
                      fontsize=9, fontweight="bold", color="#333333", annotation_clip=False)  # fmt: skip


def _draw_notes(axes, notes: dict[tuple[int, bool], dict[str, np.ndarray]]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    loudest = max((float(group["velocity"].max()) for group in notes.values()), default=0.0)
    for i, ((program, is_drum), group) in enumerate(notes.items()):
        left, pitch = group["onset"], group["pitch"]
        # A sliver is left between repeated notes, and the shortest note stays visible.
        right = left + np.maximum(group["duration"] * 0.97, 0.04)
        corners = [(left, pitch - 0.42), (right, pitch - 0.42), (right, pitch + 0.42), (left, pitch + 0.42)]
        boxes = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)  # (notes, 4, 2)
        colours = np.empty((len(left), 4))
        colours[:, :3] = to_rgb(_COLOURS[i % len(_COLOURS)])
        colours[:, 3] = _FAINTEST + (1 - _FAINTEST) * (group["velocity"] / loudest if loudest else 1.0)
        axes.add_collection(PolyCollection(boxes, facecolors=colours, linewidths=0, zorder=2))
        axes.plot([], [], color=_COLOURS[i % len(_COLOURS)], linewidth=6, label=program_name(program, is_drum))
