"""What is inside a corpus, in words and counts.

Reads the light columns of the Parquet files batch by batch, never the music, so that a corpus may be larger than
memory. Columns and report entries that an older corpus lacks are left out of what is said.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from musegen.errors import CorpusError

SPLITS = ("train", "validation", "test")
SHOWN = 12  # values of a kind that are listed
UNKNOWN = "unknown"
_COLUMNS = (
    "work", "group", "composer", "license", "provenance", "source", "notes", "bars", "beats", "seconds", "key",
    "metre", "programs",
)  # fmt: skip
_BATCH = 16_384  # rows


@dataclasses.dataclass
class SplitSummary:
    """Counts of one split.

    Args:
        pieces: Rows.
        works: Different works.
        groups: Different groups of works that share music; 0 if the corpus does not say.
        notes: In all pieces.
        bars: In all pieces.
        beats: Quarter notes, in all pieces.
        seconds: At the pieces' own tempos; 0 if the corpus does not say.
    """

    pieces: int = 0
    works: int = 0
    groups: int = 0
    notes: int = 0
    bars: int = 0
    beats: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass
class Summary:
    """What is inside a corpus.

    Args:
        splits: Counts by split.
        total: Counts of all splits; works and groups counted once.
        composers: Notes by composer.
        composer_pieces: Pieces by composer.
        keys: Pieces by key.
        metres: Pieces by the metre of the first bar.
        programs: Pieces by program, -1 for drums.
        licenses: Pieces by source and licence: the source is what was named to the build, a folder or the like.
        credits: Pieces by licence and by who made the file, as far as the corpus says.
        lengths: Notes of each piece, by split: int64 (pieces,).
        report: `report.json`, or empty.
    """

    splits: dict[str, SplitSummary]
    total: SplitSummary
    composers: collections.Counter
    composer_pieces: collections.Counter
    keys: collections.Counter
    metres: collections.Counter
    programs: collections.Counter
    licenses: collections.Counter
    credits: collections.Counter
    lengths: dict[str, np.ndarray]
    report: dict[str, Any]

    @property
    def hours(self) -> float:
        """Playing time: of the tempos if the corpus knows them, else at 120 quarter notes a minute."""
        return (self.total.seconds or self.total.beats / 2) / 3600

    @property
    def files(self) -> dict[str, int]:
        """What became of the files: `kept`, `duplicates`, and each reason for quarantine; empty if unknown."""
        kept, duplicates = self.report.get("kept"), self.report.get("duplicates")
        if kept is None:
            return {}
        counts = {"kept": sum(kept.values()) if isinstance(kept, dict) else int(kept)}
        named = duplicates if isinstance(duplicates, int) else len(duplicates or ())
        counts["duplicates"] = self.report.get("duplicate_files", named)
        reasons = self.report.get("quarantined_files")
        if not isinstance(reasons, dict):
            entries = self.report.get("quarantined") or {}
            reasons = collections.Counter(q.get("reason", UNKNOWN) for q in entries.values())
        return counts | dict(sorted(reasons.items(), key=lambda item: -item[1]))


def summarize(corpus) -> Summary:
    """Count what is inside.

    Args:
        corpus: The folder of a corpus, or a `DatasetDict` of `musegen.corpus.load_corpus`.

    Raises:
        CorpusError: If there is no corpus, or it cannot be read.
    """
    counters = {name: collections.Counter() for name in _counter_names()}
    splits: dict[str, SplitSummary] = {}
    lengths: dict[str, list[np.ndarray]] = {}
    seen: dict[str, dict[str, set]] = {"work": {}, "group": {}}
    for split, batch in _batches(corpus):
        own = splits.setdefault(split, SplitSummary())
        own.pieces += len(batch["notes"])
        for name in ("notes", "bars", "beats", "seconds"):
            setattr(own, name, getattr(own, name) + sum(batch.get(name, ())))
        for name, values in seen.items():
            values.setdefault(split, set()).update(batch.get(name, ()))
        lengths.setdefault(split, []).append(np.array(batch["notes"], dtype=np.int64))
        _count(batch, counters)
    for split, own in splits.items():
        own.works, own.groups = len(seen["work"][split]), len(seen["group"][split])
    total = SplitSummary(*(sum(getattr(s, f.name) for s in splits.values()) for f in dataclasses.fields(SplitSummary)))
    total.works, total.groups = (len(set().union(*seen[name].values())) for name in ("work", "group"))
    report = {} if hasattr(corpus, "items") else _report(Path(corpus))
    return Summary(
        splits, total, **counters, lengths={k: np.concatenate(v) for k, v in lengths.items()}, report=report
    )


def describe(corpus) -> str:
    """A table for a person.

    Args:
        corpus: As for `summarize`, or a `Summary`.

    Returns:
        Lines: counts of each split; composers, keys, metres, instruments, licences; what became of the files.
    """
    summary = corpus if isinstance(corpus, Summary) else summarize(corpus)
    lines = [f"{'split':<12}{'pieces':>10}{'works':>10}{'groups':>10}{'notes':>14}{'bars':>12}{'hours':>9}"]
    rows = {**summary.splits, "all": summary.total}
    for name, own in rows.items():
        hours = (own.seconds or own.beats / 2) / 3600
        lines.append(
            f"{name:<12}{own.pieces:>10,}{own.works:>10,}{own.groups or '-':>10}{own.notes:>14,}{own.bars:>12,}"
            f"{hours:>9,.1f}"
        )
    if not summary.total.seconds:
        lines.append("hours at 120 quarter notes a minute: this corpus does not tell its playing time")
    every = np.concatenate([*summary.lengths.values()])
    low, median, high = np.percentile(every, [5, 50, 95])
    lines += ["", f"{'lengths:':<13}{median:,.0f} notes (median); 90 % of the pieces have {low:,.0f} to {high:,.0f}"]
    licenses: collections.Counter = collections.Counter()
    for (_, license_), count in summary.licenses.items():
        licenses[license_] += count
    programs = collections.Counter({instrument(p): n for p, n in summary.programs.items()})
    for title, counts in (
        ("composers", summary.composer_pieces),
        ("keys", summary.keys),
        ("metres", summary.metres),
        ("instruments", programs),
        ("licences", licenses),
        ("files", collections.Counter(summary.files)),
    ):
        if counts:
            lines.append(_listed(title, counts))
    repairs = collections.Counter({k.replace("_", " "): n for k, n in summary.report.get("repairs", {}).items() if n})
    if repairs:
        lines.append(_listed("repairs", repairs))
    return "\n".join(lines)


def instrument(program: int) -> str:
    """The General MIDI name of a program; -1 for drums."""
    from miditok.constants import MIDI_INSTRUMENTS

    return "Drums" if program < 0 else MIDI_INSTRUMENTS[program]["name"]


def parquet_files(folder: str | Path) -> dict[str, list[Path]]:
    """The Parquet files of each split of a corpus, in order.

    Raises:
        CorpusError: If there are none.
    """
    folder = Path(folder)
    found = {name: sorted((folder / "data").glob(f"{name}-*.parquet")) for name in SPLITS}
    found = {name: files for name, files in found.items() if files}
    if not found:
        what = "no corpus there (no data/*.parquet)" if folder.is_dir() else "no such folder"
        raise CorpusError(f"{folder}: {what}")
    return found


def read_batches(files: list[Path], columns: tuple[str, ...], size: int = _BATCH) -> Iterator[dict[str, list]]:
    """The columns of Parquet files, as far as they have them, a batch of rows at a time.

    Raises:
        CorpusError: If a file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    for path in files:
        try:
            with parquet.ParquetFile(path) as file:
                there = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=size, columns=there):
                    yield batch.to_pydict()
        except (OSError, pyarrow.ArrowException) as error:
            reason = " ".join(str(error).split())[:160]
            raise CorpusError(f"{path}: cannot be read as Parquet ({reason})") from None


def _batches(corpus) -> Iterator[tuple[str, dict[str, list]]]:
    if hasattr(corpus, "items"):
        for split, rows in corpus.items():
            table = rows.select_columns([name for name in _COLUMNS if name in rows.column_names])
            for batch in table.iter(batch_size=_BATCH):
                yield split, batch
    else:
        for split, files in parquet_files(corpus).items():
            for batch in read_batches(files, _COLUMNS):
                missing = {"work", "notes", "composer", "license", "source"} - set(batch)
                if missing:
                    raise CorpusError(
                        f"{corpus}: not a musegen corpus, columns {', '.join(sorted(missing))} are missing"
                    )
                yield split, batch


def _counter_names() -> tuple[str, ...]:
    return "composers", "composer_pieces", "keys", "metres", "programs", "licenses", "credits"


def _count(batch: dict[str, list], counters: dict[str, collections.Counter]) -> None:
    composers = [name or UNKNOWN for name in batch["composer"]]
    licenses = [name or "not stated" for name in batch["license"]]
    for composer, notes in zip(composers, batch["notes"]):
        counters["composers"][composer] += notes
    counters["composer_pieces"].update(composers)
    counters["keys"].update(name or UNKNOWN for name in batch.get("key", ()))
    counters["metres"].update(name or UNKNOWN for name in batch.get("metre", ()))
    counters["programs"].update(p for programs in batch.get("programs", ()) for p in programs)
    counters["licenses"].update((source.split("/")[0], name) for source, name in zip(batch["source"], licenses))
    counters["credits"].update(
        (name, provenance.split(";")[0].strip()) for name, provenance in zip(licenses, batch.get("provenance", ()))
    )


def _report(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder / 'report.json'}: cannot be read as JSON ({error})") from None
    return found if isinstance(found, dict) else {}


def _listed(title: str, counts: collections.Counter) -> str:
    shown = ", ".join(f"{value} {count:,}" for value, count in counts.most_common(SHOWN))
    more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return f"{title + ':':<13}{shown}{more}"
