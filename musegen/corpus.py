"""Score files to a corpus: a `DatasetDict` in a folder that `datasets.load_dataset` reads as it lies.

One row a piece. Pieces that are the same music are kept once; train, validation and test part by work, never by
file, and before anything is learned. Reading runs in worker processes, so that no file can stop the rest.

Layout of the folder: `data/{train,validation,test}-00000-of-00001.parquet`, `README.md` (the dataset card, with
the configuration that the Hub's viewer reads) and `report.json` (what became of every file).
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import symusic

from musegen import grid as g
from musegen.errors import CorpusError, ScoreError
from musegen.scores import LoadedScore, content_hash, load_score, midi_bytes, parse_midi
from musegen.sources import SourceFile, find_scores
from musegen.work_groups import SPLITS, SplitOptions
from musegen.workers import WorkerPool

REPORT_FILE = "report.json"
_KEYS = {
    0: ["C", "G", "D", "A", "E", "B", "F#", "C#", "Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F"],
    1: ["a", "e", "b", "f#", "c#", "g#", "d#", "a#", "ab", "eb", "bb", "f", "c", "g", "d"],
}


def features():
    """The columns of a corpus, as `datasets.Features`."""
    from datasets import Features, List, Value

    text = {name: Value("string") for name in ("content_hash", "work", "composer", "title", "source", "provenance")}
    counts = {name: Value("int32") for name in ("notes", "bars")}
    return Features(
        {
            "midi": Value("binary"),
            **text,
            "license": Value("string"),
            **counts,
            "beats": Value("float32"),
            "key": Value("string"),
            "metre": Value("string"),
            "programs": List(Value("int16")),
        }
    )


@dataclasses.dataclass
class CorpusReport:
    """What became of every file: `found` is `kept` + `duplicates` + `quarantined`, always.

    Args:
        found: Files.
        kept: Pieces in each split.
        duplicates: Source -> the source whose music it repeats.
        quarantined: Source -> reason and detail.
        repairs: How often each silent repair was made.
        works: Works in each split.
    """

    found: int
    kept: dict[str, int]
    duplicates: dict[str, str]
    quarantined: dict[str, dict[str, str]]
    repairs: dict[str, int]
    works: dict[str, list[str]]

    def __str__(self) -> str:
        kept = ", ".join(f"{n} {split}" for split, n in self.kept.items())
        lines = [
            f"{self.found} files found: {sum(self.kept.values())} kept ({kept}), "
            f"{len(self.duplicates)} duplicates, {len(self.quarantined)} quarantined"
        ]
        reasons = collections.Counter(q["reason"] for q in self.quarantined.values())
        lines += [f"  quarantined as {reason}: {count}" for reason, count in reasons.most_common()]
        lines += [f"  repaired, {what.replace('_', ' ')}: {count}" for what, count in self.repairs.items() if count]
        return "\n".join(lines)


def read_piece(file: SourceFile) -> tuple[dict[str, Any], dict[str, int]]:
    """One corpus row and its repairs; what a worker process does with one file.

    Raises:
        ScoreError: If the file is no usable score.
    """
    loaded = load_score(file.path, isolate=False)
    return piece_row(loaded, file), loaded.repairs


def piece_row(loaded: LoadedScore, file: SourceFile) -> dict[str, Any]:
    """The row of a piece: columns as in `features`."""
    score, about = loaded.score, loaded.about
    notes, bars = g.note_array(score), g.bar_grid(score)
    key = score.key_signatures[0] if len(score.key_signatures) and score.key_signatures[0].time == 0 else None
    return {
        "midi": midi_bytes(score),
        "content_hash": content_hash(score),
        "work": file.work,
        "composer": file.composer or about.get("composer", ""),
        "title": file.title or about.get("title", ""),
        "source": file.source,
        "provenance": file.provenance,
        "license": file.license,
        "notes": len(notes),
        "bars": len(bars),
        "beats": float(bars.starts[-1] / g.TICKS_PER_QUARTER),
        "key": "" if key is None else key_name(key.key, key.tonality),
        "metre": about["metre"],
        "programs": sorted({int(p) for p in notes["program"]}),
    }


def key_name(sharps: int, minor: int) -> str:
    """`D major` for two sharps; negative for flats."""
    name = _KEYS[1 if minor else 0][sharps]
    return f"{name} {'minor' if minor else 'major'}"


def build_corpus(
    sources: Sequence[str],
    out: str | Path,
    *,
    split: SplitOptions | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> CorpusReport:
    """Read all scores of the sources and write the corpus.

    Args:
        sources: See `musegen.sources.find_scores`.
        out: The folder to write; a corpus that is there is replaced once the new one is whole.
        split: How to part it.
        workers: Worker processes; by default one a core.
        progress: Show a bar.

    Raises:
        CorpusError: If there is nothing to build from, or `out` holds something that is no corpus.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / REPORT_FILE).is_file():
        raise CorpusError(f"{out}: there is something else in it; name an empty or new folder")
    files = [file for source in sources for file in find_scores(source)]
    rows, quarantined, repairs = _read_all(files, workers, progress)
    rows, duplicates = _without_duplicates(rows)
    if not rows:
        reasons = "; ".join(f"{source}: {q['reason']}" for source, q in list(quarantined.items())[:3])
        raise CorpusError(f"none of the {len(files)} files is a usable score ({reasons})")
    parts = split_by_work(rows, split or SplitOptions())
    report = CorpusReport(
        found=len(files),
        kept={name: len(part) for name, part in parts.items()},
        duplicates=duplicates,
        quarantined=quarantined,
        repairs=dict(repairs),
        works={name: sorted({row["work"] for row in part}) for name, part in parts.items()},
    )
    _write(out, parts, report)
    return report


def _read_all(files: Sequence[SourceFile], workers: int | None, progress: bool):
    """Rows in the order of the files, whatever the order in which workers finish."""
    from tqdm.auto import tqdm

    rows, quarantined, repairs = [], {}, collections.Counter()
    with WorkerPool(read_piece, workers=workers) as pool:
        outcomes = tqdm(pool.map(files), total=len(files), desc="scores", unit="file", disable=not progress)
        for file, outcome in zip(files, outcomes):
            if outcome.error is None:
                row, repaired = outcome.value
                rows.append(row)
                repairs.update(repaired)
            else:
                error = outcome.error
                reason = getattr(error, "reason", "crashed")
                detail = getattr(error, "detail", str(error)).replace(file.path, file.source)
                quarantined[file.source] = {"reason": reason, "detail": detail}
    return rows, quarantined, repairs


def _without_duplicates(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    first: dict[str, dict[str, Any]] = {}
    duplicates = {}
    for row in rows:
        kept = first.setdefault(row["content_hash"], row)
        if kept is not row:
            duplicates[row["source"]] = kept["source"]
    return list(first.values()), duplicates


def split_by_work(rows: list[dict[str, Any]], options: SplitOptions) -> dict[str, list[dict[str, Any]]]:
    """Part rows into train, validation and test so that no work is in two of them.

    Works are taken in an order that depends on the seed alone, so that adding a work moves few others. Where no
    handful of works comes near the share asked for, as in a corpus of five works, the one nearest to it is taken.

    Args:
        rows: With `work` and `notes`.
        options: Shares and seed.

    Returns:
        Rows of each split. Validation and test are empty for fewer than three works.
    """
    sizes: dict[str, int] = collections.Counter()
    for row in rows:
        sizes[row["work"]] += row["notes"]
    works = sorted(sizes, key=lambda work: hashlib.sha256(f"{options.seed}:{work}".encode()).digest())
    total, left, chosen = sum(sizes.values()), list(works), {}
    for name in ("test", "validation"):
        if len(works) < 3:
            chosen[name] = []
            continue
        chosen[name] = _fill(left, sizes, getattr(options, name) * total)
        left = [work for work in left if work not in chosen[name]]
    of_work = {work: name for name, members in chosen.items() for work in members}
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    for row in rows:
        parts[of_work.get(row["work"], "train")].append(row)
    return {name: part for name, part in parts.items() if part}


def _fill(works: list[str], sizes: dict[str, int], target: float) -> list[str]:
    chosen, filled = [], 0
    for work in works:
        if filled + sizes[work] <= 1.25 * target:
            chosen.append(work)
            filled += sizes[work]
        if filled >= target:
            break
    if filled >= 0.6 * target:
        return chosen
    return [min(works, key=lambda work: abs(math.log(sizes[work] / target)))] if target > 0 else []


def _write(out: Path, parts: dict[str, list[dict[str, Any]]], report: CorpusReport) -> None:
    """Write the folder aside, then swap it in."""
    from datasets import Dataset, disable_progress_bars, enable_progress_bars

    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "data").mkdir(parents=True)
    disable_progress_bars()  # a bar a split says nothing once all is read
    for name, part in parts.items():
        table = Dataset.from_list(part, features=features())
        table.to_parquet(aside / "data" / f"{name}-00000-of-00001.parquet")
    enable_progress_bars()
    (aside / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=1), encoding="utf-8")
    (aside / "README.md").write_text(_card(parts), encoding="utf-8")
    replace_folder(aside, out)


def replace_folder(aside: Path, out: Path) -> None:
    """Put a finished folder in the place of another, or of none."""
    if out.exists():
        old = out.with_name(out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        aside.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(out)


def _card(parts: dict[str, list[dict[str, Any]]]) -> str:
    rows = [row for part in parts.values() for row in part]
    licenses = collections.Counter(row["license"] or "not stated" for row in rows)
    data_files = "".join(f"  - split: {name}\n    path: data/{name}-*.parquet\n" for name in parts)
    counts = "".join(
        f"| {name} | {len(part)} | {len({r['work'] for r in part})} | {sum(r['notes'] for r in part):,} |\n"
        for name, part in parts.items()
    )
    licences = "".join(f"| {name} | {count} |\n" for name, count in licenses.most_common())
    return (
        "---\nlicense: other\ntags:\n- music\n- midi\n- symbolic-music\n"
        f"configs:\n- config_name: default\n  data_files:\n{data_files}---\n"
        "# A corpus of scores\n\nMade by `musegen corpus build`. One row a piece; `midi` is a MIDI file on a grid of\n"
        "24 positions a beat, with every bar in its place. Split by work: no work is in two splits.\n\n"
        f"| split | pieces | works | notes |\n|---|---|---|---|\n{counts}\n"
        f"| licence of the source | pieces |\n|---|---|\n{licences}"
    )


def load_corpus(path: str | Path):
    """Load a corpus folder as a `datasets.DatasetDict`.

    Raises:
        CorpusError: If the folder is no corpus.
    """
    from datasets import DatasetDict, load_dataset

    path = Path(path)
    files = {name: sorted(map(str, (path / "data").glob(f"{name}-*.parquet"))) for name in SPLITS}
    files = {name: found for name, found in files.items() if found}
    if not files:
        raise CorpusError(
            f"{path}: no corpus there (no data/*.parquet)" if path.is_dir() else f"{path}: no such folder"
        )
    try:
        corpus = load_dataset("parquet", data_files=files)
    except Exception as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:160]})") from None
    missing = set(features()) - set(next(iter(corpus.values())).column_names)
    if missing:
        raise CorpusError(f"{path}: not a musegen corpus, columns {', '.join(sorted(missing))} are missing")
    return DatasetDict(corpus)


def corpus_scores(rows) -> Iterator[tuple[str, symusic.Score]]:
    """Names and canonical scores of a split.

    Raises:
        ScoreError: If a row's MIDI is damaged.
    """
    for row in rows:
        yield row["source"], parse_midi(row["midi"], row["source"]).score


__all__ = [
    "SPLITS",
    "CorpusReport",
    "ScoreError",
    "SplitOptions",
    "build_corpus",
    "corpus_scores",
    "features",
    "key_name",
    "load_corpus",
    "piece_row",
    "read_piece",
    "split_by_work",
]
