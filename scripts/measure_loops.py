"""How often real music plays the same bars again at once: the figures behind `musegen.repetition`.

`python scripts/measure_loops.py FOLDER [PART_OF_NAME]` prints, for loops of 1, 2, 4 and 8 bars, how many times the
longest loop of a piece is played, over all the scores of the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from musegen import grid as g
from musegen.errors import ScoreError
from musegen.scores import load_score

PERIODS = (1, 2, 4, 8)


def bar_contents(score) -> list[tuple]:
    """Of each bar, its notes with times from the bar line: equal where the bar is the same."""
    notes, starts = g.note_array(score), g.bar_grid(score).starts[:-1]
    bars: list[list] = [[] for _ in starts]
    for note, bar in zip(notes, np.searchsorted(starts, notes["onset"], side="right") - 1):
        bars[bar].append((note["onset"] - starts[bar], note["pitch"], note["duration"], note["program"]))
    return [tuple(sorted(map(tuple, np.array(bar).tolist()))) for bar in bars]


def longest_loop(bars: list[tuple], period: int) -> float:
    """How many times the most repeated loop of so many bars is played; 1 for none."""
    longest = run = 0
    for here, before in zip(bars[period:], bars):
        run = run + 1 if here and here == before else 0
        longest = max(longest, run)
    return 1 + longest / period


def main() -> None:
    folder, part = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    loops: dict[int, list[float]] = {period: [] for period in PERIODS}
    for path in sorted(p for p in folder.rglob("*.mid") if part in p.as_posix()):
        try:
            bars = bar_contents(load_score(path, isolate=False).score)
        except ScoreError:
            continue
        for period in PERIODS:
            loops[period].append(longest_loop(bars, period))
    print(f"{len(loops[1])} pieces; times that the longest loop is played")
    print("bars   50 %   90 %   95 %   99 %   most")
    for period, found in loops.items():
        print(f"{period:4}" + "".join(f"{q:7.1f}" for q in np.percentile(found, [50, 90, 95, 99, 100])))


if __name__ == "__main__":
    main()
