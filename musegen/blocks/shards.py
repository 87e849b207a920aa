"""The pieces of a corpus folder, read row group by row group: never more of them in memory than are asked for.

A corpus built with `--tokenizer` has a column of REMI ids and says in which vocabulary. They are taken as they are
where it is the tokenizer's own, and translated by name where it is the package's plain vocabulary, which has the same
tokens without those of the header. Else ids are computed from the MIDI bytes, and blocks come at a fifth of the speed.

Units: rows and row groups of Parquet; notes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from musegen import grid as g
from musegen.blocks.packing import TrainingPiece, training_piece
from musegen.controls import MAX_PROGRAMS, Controls, composer_slug, parse_key, signature_tonic
from musegen.corpus.schema import TOKENS
from musegen.corpus.writing import SUMS_FILE
from musegen.errors import CorpusError
from musegen.remi import plain_vocabulary, vocabulary_hash
from musegen.scores import parse_midi
from musegen.tokenizer import MusicTokenizer
from musegen.tonality import estimate_key


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Where a row group lies.

    Args:
        file: Of `ShardedPieces.files`.
        index: In the file.
        first: Number of its first row in the split.
        rows: How many.
        notes: In all of them.
    """

    file: int
    index: int
    first: int
    rows: int
    notes: int


class ShardedPieces:
    """The training pieces of one split of a corpus folder.

    Args:
        folder: Of `musegen.corpus.build_corpus`.
        tokenizer: Whose ids are wanted.
        split: Of `musegen.corpus.SPLITS`.

    Attributes:
        files: Paths of the shards.
        groups: Their row groups.

    Raises:
        CorpusError: If there is no such split, or a shard cannot be read.
    """

    def __init__(self, folder: str | Path, tokenizer: MusicTokenizer, split: str = "train"):
        self.folder, self.tokenizer, self.split = Path(folder), tokenizer, split
        self.files = sorted((self.folder / "data").glob(f"{split}-*.parquet"))
        if not self.files:
            raise CorpusError(f"{folder}: no {split} split there (no data/{split}-*.parquet)")
        self.groups: list[RowGroup] = []
        self._tables: list[np.ndarray | None] = []  # for each file
        first = 0
        for number, path in enumerate(self.files):
            groups, table = self._look(path, number, first)
            self.groups += groups
            self._tables.append(table)
            first += sum(group.rows for group in groups)
        self.rows = first

    @property
    def notes(self) -> int:
        """In all pieces."""
        return sum(group.notes for group in self.groups)

    @property
    def tokenized(self) -> bool:
        """Whether all ids come from the corpus, and none have to be computed."""
        return all(table is not None for table in self._tables)

    def signature(self) -> str:
        """What identifies the pieces, without reading them: the shards' checksums, or their footers where none lie."""
        sums = self.folder / SUMS_FILE
        lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
        known = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
        digest = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.folder).as_posix()
            digest.update(f"{name} {path.stat().st_size} {known.get(name) or _footer_hash(path)}\n".encode())
        return digest.hexdigest()

    def read(self, group: int, part: int = 0, parts: int = 1) -> list[tuple[int, TrainingPiece]]:
        """Pieces of a row group, each with its number in the split.

        Args:
            group: Of `groups`.
            part: Rows `part`, `part + parts`, ... of it.
            parts: 1 for all rows.

        Raises:
            CorpusError: If the shard is damaged.
            ScoreError: If a row's MIDI is, where ids are computed from it.
        """
        where = self.groups[group]
        table = self._tables[where.file]
        names = ["composer", "key", "programs", TOKENS] if table is not None else ["composer", "source", "midi"]
        columns = self._columns(where, names)
        rows = range(part, where.rows, parts)
        if table is None:
            make = functools.partial(self._computed, columns)
        else:
            make = functools.partial(self._stored, columns, _Lists(columns[TOKENS]), table)
        return [(where.first + row, make(row)) for row in rows]

    def notes_of(self, group: int, part: int = 0, parts: int = 1) -> list[int]:
        """How many notes the pieces have that `read` returns."""
        return self._columns(self.groups[group], ["notes"])["notes"].to_pylist()[part::parts]

    def _look(self, path: Path, number: int, first: int) -> tuple[list[RowGroup], np.ndarray | None]:
        """The row groups of a file, and how its ids become the tokenizer's; None if they have to be computed."""
        with _opened(path) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            notes = _flat(file.read(columns=["notes"], use_threads=False).column("notes"))
            about = json.loads((file.schema_arrow.metadata or {}).get(b"musegen", b"{}"))
            has_ids = TOKENS in file.schema_arrow.names
        table = self._table(about.get("vocabulary")) if has_ids else None
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        groups = [
            RowGroup(number, i, first + int(a), int(b - a), int(notes[a:b].sum()))
            for i, (a, b) in enumerate(itertools.pairwise(starts))
            if b > a
        ]
        return groups, table

    def _table(self, vocabulary: str | None) -> np.ndarray | None:
        own = self.tokenizer.remi.vocab
        if vocabulary == vocabulary_hash(own):
            return np.arange(len(own), dtype=np.int32)
        plain = plain_vocabulary()
        if vocabulary == vocabulary_hash(plain) and set(plain) <= set(own):
            return np.array([own[name] for name in sorted(plain, key=plain.get)], dtype=np.int32)
        return None

    def _columns(self, where: RowGroup, names: list[str]) -> dict[str, Any]:
        with _opened(self.files[where.file]) as file:
            table = file.read_row_group(where.index, columns=names, use_threads=False)
        return {name: table.column(name).combine_chunks() for name in names}

    def _computed(self, columns: dict[str, Any], row: int) -> TrainingPiece:
        score = parse_midi(columns["midi"][row].as_py(), columns["source"][row].as_py()).score
        return training_piece(self.tokenizer, score, columns["composer"][row].as_py())

    def _stored(self, columns: dict[str, Any], ids: _Lists, table: np.ndarray, row: int) -> TrainingPiece:
        base = table[ids[row]]
        composer, key, programs = (columns[name][row].as_py() for name in ("composer", "key", "programs"))
        return TrainingPiece(base, self._controls(base, composer, key, tuple(sorted(programs))))

    def _controls(self, base: np.ndarray, composer: str, key: str, programs: tuple[int, ...]) -> Controls:
        """What `musegen.controls.controls_of` finds in the score, from the columns and ids."""
        tempo = self._tempos[base]
        named = np.flatnonzero(tempo > 0)
        return Controls(
            composer_slug(composer) or None,
            parse_key(key) if key else self._estimated_key(base),
            float(tempo[named[0]]) if len(named) else None,
            programs if len(programs) <= MAX_PROGRAMS else (),
        )

    def _estimated_key(self, base: np.ndarray) -> tuple[int, bool] | None:
        pitched = np.flatnonzero(self.tokenizer._pitched(base))
        pitched = pitched[pitched + 1 < len(base)]
        if not len(pitched):
            return None
        classes = (base[pitched] - self.tokenizer._first_pitch) % 12
        sharps, minor = estimate_key(classes, self._durations[base[pitched + 1]])
        return signature_tonic(sharps, minor), minor

    @functools.cached_property
    def _tempos(self) -> np.ndarray:
        """For each REMI id the tempo that it stands for; 0 for any other."""
        return self._values("Tempo_", float)

    @functools.cached_property
    def _durations(self) -> np.ndarray:
        """For each REMI id the ticks that it stands for; 0 for any other."""
        return self._values("Duration_", _ticks)

    def _values(self, prefix: str, read) -> np.ndarray:
        values = np.zeros(self.tokenizer.base_size)
        for name, i in self.tokenizer.remi.vocab.items():
            if name.startswith(prefix):
                values[i] = read(name.removeprefix(prefix))
        return values


class _Lists:
    """Rows of a column of lists as arrays, without a Python object for each value."""

    def __init__(self, column):
        self.offsets, self.values = column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def _ticks(duration: str) -> float:
    beats, positions, resolution = map(int, duration.split("."))
    return (beats * resolution + positions) * g.TICKS_PER_QUARTER / resolution


def _flat(column) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


def _footer_hash(path: Path) -> str:
    """Of a Parquet file's last bytes: its footer, which tells the size and place of every column of every group."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little") + 8
        file.seek(max(0, path.stat().st_size - length))
        return hashlib.sha256(file.read()).hexdigest()


class _opened:
    """A Parquet file, opened for this one look: processes that share an open file would share its place in it."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        import pyarrow.parquet as pq

        try:
            self.file = pq.ParquetFile(self.path)
        except Exception as error:
            raise self._named(error) from None
        return self.file

    def __exit__(self, kind, error, trace):
        self.file.close()
        if error is not None and not isinstance(error, CorpusError):
            raise self._named(error) from None

    def _named(self, error: BaseException) -> CorpusError:
        return CorpusError(f"{self.path}: cannot be read as Parquet ({' '.join(str(error).split())[:160]})")
