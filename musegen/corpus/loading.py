"""A corpus folder back into memory, checked against its checksums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import symusic

from musegen.corpus.schema import COLUMNS, OPTIONAL, SPLITS, columns
from musegen.corpus.writing import SUMS_FILE, file_hash
from musegen.errors import CorpusError
from musegen.scores import parse_midi

_CHECKED_BYTES = 1024**3  # a corpus up to this size, a second or two of hashing, is checked whenever it is loaded


def features(tokens: bool = False):
    """The columns of a corpus, as `datasets.Features`.

    Args:
        tokens: With the column of token ids.
    """
    from datasets import Features, List, Value

    kinds = columns(tokens)
    return Features({n: List(Value(k[0])) if isinstance(k, list) else Value(k) for n, k in kinds.items()})


def load_corpus(path: str | Path, *, verify: bool | None = None):
    """Load a corpus folder as a `datasets.DatasetDict`.

    Args:
        path: The folder.
        verify: Check the data against `SHA256SUMS` first: a flipped byte would load silently. By default a corpus
            of up to a gibibyte that has such a file is checked.

    Raises:
        CorpusError: If the folder is no corpus, or a file differs from its checksum.
    """
    from datasets import DatasetDict, load_dataset

    path = Path(path)
    files = {name: sorted(map(str, (path / "data").glob(f"{name}-*.parquet"))) for name in SPLITS}
    files = {name: found for name, found in files.items() if found}
    if not files:
        raise CorpusError(
            f"{path}: no corpus there (no data/*.parquet)" if path.is_dir() else f"{path}: no such folder"
        )
    if verify is None:
        size = sum(Path(file).stat().st_size for found in files.values() for file in found)
        verify = size <= _CHECKED_BYTES and (path / SUMS_FILE).is_file()
    if verify:
        verify_corpus(path)
    try:
        corpus = load_dataset("parquet", data_files=files)
    except Exception as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:160]})") from None
    missing = set(COLUMNS) - set(OPTIONAL) - set(next(iter(corpus.values())).column_names)
    if missing:
        raise CorpusError(f"{path}: not a musegen corpus, columns {', '.join(sorted(missing))} are missing")
    return DatasetDict(corpus)


def verify_corpus(path: str | Path) -> int:
    """Check the data files of a corpus against its `SHA256SUMS`.

    Returns:
        How many files were checked.

    Raises:
        CorpusError: If there are no checksums, or a file is missing, unknown to them, or differs.
    """
    path = Path(path)
    sums = path / SUMS_FILE
    if not sums.is_file():
        raise CorpusError(f"{path}: no {SUMS_FILE} there to check it against")
    known = dict(line.split("  ", 1)[::-1] for line in sums.read_text(encoding="utf-8").splitlines() if "  " in line)
    known = {name: digest for name, digest in known.items() if name.startswith("data/")}
    there = {p.relative_to(path).as_posix() for p in (path / "data").glob("*.parquet")}
    for name in sorted(there | set(known)):
        if name not in there:
            raise CorpusError(f"{path / name}: missing, though {SUMS_FILE} names it")
        if name not in known:
            raise CorpusError(f"{path / name}: {SUMS_FILE} does not know it")
        if file_hash(path / name) != known[name]:
            raise CorpusError(f"{path / name}: damaged, it differs from its checksum in {SUMS_FILE}")
    return len(known)


def corpus_scores(rows) -> Iterator[tuple[str, symusic.Score]]:
    """Names and canonical scores of a split.

    Raises:
        ScoreError: If a row's MIDI is damaged.
    """
    for row in rows:
        yield row["source"], parse_midi(row["midi"], row["source"]).score
