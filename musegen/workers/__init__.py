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
threads, in notebooks and in scripts without a main guard. Messages are pickles over a socket pair of the pool's own,
never of a file or a network, and are read as data alone both ways (`protocol.read_request`, `protocol.read_reply`): a
function goes by its name, and a worker which a damaged file has taken over cannot make its parent call anything. The
limits contain accidents; a worker is no sandbox against code that an attacker gets to run.
"""

from musegen.workers.pool import WorkerPool
from musegen.workers.process import Outcome
from musegen.workers.protocol import WorkerLimits

__all__ = ["Outcome", "WorkerLimits", "WorkerPool"]
