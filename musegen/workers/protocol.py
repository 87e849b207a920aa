"""What a worker and its parent have to agree on: the limits, the messages, the words."""

import dataclasses
import enum
import functools
import importlib
import io
import os
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from musegen.errors import ConfigError, MusegenError

START_SECONDS = 120.0  # importing the function's libraries on a busy machine; no part of a task's time
STDERR_BYTES = 64 * 2**10  # a pipe's capacity: all that is ever kept of a worker's stderr
CHUNK = 64 * 2**10  # below malloc's mmap threshold, above nearly all messages
TASK = struct.Struct("<Q")  # length
REPLY = struct.Struct("<BdQ?Q")  # kind, seconds, peak bytes, worn, length
READY, VALUE, ERROR = range(3)


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


def describe(error: BaseException) -> str:
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


def beyond(limits: WorkerLimits) -> str:
    return f"more than {limits.memory_bytes / 2**20:.0f} MiB of memory"


# What numpy's arrays and scalars are rebuilt with, and plain containers that have no opcode of their own.
_NUMPY = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"}
_BUILTIN = {"int", "set", "frozenset", "bytearray", "complex", "range", "slice"}
_COLLECTIONS = {"Counter", "OrderedDict", "deque"}


_PATHLIB = {"Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"}


class _DataReader(pickle.Unpickler):
    """Rebuilds data, and calls nothing else.

    Args:
        data: A pickle.
        imports: Import the modules of the classes that are data where they are not there yet; paths, and members of
            enumerations that are there, are data too.
    """

    def __init__(self, data: bytes | memoryview, imports: bool):
        super().__init__(io.BytesIO(data))
        self.imports = imports

    def find_class(self, module: str, name: str) -> Any:
        """Give out a class of data by its name.

        Raises:
            pickle.UnpicklingError: For anything else.
        """
        root = module.partition(".")[0]
        known = {"builtins": _BUILTIN, "collections": _COLLECTIONS, "numpy": _NUMPY}.get(root, set())
        if self.imports and root == "pathlib":
            known = _PATHLIB
        if self.imports and module not in sys.modules and (name in known or root == "musegen"):
            importlib.import_module(module)
        found = getattr(sys.modules.get(module), name, None)
        if found is not None and name in known and (root in ("numpy", "pathlib") or module == root):
            return found
        own = isinstance(found, type) and root == "musegen"
        if own and (issubclass(found, MusegenError) or dataclasses.is_dataclass(found) or hasattr(found, "_fields")):
            return found
        if self.imports and isinstance(found, type) and issubclass(found, enum.Enum):
            return found
        if self.imports and isinstance(found, enum.Enum):  # Python 3.10 pickles members of some by their own names
            return found
        raise pickle.UnpicklingError(f"a worker's message names {module}.{name}, which is no data")


def read_reply(data: bytes | memoryview) -> Any:
    """The value or the error that a worker sent: one that a damaged file has taken over must not reach its parent.

    Plain values, numpy arrays, and the package's own errors, dataclasses and named tuples; nothing in a reply is
    imported or called.

    Raises:
        pickle.UnpicklingError: For a reply that holds anything else.
    """
    return _DataReader(data, imports=False).load()


def read_request(data: bytes | memoryview) -> Any:
    """What a parent sent to its worker: what may be in a reply, paths and members of enumerations.

    Raises:
        pickle.UnpicklingError: For a request that holds anything else.
    """
    return _DataReader(data, imports=True).load()


@dataclass(frozen=True)
class Call:
    """A function by its name, with the first of its arguments.

    Args:
        module: That can be imported.
        name: Of the function in it.
        arguments: Data, as in a task.
        keywords: The same, by name.
    """

    module: str
    name: str
    arguments: tuple = ()
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable) -> "Call":
        """The call of a function at the top of a module, or of a `functools.partial` of one.

        Raises:
            ConfigError: If it cannot be found by its name.
        """
        inner, arguments, keywords = function, (), {}
        if isinstance(function, functools.partial):
            inner, arguments, keywords = function.func, function.args, function.keywords
        call = cls(getattr(inner, "__module__", None) or "", getattr(inner, "__qualname__", ""), arguments, keywords)
        if getattr(sys.modules.get(call.module), call.name, None) is not inner:
            raise ConfigError(f"a worker's function must be importable by name, which {inner!r} is not")
        return call

    def function(self) -> Callable:
        """The function, imported."""
        found = getattr(importlib.import_module(self.module), self.name)
        return functools.partial(found, *self.arguments, **self.keywords)
