"""The inside of a worker process: one task a message, within limits that the kernel enforces.

Whatever comes over the socket, which only the parent holds, is read as data (`protocol.read_request`): a function by
its name, tasks of plain values, paths, arrays and the package's own dataclasses. So is what goes back, since a worker
may have been taken over by a file (`protocol.read_reply`).
"""

import contextlib
import errno
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable

from musegen.errors import MusegenError, WorkerError
from musegen.workers.protocol import (
    CHUNK,
    ERROR,
    READY,
    REPLY,
    START_SECONDS,
    STDERR_BYTES,
    TASK,
    VALUE,
    WorkerLimits,
    beyond,
    describe,
    read_reply,
    read_request,
)

try:
    import resource
except ImportError:  # Windows
    resource = None


class _Fence:
    """Puts the limits around each task."""

    def __init__(self, limits: WorkerLimits, stderr: int):
        self.limits, self.stderr = limits, stderr
        self.proc: dict[str, int] = {}
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                for name, mode in (("statm", os.O_RDONLY), ("status", os.O_RDONLY), ("clear_refs", os.O_WRONLY)):
                    self.proc[name] = os.open(f"/proc/self/{name}", mode)
            self.page, self.rlimit = resource.getpagesize(), resource.getrlimit(resource.RLIMIT_AS)
        self.worn_size = self._size() + limits.memory_bytes
        self.worn = False

    def _size(self) -> int:
        """Returns the worker's address space in bytes; 0 where unknown."""
        if "statm" not in self.proc:
            return 0
        return int(os.pread(self.proc["statm"], 100, 0).split(None, 1)[0]) * self.page

    def close(self):
        with contextlib.suppress(OSError):  # so that words found after a crash are of this task
            os.read(self.stderr, STDERR_BYTES)
        if "clear_refs" in self.proc:
            os.write(self.proc["clear_refs"], b"5")  # proc(5): resets the peak
        if size := self._size():
            self.worn = size > self.worn_size
            bounds = (size + self.limits.memory_bytes, *self.rlimit)
            soft = min(bound for bound in bounds if bound != resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, (soft, self.rlimit[1]))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self.limits.seconds)

    def open(self):
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        if "statm" in self.proc:
            resource.setrlimit(resource.RLIMIT_AS, self.rlimit)

    def peak(self) -> int:
        """Returns the most resident memory since `close`, in bytes; 0 where unknown."""
        if "clear_refs" not in self.proc:
            return 0
        status = os.pread(self.proc["status"], 4096, 0)
        return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is a want of memory."""
    for _ in range(10):  # a chain may be a ring
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if error is None:
            break
        if "bad_alloc" in describe(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _pickled_error(error: BaseException, limits: WorkerLimits) -> bytes:
    if _is_memory(error):
        error = WorkerError("memory", f"{beyond(limits)}: {describe(error)}")
    if isinstance(error, MusegenError):
        with contextlib.suppress(Exception):  # an error that its pickle cannot rebuild is told in words
            data = pickle.dumps(error)
            read_reply(data)  # as the parent will
            return data
    return pickle.dumps(WorkerError("error", describe(error)))


def _perform(function: Callable, message: bytes, fence: _Fence) -> tuple[int, float, bytes]:
    """Runs one task within the fence; returns the kind of reply, its seconds and its pickle."""
    began = time.perf_counter()
    fence.close()
    try:
        value = function(read_request(message))
        try:
            kind, data = VALUE, pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise WorkerError("error", f"the result cannot be sent back: {describe(error)}") from error
        if len(data) > fence.limits.memory_bytes:
            raise MemoryError(f"a result of {len(data)} bytes")
        fence.open()
    except BaseException as error:  # SystemExit too: a task cannot end the worker politely
        fence.open()  # describing an error takes memory
        kind, data = ERROR, _pickled_error(error, fence.limits)
    return kind, time.perf_counter() - began, data


def _settle(parent: int):
    """Makes this process a worker: tied to its parent, deaf to Ctrl-C, silent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # an inherited mask could hold back the alarm
        signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before the line above
            os._exit(1)
    # Native code keeps descriptor 2, which never blocks; Python's own printing would raise when that is full.
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


def serve():
    """Lives as a worker; `sys.argv` holds the parent's id, the socket, stderr's reading end, `sys.path`."""
    parent, channel, stderr = map(int, sys.argv[1:4])
    sys.argv[:] = [""]
    if hasattr(socket, "fromshare"):  # Windows
        connection = socket.fromshare(sys.stdin.buffer.read())
    else:
        connection = socket.socket(fileno=channel)
        os.set_inheritable(channel, False)
        os.set_inheritable(stderr, False)
    _settle(parent)
    stream = connection.makefile("rb", buffering=CHUNK)

    def receive() -> bytes:
        header = stream.read(TASK.size)
        if len(header) < TASK.size:  # the parent is gone, or has done with this worker
            os._exit(0)
        return stream.read(TASK.unpack(header)[0])

    def reply(kind: int, seconds: float, peak: int, worn: bool, data: bytes):
        header = REPLY.pack(kind, seconds, peak, worn, len(data))
        parts = (header, data) if len(data) > CHUNK else (header + data,)  # a second call or a copy
        for part in parts:
            connection.sendall(part)

    limits, setup = read_request(receive())  # a `WorkerLimits` and bytes
    try:
        call, initializer = read_request(setup)
        function = call.function()
        if initializer is not None:
            initializer.function()()
    except BaseException as error:
        reply(ERROR, 0.0, 0, True, _pickled_error(error, limits))
        return
    fence = _Fence(limits, stderr)
    fence.open()
    # The peak as wait4(2) will tell it, which is not VmHWM: execve(2) hands on that of the parent.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if fence.proc else 0
    reply(READY, 0.0, peak, False, b"")
    while True:
        kind, seconds, data = _perform(function, receive(), fence)
        reply(kind, seconds, fence.peak(), fence.worn, data)
