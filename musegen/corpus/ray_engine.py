"""Files read on a Ray cluster, of one machine or of many, by the same stage function as on this one.

Each round of files is one Ray Data job: batches of files go to actors, batches of outcomes come back, both as Arrow
tables, and the build that drives it records them as they come. An actor reads its files in an isolated worker process
of its own (`musegen.workers`), so that a crash, a hang or a memory bomb costs that file alone, as it does without Ray.
A batch whose actor was killed is read again by another.

The cluster is the one that this process is connected to, else the one that `RAY_ADDRESS` names, else one made on this
machine for the length of the call: as many processes as cores, loopback only, no dashboard, no usage reports. On
more than one machine all files have to lie on storage that every machine sees under one path, and every machine needs
the same versions of the package and its libraries, which is checked.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from musegen.corpus.limits import BuildLimits
from musegen.corpus.reading import Reading, ReadOptions, failed_reading, prepare, read_file
from musegen.errors import ConfigError, CorpusError
from musegen.sources import SourceFile

BATCH_FILES = 32  # half a second of work: far above what Ray spends on a task, little to lose with an actor
BATCH_BYTES = 8 * 1024**2
# One job's files a worker: minutes of work, so that starting the actors, some seconds, hardly counts. They wait in
# memory, a kilobyte each, and files out of archives with all their bytes.
ROUND_FILES = 10_000
ROUND_BYTES = 256 * 1024**2
OBJECT_STORE_BYTES = 512 * 1024**2  # of a cluster on this machine; holds one round and the outcomes on their way
LIBRARIES = ("musegen", "symusic", "verovio", "miditok", "numpy")  # what an outcome depends on


def read_on_ray(
    files: Iterable[SourceFile], options: ReadOptions, limits: BuildLimits, workers: int | None
) -> Iterator[Reading]:
    """Read files on a Ray cluster.

    Args:
        files: Pulled round by round.
        options: See `ReadOptions`.
        limits: Of which those of the workers count here.
        workers: Actors, each with one worker process; by default one for each CPU of the cluster.

    Raises:
        ConfigError: If Ray is not installed, the cluster cannot be reached, or a machine of it has other versions.
        CorpusError: If a machine of the cluster does not see a file that this one sees.
    """
    with _cluster(workers) as ray:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        reader = {"options": options, "limits": limits, "versions": versions()}
        batches = _batches(files)
        while waiting := _round(batches, ROUND_FILES * count):
            yield from _read_round(waiting, reader, count)


def versions() -> dict[str, str]:
    """Of all that an outcome depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@contextlib.contextmanager
def _cluster(workers: int | None):
    """Ray, connected; what was started here is shut down in the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else each actor says on stderr that it could not restart without its arguments, which this process keeps.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"engine ray: Ray Data is not installed ({error}); pip install 'musegen[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {"address": "local", "num_cpus": workers or cores, "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(**options)
    except Exception as error:
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        raise ConfigError(f"engine ray: no cluster at {where} ({' '.join(str(error).split())[:200]})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _batches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += len(file.data or b"")
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _round(batches: Iterator[list[SourceFile]], most: int) -> list[list[SourceFile]]:
    taken: list[list[SourceFile]] = []
    count = size = 0
    while count < most and size < ROUND_BYTES and (batch := next(batches, None)) is not None:
        taken.append(batch)
        count += len(batch)
        size += sum(len(file.data or b"") for file in batch)
    return taken


_FILE = pa.schema(
    [("path", pa.large_binary()), ("data", pa.large_binary())]
    + [(f, pa.string()) for f in ("source", "work", "composer", "title", "license", "provenance", "stamp")]
)
_READING = pa.schema(
    [(f, pa.string()) for f in ("source", "stamp", "reason", "detail", "row", "repairs")]
    + [(f, pa.large_binary()) for f in ("midi", "fingerprint", "input_ids")]
)


def _file_table(files: list[SourceFile]) -> pa.Table:
    rows = [{name: getattr(file, name) for name in _FILE.names} | {"path": os.fsencode(file.path)} for file in files]
    return pa.Table.from_pylist(rows, schema=_FILE)


def _files(table: pa.Table) -> list[SourceFile]:
    return [SourceFile(**{**row, "path": os.fsdecode(row["path"])}) for row in table.to_pylist()]


def _reading_table(readings: list[Reading]) -> pa.Table:
    rows = []
    for reading in readings:
        row = {name: getattr(reading, name) for name in _READING.names}
        rows.append(row | {"row": json.dumps(reading.row), "repairs": json.dumps(reading.repairs)})
    return pa.Table.from_pylist(rows, schema=_READING)


def _readings(table: pa.Table) -> Iterator[Reading]:
    for row in table.to_pylist():
        yield Reading(**row | {"row": json.loads(row["row"]), "repairs": json.loads(row["repairs"])})


def _read_round(batches: list[list[SourceFile]], reader: dict[str, Any], workers: int) -> Iterator[Reading]:
    """One Ray Data job. Every file's outcome is given once, whatever the cluster repeats or loses."""
    import ray.data

    waiting = {file.source: file for batch in batches for file in batch}
    while waiting:
        before = len(waiting)
        left = [[file for file in batch if file.source in waiting] for batch in batches]
        blocks = [_file_table(files) for files in left if files]
        _quiet(ray.data.DataContext.get_current())
        actors = ray.data.ActorPoolStrategy(size=min(workers, len(blocks)))
        made = ray.data.from_arrow(blocks).map_batches(
            _Reader, fn_constructor_kwargs=reader, batch_size=None, batch_format="pyarrow", compute=actors, num_cpus=1
        )
        for table in _results(made):
            for reading in _readings(table):
                file = waiting.pop(reading.source, None)
                if file is not None:
                    _check_seen(file, reading)
                    yield reading
        if len(waiting) == before:
            raise CorpusError(f"engine ray: the cluster gave no outcome for {before:,} files")


def _results(dataset) -> Iterator[pa.Table]:
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        told = str(cause) if cause is not None else f"the job failed ({' '.join(str(error).split())[-300:]})"
        raise ConfigError(told if told.startswith("engine ray") else f"engine ray: {told}") from None


def _check_seen(file: SourceFile, reading: Reading) -> None:
    if reading.reason == "missing" and Path(file.path).is_file():
        raise CorpusError(
            f"{file.path}: a machine of the cluster does not see it; put the sources on storage that all machines "
            "see under one path"
        )


def _quiet(context) -> None:
    context.enable_progress_bars = False  # the build has a bar of its own
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Reader:
    """An actor of the job: it reads its files in one isolated worker process."""

    def __init__(self, options: ReadOptions, limits: BuildLimits, versions: dict[str, str]):
        from musegen.workers import WorkerPool

        own = {name: importlib.metadata.version(name) for name in versions}
        if own != versions:
            told = ", ".join(f"{n} {own[n]} instead of {versions[n]}" for n in versions if own[n] != versions[n])
            raise ConfigError(f"engine ray: a machine of the cluster has {told}")
        function = functools.partial(read_file, options=options)
        start = functools.partial(prepare, options)
        self.pool = WorkerPool(function, workers=1, limits=limits.worker, initializer=start)

    def __call__(self, table: pa.Table) -> pa.Table:
        outcomes = self.pool.map(_files(table))
        return _reading_table([o.value if o.error is None else failed_reading(o.task, o.error) for o in outcomes])
