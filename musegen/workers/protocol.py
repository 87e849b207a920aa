"""What a worker and its parent have to agree on: the limits, the messages, the words."""

import os
import struct
from dataclasses import dataclass

from musegen.errors import ConfigError

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
