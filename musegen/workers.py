"""Persistent isolated worker processes for tasks that may crash, hang or eat memory.

Parsers of untrusted score files are native code: a bad file can end the process, never return, or ask for
all memory. A `WorkerPool` runs one function over many tasks in processes of its own, one task a message, and
turns each such end into a `musegen.errors.WorkerError` for that task alone; the others never notice.

How a task can fail, and what `Outcome.error` then is:

- the function raised a `MusegenError`: that very error;
- it raised anything else, or its result cannot be pickled: `WorkerError("error", ...)`;
- it took longer than `WorkerLimits.seconds`: `WorkerError("timeout", ...)`;
- it asked for more than `WorkerLimits.memory_bytes`: `WorkerError("memory", ...)`. A worker that dies is
  counted here by a heuristic: its last words on stderr speak of memory, or its resident memory had come near
  the limit;
- its worker died otherwise: the task is tried once more, in a fresh worker, because the cause may have been a
  kill from outside or damage that an earlier task left behind; after a second death it is
  `WorkerError("crashed", ...)`.

Times are in seconds and memory in bytes. The kernel enforces both limits inside the worker (`setitimer(2)`,
`RLIMIT_AS`), so they hold while the parent is busy; the parent enforces the time limit once more. Where there
is no Linux `/proc` no memory limit is set; on Windows the parent alone keeps the time. Workers end with their
parent even when it is killed: on Linux at once (`PR_SET_PDEATHSIG`), elsewhere at the end of the task in hand.

Workers are started as `python -c`, never by fork and never importing the parent's `__main__`: safe beside
threads, in notebooks and in scripts without a main guard. Messages are pickles over a socket pair. The limits
contain accidents; a worker is no sandbox against code that an attacker gets to run.
"""

import contextlib
import errno
import functools
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from musegen.errors import ConfigError, MusegenError, WorkerError

try:
    import resource
except ImportError:  # Windows
    resource = None

_START_SECONDS = 120.0  # importing the function's libraries on a busy machine; no part of a task's time
_START_TRIES = 5  # deaths in a row before a first task, after which one more try is hopeless
_GRACE_SECONDS = 0.5  # a worker past its time is heard out so long when the parent was not listening
_TICK_SECONDS = 1.0  # between looks for workers that died while something else held their socket open
_REAP_SECONDS = 1.0  # for a killed process to end; one stuck in the kernel must not hold up the parent
_WINDOW = 32  # tasks a worker by which `map` may be ahead of the earliest missing result
_HELD_BYTES = 64 * 2**20  # of results that `map` keeps back behind a missing one before it stops pulling tasks
_NEAR_LIMIT = 0.8  # share of the memory limit that a dead worker must have filled for it to be blamed
_STDERR_BYTES = 64 * 2**10  # a pipe's capacity: all that is ever kept of a worker's stderr
_CHUNK = 64 * 2**10  # below malloc's mmap threshold, above nearly all messages
_SLACK_BYTES = 2**20  # an error's pickle may be larger than a tiny memory limit

_TASK = struct.Struct("<Q")  # length
_REPLY = struct.Struct("<BdQ?Q")  # kind, seconds, peak bytes, worn, length
_READY, _VALUE, _ERROR = range(3)

# One thread a worker: the pool already uses every core, and thread stacks count against the memory limit.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_ENVIRONMENT = dict.fromkeys(_THREADS, "1") | {"TOKENIZERS_PARALLELISM": "false"}
_BOOT = "import sys; sys.path[:] = sys.argv[4:]; from musegen.workers import _serve; _serve()"


@dataclass(frozen=True)
class WorkerLimits:
    """What one task may use.

    Args:
        seconds: Wall-clock time, unpickling the task and pickling the result included.
        memory_bytes: Address space beyond what the worker held when the task began; also the largest result.

    Raises:
        ConfigError: If a limit is not positive, or absurdly large.
    """

    seconds: float = 10.0
    memory_bytes: int = 2 * 1024**3

    def __post_init__(self):
        if not 0 < self.seconds <= 1e6:
            raise ConfigError(f"seconds must be above 0 and at most 1e6, not {self.seconds}")
        if not 0 < self.memory_bytes <= 2**50:
            raise ConfigError(f"memory_bytes must be above 0 and at most 2**50, not {self.memory_bytes}")


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


# ---- inside a worker ---------------------------------------------------------------------------------------


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
            os.read(self.stderr, _STDERR_BYTES)
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


def _describe(error: BaseException) -> str:
    """Names an exception, its text and its place in one line."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename.rpartition(os.sep)[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    try:
        text = " ".join(str(error).split())[:500]
    except Exception:
        text = "its text cannot be made"
    return f"{type(error).__name__}: {text}{place}"


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is a want of memory."""
    for _ in range(10):  # a chain may be a ring
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if error is None:
            break
        if "bad_alloc" in _describe(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _pickled_error(error: BaseException, limits: WorkerLimits) -> bytes:
    if _is_memory(error):
        error = WorkerError("memory", f"{_beyond(limits)}: {_describe(error)}")
    if isinstance(error, MusegenError):
        with contextlib.suppress(Exception):  # an error that its pickle cannot rebuild is told in words
            data = pickle.dumps(error)
            pickle.loads(data)  # noqa: S301 - written in the line above
            return data
    return pickle.dumps(WorkerError("error", _describe(error)))


def _perform(function: Callable, message: bytes, fence: _Fence) -> tuple[int, float, bytes]:
    """Runs one task within the fence; returns the kind of reply, its seconds and its pickle."""
    began = time.perf_counter()
    fence.close()
    try:
        value = function(pickle.loads(message))  # noqa: S301 - from the parent
        try:
            kind, data = _VALUE, pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise WorkerError("error", f"the result cannot be sent back: {_describe(error)}") from error
        if len(data) > fence.limits.memory_bytes:
            raise MemoryError(f"a result of {len(data)} bytes")
        fence.open()
    except BaseException as error:  # SystemExit too: a task cannot end the worker politely
        fence.open()  # describing an error takes memory
        kind, data = _ERROR, _pickled_error(error, fence.limits)
    return kind, time.perf_counter() - began, data


def _settle(parent: int):
    """Makes this process a worker: tied to its parent, deaf to Ctrl-C, silent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # an inherited mask could hold back the alarm
        signal.setitimer(signal.ITIMER_REAL, _START_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before the line above
            os._exit(1)
    # Native code keeps descriptor 2, which never blocks; Python's own printing would raise when that is full.
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _serve():
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
    stream = connection.makefile("rb", buffering=_CHUNK)

    def receive() -> bytes:
        header = stream.read(_TASK.size)
        if len(header) < _TASK.size:  # the parent is gone, or has done with this worker
            os._exit(0)
        return stream.read(_TASK.unpack(header)[0])

    def reply(kind: int, seconds: float, peak: int, worn: bool, data: bytes):
        header = _REPLY.pack(kind, seconds, peak, worn, len(data))
        parts = (header, data) if len(data) > _CHUNK else (header + data,)  # a second call or a copy
        for part in parts:
            connection.sendall(part)

    limits, setup = pickle.loads(receive())  # noqa: S301 - from the parent
    try:
        function, initializer = pickle.loads(setup)  # noqa: S301 - from the parent
        if initializer is not None:
            initializer()
    except BaseException as error:
        reply(_ERROR, 0.0, 0, True, _pickled_error(error, limits))
        return
    fence = _Fence(limits, stderr)
    fence.open()
    # The peak as wait4(2) will tell it, which is not VmHWM: execve(2) hands on that of the parent.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if fence.proc else 0
    reply(_READY, 0.0, peak, False, b"")
    while True:
        kind, seconds, data = _perform(function, receive(), fence)
        reply(kind, seconds, fence.peak(), fence.worn, data)


# ---- in the parent -----------------------------------------------------------------------------------------


def _beyond(limits: WorkerLimits) -> str:
    return f"more than {limits.memory_bytes / 2**20:.0f} MiB of memory"


@dataclass(eq=False)
class _Flight:
    """One task on its way through the pool."""

    job: "_Job"
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
                value = pickle.loads(self.value)  # noqa: S301 - from our own worker
            elif not isinstance(error, WorkerError):
                error = pickle.loads(error)  # noqa: S301 - from our own worker
        except Exception as failure:
            error = WorkerError("error", f"the reply cannot be read: {_describe(failure)}")
        return Outcome(self.index, self.task, value, error, self.seconds, self.peak)


class _Job:
    """The tasks of one call, pulled one by one, and their flights until they are handed over."""

    def __init__(self, tasks: Iterable, ordered: bool, window: int):
        self.tasks = enumerate(tasks)
        self.ordered, self.window = ordered, window
        self.exhausted = self.closed = False
        self.pulled = self.yielded = self.waiting = self.held_bytes = 0
        self.landed: dict[int, _Flight] = {}

    def may_pull(self) -> bool:
        ahead = self.pulled - self.yielded
        return not self.exhausted and ahead < self.window and self.held_bytes < _HELD_BYTES

    def land(self, flight: _Flight):
        self.landed[flight.index] = flight
        self.held_bytes += len(flight.value)

    def take(self) -> _Flight | None:
        """Returns the flight to hand over next, if it has landed."""
        flight = self.landed.pop(self.yielded if self.ordered else next(iter(self.landed), -1), None)
        if flight is not None:
            self.yielded += 1
            self.held_bytes -= len(flight.value)
        return flight


class _Worker:
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
        self.flight: _Flight | None = None
        self.incoming, self.filled = bytearray(_CHUNK), 0
        self.peak = self.resident = 0
        self.heard = 0.0
        self.began = time.monotonic()
        self.deadline = self.began + _START_SECONDS
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
        self.outgoing = memoryview(_TASK.pack(len(message)) + message)
        self.flush()

    def flush(self):
        with contextlib.suppress(BlockingIOError):
            while self.outgoing:
                self.outgoing = self.outgoing[self.connection.send(self.outgoing) :]

    def assign(self, flight: _Flight, heard: float):
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
                if self.filled < _REPLY.size:
                    continue
                *fields, length = _REPLY.unpack_from(self.incoming)
                total = _REPLY.size + length
                if self.filled > total or length > self.limits.memory_bytes + _SLACK_BYTES or fields[0] > _ERROR:
                    raise EOFError
                if self.filled == total:
                    data, self.filled = memoryview(self.incoming)[_REPLY.size : total], 0
                    if total > _CHUNK:  # too large for a copy
                        self.incoming = bytearray(_CHUNK)
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
            words = os.read(self.stderr, _STDERR_BYTES)
        os.close(self.stderr)
        words = " ".join(words.decode(errors="replace").split())[-300:]
        code = self.process.returncode
        if late or (code is not None and hasattr(signal, "SIGALRM") and code == -signal.SIGALRM):
            return "timeout", f"no end within {_START_SECONDS if self.starting else self.limits.seconds:g} s"
        full = self.peak and self.resident - self.peak > _NEAR_LIMIT * self.limits.memory_bytes
        if full or any(sign in words.lower() for sign in ("bad_alloc", "memoryerror", "out of memory")):
            return "memory", f"{_beyond(self.limits)}: {words}" if words else _beyond(self.limits)
        how = f"exited with code {code}" if code is not None else "does not end"
        if code is not None and code < 0:
            how = "was ended by " + next((sign.name for sign in signal.Signals if sign == -code), f"signal {-code}")
        return "crashed", f"the worker {how}: {words}" if words else f"the worker {how}"


def _end_all(workers: set[_Worker], selector: selectors.BaseSelector, owner: int):
    if os.getpid() != owner:  # a fork has a copy of the pool; the workers are not its own
        return
    for worker in tuple(workers):
        worker.kill()  # all at once, then wait for each
    for worker in tuple(workers):
        worker.end()
    workers.clear()
    selector.close()


class WorkerPool:
    """Runs a function over tasks in isolated worker processes.

    Workers start when tasks first need them, live until `close`, and are replaced one by one. A pool may be
    used from several threads, and for several calls at a time, but not in a fork of its process.

    Args:
        function: What each task is given to: a function at the top of an importable module, or a
            `functools.partial` of one. A fresh worker imports that module, and nothing else.
        workers: How many processes at the most; the number of usable cores by default.
        limits: What one task may use; `WorkerLimits()` by default.
        initializer: Called without arguments in each new worker, outside the limits.

    Raises:
        ConfigError: If the function cannot be sent to another process, or `workers` is not positive.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        workers: int | None = None,
        limits: WorkerLimits | None = None,
        initializer: Callable[[], Any] | None = None,
    ):
        if workers is None:
            workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        try:
            self._setup = pickle.dumps((function, initializer), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise ConfigError(f"a worker's function must be importable by name: {error}") from error
        if b"__main__" in self._setup:
            raise ConfigError(f"{function} is in the main script; put it into a module that can be imported")
        self.workers = workers
        self.limits = limits or WorkerLimits()
        self._cwd = os.getcwd()  # noqa: PTH109 - relative paths mean the same in every worker, late ones too
        self._owner = os.getpid()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._queue: deque[_Flight] = deque()
        self._retries: deque[_Flight] = deque()  # for fresh workers only; a death makes room for one
        self._failed_starts = 0
        self._failure: WorkerError | None = None
        self._changed = threading.Condition()
        self._selecting = False
        self._attended = 0.0  # seconds spent waiting for workers, a clock that stops while callers are busy
        self._starter = None
        self._selector = selectors.DefaultSelector()
        self._close = weakref.finalize(self, _end_all, self._workers, self._selector, self._owner)

    def map(self, tasks: Iterable) -> Iterator[Outcome]:
        """Yields the outcome of each task, in the order of the tasks.

        Tasks are pulled lazily and results kept back in bounds: memory does not grow with their number. A
        caller that stops early abandons the few tasks under way.

        Args:
            tasks: Picklable objects.

        Raises:
            WorkerError: If no worker can start.
            RuntimeError: If the pool is closed, or belongs to another process.
        """
        self._check()
        return self._outcomes(tasks, ordered=True)

    def map_unordered(self, tasks: Iterable) -> Iterator[Outcome]:
        """Yields the outcome of each task as soon as it ends; otherwise like `map`."""
        self._check()
        return self._outcomes(tasks, ordered=False)

    def run(self, task: Any) -> Any:
        """Returns the result for one task, or raises its error: a `MusegenError`."""
        (outcome,) = self.map([task])
        return outcome.result()

    def close(self):
        """Ends the workers at once, whatever they do; a second call does nothing."""
        with self._changed:
            if self._starter is not None and self._close.alive:
                self._starter.shutdown(wait=False)
            self._close()
            self._changed.notify_all()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self):
        if self._failure is not None:
            raise WorkerError(self._failure.reason, self._failure.detail)
        if os.getpid() != self._owner:
            raise RuntimeError("a WorkerPool cannot be used in a fork: make it in the process that uses it")
        if not self._close.alive:
            raise RuntimeError("the WorkerPool is closed")

    def _outcomes(self, tasks: Iterable, ordered: bool) -> Iterator[Outcome]:
        job, flight = _Job(tasks, ordered, (_WINDOW if ordered else 3) * self.workers), None
        try:
            while True:
                self._fill(job)  # before handing over: the workers stay busy while the caller is
                if flight is not None:
                    yield flight.outcome()
                elif job.exhausted and job.yielded == job.pulled:
                    return
                flight = self._next(job)
        finally:
            job.closed = True  # nothing more: this can run in the middle of anything, when a caller lets go

    def _wants(self, job: _Job) -> bool:
        """Whether to pull a task: there should be one for every worker and the next one waiting, in bounds."""
        busy = len(self._workers) - len(self._idle)
        return job.may_pull() and (not job.waiting or busy + len(self._queue) < 2 * self.workers)

    def _fill(self, job: _Job):
        """Pulls tasks and puts them on their way."""
        while self._wants(job):
            index, task = next(job.tasks, (None, None))  # unlocked: the caller's code may take its time
            if index is None:
                job.exhausted = True
                return
            job.pulled += 1
            flight = _Flight(job, index, task)
            try:
                flight.message = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                flight.error = WorkerError("error", f"the task cannot be sent: {_describe(error)}")
            with self._changed:
                self._check()
                if flight.error is not None:
                    job.land(flight)
                    continue
                job.waiting += 1
                self._queue.append(flight)
                self._dispatch()

    def _next(self, job: _Job) -> _Flight | None:
        """Waits for the next flight of a job; None if it first wants more tasks, or has no more.

        Of all threads in here one waits for the workers, on behalf of all; the others wait for it.
        """
        with self._changed:
            while (flight := job.take()) is None and job.yielded < job.pulled and not self._wants(job):
                self._check()
                if self._selecting:
                    self._changed.wait(_TICK_SECONDS)
                    continue
                began = time.monotonic()
                due = min((worker.deadline for worker in self._workers), default=began)
                events = self._listen(min(max(due - began, 0.05), _TICK_SECONDS))
                self._check()
                self._attended += time.monotonic() - began
                self._attend(events)
            return flight

    def _listen(self, seconds: float) -> list:
        """Waits for workers without the lock that its caller holds."""
        self._selecting = True
        try:
            self._changed.release()
            try:
                return self._selector.select(seconds)
            finally:
                self._changed.acquire()
        finally:
            self._selecting = False
            self._changed.notify_all()

    def _attend(self, events: list):
        """Takes what the workers have sent, ends those past their time, and hands out new tasks."""
        for key, mask in events:
            worker = key.data
            if worker not in self._workers:
                continue
            try:
                if mask & selectors.EVENT_WRITE:
                    worker.flush()
                    self._watch(worker)
                reply = worker.receive() if mask & selectors.EVENT_READ else None
            except (EOFError, OSError):
                self._lose(worker)
            else:
                worker.heard = self._attended
                if reply is not None:
                    self._take(worker, *reply)
        now = time.monotonic()
        for worker in tuple(self._workers):
            if now > worker.deadline and self._attended - worker.heard > _GRACE_SECONDS:
                self._lose(worker, late=True)
            elif not events and worker.exited():
                self._lose(worker)
        self._dispatch()

    def _take(self, worker: _Worker, kind: int, seconds: float, peak: int, worn: bool, data: memoryview | bytes):
        flight, worker.flight = worker.flight, None
        worker.deadline = float("inf")
        worker.peak = max(worker.peak, peak)
        if worker.starting:
            worker.starting = False
            if kind == _ERROR:
                error = pickle.loads(data)  # noqa: S301 - from our own worker
                self._failure = WorkerError("error", f"no worker can start: {getattr(error, 'detail', error)}")
                return
            self._failed_starts = 0
        elif flight is not None:
            flight.seconds, flight.peak = seconds, peak
            if kind == _VALUE:
                flight.value = data
            else:
                flight.error = data
            flight.job.land(flight)
        if worn:
            self._bury(worker)
        else:
            self._idle.append(worker)

    def _lose(self, worker: _Worker, late: bool = False):
        """Buries a worker that died or must, and settles what becomes of its task."""
        reason, detail = self._bury(worker, late)
        flight = worker.flight
        if worker.starting:
            self._failed_starts += 1
            if self._failed_starts >= _START_TRIES and all(other.starting for other in self._workers):
                self._failure = WorkerError(reason, f"no worker can start: {detail}")
        elif flight is not None and reason == "crashed" and flight.tries < 2:
            self._retries.append(flight)
        elif flight is not None:
            flight.error, flight.seconds = WorkerError(reason, detail), time.monotonic() - worker.began
            flight.job.land(flight)

    def _bury(self, worker: _Worker, late: bool = False) -> tuple[str, str]:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._selector.unregister(worker.connection)
        return worker.end(late)

    def _dispatch(self):
        """Gives waiting flights to idle workers, and starts workers for the rest."""
        for worker in tuple(self._idle):
            flight = self._pick(worker)
            if flight is None:
                continue
            self._idle.remove(worker)  # first: a Ctrl-C in here must not give it two tasks
            try:
                worker.assign(flight, self._attended)
            except OSError:  # it died between two tasks, which is no try
                (self._retries if flight.tries else self._queue).appendleft(flight)
                self._bury(worker)
                continue
            self._watch(worker)
            flight.tries += 1
            flight.job.waiting -= flight.tries == 1
        wanted = len(self._retries) + len(self._queue)
        if wanted and len(self._workers) < self.workers and self._failure is None:
            wanted -= sum(worker.starting for worker in self._workers)
            for _ in range(min(wanted, self.workers - len(self._workers))):
                self._start()

    def _pick(self, worker: _Worker) -> _Flight | None:
        for line in (self._retries, self._queue) if worker.fresh else (self._queue,):
            while line:
                flight = line.popleft()
                if not flight.job.closed:
                    return flight
        return None

    def _start(self):
        make = functools.partial(_Worker, self.limits, self._setup, self._cwd)
        if threading.current_thread() is threading.main_thread():
            worker = make()
        else:  # PR_SET_PDEATHSIG means the thread that starts a worker, which has to last as long as the pool
            if self._starter is None:
                from concurrent.futures import ThreadPoolExecutor

                self._starter = ThreadPoolExecutor(1, "musegen-workers")
            worker = self._starter.submit(make).result()
        self._workers.add(worker)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _watch(self, worker: _Worker):
        """Waits for room to send only while there is something to send."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        if self._selector.get_key(worker.connection).events != mask:
            self._selector.modify(worker.connection, mask, worker)
