"""Members of .zip, .tar and .tar.gz archives, read into memory one after another within `ArchiveLimits`.

Archives are untrusted: names that climb out of them, links, encrypted members, and a few kilobytes that unpack to
petabytes. Nothing is unpacked to disk. Python's own readers are used in the one way in which they are bounded: zip
members are stored or deflated (`zipfile` gives bz2 and lzma streams no bound), and tar files are read forwards only,
through a reader that refuses a header of gigabytes and counts what comes out of gzip.

Sources: APPNOTE.TXT 6.3.10 (zip); POSIX.1-2001 pax and GNU tar formats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from musegen.errors import CorpusError
from musegen.midi_scan import is_midi
from musegen.scores import SUFFIXES
from musegen.sources.files import METADATA_FILE, ArchiveLimits, parse_metadata, readable

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_OTHER_ARCHIVES = (".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_RATIO_FROM = 1024**2  # bytes: a ratio says nothing of small files
_STEP = 4 * 1024**2
_HEADER_BYTES = 1024**2  # of one tar header with its extensions: names, no data
_DIRECTORY_BYTES = 512 * 1024**2  # of a zip's list of members, which is held in memory
_METADATA_BYTES = 256 * 1024**2
_SNIFF = 12
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_LOCAL_MAGIC = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True)
class Member:
    """One member: its name, and either its bytes or why there are none (reason, detail)."""

    name: str
    data: bytes | None = None
    refused: tuple[str, str] | None = None

    @property
    def stamp(self) -> str:
        return hashlib.blake2b(self.data or repr(self.refused).encode(), digest_size=16).hexdigest()


class _Bomb(Exception):
    """More comes out than may."""


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def members(path: Path, limits: ArchiveLimits) -> Iterator[Member]:
    """The members of an archive that are scores, and those that might be but cannot be read.

    Args:
        path: The archive; its ending tells the kind.
        limits: What it may hold.

    Yields:
        Members in the archive's order. One with an empty name stands for the archive, or for the rest of it.
    """
    seen: dict[str, int] = {}
    walk = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    for count, member in enumerate(walk(path, limits)):
        if count >= limits.members:
            yield Member("", refused=("bomb", f"more than {limits.members:,} members"))
            return
        times = seen[member.name] = seen.get(member.name, 0) + 1
        yield member if times == 1 else dataclasses.replace(member, name=f"{member.name}#{times}")


def metadata(path: Path) -> dict[str, dict[str, str]]:
    """What a `metadata.csv` at the root of a zip archive says; nothing for a tar, which is read but once."""
    if not path.name.lower().endswith(".zip"):
        return {}
    try:
        with _open_zip(path) as archive:
            info = archive.getinfo(METADATA_FILE)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                return {}
            with archive.open(info) as file:
                return parse_metadata(file.read(_METADATA_BYTES), f"{path}/{METADATA_FILE}")
    except CorpusError:
        raise
    except Exception:  # none there, or an archive whose damage `members` tells of
        return {}


def _suspect(name: str) -> str:
    """What a name alone says of a member: `score`, `archive`, `sniff` (an unknown ending) or `other`."""
    lowered = name.lower()
    base = re.split(r"[/\\]", lowered)[-1]
    if base.startswith("."):
        return "other"
    if lowered.endswith((*ARCHIVE_SUFFIXES, *_OTHER_ARCHIVES)):
        return "archive"
    if lowered.endswith(SUFFIXES):
        return "score"
    return "sniff"


def _name_trouble(name: str) -> tuple[str, str] | None:
    parts = re.split(r"[/\\]", name)
    if parts[0] == "" or re.match(r"^[A-Za-z]:", name) or ".." in parts:
        return "path", "its name leads out of the archive"
    return None


def _size_trouble(size: int, packed: int, limits: ArchiveLimits) -> tuple[str, str] | None:
    if size > _RATIO_FROM and size > limits.ratio * max(packed, 1):
        return "bomb", f"unpacks to more than {limits.ratio:g} times its size"
    if size > limits.member_bytes:
        return "limits", f"more than {limits.member_bytes:,} bytes"
    return None


# ---- zip ---------------------------------------------------------------------------------------------------


def _zip_members(path: Path, limits: ArchiveLimits) -> Iterator[Member]:
    try:
        archive = _open_zip(path)
    except CorpusError as error:
        yield Member("", refused=("bomb", str(error)))
        return
    except Exception:  # zipfile raises a dozen kinds on damaged archives
        yield from _torn_zip_members(path, limits)
        return
    total = 0
    with archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            member = _zip_member(archive, info, limits)
            if member is None:
                continue
            total += len(member.data or b"")
            if total > limits.total_bytes:
                yield Member("", refused=("bomb", f"more than {limits.total_bytes:,} bytes in all"))
                return
            yield member


def _open_zip(path: Path) -> zipfile.ZipFile:
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)
    if end and end[5] > _DIRECTORY_BYTES:
        raise CorpusError(f"a list of members of {end[5]:,} bytes")
    return zipfile.ZipFile(path)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: ArchiveLimits) -> Member | None:
    name, suspect = readable(info.filename), _suspect(info.filename)
    mode = info.external_attr >> 16
    refused = _name_trouble(info.filename)
    if refused is None and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        refused = "link", "it is a link or a device"
    if refused is None and info.flag_bits & 1:
        refused = "encrypted", "it needs a password"
    if refused is None and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refused = "archive", f"packed by method {info.compress_type}; stored and deflated members are read"
    if refused is not None:
        unknown = "." in Path(info.filename).name  # no score and no archive, by its ending
        return None if suspect == "other" or (suspect == "sniff" and unknown) else Member(name, refused=refused)
    if suspect == "other":
        return None
    if suspect == "archive":
        return Member(name, refused=("nested", "an archive inside an archive"))
    try:
        with archive.open(info) as file:
            if suspect == "sniff" and not is_midi(file.read(_SNIFF)):
                return None
        trouble = _size_trouble(info.file_size, info.compress_size, limits)
        if trouble:
            return Member(name, refused=trouble)
        with archive.open(info) as file:
            data = file.read(limits.member_bytes + 1)
    except Exception:
        return Member(name, refused=("archive", "damaged in the archive")) if suspect == "score" else None
    return Member(name, data)


def _torn_zip_members(path: Path, limits: ArchiveLimits) -> Iterator[Member]:
    """What can still be read of a zip whose list of members, at its end, is lost; then the archive itself."""
    total = found = 0
    with contextlib.suppress(Exception), path.open("rb") as file:
        while total <= limits.total_bytes:
            head = file.read(_LOCAL.size)
            if len(head) < _LOCAL.size or head[:4] != _LOCAL_MAGIC:
                break
            _, _, flags, method, _, _, _, packed, size, name_size, extra = _LOCAL.unpack(head)
            name = file.read(name_size).decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
            file.seek(extra, os.SEEK_CUR)
            if flags & 1 or method not in (0, 8) or (method == 0 and flags & 8):
                break  # where such a member ends cannot be known or is not worth knowing
            data = _inflate(file, limits) if method == 8 else file.read(min(packed, limits.member_bytes + 1))
            if data is None or (not flags & 8 and len(data) != size):
                break
            if flags & 8:  # sizes follow the data, with a signature or without
                mark = file.read(4)
                file.seek(12 if mark == b"PK\x07\x08" else 8, os.SEEK_CUR)
            total += len(data)
            wanted = _suspect(name) == "score" or (_suspect(name) == "sniff" and is_midi(data[:_SNIFF]))
            if wanted and _name_trouble(name) is None and len(data) <= limits.member_bytes:
                found += 1
                yield Member(readable(name), data)
    yield Member("", refused=("archive", f"damaged: {found} members could be read, the rest is lost"))


def _inflate(file: IO[bytes], limits: ArchiveLimits) -> bytes | None:
    """A deflated member; leaves the file where it ends. None if it is damaged, cut off or too large."""
    unpacker, out, left = zlib.decompressobj(-15), bytearray(), b""
    while not unpacker.eof:
        packed = left or file.read(65536)
        if not packed:
            return None
        out += unpacker.decompress(packed, limits.member_bytes + 1 - len(out))
        left = unpacker.unconsumed_tail
        if len(out) > limits.member_bytes:
            return None
    file.seek(-len(unpacker.unused_data), os.SEEK_CUR)
    return bytes(out)


# ---- tar ---------------------------------------------------------------------------------------------------


class _Forward:
    """A file as `tarfile` reads it, forwards, that refuses to give too much at once or in all."""

    def __init__(self, file: IO[bytes], packed: IO[bytes], limits: ArchiveLimits):
        self._file, self._packed, self._limits = file, packed, limits
        self.last = b""  # what was read last: an end of zeros or a damaged header

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        while self.tell() < position:
            before = self.tell()
            self._file.seek(min(position, before + _STEP))
            self._check()
        if self.tell() > position:
            self._file.seek(position)
        return position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= max(self._limits.member_bytes + 1, _HEADER_BYTES):
            raise _Bomb(f"a header of {size:,} bytes")
        self.last = self._file.read(size)
        self._check()
        return self.last

    def _check(self) -> None:
        position = self.tell()
        if position > self._limits.total_bytes:
            raise _Bomb(f"more than {self._limits.total_bytes:,} bytes in all")
        if position > 16 * _RATIO_FROM and position > self._limits.ratio * max(self._packed.tell(), 1):
            raise _Bomb(f"unpacks to more than {self._limits.ratio:g} times its size")


def _tar_members(path: Path, limits: ArchiveLimits) -> Iterator[Member]:
    found, last = 0, ""
    try:
        with path.open("rb") as packed:
            gzipped = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            unpacked = gzip.GzipFile(fileobj=packed) if gzipped else packed
            reader = _Forward(unpacked, packed, limits)
            with tarfile.open(fileobj=reader, mode="r:") as archive:
                while (info := archive.next()) is not None:
                    archive.members = []  # or it would keep every header
                    last = readable(info.name)
                    member = _tar_member(archive, info, limits)
                    if member is not None:
                        found += 1
                        yield member
            if reader.last.strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError
    except _Bomb as error:
        yield Member("", refused=("bomb", str(error)))
    except GeneratorExit:
        raise
    except Exception:
        where = f"after {last}" if last else "from its beginning"
        yield Member("", refused=("archive", f"damaged or cut off {where}"))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, limits: ArchiveLimits) -> Member | None:
    name, suspect = readable(info.name), _suspect(info.name)
    if info.isdir() or suspect == "other":
        return None
    refused = _name_trouble(info.name)
    if refused is None and not info.isreg():
        refused = "link", "it is a link or a device"
    if refused is None and info.issparse():
        refused = "archive", "a sparse file"
    if refused is not None:
        unknown = suspect == "sniff" and "." in Path(info.name).name
        return None if unknown else Member(name, refused=refused)
    if suspect == "archive":
        return Member(name, refused=("nested", "an archive inside an archive"))
    file = archive.extractfile(info)
    if suspect == "sniff":
        if not is_midi(file.read(_SNIFF)):
            return None
        file.seek(0)
    if info.size > limits.member_bytes:
        return Member(name, refused=("limits", f"more than {limits.member_bytes:,} bytes"))
    return Member(name, file.read(limits.member_bytes + 1))
