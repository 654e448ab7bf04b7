"""`memory:` keeps the log in this process: for tests, and for a site that is one process."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from events.brokers import Deliver
from events.log import Cursor, EventLog
from events.wire import Event


class MemoryBroker:
    """Delivers within `append`, so that whoever has published can read it."""

    def __init__(self, history: int) -> None:
        self._lock = threading.Lock()
        self._log = EventLog(history, Cursor(time.time_ns() // 1_000_000, 0))
        self._deliver: Deliver | None = None

    def append(self, events: Sequence[Event]) -> list[str]:
        with self._lock:  # held while delivering: the order of delivery is the order of the ids
            numbered = []
            for event in events:
                major, minor = self._log.head
                numbered.append(replace(event, id=str(Cursor(major, minor + 1))))
                self._log.append(numbered[-1])
            if self._deliver:
                self._deliver(numbered)
        return [str(event.id) for event in numbered]

    def after(self, cursor: Cursor, limit: int) -> list[Event]:
        with self._lock:
            return self._log.since(cursor)[:limit]

    def follow(self, deliver: Deliver) -> Cursor:
        with self._lock:
            self._deliver = deliver
            return self._log.head

    def close(self) -> None:
        with self._lock:
            self._deliver = None
