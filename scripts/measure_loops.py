"""How long real music goes on with bars like earlier ones: the figures behind `musegen.repetition`.

`python scripts/measure_loops.py FOLDER [PART_OF_NAME]` prints, over all the scores of the folder, the longest run of
bars in a piece of which each is like the one 1, 2, 3, 4 or 8 bars before it: has half of its notes or more, struck at
the same places of the bar by the same instruments.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from musegen import grid as g
from musegen.errors import ScoreError
from musegen.repetition import LIKE, RUNS
from musegen.scores import load_score


def bar_contents(score) -> list[set]:
    """Of each bar its notes: ticks from the bar line, pitch and program."""
    notes, starts = g.note_array(score), g.bar_grid(score).starts[:-1]
    bars: list[set] = [set() for _ in starts]
    for note, bar in zip(notes, np.searchsorted(starts, notes["onset"], side="right") - 1):
        bars[bar].add((int(note["onset"] - starts[bar]), int(note["pitch"]), int(note["program"])))
    return bars


def longest_run(bars: list[set], back: int) -> int:
    """How many bars in a row are like the one so many bars before, at the most."""
    longest = run = 0
    for here, before in zip(bars[back:], bars):
        fuller = max(len(here), len(before))
        run = run + 1 if fuller and len(here & before) >= LIKE * fuller else 0
        longest = max(longest, run)
    return longest


def main() -> None:
    folder, part = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    runs: dict[int, list[int]] = {back: [] for back in RUNS}
    for path in sorted(p for p in folder.rglob("*.mid") if part in p.as_posix()):
        try:
            bars = bar_contents(load_score(path, isolate=False).score)
        except ScoreError:
            continue
        for back in RUNS:
            runs[back].append(longest_run(bars, back))
    print(f"{len(runs[1])} pieces; the longest run of bars like the one so many bars back")
    print("back   50 %   75 %   90 %   95 %   99 %   most")
    for back, found in runs.items():
        print(f"{back:4}" + "".join(f"{q:7.1f}" for q in np.percentile(found, [50, 75, 90, 95, 99, 100])))


if __name__ == "__main__":
    main()
