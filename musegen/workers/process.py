"""The parent's end of one worker process."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from musegen.errors import MusegenError, WorkerError
from musegen.workers.protocol import (
    CHUNK,
    ERROR,
    REPLY,
    START_SECONDS,
    STDERR_BYTES,
    TASK,
    WorkerLimits,
    beyond,
    describe,
    read_reply,
)

_REAP_SECONDS = 1.0  # for a killed process to end; one stuck in the kernel must not hold up the parent
_NEAR_LIMIT = 0.8  # share of the memory limit that a dead worker must have filled for it to be blamed
_SLACK_BYTES = 2**20  # an error's pickle may be larger than a tiny memory limit
# One thread a worker: the pool already uses every core, and thread stacks count against the memory limit.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_ENVIRONMENT = dict.fromkeys(_THREADS, "1") | {"TOKENIZERS_PARALLELISM": "false"}
_BOOT = "import sys; sys.path[:] = sys.argv[4:]; from musegen.workers.child import serve; serve()"


@dataclass(frozen=True)
class Outcome:
    """How one task ended.

    Args:
        index: Its place among the tasks, from 0.
        task: The task itself.
        value: What the function returned; None if it failed.
        error: Why there is no value (see the module's head); None if there is one.
        seconds: Wall-clock time in the worker; if the worker died, from sending the task to noticing.
        peak_bytes: The most resident memory that the worker held during the task; 0 where unknown.
    """

    index: int
    task: Any
    value: Any = None
    error: MusegenError | None = None
    seconds: float = 0.0
    peak_bytes: int = 0

    def result(self) -> Any:
        """Returns the value, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(eq=False)
class Flight:
    """One task on its way through the pool."""

    job: Any
    index: int
    task: Any
    message: bytes = b""
    tries: int = 0
    seconds: float = 0.0
    peak: int = 0
    value: memoryview | bytes = b""  # pickled
    error: memoryview | bytes | WorkerError | None = None  # pickled, if it comes from the worker

    def outcome(self) -> Outcome:
        value, error = None, self.error
        try:
            if error is None:
                value = read_reply(self.value)
            elif not isinstance(error, WorkerError):
                error = read_reply(error)
        except Exception as failure:
            error = WorkerError("error", f"the reply cannot be read: {describe(failure)}")
        return Outcome(self.index, self.task, value, error, self.seconds, self.peak)


class Worker:
    """The parent's end of one worker: its process, its socket and the flight it is busy with."""

    def __init__(self, limits: WorkerLimits, setup: bytes, cwd: str | None):
        self.limits = limits
        self.connection, theirs = socket.socketpair()
        self.stderr, writer = os.pipe()
        try:
            self.process = self._launch(theirs, writer, cwd)
        except BaseException:
            self.connection.close()
            os.close(self.stderr)
            raise
        finally:
            theirs.close()
            os.close(writer)
        self.connection.setblocking(False)
        self.starting = self.fresh = True
        self.flight: Flight | None = None
        self.incoming, self.filled = bytearray(CHUNK), 0
        self.peak = self.resident = 0
        self.heard = 0.0
        self.began = time.monotonic()
        self.deadline = self.began + START_SECONDS
        with contextlib.suppress(OSError):  # dead already: that will be heard like any other death
            self.send(pickle.dumps((limits, setup)))

    def _launch(self, theirs: socket.socket, writer: int, cwd: str | None) -> subprocess.Popen:
        windows = hasattr(theirs, "share")  # where no descriptor can be inherited
        ends = (-1, -1) if windows else (theirs.fileno(), self.stderr)
        path = [entry for entry in sys.path if isinstance(entry, str)]
        command = [sys.executable, "-c", _BOOT, str(os.getpid()), *map(str, ends), *path]
        options = {"cwd": cwd, "env": {**os.environ, **_ENVIRONMENT}, "stdout": subprocess.DEVNULL}
        if windows:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)
            process.stdin.write(theirs.share(process.pid))
            process.stdin.close()
            return process
        for end in (self.stderr, writer):
            os.set_blocking(end, False)  # a chatty library loses words, never time
        options |= {"stdin": subprocess.DEVNULL, "stderr": writer, "pass_fds": ends}
        # A session of its own keeps a terminal's Ctrl-C away, and makes a group of it and what it starts.
        return subprocess.Popen(command, start_new_session=True, **options)

    def send(self, message: bytes):
        self.outgoing = memoryview(TASK.pack(len(message)) + message)
        self.flush()

    def flush(self):
        with contextlib.suppress(BlockingIOError):
            while self.outgoing:
                self.outgoing = self.outgoing[self.connection.send(self.outgoing) :]

    def assign(self, flight: Flight, heard: float):
        self.flight, self.fresh, self.heard = flight, False, heard
        self.began = time.monotonic()
        self.deadline = self.began + self.limits.seconds
        self.send(flight.message)

    def receive(self) -> tuple | None:
        """Reads what has come; returns kind, seconds, peak, worn and data once the reply is complete.

        Raises:
            EOFError: If the worker has closed its end, or talks nonsense.
            OSError: If the connection is broken.
        """
        with contextlib.suppress(BlockingIOError):
            while count := self.connection.recv_into(memoryview(self.incoming)[self.filled :]):
                self.filled += count
                if self.filled < REPLY.size:
                    continue
                *fields, length = REPLY.unpack_from(self.incoming)
                total = REPLY.size + length
                if self.filled > total or length > self.limits.memory_bytes + _SLACK_BYTES or fields[0] > ERROR:
                    raise EOFError
                if self.filled == total:
                    data, self.filled = memoryview(self.incoming)[REPLY.size : total], 0
                    if total > CHUNK:  # too large for a copy
                        self.incoming = bytearray(CHUNK)
                        return *fields, data
                    return *fields, bytes(data)
                if total > len(self.incoming):
                    self.incoming += bytes(total - len(self.incoming))
            raise EOFError
        return None

    def exited(self) -> bool:
        if not hasattr(os, "wait4"):
            return self.process.poll() is not None
        if self.process.returncode is None:
            try:
                pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            except ChildProcessError:  # reaped by someone else, its code with it
                self.process.returncode = 255
            else:
                if pid:
                    self.process.returncode = os.waitstatus_to_exitcode(status)
                    self.resident = usage.ru_maxrss * 1024
        return self.process.returncode is not None

    def kill(self):
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    def end(self, late: bool = False) -> tuple[str, str]:
        """Ends the process and frees what belongs to it; returns reason and detail for a `WorkerError`."""
        self.kill()
        self.connection.close()
        until = time.monotonic() + _REAP_SECONDS
        while not self.exited() and time.monotonic() < until:
            time.sleep(0.001)
        words = b""
        with contextlib.suppress(OSError):
            words = os.read(self.stderr, STDERR_BYTES)
        os.close(self.stderr)
        words = " ".join(words.decode(errors="replace").split())[-300:]
        code = self.process.returncode
        if late or (code is not None and hasattr(signal, "SIGALRM") and code == -signal.SIGALRM):
            return "timeout", f"no end within {START_SECONDS if self.starting else self.limits.seconds:g} s"
        full = self.peak and self.resident - self.peak > _NEAR_LIMIT * self.limits.memory_bytes
        if full or any(sign in words.lower() for sign in ("bad_alloc", "memoryerror", "out of memory")):
            return "memory", f"{beyond(self.limits)}: {words}" if words else beyond(self.limits)
        how = f"exited with code {code}" if code is not None else "does not end"
        if code is not None and code < 0:
            how = "was ended by " + next((sign.name for sign in signal.Signals if sign == -code), f"signal {-code}")
        return "crashed", f"the worker {how}: {words}" if words else f"the worker {how}"
