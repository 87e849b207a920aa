"""What `corpus build` can be pointed at: files, folders, and the scores that the music21 wheel carries.

Each file comes with its provenance: work, composer, title, licence and where it is from. A folder may say so in
`metadata.csv` (columns `file` or `file_name`, and any of composer, work, title, license, source); otherwise the
work is read off the path, so that the movements of one work never part.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from musegen.errors import CorpusError
from musegen.scores import SUFFIXES

MUSIC21_PREFIX = "music21:"
_MUSIC21_LICENSE = "as distributed with music21 (see its corpus/license.txt)"
_COMPOSERS = {
    "bach": "Johann Sebastian Bach",
    "beethoven": "Ludwig van Beethoven",
    "haydn": "Joseph Haydn",
    "mozart": "Wolfgang Amadeus Mozart",
    "palestrina": "Giovanni Pierluigi da Palestrina",
}
# A name that says which part of a work a file is, not which work: movement1, mvt-2, no3, 04, 01-allegro.
_MOVEMENT = re.compile(r"^(movement|mvmt|mvt|mov|mv|no|nr|part|satz)?[\s._-]*\d+([\s._-].*)?$", re.IGNORECASE)
_TAIL = re.compile(r"[\s._-]+(movement|mvmt|mvt|mov|mv|part|satz)?[\s._-]*\d{1,2}$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One score file and what is known of it before it is read.

    Args:
        path: Where it lies.
        source: What the user named, and the path inside it: stable from machine to machine.
        work: The unit that a split must not cut.
        composer: Empty if unknown.
        title: Empty if unknown.
        license: Empty if unknown.
        provenance: Who made the file and where it was published; empty if unknown.
    """

    path: str
    source: str
    work: str
    composer: str = ""
    title: str = ""
    license: str = ""
    provenance: str = ""


def find_scores(source: str) -> Iterator[SourceFile]:
    """The score files of a source, sorted by path.

    Args:
        source: A file, a folder (with all below it), or `music21:PATH`, such as `music21:mozart`.

    Raises:
        CorpusError: If there is no such source, or no score in it.
    """
    if source.startswith(MUSIC21_PREFIX):
        return _music21(source)
    path = Path(source)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"{source}: not a kind of score that is read here; known are {' '.join(SUFFIXES)}")
        return iter([_describe(path, path.parent, path.name, {})])
    if not path.is_dir():
        raise CorpusError(f"{source}: no such file or folder")
    return _folder(path)


def _folder(folder: Path) -> Iterator[SourceFile]:
    files = _score_files(folder)
    if not files:
        raise CorpusError(f"{folder}: no score in it (looked for {' '.join(SUFFIXES)})")
    known = _read_metadata(folder)
    for path in files:
        relative = path.relative_to(folder).as_posix()
        yield _describe(path, folder, f"{folder.name}/{relative}", known.get(relative, {}))


def _music21(source: str) -> Iterator[SourceFile]:
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise CorpusError(f"{source}: music21, whose package carries these scores, is not installed")
    root = Path(spec.origin).parent / "corpus"
    name = source[len(MUSIC21_PREFIX) :].strip("/")
    folder = (root / name).resolve()
    if not name or root.resolve() not in folder.parents or not folder.exists():
        known = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_")))
        raise CorpusError(f"{source}: music21 carries no such folder; it has {known}")
    files = [folder] if folder.is_file() else _score_files(folder)
    if not files:
        raise CorpusError(f"{source}: no score in it (looked for {' '.join(SUFFIXES)})")
    for path in files:
        relative = path.relative_to(root.resolve()).as_posix()
        found = _describe(path, root.resolve(), MUSIC21_PREFIX + relative, {})
        composer = _COMPOSERS.get(relative.split("/")[0], "")
        yield dataclasses.replace(
            found,
            composer=composer,
            license=_MUSIC21_LICENSE,
            provenance="music21 corpus, https://github.com/cuthbertLab/music21",
        )


def _score_files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def _describe(path: Path, root: Path, source: str, row: dict[str, str]) -> SourceFile:
    return SourceFile(
        path=str(path),
        source=source,
        work=row.get("work") or work_of(path.relative_to(root).as_posix()),
        composer=row.get("composer", ""),
        title=row.get("title", ""),
        license=row.get("license") or row.get("licence", ""),
        provenance="; ".join(v for v in (row.get("maintainer", ""), row.get("source", "")) if v),
    )


def work_of(relative: str) -> str:
    """The work that a file belongs to, by its path.

    A name that is only a movement's (`movement1`, `02-andante`) gives the work to its folder; a movement number
    at the end of a name (`sonata-2`) is dropped.
    """
    path = Path(relative)
    parent = path.parent.as_posix()
    stem = path.stem
    if _MOVEMENT.match(stem) and parent != ".":
        return parent
    stem = _TAIL.sub("", stem) or stem
    return stem if parent == "." else f"{parent}/{stem}"


def _read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "metadata.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: cannot be read as CSV ({error})") from None
    column = next((c for c in ("file", "file_name") if rows and c in rows[0]), None)
    if rows and column is None:
        raise CorpusError(f"{path}: needs a column `file` or `file_name`")
    return {row[column]: {k: v or "" for k, v in row.items() if isinstance(k, str)} for row in rows}
