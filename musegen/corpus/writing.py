"""A finished plan to a folder: Parquet shards, the table of all files, report, card and checksums.

Bytes depend on the plan and the settings alone. One shard is in the making at a time, one row group of it in memory.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musegen.canonical import REPAIRS
from musegen.corpus.reading import Reading
from musegen.corpus.reducing import LightRow, Plan
from musegen.corpus.report import FILES_FILE, LISTED, REPORT_FILE, CorpusReport
from musegen.corpus.schema import TEXTS, TOKENS, arrow_schema

SHARD_ROWS = 50_000
SHARD_BYTES = 256 * 1024**2  # of a shard's columns before compression
GROUP_ROWS = 256  # of a row group: a few megabytes, what a streaming reader holds at once
SUMS_FILE = "SHA256SUMS"
_CHUNK = 1024**2


def write_corpus(
    folder: Path, plan: Plan, read: Callable[[int], Reading], light: Callable[[int], Reading], settings: dict[str, Any]
) -> CorpusReport:
    """Write the whole folder, which must be new.

    Args:
        folder: Where.
        plan: What becomes of every file.
        read: The outcome of a file, by its index.
        light: Likewise, without the music.
        settings: What the corpus was made with, for the report.
    """
    (folder / "data").mkdir(parents=True)
    tokens = settings.get("tokenizer") is not None
    about = {"musegen": json.dumps({k: settings[k] for k in ("musegen", "vocabulary") if settings.get(k)})}
    schema = arrow_schema(tokens, about)
    for name, rows in plan.parts.items():
        _write_split(folder / "data", name, rows, plan.groups, read, schema)
    report = _report(plan, light, settings)
    _write_files(folder / FILES_FILE, plan, light)
    (folder / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(plan), encoding="utf-8")
    write_sums(folder)
    return report


def _write_split(
    folder: Path,
    name: str,
    rows: list[LightRow],
    groups: dict[int, str],
    read: Callable[[int], Reading],
    schema: pa.Schema,
) -> None:
    made = 0
    waiting = iter(rows)
    for row in waiting:
        made += _write_shard(folder / f"{name}-{made:05d}", row, waiting, groups, read, schema)
    for i in range(made):
        (folder / f"{name}-{i:05d}").rename(folder / f"{name}-{i:05d}-of-{made:05d}.parquet")


def _write_shard(
    path: Path,
    first: LightRow,
    waiting: Iterator[LightRow],
    groups: dict[int, str],
    read: Callable[[int], Reading],
    schema: pa.Schema,
) -> int:
    written = size = 0
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in TEXTS if name not in ("content_hash", "source")],
        "write_statistics": [*TEXTS, "notes", "bars", "beats"],
    }
    with pq.ParquetWriter(path, schema, **options) as writer:
        group: list[dict[str, Any]] = []
        row: LightRow | None = first
        while row is not None:
            reading = read(row.index)
            group.append(_columns(reading, groups[row.index], schema))
            written += 1
            size += len(reading.midi) + len(reading.fingerprint) + len(reading.input_ids)
            full = written >= SHARD_ROWS or size >= SHARD_BYTES
            row = None if full else next(waiting, None)
            if row is None or len(group) == GROUP_ROWS:
                writer.write_table(_table(group, schema))
                group = []
    return 1


def _columns(reading: Reading, group: str, schema: pa.Schema) -> dict[str, Any]:
    found = {
        **reading.row,
        "midi": reading.midi,
        "group": group,
        "fingerprint": np.frombuffer(reading.fingerprint, dtype="<u4"),
        TOKENS: np.frombuffer(reading.input_ids, dtype="<u2"),
    }
    return {name: found[name] for name in schema.names}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row[f.name] for row in rows], type=f.type) for f in schema], schema=schema)


def _write_files(path: Path, plan: Plan, light: Callable[[int], Reading]) -> None:
    split_of = {row.index: name for name, rows in plan.parts.items() for row in rows}
    texts = ("source", "status", "split", "reason", "detail", "duplicate_of", "content_hash", "work", "group")
    schema = pa.schema([*((name, pa.string()) for name in texts), *((name, pa.int32()) for name in REPAIRS)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, plan.found, 10_000):
            rows = []
            for index in range(start, min(start + 10_000, plan.found)):
                reading = light(index)
                row = dict.fromkeys(texts, "") | dict.fromkeys(REPAIRS, 0) | reading.repairs
                row |= {"source": reading.source, "reason": reading.reason, "detail": reading.detail}
                row["status"] = "quarantined" if reading.row is None else "kept"
                if reading.row is not None:
                    row |= {"content_hash": reading.row["content_hash"], "work": reading.row["work"]}
                    row |= {"split": split_of.get(index, ""), "group": plan.groups.get(index, "")}
                if index in plan.duplicates:
                    row |= {"status": "duplicate", "duplicate_of": light(plan.duplicates[index]).source}
                rows.append(row)
            writer.write_table(_table(rows, schema))


def _report(plan: Plan, light: Callable[[int], Reading], settings: dict[str, Any]) -> CorpusReport:
    some = list(plan.duplicates.items())[:LISTED]
    quarantined: dict[str, dict[str, str]] = {}
    if plan.reasons:
        good = plan.groups.keys() | plan.duplicates.keys()
        bad = (index for index in range(plan.found) if index not in good)
        for reading in (light(index) for _, index in zip(range(LISTED), bad)):
            quarantined[reading.source] = {"reason": reading.reason, "detail": reading.detail}
    return CorpusReport(
        found=plan.found,
        kept={name: len(rows) for name, rows in plan.parts.items()},
        works={name: len({row.work for row in rows}) for name, rows in plan.parts.items()},
        notes={name: sum(row.notes for row in rows) for name, rows in plan.parts.items()},
        duplicate_files=len(plan.duplicates),
        quarantined_files=plan.reasons,
        duplicates={light(index).source: light(earlier).source for index, earlier in some},
        quarantined=quarantined,
        repairs={name: times for name, (_, times) in plan.repairs.items()},
        repaired_files={name: files for name, (files, _) in plan.repairs.items()},
        settings=settings,
    )


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over all files of a folder, as `sha256sum --check` reads it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS_FILE)
    lines = [f"{file_hash(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def swap_in(aside: Path, out: Path, old: Path) -> None:
    """Put a finished folder in the place of another, or of none.

    Args:
        aside: The finished folder.
        out: Its place.
        old: Where the former one waits meanwhile; see `recover`.
    """
    _flush(aside)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    aside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def recover(out: Path, old: Path) -> None:
    """Undo a `swap_in` that was killed between its two renames."""
    if old.exists() and not out.exists():
        old.rename(out)


def _flush(folder: Path) -> None:
    """Have a folder's files on the disk before its name says that they are there."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _card(plan: Plan) -> str:
    rows: Iterable[LightRow] = [row for part in plan.parts.values() for row in part]
    licenses = collections.Counter(row.license or "not stated" for row in rows)
    data_files = "".join(f"  - split: {name}\n    path: data/{name}-*.parquet\n" for name in plan.parts)
    counts = "".join(
        f"| {name} | {len(part)} | {len({r.work for r in part})} | {sum(r.notes for r in part):,} |\n"
        for name, part in plan.parts.items()
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
