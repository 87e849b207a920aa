"""Tables with a column of MIDI bytes: Parquet files and the Arrow files that `datasets` saves.

Tables are read by native code, so that it happens in a worker process, one row group (Parquet) or record batch (Arrow)
a task: a damaged group loses its own rows alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from musegen.midi_scan import is_midi

TABLE_SUFFIXES = (".parquet", ".arrow")
_LIKELY = ("midi", "mid", "file", "bytes", "content", "data", "score", "music")
_TEXTS = ("composer", "title", "license", "licence", "work", "provenance")
_NAMES = ("file_name", "filename", "path", "source", "file", "name", "id")
_HEAD_ROWS = 16  # looked at to tell whether a column holds MIDI
_GROUP_SECONDS, _GROUP_BYTES = 120.0, 4 * 1024**3  # of one row group; `datasets` writes 100 to 1,000 rows a group


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row: its number in the table, MIDI bytes (None where there are none) and what else it tells."""

    number: int
    data: bytes | None
    texts: dict[str, str]


def is_table(name: str) -> bool:
    return name.lower().endswith(TABLE_SUFFIXES)


def pool():
    """The worker in which tables are read; close it after use."""
    from musegen.workers import WorkerLimits, WorkerPool

    return WorkerPool(read_table, workers=1, limits=WorkerLimits(_GROUP_SECONDS, _GROUP_BYTES))


def rows(path: Path, workers) -> Iterator[TableRow | int]:
    """The rows of a table.

    Args:
        path: The table.
        workers: From `pool`.

    Yields:
        Rows in order; a number instead of them for a group that could not be read: its count of rows, 0 if unknown.
        Nothing at all for a table without a column of MIDI bytes.
    """
    from musegen.errors import WorkerError

    try:
        column, groups = workers.run((str(path), None, None))
    except WorkerError:
        yield 0
        return
    if column is None:
        return
    first = 0
    for group, count in enumerate(groups):
        try:
            for number, (data, texts) in enumerate(workers.run((str(path), column, group)), start=first):
                yield TableRow(number, data, texts)
        except WorkerError:
            yield count
        first += count


def read_table(task: tuple[str, str | None, int | None]) -> Any:
    """What the worker does: the MIDI column and the sizes of all groups, or the rows of one group."""
    path, column, group = task
    table = _Parquet(path) if path.lower().endswith(".parquet") else _Arrow(path)
    if group is None:
        return _midi_column(table), table.sizes()
    wanted = [name for name in (column, *_TEXTS, *_NAMES) if name in table.schema.names]
    return [_row(row, column) for row in table.group(group, list(dict.fromkeys(wanted))).to_pylist()]


class _Parquet:
    def __init__(self, path: str):
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self.schema = self._file.schema_arrow

    def sizes(self) -> list[int]:
        meta = self._file.metadata
        return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def group(self, number: int, columns: list[str]):
        return self._file.read_row_group(number, columns=columns)

    def head(self, column: str):
        for group in range(self._file.metadata.num_row_groups):
            with contextlib.suppress(Exception):  # a damaged group says nothing of the others
                return next(self._file.iter_batches(_HEAD_ROWS, row_groups=[group], columns=[column]), None)
        return None


class _Arrow:
    def __init__(self, path: str):
        self._path = path
        self.schema = self._open().schema

    def _open(self):
        import pyarrow as pa

        return pa.ipc.open_stream(pa.memory_map(self._path))

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self._open()]

    def group(self, number: int, columns: list[str]):
        for i, batch in enumerate(self._open()):
            if i == number:
                return batch.select(columns)
        raise IndexError(number)

    def head(self, column: str):
        batch = next(iter(self._open()), None)
        return batch if batch is None else batch.slice(0, _HEAD_ROWS).select([column])


def _midi_column(table) -> str | None:
    """The column of MIDI bytes: binary, or the struct of bytes and path that `datasets` writes for files."""
    import pyarrow as pa

    def holds_bytes(kind) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    candidates = [field.name for field in table.schema if holds_bytes(field.type)]
    likely = [name for name in _LIKELY if name in candidates]
    for name in [*likely, *(name for name in candidates if name not in likely)]:
        head = table.head(name)
        values = [_bytes(row[name]) for row in head.to_pylist()] if head is not None else []
        if any(value is not None and is_midi(value[:12]) for value in values):
            return name
    return likely[0] if likely else None


def _bytes(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _row(row: dict[str, Any], column: str) -> tuple[bytes | None, dict[str, str]]:
    texts = {name: row[name] for name in (*_TEXTS, *_NAMES) if name != column and isinstance(row.get(name), str)}
    if isinstance(row[column], dict) and isinstance(row[column].get("path"), str):
        texts.setdefault("path", row[column]["path"])
    return _bytes(row[column]), texts
