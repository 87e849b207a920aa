"""musegen.workers: whatever a task does to its worker, every task is reported once, rightly and in time."""

import functools
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from musegen.errors import ConfigError, CorpusError, ScoreError, WorkerError
from musegen.workers import WorkerLimits, WorkerPool
from musegen.workers.protocol import read_reply, read_request

resource = pytest.importorskip("resource", reason="signals and limits of POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc, prctl and address-space limits of Linux")

MEBI = 2**20

# A module of its own, not this file: workers import it, and importing pytest would make each start slow.
TASKS = '''
import ctypes, os, resource, signal, subprocess, sys, threading, time

import musegen.errors as errors

KEPT = []


class Odd(errors.MusegenError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)


def call(task):
    name, *arguments = task
    return globals()[name](*arguments)


def square(x, seconds=0.0):
    time.sleep(seconds)
    return x * x


def swap(data):
    return data.swapcase()


def note(path, x):
    with open(path, "a") as file:
        file.write(f"{x}\\n")


def noted(path, name, *arguments):
    """Leaves a line for each time that the task is begun."""
    note(path, name)
    return globals()[name](*arguments)


def fail(kind, *arguments):
    source = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)
    raise {**source, **vars(errors), **globals()}[kind](*arguments)


def score_error_from_memory():
    try:
        bytearray(2**40)
    except MemoryError as error:
        raise errors.ScoreError("a.mid", "unreadable", "looks torn") from error


def give_a_lambda():
    return lambda: 0


def segfault():
    ctypes.string_at(0)


def leave(code):
    os._exit(code)


def hold_the_gil():
    ctypes.PyDLL(None).sleep(60)


def stop_in_mid_send(size):
    """Stops the worker while it sends more than a socket holds."""
    def stop():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(os.getppid(), signal.SIGUSR1)
    threading.Thread(target=stop, daemon=True).start()
    return bytes(size)


def die_on_first(path, number):
    first = not os.path.exists(path)
    note(path, number)
    if first:
        os.kill(os.getpid(), number)
    return os.getpid()


def zeros(size):
    return bytes(size)


def allocate(size):
    return len(bytearray(size))


def leak(size):
    KEPT.append(bytearray(size))
    return os.getpid()


def kept():
    return len(KEPT)


def abort_as_cpp_does():
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n  what():  std::bad_alloc\\n")
    os.abort()


def fill_memory_then_segfault():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    while True:
        libc.memset(libc.malloc(2**20), 1, 2**20)


def fill_memory_task(_):
    fill_memory_then_segfault()


def say(size, end):
    """Fills both streams as native code does and as Python does, then does `end`."""
    for fd in (1, 2):
        try:
            for _ in range(size // 1000):
                os.write(fd, b"native " * 143)
        except BlockingIOError:
            pass
    print("python" * size)
    print("python" * size, file=sys.stderr)
    return call(end)


def complain(text):
    os.write(2, text)
    return "well"


def last_words(text):
    os.write(2, text)
    os.kill(os.getpid(), signal.SIGABRT)


def talk_nonsense():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.write(fd, b"\\xff" * 100)
        except OSError:
            pass
    time.sleep(60)


def surroundings():
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "main": getattr(sys.modules["__main__"], "__file__", None),
    }


def start_a_program_then(path, end):
    note(path, subprocess.Popen(["sleep", "60"]).pid)
    return call(end)


def keep():
    KEPT.append(1)


def raise_at_start():
    raise ValueError("no library")


def die_at_start():
    os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "worker_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    import worker_tasks

    yield worker_tasks
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def pool(tasks):
    with WorkerPool(tasks.call, workers=2, limits=WorkerLimits(8.0, 256 * MEBI)) as pool:
        yield pool


def pids(pool):
    return {worker.process.pid for worker in pool._workers}


def alive(pid):
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(found) and not found.startswith("Z")


def all_gone(ids, seconds):
    until = time.monotonic() + seconds
    while any(map(alive, ids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def script(tasks, source, **options):
    """Starts a script on stdin: another parent, with no file and no main guard."""
    path = os.pathsep.join([str(Path(tasks.__file__).parent), *filter(None, sys.path)])
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options |= {"text": True, "env": {**os.environ, "PYTHONPATH": path}}
    process = subprocess.Popen([sys.executable, "-u", "-"], **streams, **options)
    process.stdin.write("import worker_tasks\nfrom musegen.workers import *\n" + source)
    process.stdin.close()
    process.stdin = None
    return process


# ---- ordinary work -----------------------------------------------------------------------------------------


def test_map_keeps_the_order_of_the_tasks(pool):
    work = [("square", x, 0.02 if x % 7 == 0 else 0.0) for x in range(100)]
    outcomes = list(pool.map(work))
    assert [outcome.value for outcome in outcomes] == [x * x for x in range(100)]
    assert [outcome.index for outcome in outcomes] == list(range(100))
    assert [outcome.task for outcome in outcomes] == work
    assert all(outcome.error is None for outcome in outcomes)
    assert all(outcome.seconds >= 0.02 for outcome in outcomes[::7])
    assert min(outcome.seconds for outcome in outcomes) < 0.02


def test_map_unordered_does_not_wait_for_a_slow_task(pool):
    outcomes = list(pool.map_unordered([("square", x, 0.8 if x == 0 else 0.0) for x in range(40)]))
    assert sorted((outcome.index, outcome.value) for outcome in outcomes) == [(x, x * x) for x in range(40)]
    assert outcomes[-1].index == 0


def test_no_tasks(pool):
    assert list(pool.map([])) == list(pool.map_unordered(iter(()))) == []


def test_tasks_run_side_by_side_and_only_the_workers_needed_are_started(tasks):
    with WorkerPool(tasks.call, workers=3) as pool:
        assert pids(pool) == set()
        assert pool.run(("square", 3)) == 9
        assert len(pids(pool)) == 1
        list(pool.map([("square", 1, 0.5)] * 3))
        assert len(pids(pool)) == 3
        began = time.monotonic()
        list(pool.map([("square", 1, 1.0)] * 3))
        assert time.monotonic() - began < 1.9


@linux_only
def test_peak_memory_is_of_the_task_alone(tasks):
    with WorkerPool(tasks.call, workers=1) as pool:
        large, small = pool.map([("allocate", 100 * MEBI), ("square", 1)])
    assert 100 * MEBI < large.peak_bytes < 200 * MEBI
    assert 0 < small.peak_bytes < 60 * MEBI


def test_large_tasks_and_results(tasks):
    data = b"aB" * (25 * 10**6)
    with WorkerPool(tasks.swap, workers=2) as pool:
        values = [outcome.result() for outcome in pool.map([b"small", data, b"last"])]
    assert values == [b"SMALL", b"Ab" * (25 * 10**6), b"LAST"]


def test_surroundings_of_a_worker(tasks, tmp_path, monkeypatch):
    expected = {"cwd": str(Path.cwd()), "threads": "1", "sigint": True, "core": 0, "main": None}
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with WorkerPool(tasks.call, workers=1) as pool:
        first = pool.run(("surroundings",))
        monkeypatch.chdir(tmp_path)
        os.kill(first["pid"], signal.SIGKILL)
        second = pool.run(("surroundings",))
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert first.pop("pid") != second.pop("pid")
    assert first == second == expected


def test_initializer_runs_once_in_each_worker(tasks):
    with WorkerPool(tasks.call, workers=1, initializer=tasks.keep) as pool:
        assert [outcome.value for outcome in pool.map([("kept",)] * 3)] == [1, 1, 1]


# ---- errors of the function --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, reason, text",
    [
        (("fail", "ValueError", "two\nlines"), "error", "ValueError: two lines (worker_tasks.py:"),
        (("fail", "SystemExit", 3), "error", "SystemExit: 3"),
        (("fail", "KeyboardInterrupt"), "error", "KeyboardInterrupt"),
        (("fail", "Mute"), "error", "Mute: its text cannot be made"),
        (("fail", "Odd", "one", "two"), "error", "Odd: one and two"),
        (("fail", "RuntimeError", "std::bad_alloc"), "memory", "std::bad_alloc"),
        (("fail", "OSError", 12, "Cannot allocate memory"), "memory", "Cannot allocate"),
        (("fail", "WorkerError", "crashed", "by itself"), "crashed", "by itself"),
        (("give_a_lambda",), "error", "the result cannot be sent back: "),
        (("Unreadable",), "error", "the reply cannot be read: ValueError"),
        (("square", threading.Lock()), "error", "the task cannot be sent: TypeError"),
    ],
)
def test_an_error_is_told_in_one_line_and_the_pool_goes_on(pool, task, reason, text):
    before, failed, after = pool.map([("square", 4), task, ("square", 5)])
    assert type(failed.error) is WorkerError
    assert failed.error.reason == reason
    assert text in failed.error.detail
    assert "\n" not in str(failed.error)
    assert failed.value is None
    assert (before.value, after.value) == (16, 25)


def test_errors_of_the_package_come_back_as_they_are(pool):
    score, corpus = pool.map([("fail", "ScoreError", "a.mid", "empty", "no notes"), ("fail", "CorpusError", "torn")])
    assert type(score.error) is ScoreError
    assert (score.error.source, score.error.reason, score.error.detail) == ("a.mid", "empty", "no notes")
    assert type(corpus.error) is CorpusError
    assert str(corpus.error) == "torn"
    with pytest.raises(ScoreError, match=r"a\.mid: empty: no notes"):
        pool.run(("fail", "ScoreError", "a.mid", "empty", "no notes"))


# ---- tasks that end their worker ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, text",
    [
        (("segfault",), "the worker was ended by SIGSEGV"),
        (("leave", 3), "the worker exited with code 3"),
        (("leave", 0), "the worker exited with code 0"),
        (("last_words", b"free():\n invalid pointer\n"), "the worker was ended by SIGABRT: free(): invalid pointer"),
        pytest.param(("talk_nonsense",), "the worker was ended by SIGKILL", marks=linux_only),
    ],
)
def test_a_crash_is_tried_once_more_and_hurts_no_other_task(pool, tmp_path, task, text):
    begun = tmp_path / "begun"
    outcomes = list(pool.map([("square", 7), ("noted", begun, *task), *[("square", x) for x in range(20)]]))
    crashed = outcomes.pop(1)
    assert (crashed.error.reason, crashed.error.detail) == ("crashed", text)
    assert begun.read_text() == f"{task[0]}\n" * 2
    assert [outcome.value for outcome in outcomes] == [49, *[x * x for x in range(20)]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_task_that_survives_its_second_try_in_a_fresh_worker_is_no_error(pool, tmp_path, number):
    list(pool.map([("square", 1, 0.3)] * 2))
    before = pids(pool)
    assert len(before) == 2
    work = [("die_on_first", tmp_path / "begun", number), *[("square", 1, 0.01)] * 60]
    assert next(pool.map(work)).value not in before
    assert (tmp_path / "begun").read_text() == f"{number}\n" * 2


@pytest.mark.parametrize("task", [("square", 1, 60), ("hold_the_gil",), ("stop_in_mid_send", 20 * MEBI)])
def test_a_hang_ends_in_time_and_the_others_finish(tasks, tmp_path, task):
    # The signal comes when the result is about to be sent: this parent then reads nothing until it has stopped.
    previous = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.6))
    begun = tmp_path / "begun"
    try:
        with WorkerPool(tasks.call, workers=2, limits=WorkerLimits(seconds=1.0)) as pool:
            list(pool.map([("square", 1, 0.3)] * 2))
            began = time.monotonic()
            outcomes = list(pool.map([("noted", begun, *task), *[("square", x) for x in range(50)]]))
            elapsed = time.monotonic() - began
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert outcomes[0].error.reason == "timeout"
    assert "1 s" in outcomes[0].error.detail
    assert begun.read_text() == f"{task[0]}\n", "a hang is not tried again"
    assert [outcome.value for outcome in outcomes[1:]] == [x * x for x in range(50)]
    assert 0.9 < outcomes[0].seconds < 3
    assert elapsed < 4


def test_a_hang_ends_while_nobody_listens(tasks):
    with WorkerPool(tasks.call, workers=1, limits=WorkerLimits(seconds=0.5)) as pool:
        outcomes = pool.map([("square", 1), ("hold_the_gil",)])
        assert next(outcomes).value == 1
        assert all_gone(pids(pool), seconds=4)
        assert next(outcomes).error.reason == "timeout"


def test_a_result_that_waits_for_a_busy_caller_is_not_late(tasks):
    work = [b"first", b"x" * (8 * MEBI), b"y" * (8 * MEBI), b"last"]
    with WorkerPool(tasks.swap, workers=2, limits=WorkerLimits(seconds=1.0)) as pool:
        list(pool.map([b""] * 2))
        values = []
        for outcome in pool.map_unordered(work):
            time.sleep(1.5 if not values else 0)
            values.append(outcome.result())
    assert sorted(values) == sorted(map(bytes.swapcase, work))


@linux_only
@pytest.mark.parametrize("name", ["allocate", "abort_as_cpp_does", "score_error_from_memory"])
def test_too_much_memory(pool, name):
    arguments = [2**33] if name == "allocate" else []
    bomb, large = pool.map([(name, *arguments), ("allocate", 150 * MEBI)])
    assert (bomb.error.reason, bomb.error.detail[:26]) == ("memory", "more than 256 MiB of memor")
    assert large.value == 150 * MEBI


@linux_only
def test_a_segfault_at_the_memory_limit_is_put_down_to_memory(tasks):
    # In a small parent: a worker's peak, as the kernel tells it, begins at that of its parent.
    source = """
with WorkerPool(worker_tasks.fill_memory_task, workers=1, limits=WorkerLimits(20, 200 * 2**20)) as pool:
    print(next(pool.map([0])).error)
"""
    out, err = script(tasks, source).communicate(timeout=30)
    assert out.startswith("memory: more than 200 MiB"), err


@linux_only
def test_a_worker_that_leaks_is_replaced(tasks):
    with WorkerPool(tasks.call, workers=1, limits=WorkerLimits(10.0, 100 * MEBI)) as pool:
        held_by = [outcome.result() for outcome in pool.map([("leak", 60 * MEBI)] * 6)]
    assert 2 <= len(set(held_by)) <= 3


def test_a_result_above_the_memory_limit(tasks):
    with WorkerPool(tasks.call, workers=1, limits=WorkerLimits(10.0, 8 * MEBI)) as pool:
        large, small = pool.map([("zeros", 20 * MEBI), ("square", 2)])
    assert large.error.reason == "memory"
    assert small.value == 4


def test_noise_neither_blocks_nor_reaches_the_parent(pool, capfd):
    calm, crashed = pool.map([("say", 10**6, ("square", 3)), ("say", 3000, ("segfault",))])
    assert calm.value == 9
    assert crashed.error.detail.startswith("the worker was ended by SIGSEGV: native native")
    assert len(crashed.error.detail) < 400
    assert capfd.readouterr() == ("", "")


def test_words_of_an_earlier_task_are_not_held_against_a_later_one(tasks):
    with WorkerPool(tasks.call, workers=1) as pool:
        calm, crashed = pool.map([("complain", b"std::bad_alloc, but all is well"), ("segfault",)])
    assert calm.value == "well"
    assert (crashed.error.reason, crashed.error.detail) == ("crashed", "the worker was ended by SIGSEGV")


def test_what_a_crashed_task_had_started_is_ended_with_it(pool, tmp_path):
    with pytest.raises(WorkerError, match="SIGSEGV"):
        pool.run(("start_a_program_then", tmp_path / "pids", ("segfault",)))
    children = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(children) == 2
    assert all_gone(children, seconds=2)


# ---- workers killed from outside ---------------------------------------------------------------------------


def test_kill_every_worker_in_turn_while_tasks_run(tasks):
    killed, outcomes = [], []
    with WorkerPool(tasks.call, workers=3) as pool:
        for outcome in pool.map_unordered([("square", x, 0.005) for x in range(300)]):
            outcomes.append(outcome)
            # Two kills of one task would rightly be reported, so one on its second try is spared.
            spared = {worker.process.pid for worker in pool._workers if worker.flight and worker.flight.tries > 1}
            victims = pids(pool) - spared - set(killed)
            if victims and len(outcomes) >= 25 * (len(killed) + 1):
                killed.append(victims.pop())
                os.kill(killed[-1], signal.SIGKILL)
    assert sorted((outcome.index, outcome.value) for outcome in outcomes) == [(x, x * x) for x in range(300)]
    assert len(killed) >= 10


def test_a_worker_killed_between_tasks_costs_no_try(pool, tmp_path):
    for number in range(3):
        list(pool.map([("square", 1, 0.05)] * 2))
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        assert all_gone(pids(pool), seconds=2)
        begun = tmp_path / str(number)
        assert pool.run(("die_on_first", begun, signal.SIGKILL)) in pids(pool)
        assert begun.read_text() == f"{signal.SIGKILL}\n" * 2


@linux_only
def test_many_deaths_leave_no_zombies_and_no_descriptors(tasks):
    def held():
        gc.collect()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), len(children)  # noqa: PTH208

    before = held()
    with WorkerPool(tasks.call, workers=2) as pool:
        list(pool.map([("square", 1, 0.2)] * 2))
        during = held()
        assert during > before
        assert [outcome.error.reason for outcome in pool.map([("segfault",)] * 6)] == ["crashed"] * 6
        list(pool.map([("square", 1, 0.2)] * 2))
        assert held() == during
    assert held() == before


# ---- bounds ------------------------------------------------------------------------------------------------


class Endless:
    """Squares without end, that know how many of them were asked for."""

    def __init__(self, first):
        self.first, self.pulled = first, 0

    def __iter__(self):
        while True:
            self.pulled += 1
            yield self.first if self.pulled == 1 else ("square", self.pulled - 1)


@pytest.mark.parametrize("method, most", [("map", 64), ("map_unordered", 6)])
def test_endless_tasks_are_pulled_only_as_needed(pool, method, most):
    source = Endless(("square", 0))
    for place, outcome in enumerate(itertools.islice(getattr(pool, method)(source), 300), 1):
        assert outcome.value == outcome.index**2
        assert source.pulled - place <= most


def test_a_slow_task_holds_up_a_bounded_number(pool):
    source = Endless(("square", 0, 1.0))
    outcomes = pool.map(source)
    assert next(outcomes).value == 0
    assert 60 <= source.pulled <= 65, "the others went on, and then waited"
    assert [outcome.value for outcome in itertools.islice(outcomes, 200)] == [x * x for x in range(1, 201)]


def test_a_slow_task_holds_up_a_bounded_amount(pool):
    pulled = 0

    def source():
        nonlocal pulled
        for pulled in range(1, 31):
            yield ("square", 0, 2.0) if pulled == 1 else ("zeros", 8 * MEBI)

    outcomes = pool.map(source())
    assert next(outcomes).value == 0
    assert 5 < pulled <= 14
    assert [len(outcome.value) for outcome in outcomes] == [8 * MEBI] * 29


# ---- callers -----------------------------------------------------------------------------------------------


def test_run_in_the_middle_of_a_map(pool):
    outer = [("square", x) for x in range(20)]
    values = [(outcome.value, pool.run(("square", outcome.value))) for outcome in pool.map(outer)]
    assert values == [(x**2, x**4) for x in range(20)]


def test_a_caller_that_lets_go(pool):
    for outcome in pool.map_unordered(Endless(("square", 0))):
        if outcome.index == 10:
            break
    assert [outcome.value for outcome in pool.map([("square", 2), ("square", 3)])] == [4, 9]


def test_a_source_of_tasks_that_fails(pool):
    def source():
        yield ("square", 1)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(pool.map(source()))
    assert pool.run(("square", 2)) == 4


def test_several_threads_share_a_pool(tasks):
    results, crashes = {}, []
    with WorkerPool(tasks.call, workers=3) as pool:

        def caller(number):
            work = [("square", x, 0.002) for x in range(number, number + 60)]
            results[number] = [outcome.value for outcome in pool.map(work)]
            try:
                pool.run(("segfault",))
            except WorkerError as error:
                crashes.append(error.reason)

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
    assert results == {number: [x * x for x in range(number, number + 60)] for number in range(4)}
    assert crashes == ["crashed"] * 4


def test_a_quick_task_does_not_wait_for_the_slow_one_of_another_thread(tasks):
    with WorkerPool(tasks.call, workers=2) as pool:
        list(pool.map([("square", 1, 0.3)] * 2))
        thread = threading.Thread(target=pool.run, args=(("square", 2, 1.5),))
        thread.start()
        time.sleep(0.2)
        began = time.monotonic()
        assert pool.run(("square", 3)) == 9
        assert time.monotonic() - began < 1.0
        thread.join()


def test_workers_outlive_the_thread_that_started_them(tasks):
    with WorkerPool(tasks.call, workers=1) as pool:
        thread = threading.Thread(target=pool.run, args=(("square", 2),))
        thread.start()
        thread.join()
        started = pids(pool)
        time.sleep(0.2)
        assert all(map(alive, started))
        assert pool.run(("square", 3)) == 9
        assert pids(pool) == started


def test_a_script_on_stdin_without_a_main_guard(tasks):
    source = """
import threading
pool = WorkerPool(worker_tasks.call, workers=2)
print([outcome.value for outcome in pool.map([("square", x) for x in range(5)])])
thread = threading.Thread(target=lambda: print(pool.run(("square", 9))))
thread.start()
thread.join()
def local(task): return task
try:
    WorkerPool(local)
except Exception as error:
    print(type(error).__name__, error)
"""
    out, err = script(tasks, source).communicate(timeout=30)
    assert err == ""
    lines = out.splitlines()
    assert lines[:2] == ["[0, 1, 4, 9, 16]", "81"]
    assert lines[2].startswith("ConfigError") and "module that can be imported" in lines[2]


@linux_only
def test_a_fork_of_the_parent_leaves_the_workers_alone(pool):
    pool.run(("square", 1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pool.run(("square", 1))
        except RuntimeError:
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    started = pids(pool)
    assert pool.run(("square", 3)) == 9
    assert started and pids(pool) == started


# ---- ends --------------------------------------------------------------------------------------------------

BUSY_PARENT = """
import threading, time
pool = WorkerPool(worker_tasks.call, workers=3)
list(pool.map([("square", 1, 0.5)] * 3))
print(*[worker.process.pid for worker in pool._workers])
list(pool.map([("hold_the_gil",), ("square", 1, 60)]))
"""


@linux_only
def test_workers_end_with_a_killed_parent(tasks):
    parent = script(tasks, BUSY_PARENT)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 3 and all(map(alive, workers))
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    assert all_gone(workers, seconds=2)


def test_interrupt_ends_parent_and_workers_with_one_traceback(tasks):
    parent = script(tasks, BUSY_PARENT, start_new_session=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 3 and all(map(alive, workers))
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=5)
    assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt")
    assert all_gone(workers, seconds=2)


def test_close(tasks):
    pool = WorkerPool(tasks.call, workers=2)
    outcomes = pool.map([("square", 1), ("hold_the_gil",), ("square", 2, 60)])
    assert next(outcomes).value == 1
    started = pids(pool)
    began = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - began < 1
    assert len(started) == 2 and all_gone(started, seconds=1)
    for use in (lambda: next(outcomes), lambda: pool.run(1), lambda: pool.map([1]), lambda: pool.map_unordered([1])):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_close_while_another_thread_waits(tasks):
    caught = []
    pool = WorkerPool(tasks.call, workers=1)

    def caller():
        try:
            pool.run(("square", 1, 60))
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=caller)
    thread.start()
    time.sleep(0.5)
    pool.close()
    thread.join(timeout=5)
    assert caught == ["the WorkerPool is closed"]


def test_a_pool_that_nobody_holds_ends_its_workers(tasks):
    pool = WorkerPool(tasks.call, workers=2)
    list(pool.map([("square", 1, 0.2)] * 2))
    started = pids(pool)
    assert len(started) == 2
    del pool
    gc.collect()
    assert all_gone(started, seconds=2)


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "initializer, text", [("raise_at_start", "ValueError: no library"), ("die_at_start", "SIGKILL")]
)
def test_workers_that_cannot_start_are_an_error_and_no_hang(tasks, initializer, text):
    with WorkerPool(tasks.call, workers=2, initializer=getattr(tasks, initializer)) as pool:
        for _ in range(2):
            with pytest.raises(WorkerError, match=f"no worker can start.*{text}"):
                list(pool.map([("square", 1)] * 10))


def test_wrong_settings(tasks):
    for limits in ({"seconds": 0}, {"seconds": float("nan")}, {"memory_bytes": -1}, {"seconds": float("inf")}):
        with pytest.raises(ConfigError):
            WorkerLimits(**limits)
    with pytest.raises(ConfigError, match="at least 1"):
        WorkerPool(tasks.call, workers=0)
    with pytest.raises(ConfigError, match="importable"):
        WorkerPool(lambda task: task)


def test_settings_of_their_own_accord(tasks):
    with WorkerPool(tasks.call) as pool:
        assert pool.limits == WorkerLimits(seconds=10.0, memory_bytes=2 * 1024 * MEBI)
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert pool.workers == usable


class _Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "harm", [_Calls(os.system, ("true",)), _Calls(eval, ("1",)), _Calls(getattr, ("x", "upper")), Path("x"), os.stat]
)
def test_a_reply_can_call_nothing(harm):
    """What a worker that was taken over might send: refused before anything of it runs."""
    with pytest.raises(pickle.UnpicklingError, match="which is no data"):
        read_reply(pickle.dumps([1, harm]))


@pytest.mark.parametrize("harm", [_Calls(os.system, ("true",)), _Calls(eval, ("1",)), _Calls(getattr, ("x", "upper"))])
def test_a_task_can_call_nothing_either(pool, harm):
    (refused,) = pool.map([("square", harm)])
    assert refused.error.reason == "error" and "which is no data" in refused.error.detail
    with pytest.raises(pickle.UnpicklingError, match="which is no data"):
        read_request(pickle.dumps(os.stat))


def test_functions_go_by_name_with_data_beside_them(tasks):
    with pytest.raises(ConfigError, match=r"cannot be sent to a worker: .* which is no data"):
        WorkerPool(functools.partial(tasks.noted, os.system))
    with pytest.raises(ConfigError, match="importable by name"):
        WorkerPool(tasks.call, initializer=[].clear)
    with WorkerPool(functools.partial(tasks.square, seconds=0.0), workers=1) as pool:
        assert pool.run(7) == 49
    sent = [Path("a/b"), signal.SIGTERM, WorkerLimits(1.0), {"x": np.float32(2)}]
    assert read_request(pickle.dumps(sent)) == sent


def test_a_reply_of_data_comes_back():
    error = ScoreError("a.mid", "empty", "no note in it")
    sent = {"a": [1, 2.5, None, b"x", "y", (True,)], "set": {1, 2}, "array": np.arange(6, dtype="<i4").reshape(2, 3)}
    back, failed = read_reply(pickle.dumps((sent, error)))
    assert np.array_equal(back.pop("array"), sent.pop("array")) and back == sent
    assert type(failed) is ScoreError and failed.args == error.args and failed.reason == "empty"
