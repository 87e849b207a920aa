"""Hands tasks to workers, replaces the dead, and gives each outcome back once."""

import functools
import os
import pickle
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from musegen.errors import ConfigError, WorkerError
from musegen.workers.process import Flight, Outcome, Worker
from musegen.workers.protocol import (
    ERROR,
    VALUE,
    Call,
    WorkerLimits,
    describe,
    read_reply,
    read_request,
)

_START_TRIES = 5  # deaths in a row before a first task, after which one more try is hopeless
_GRACE_SECONDS = 0.5  # a worker past its time is heard out so long when the parent was not listening
_TICK_SECONDS = 1.0  # between looks for workers that died while something else held their socket open
_WINDOW = 32  # tasks a worker by which `map` may be ahead of the earliest missing result
_HELD_BYTES = 64 * 2**20  # of results that `map` keeps back behind a missing one before it stops pulling tasks


class _Job:
    """The tasks of one call, pulled one by one, and their flights until they are handed over."""

    def __init__(self, tasks: Iterable, ordered: bool, window: int):
        self.tasks = enumerate(tasks)
        self.ordered, self.window = ordered, window
        self.exhausted = self.closed = False
        self.pulled = self.yielded = self.waiting = self.held_bytes = 0
        self.landed: dict[int, Flight] = {}

    def may_pull(self) -> bool:
        ahead = self.pulled - self.yielded
        return not self.exhausted and ahead < self.window and self.held_bytes < _HELD_BYTES

    def land(self, flight: Flight):
        self.landed[flight.index] = flight
        self.held_bytes += len(flight.value)

    def take(self) -> Flight | None:
        """Returns the flight to hand over next, if it has landed."""
        flight = self.landed.pop(self.yielded if self.ordered else next(iter(self.landed), -1), None)
        if flight is not None:
            self.yielded += 1
            self.held_bytes -= len(flight.value)
        return flight


def _end_all(workers: set[Worker], selector: selectors.BaseSelector, owner: int):
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
        calls = Call.of(function), None if initializer is None else Call.of(initializer)
        try:
            self._setup = pickle.dumps(calls, protocol=pickle.HIGHEST_PROTOCOL)
            read_request(self._setup)  # as a worker will
        except Exception as error:
            raise ConfigError(f"{function} cannot be sent to a worker: {error}") from error
        if b"__main__" in self._setup:
            raise ConfigError(f"{function} is in the main script; put it into a module that can be imported")
        self.workers = workers
        self.limits = limits or WorkerLimits()
        self._cwd = os.getcwd()  # noqa: PTH109 - relative paths mean the same in every worker, late ones too
        self._owner = os.getpid()
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._queue: deque[Flight] = deque()
        self._retries: deque[Flight] = deque()  # for fresh workers only; a death makes room for one
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
            tasks: Plain values, paths, enumerations, numpy arrays, the package's own dataclasses and named tuples.

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
            flight = Flight(job, index, task)
            try:
                flight.message = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                flight.error = WorkerError("error", f"the task cannot be sent: {describe(error)}")
            with self._changed:
                self._check()
                if flight.error is not None:
                    job.land(flight)
                    continue
                job.waiting += 1
                self._queue.append(flight)
                self._dispatch()

    def _next(self, job: _Job) -> Flight | None:
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

    def _take(self, worker: Worker, kind: int, seconds: float, peak: int, worn: bool, data: memoryview | bytes):
        flight, worker.flight = worker.flight, None
        worker.deadline = float("inf")
        worker.peak = max(worker.peak, peak)
        if worker.starting:
            worker.starting = False
            if kind == ERROR:
                error = read_reply(data)
                self._failure = WorkerError("error", f"no worker can start: {getattr(error, 'detail', error)}")
                return
            self._failed_starts = 0
        elif flight is not None:
            flight.seconds, flight.peak = seconds, peak
            if kind == VALUE:
                flight.value = data
            else:
                flight.error = data
            flight.job.land(flight)
        if worn:
            self._bury(worker)
        else:
            self._idle.append(worker)

    def _lose(self, worker: Worker, late: bool = False):
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

    def _bury(self, worker: Worker, late: bool = False) -> tuple[str, str]:
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

    def _pick(self, worker: Worker) -> Flight | None:
        for line in (self._retries, self._queue) if worker.fresh else (self._queue,):
            while line:
                flight = line.popleft()
                if not flight.job.closed:
                    return flight
        return None

    def _start(self):
        make = functools.partial(Worker, self.limits, self._setup, self._cwd)
        if threading.current_thread() is threading.main_thread():
            worker = make()
        else:  # PR_SET_PDEATHSIG means the thread that starts a worker, which has to last as long as the pool
            if self._starter is None:
                from concurrent.futures import ThreadPoolExecutor

                self._starter = ThreadPoolExecutor(1, "musegen-workers")
            worker = self._starter.submit(make).result()
        self._workers.add(worker)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _watch(self, worker: Worker):
        """Waits for room to send only while there is something to send."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        if self._selector.get_key(worker.connection).events != mask:
            self._selector.modify(worker.connection, mask, worker)
