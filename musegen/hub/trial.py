"""Loads a staged folder back and lets it make music: run as a file, in a fresh process, before anything is sent.

    python trial.py KIND FOLDER with|without

`without` hides musegen, miditok and symusic, as on the machine of someone who has only transformers and torch. The
last line of the output is JSON: what was made. Any failure is a traceback and an exit code other than 0.
"""

import importlib.abc
import json
import os
import sys
from pathlib import Path

HIDDEN = ("musegen", "miditok", "symusic")
BARS, SEEDS, MAX_TOKENS = 4, 4, 1024


class Hide(importlib.abc.MetaPathFinder):
    """Lets imports of some packages fail as if they were not installed."""

    def find_spec(self, name, path=None, target=None):
        """Refuse what is hidden, leave the rest to others."""
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def try_model(folder: str, full: bool) -> dict:
    """A piece of a few bars from the pipeline that the folder gives."""
    from transformers import pipeline

    if full:
        import musegen  # noqa: F401

        composer = pipeline("music-generation", model=folder)
    else:
        # The code in the folder is musegen's own: staging put it there a moment ago.
        composer = pipeline(model=folder, trust_remote_code=True)
    for seed in range(SEEDS):
        piece = composer(bars=BARS, seed=seed, max_tokens=MAX_TOKENS)
        notes = sum(len(track.notes) for track in piece["score"].tracks) if full else len(piece["notes"])
        if notes and piece["midi"][:4] == b"MThd":
            return {"notes": notes, "seed": seed, "pipeline": type(composer).__name__}
    raise SystemExit(f"it wrote no note in {SEEDS} pieces of {BARS} bars")


def try_dataset(folder: str, full: bool) -> dict:
    """Every split loaded, in memory and as a stream, and one piece of each read as music."""
    from datasets import load_dataset

    splits = load_dataset(folder)
    rows = {name: len(split) for name, split in splits.items()}
    streamed = {name: sum(1 for _ in split) for name, split in load_dataset(folder, streaming=True).items()}
    if rows != streamed or not all(rows.values()):
        raise SystemExit(f"rows differ: {rows} in memory, {streamed} as a stream")
    notes = 0
    for name, split in splits.items():
        row = split[0]
        notes += row["notes"]
        if full:
            from musegen.scores import parse_midi

            score = parse_midi(row["midi"], row["source"]).score
            found = sum(len(track.notes) for track in score.tracks)
            if found != row["notes"]:
                raise SystemExit(f"{name}: {row['source']} has {found} notes, its row says {row['notes']}")
    return {"rows": rows, "notes": notes}


def try_metric(folder: str, full: bool) -> dict:
    """A piece scored against itself, and against nothing like it."""
    import evaluate

    metric = evaluate.load(str(Path(folder) / "music_bleu.py"))
    piece = "p60 wait6 endp60 p62 wait6 endp62 p64 wait12 endp64".split()
    same = metric.compute(predictions=[piece], references=[[piece]])["score"]
    other = metric.compute(predictions=[piece], references=[[["p1"] * 9]])["score"]
    if abs(same - 1) > 1e-9 or other != 0:
        raise SystemExit(f"a piece scores {same} against itself and {other} against another")
    return {"score": same}


def try_app(folder: str, full: bool) -> dict:
    """The page is served by the code in the folder, which no installed musegen may stand in for."""
    import runpy
    import urllib.request

    sys.path.insert(0, folder)
    launch = runpy.run_path(str(Path(folder) / "app.py"), run_name="app")["launch_app"]
    import musegen

    if not Path(musegen.__file__).is_relative_to(Path(folder)):
        raise SystemExit(f"the page took musegen from {musegen.__file__}")
    served = launch(block=False)
    try:
        with urllib.request.urlopen(served.url, timeout=60) as answer:
            page = len(answer.read())
    finally:
        served.close()
    return {"page": page}


def main() -> None:
    """Run what the command line names."""
    kind, folder, manner = sys.argv[1:4]
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    if manner == "without":
        sys.meta_path.insert(0, Hide())
    tries = {"model": try_model, "dataset": try_dataset, "metric": try_metric, "app": try_app}
    print(json.dumps(tries[kind](folder, manner == "with")), flush=True)
    # Threads of pyarrow that have read a stream may abort Python while it closes; all that was to be told is told.
    os._exit(0)


if __name__ == "__main__":
    main()
