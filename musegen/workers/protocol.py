"""What a worker and its parent have to agree on: the limits, the messages, the words."""

import dataclasses
import io
import os
import pickle
import struct
import sys
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


class _ReplyReader(pickle.Unpickler):
    """Rebuilds data, and calls nothing else: a worker that a damaged file has taken over must not reach its parent."""

    def find_class(self, module: str, name: str) -> Any:
        """Give out a class of data by its name; nothing is imported for a reply.

        Raises:
            pickle.UnpicklingError: For anything else.
        """
        found = getattr(sys.modules.get(module), name, None)
        root = module.partition(".")[0]
        known = {"builtins": _BUILTIN, "collections": _COLLECTIONS, "numpy": _NUMPY}.get(root, ())
        if found is not None and name in known and (root == "numpy" or module == root):
            return found
        own = isinstance(found, type) and root == "musegen"
        if own and (issubclass(found, MusegenError) or dataclasses.is_dataclass(found) or hasattr(found, "_fields")):
            return found
        raise pickle.UnpicklingError(f"a worker's reply names {module}.{name}, which is no data")


def read_reply(data: bytes | memoryview) -> Any:
    """The value or the error that a worker sent.

    Plain values, numpy arrays, and the package's own errors, dataclasses and named tuples; nothing in a reply is
    imported or called.

    Raises:
        pickle.UnpicklingError: For a reply that holds anything else.
    """
    return _ReplyReader(io.BytesIO(data)).load()
