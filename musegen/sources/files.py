"""One score file before it is read: where it is, what is known of it, and which work it belongs to."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

from musegen.errors import ConfigError, CorpusError

METADATA_FILE = "metadata.csv"
ARCHIVE_REASONS = {
    "archive": "the archive or table is damaged or of a kind that is not read, there or from there on",
    "bomb": "unpacks to far more than it should",
    "encrypted": "needs a password",
    "link": "a link or device, which is never followed out of an archive",
    "nested": "an archive inside an archive, which is not opened",
    "path": "a name that tries to leave the archive",
}
# A name that says which part of a work a file is, not which work: movement1, mvt-2, no3, 04, 01-allegro.
_MOVEMENT = re.compile(r"^(movement|mvmt|mvt|mov|mv|no|nr|part|satz)?[\s._-]*\d+([\s._-].*)?$", re.IGNORECASE)
_TAIL = re.compile(r"[\s._-]+(movement|mvmt|mvt|mov|mv|part|satz)?[\s._-]*\d{1,2}$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ArchiveLimits:
    """What an archive or table may hold.

    Args:
        member_bytes: Of one member, unpacked.
        total_bytes: Of all members of one archive, unpacked.
        ratio: Bytes unpacked for each byte packed, from a mebibyte on. MIDI packs about 3 to 20 times.
        members: Of one archive.

    Raises:
        ConfigError: If a limit is not positive.
    """

    member_bytes: int = 16 * 1024**2
    total_bytes: int = 64 * 1024**3
    ratio: float = 200.0
    members: int = 2_000_000

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ConfigError(f"archive_{name} must be above 0, not {value}")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One score file and what is known of it before it is read.

    Args:
        path: Where it lies; for a member, where its archive lies.
        source: What the user named, and the path inside it: stable from machine to machine, and no other file's.
        work: The unit that a split must not cut.
        composer: Empty if unknown.
        title: Empty if unknown.
        license: Empty if unknown.
        provenance: Who made the file and where it was published; empty if unknown.
        data: The file itself, if it was read out of an archive or table.
        stamp: Changes when the file changes: size and time, or a hash of `data`.
        refused: Reason and detail, if it cannot be read at all.
    """

    path: str
    source: str
    work: str
    composer: str = ""
    title: str = ""
    license: str = ""
    provenance: str = ""
    data: bytes | None = dataclasses.field(default=None, repr=False)
    stamp: str = ""
    refused: tuple[str, str] | None = None


def describe(path: Path | str, relative: str, source: str, row: dict[str, str]) -> SourceFile:
    """A file with what its source's metadata say of it.

    Args:
        path: Where it lies.
        relative: Its path inside the source; tells the work where the metadata do not.
        source: Its name in the corpus.
        row: Of the metadata.
    """
    return SourceFile(
        path=str(path),
        source=source,
        work=row.get("work") or work_of(relative),
        composer=row.get("composer", ""),
        title=row.get("title", ""),
        license=row.get("license") or row.get("licence", ""),
        provenance=row.get("provenance") or "; ".join(v for v in (row.get("maintainer"), row.get("source")) if v),
    )


def readable(name: str) -> str:
    """A name as it can be written into any table: bytes that are no UTF-8 and control characters escaped."""
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


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


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of a folder's `metadata.csv` by file; none if there is no such file.

    Raises:
        CorpusError: If it cannot be read.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        return parse_metadata(path.read_bytes(), str(path))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None


def parse_metadata(data: bytes, name: str) -> dict[str, dict[str, str]]:
    """Rows of a `metadata.csv` by file.

    Raises:
        CorpusError: If it is no CSV file in UTF-8, or has no column that names files.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{name}: cannot be read as CSV ({error})") from None
    column = next((c for c in ("file", "file_name") if rows and c in rows[0]), None)
    if rows and column is None:
        raise CorpusError(f"{name}: needs a column `file` or `file_name`")
    return {row[column]: {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)} for row in rows}
