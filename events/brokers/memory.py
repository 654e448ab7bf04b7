"""`memory:` keeps the log in this process: for tests, and for a site that is one process."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from django.db import DEFAULT_DB_ALIAS, transaction

from events.brokers import Reader
from events.log import Cursor, EventLog
from events.wire import Event


class MemoryBroker:
    """Delivers within `append`, so that whoever has published can read it."""

    database = DEFAULT_DB_ALIAS

    def __init__(self, history: int) -> None:
        self._lock = threading.Lock()
        self._log = EventLog(history, Cursor(time.time_ns() // 1_000_000, 0))
        self._reader: Reader | None = None

    def append(self, events: Sequence[Event]) -> list[str]:
        with self._lock:  # held while delivering: the order of delivery is the order of the ids
            numbered = []
            for event in events:
                major, minor = self._log.head
                numbered.append(replace(event, id=str(Cursor(major, minor + 1)), time=time.time()))
                self._log.append(numbered[-1])
            if self._reader:
                self._reader.deliver(numbered)
        return [str(event.id) for event in numbered]

    def append_on_commit(self, events: Sequence[Event]) -> None:
        transaction.on_commit(partial(self.append, events), using=self.database)

    def after(self, cursor: Cursor, limit: int) -> list[Event]:
        with self._lock:
            return self._log.since(cursor)[:limit]

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        with self._lock:
            self._reader = reader
            begin = Cursor(self._log.head.major, max(self._log.floor.minor, self._log.head.minor - backlog))
            return begin, self._log.since(begin)

    def close(self) -> None:
        with self._lock:
            self._reader = None
