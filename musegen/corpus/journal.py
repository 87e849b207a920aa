"""The journal of a build: each file's outcome, once, appended the moment it is known.

A record is a header (magic, lengths of its three parts, CRC-32 of all that follows), a JSON object, the fingerprint,
and the remaining bytes (MIDI, token ids). A process that is killed leaves at most one torn record at the end; the
next one cuts it off and goes on. The first record is the signature of what all outcomes depend on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from musegen.corpus.reading import Reading
from musegen.errors import CorpusError

FORMAT = 1
_MAGIC = b"MGJ1"
_HEADER = struct.Struct("<4sIIII")  # magic, JSON bytes, fingerprint bytes, blob bytes, CRC-32


def reading_key(source: str, stamp: str) -> bytes:
    """16 bytes that stand for one state of one file."""
    return hashlib.blake2b(f"{source}\0{stamp}".encode(), digest_size=16).digest()


class Journal:
    """Outcomes on disk, found by `reading_key`.

    Args:
        path: The file; made if it is not there.
        signature: What the outcomes depend on.

    Attributes:
        cut: Bytes of a torn tail that were cut off when it was opened.
        resumed: Outcomes that were there.

    Raises:
        CorpusError: If the journal that is there has another signature.
    """

    def __init__(self, path: Path, signature: dict[str, Any]):
        self.path = path
        self._offsets: dict[bytes, int] = {}
        self.cut = self.resumed = 0
        self._file = path.open("a+b")
        try:
            self._open(json.loads(json.dumps(signature)))
        except BaseException:
            self._file.close()
            raise

    def _open(self, signature: dict[str, Any]) -> None:
        self._end = self._file.seek(0, os.SEEK_END)
        good = 0
        for offset, end, head in self._scan():
            good = end
            if offset == 0:
                _compare(self.path, head, signature)
            else:
                self._offsets[reading_key(head["source"], head["stamp"])] = offset
        self.resumed = len(self._offsets)
        if good < self._end:
            self.cut = self._end - good
            self._file.truncate(good)
        self._end = good
        if good == 0:
            self._append(signature, b"", b"")

    def _scan(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Offset, end and JSON of each whole record, up to the first that is not."""
        offset = 0
        while offset < self._end:
            self._file.seek(offset)
            header = self._file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            magic, *sizes, checksum = _HEADER.unpack(header)
            end = offset + _HEADER.size + sum(sizes)
            if magic != _MAGIC or end > self._end:
                return
            body = self._file.read(sum(sizes))
            if zlib.crc32(body) != checksum:
                return
            yield offset, end, json.loads(body[: sizes[0]])
            offset = end

    def _append(self, head: dict[str, Any], fingerprint: bytes, blob: bytes) -> int:
        text = json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode()
        body = b"".join((text, fingerprint, blob))
        offset = self._end
        record = _HEADER.pack(_MAGIC, len(text), len(fingerprint), len(blob), zlib.crc32(body)) + body
        self._file.write(record)
        self._file.flush()
        self._end += len(record)
        return offset

    def __contains__(self, key: bytes) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, reading: Reading) -> None:
        """Record an outcome.

        Raises:
            ValueError: If the file, in this state, has one.
        """
        key = reading_key(reading.source, reading.stamp)
        if key in self._offsets:
            raise ValueError(f"{reading.source} has an outcome")
        head = {
            name: getattr(reading, name)
            for name in ("source", "stamp", "row", "reason", "detail", "repairs")
            if getattr(reading, name)
        }
        head.setdefault("stamp", "")
        head["ids"] = len(reading.input_ids)
        self._offsets[key] = self._append(head, reading.fingerprint, reading.midi + reading.input_ids)

    def read(self, key: bytes, *, light: bool = False) -> Reading:
        """The outcome of a file.

        Args:
            key: Its `reading_key`.
            light: Without MIDI and ids.
        """
        self._file.seek(self._offsets[key])
        _, text, fingerprint, blob, _ = _HEADER.unpack(self._file.read(_HEADER.size))
        head = json.loads(self._file.read(text))
        ids = head.pop("ids", 0)
        reading = Reading(**head, fingerprint=self._file.read(fingerprint))
        if light:
            return reading
        data = self._file.read(blob)
        midi, ids = data[: len(data) - ids], data[len(data) - ids :]
        return dataclasses.replace(reading, midi=midi, input_ids=ids)

    def close(self) -> None:
        self._file.close()


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    told = "; ".join(f"{name} was {_short(found.get(name))}, now {_short(wanted.get(name))}" for name in names)
    raise CorpusError(
        f"{path.parent}: an interrupted build with other settings lies there ({told}); repeat it with its own "
        "settings to go on, or give --restart to throw it away and start anew"
    )


def _short(value: Any) -> str:
    return json.dumps(value)[:200]
