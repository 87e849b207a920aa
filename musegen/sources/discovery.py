"""Sources to a stream of score files, in an order that depends on nothing but their names.

Sources are checked before work starts: one that does not exist is an error at once. What turns out to be damaged
later is part of the stream, as a `SourceFile` that says so, and loses nothing but itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from musegen.errors import CorpusError
from musegen.midi_scan import is_midi
from musegen.scores import SUFFIXES
from musegen.sources import archives, tables
from musegen.sources.files import ArchiveLimits, SourceFile, describe, read_metadata, readable, work_of

MUSIC21_PREFIX = "music21:"
HUB_PREFIX = "hub:"
_MUSIC21_LICENSE = "as distributed with music21 (see its corpus/license.txt)"
_COMPOSERS = {
    "bach": "Johann Sebastian Bach",
    "beethoven": "Ludwig van Beethoven",
    "haydn": "Joseph Haydn",
    "mozart": "Wolfgang Amadeus Mozart",
    "palestrina": "Giovanni Pierluigi da Palestrina",
}
_CONTAINERS = (*archives.ARCHIVE_SUFFIXES, *tables.TABLE_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class _Root:
    """A checked source: its label in the corpus, the file or folder that it is, and what else holds for its files."""

    label: str
    path: Path
    prefix: str = ""  # of paths inside it, for a hub split
    defaults: dict[str, str] = dataclasses.field(default_factory=dict)
    music21: Path | None = None  # the corpus folder, if it is part of that


def discover(sources: Sequence[str], limits: ArchiveLimits | None = None) -> Iterator[SourceFile]:
    """The score files of sources.

    Args:
        sources: See `musegen.sources`. One that is named twice counts once.
        limits: What archives may hold; `ArchiveLimits()` by default.

    Returns:
        Files, source by source, each sorted by path. All sources have been checked when this returns.

    Raises:
        CorpusError: If there is no such source, or no score in it.
    """
    roots = _roots(sources)
    return _files(roots, limits or ArchiveLimits())


def find_scores(source: str) -> Iterator[SourceFile]:
    """`discover` for one source."""
    return discover([source])


def count_scores(sources: Sequence[str]) -> int | None:
    """How many files `discover` will give, for a progress bar; None if that cannot be told without reading all."""
    count = 0
    for root in _roots(sources):
        for path, kind in [(root.path, _kind(root.path))] if root.path.is_file() else _walk(root):
            if kind == "score":
                count += 1
            elif kind == "archive" and path.suffix.lower() == ".zip":
                with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
                    count += sum(name.lower().endswith(SUFFIXES) for name in archive.namelist())
            elif kind != "damaged":
                return None
    return count


def _roots(sources: Sequence[str]) -> list[_Root]:
    roots, labels = [], {}
    for source in dict.fromkeys(sources):
        root = _root(source)
        if any(root.path == other.path and root.prefix == other.prefix for other in roots):
            continue
        times = labels[root.label] = labels.get(root.label, 0) + 1
        roots.append(root if times == 1 else dataclasses.replace(root, label=f"{root.label}~{times}"))
    return roots


def _root(source: str) -> _Root:
    if source.startswith(MUSIC21_PREFIX):
        return _music21(source)
    if source.startswith(HUB_PREFIX):
        return _hub(source)
    path = Path(source)
    if not path.exists():
        raise CorpusError(f"{source}: no such file or folder")
    path = path.resolve()
    root = _Root(readable(path.name), path)
    if path.is_file() and _kind(path) == "other":
        raise CorpusError(
            f"{source}: not a kind of score that is read here; known are {' '.join((*SUFFIXES, *_CONTAINERS))}"
        )
    if path.is_dir() and next(_walk(root), None) is None:
        raise CorpusError(f"{source}: no score in it (looked for {' '.join((*SUFFIXES, *_CONTAINERS))})")
    if path.is_dir():
        read_metadata(path)
    return root


def _music21(source: str) -> _Root:
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise CorpusError(f"{source}: music21, whose package carries these scores, is not installed")
    top = (Path(spec.origin).parent / "corpus").resolve()
    name = source[len(MUSIC21_PREFIX) :].strip("/")
    path = (top / name).resolve()
    if not name or top not in path.parents or not path.exists():
        known = ", ".join(sorted(p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith("_")))
        raise CorpusError(f"{source}: music21 carries no such folder; it has {known}")
    relative = path.relative_to(top).as_posix()
    defaults = {
        "composer": _COMPOSERS.get(relative.split("/")[0], ""),
        "license": _MUSIC21_LICENSE,
        "provenance": "music21 corpus, https://github.com/cuthbertLab/music21",
    }
    root = _Root(MUSIC21_PREFIX + relative, path, defaults=defaults, music21=top)
    if path.is_dir() and next(_walk(root), None) is None:
        raise CorpusError(f"{source}: no score in it (looked for {' '.join(SUFFIXES)})")
    return root


def _hub(source: str) -> _Root:
    """A dataset on the Hub, fetched into the Hub's cache; a second time, or offline, the cache serves."""
    name, _, split = source[len(HUB_PREFIX) :].partition(":")
    if name.count("/") != 1:
        raise CorpusError(f"{source}: write it as hub:ORG/NAME or hub:ORG/NAME:SPLIT")
    from huggingface_hub import snapshot_download

    kinds = [f"*{suffix}" for suffix in (*SUFFIXES, *_CONTAINERS, ".csv")]
    try:
        path = Path(snapshot_download(name, repo_type="dataset", allow_patterns=kinds))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{source}: cannot be had from the Hub ({reason})") from None
    root = _Root(source, path, prefix=split, defaults={"provenance": f"https://huggingface.co/datasets/{name}"})
    if next(_walk(root), None) is None:
        raise CorpusError(f"{source}: no score in it (looked for {' '.join((*SUFFIXES, *_CONTAINERS))})")
    return root


def _kind(path: Path) -> str:
    """`score`, `archive`, `table` or `other`; a name without a known ending is looked into."""
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        return "score"
    if archives.is_archive(name):
        return "archive"
    if tables.is_table(name):
        return "table"
    try:
        with path.open("rb") as file:
            return "score" if is_midi(file.read(12)) else "other"
    except OSError:
        return "other"


def _walk(root: _Root) -> Iterator[tuple[Path, str]]:
    """Files below a folder and their kinds, sorted. Each real folder is entered once, so that links may form rings."""
    seen: set[tuple[int, int]] = set()

    def below(folder: Path, relative: str) -> Iterator[tuple[Path, str]]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                # By path below the root, so that a folder's files come where its name belongs.
                found = sorted((entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != ".")
        except OSError:
            yield folder, "damaged"
            return
        for name, is_folder in found:
            path, inner = folder / name, f"{relative}{name}"
            if is_folder:
                yield from below(path, f"{inner}/")
            elif path.is_file() and _in_split(inner, root.prefix) and (kind := _kind(path)) != "other":
                yield path, kind

    yield from below(root.path, "")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _in_split(relative: str, split: str) -> bool:
    return not split or any(part == split or part.startswith(f"{split}-") for part in relative.split("/"))


def _files(roots: list[_Root], limits: ArchiveLimits) -> Iterator[SourceFile]:
    pool = None
    try:
        for root in roots:
            single = root.path.is_file()
            folder = root.path.parent if single else root.path
            known = {} if single or root.music21 else read_metadata(root.path)
            for path, kind in [(root.path, _kind(root.path))] if single else _walk(root):
                relative = readable(path.name if single else path.relative_to(folder).as_posix())
                label = root.label if single else f"{root.label}/{relative}"
                if root.music21:  # its works are named by their place in the whole corpus
                    relative = path.relative_to(root.music21).as_posix()
                row = {**root.defaults, **{k: v for k, v in known.get(relative, {}).items() if v}}
                if kind == "score":
                    yield _stamped(describe(path, relative, label, row))
                elif kind == "damaged":
                    yield _refused(path, label, "unreadable", "the folder cannot be listed")
                elif kind == "archive":
                    # A member's work is told by its path in the archive; one in a subfolder has that before it.
                    inside = "" if single else f"{relative.rpartition('/')[0]}/".lstrip("/")
                    yield from _archive(path, label, inside, row, known, limits)
                else:
                    pool = pool or tables.pool()
                    yield from _table(path, label, relative, row, pool, limits)
    finally:
        if pool is not None:
            pool.close()


def _stamped(file: SourceFile) -> SourceFile:
    try:
        status = Path(file.path).stat()
    except OSError:
        return file
    return dataclasses.replace(file, stamp=f"{status.st_size}:{status.st_mtime_ns}")


def _refused(path: Path, source: str, reason: str, detail: str) -> SourceFile:
    return _stamped(SourceFile(str(path), source, source, refused=(reason, detail)))


def _archive(
    path: Path, label: str, inside: str, row: dict[str, str], known: dict[str, dict[str, str]], limits: ArchiveLimits
) -> Iterator[SourceFile]:
    known = {**archives.metadata(path), **known}
    for member in archives.members(path, limits):
        if not member.name:
            yield _refused(path, label, *member.refused)
            continue
        own = {**row, **known.get(member.name, {})}
        file = describe(path, f"{inside}{member.name}", f"{label}/{member.name}", own)
        yield dataclasses.replace(file, data=member.data, stamp=member.stamp, refused=member.refused)


def _table(
    path: Path, label: str, relative: str, row: dict[str, str], pool, limits: ArchiveLimits
) -> Iterator[SourceFile]:
    damaged = itertools.count()
    for found in tables.rows(path, pool):
        if isinstance(found, int):
            rows = f"{found} rows" if found else "the table"
            name = f"{label}#damaged{next(damaged)}" if found else label
            yield _refused(path, name, "archive", f"{rows} cannot be read")
            continue
        texts = {k: v for k, v in found.texts.items() if v}
        name = next((texts[k] for k in ("file_name", "filename", "path", "source", "file", "name") if k in texts), "")
        own = {**row, **{k: v for k, v in texts.items() if k in ("composer", "title", "license", "licence", "work")}}
        own.setdefault("work", work_of(readable(name)) if name else f"{relative}#{found.number}")
        own["provenance"] = texts.get("provenance", "") or row.get("provenance", "")
        data = found.data or b""
        file = describe(path, name or relative, f"{label}#{found.number}", own)
        member = archives.Member(file.source, data)
        if len(data) > limits.member_bytes:
            member = archives.Member(file.source, refused=("limits", f"more than {limits.member_bytes:,} bytes"))
        yield dataclasses.replace(file, data=member.data, stamp=member.stamp, refused=member.refused)
