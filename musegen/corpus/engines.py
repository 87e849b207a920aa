"""Where files are read: an engine takes a stream of files and gives their outcomes, each once, in any order.

An engine must survive whatever a file does, and tell it in the file's outcome. `local` is the worker processes of
this machine, `ray` a Ray cluster.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator

from musegen.corpus.limits import BuildLimits
from musegen.corpus.reading import Reading, ReadOptions, failed_reading, prepare, read_file
from musegen.errors import ConfigError
from musegen.sources import SourceFile

Engine = Callable[[Iterable[SourceFile], ReadOptions, BuildLimits, int | None], Iterator[Reading]]


def read_locally(
    files: Iterable[SourceFile], options: ReadOptions, limits: BuildLimits, workers: int | None
) -> Iterator[Reading]:
    """Read files in isolated worker processes of this machine.

    Args:
        files: Pulled one by one, as workers need them.
        options: See `ReadOptions`.
        limits: Of which those of the workers count here.
        workers: By default one a core.
    """
    from musegen.workers import WorkerPool

    function = functools.partial(read_file, options=options)
    start = functools.partial(prepare, options)
    with WorkerPool(function, workers=workers, limits=limits.worker, initializer=start) as pool:
        for outcome in pool.map_unordered(files):
            yield outcome.value if outcome.error is None else failed_reading(outcome.task, outcome.error)


def _read_on_ray(
    files: Iterable[SourceFile], options: ReadOptions, limits: BuildLimits, workers: int | None
) -> Iterator[Reading]:
    from musegen.corpus.ray_engine import read_on_ray

    return read_on_ray(files, options, limits, workers)


ENGINES: dict[str, Engine] = {"local": read_locally, "ray": _read_on_ray}


def engine_of(name: str) -> Engine:
    """An engine by its name.

    Raises:
        ConfigError: If there is none of that name, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r}: there is none of that name; there are {', '.join(ENGINES)}")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("engine ray: Ray is not installed; pip install 'musegen[ray]'")
    return ENGINES[name]
