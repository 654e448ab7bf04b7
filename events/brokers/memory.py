"""`memory:` keeps the log in this process: for tests, and for a site that is one process."""

import logging
import threading
import time
from collections.abc import Collection, Sequence

from django.db import DEFAULT_DB_ALIAS

from ..journal import tell
from ..log import Cursor, EventLog, Gap
from ..wire import Event
from . import Reader
from .committing import on_commit


class MemoryBroker:
    """Delivers within `append`, so that whoever has published can read it."""

    database = DEFAULT_DB_ALIAS

    def __init__(self, history: int, history_seconds: float, history_bytes: int) -> None:
        self._lock = threading.Lock()
        self._log = EventLog(history, history_bytes, Cursor(time.time_ns() // 1_000_000, 0), history_seconds)
        self._reader: Reader | None = None

    def append(self, events: Sequence[Event]) -> list[str]:
        with self._lock:  # held while delivering: the order of delivery is the order of the ids
            numbered = []
            for event in events:
                now = time.time()
                numbered.append(event.numbered(str(self._log.head.next(now)), now))
                self._log.append(numbered[-1])
            if self._reader:
                self._reader.deliver(numbered)
        return [str(event.id) for event in numbered]

    def append_on_commit(self, events: Sequence[Event]) -> None:
        def failed(error: Exception) -> None:
            tell(logging.ERROR, "Events of a committed transaction are lost", error, events=len(events))

        on_commit(lambda: self.append(events), failed, self.database)

    def after(self, cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
        with self._lock:
            if cursor > self._log.head:
                raise Gap
            return self._log.since(cursor, channels)[:limit]

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        with self._lock:
            self._reader = reader
            return self._log.newest(backlog)

    def check_following(self) -> None:
        pass  # events are delivered where they are published

    def close(self) -> None:
        with self._lock:
            self._reader = None
