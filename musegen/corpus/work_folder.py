"""The folder beside a corpus in the making: its lock, its journal, and the new corpus until it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from pathlib import Path

from musegen.errors import CorpusError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class WorkFolder:
    """`OUT.build`, held by one process at a time.

    The lock is the kernel's and ends with the process that holds it, however that ends.

    Args:
        out: The corpus.

    Raises:
        CorpusError: If another build holds it; says which.
    """

    def __init__(self, out: Path):
        self.path = out.with_name(out.name + ".build")
        self.journal = self.path / "journal"
        self.new, self.old = self.path / "new", self.path / "old"
        self._lock = self._take()

    def _take(self) -> int:
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            path = self.path / "lock"
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # the build that had it has just removed the folder
                continue
            try:
                _hold(lock)
            except OSError:
                holder = os.read(lock, 1000)
                os.close(lock)
                raise CorpusError(f"{self.path}: another build is at work there{_told(holder)}") from None
            with contextlib.suppress(OSError):
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    os.ftruncate(lock, 0)
                    os.write(lock, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
                    return lock
            os.close(lock)

    def clear(self) -> None:
        """Throw away what a former build left, but for a corpus that waits to be put back."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.new, ignore_errors=True)

    def remove(self) -> None:
        """The corpus is whole: nothing here is needed any more."""
        shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _hold(lock: int) -> None:
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(lock, 1 << 20, os.SEEK_SET)  # a byte behind the text, which others may read
        msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        os.lseek(lock, 0, os.SEEK_SET)


def _told(holder: bytes) -> str:
    try:
        found = json.loads(holder)
        return f" (process {found['pid']} on {found['host']})"
    except (ValueError, KeyError, TypeError):
        return ""
