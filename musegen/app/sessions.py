"""Who is composing, and how it is stopped: by the person, by the clock, or because the page was closed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from musegen.errors import RequestError


class Sessions:
    """At most one piece a person; each has a flag that ends its writing at the next id."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def composing(self, session: str, seconds: float) -> Iterator[Running]:
        """Give the block its flag, which the clock sets in time.

        Raises:
            RequestError: If this person's last piece is still being written.
        """
        running = Running(threading.Event())
        with self._lock:
            if session in self._running:
                raise RequestError("your last piece is still being written: wait for it, or press Stop")
            self._running[session] = running.stop
        timer = threading.Timer(seconds, running.out_of_time)
        timer.daemon = True
        timer.start()
        try:
            yield running
        finally:
            timer.cancel()
            running.stop.set()
            with self._lock:
                del self._running[session]

    def stop(self, session: str) -> bool:
        """End a person's writing; returns whether there was any."""
        with self._lock:
            flag = self._running.get(session)
        if flag is not None:
            flag.set()
        return flag is not None

    @property
    def count(self) -> int:
        """How many are composing."""
        return len(self._running)


class Running:
    """A piece that is being written.

    Attributes:
        stop: Ends it.
        late: Whether the clock did.
    """

    def __init__(self, stop: threading.Event):
        self.stop, self.late = stop, False

    def out_of_time(self) -> None:
        """Called by the clock."""
        self.late = True
        self.stop.set()
