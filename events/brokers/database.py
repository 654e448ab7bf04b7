"""`db:` keeps the log in the project's own database: an event commits with the data that it speaks of, or not at all.

An id tells when an event became visible, not when it was inserted. Two transactions may commit in the other order
than they inserted, and a reader that has seen the later id would never look for the earlier one. So what is
published inside a transaction is inserted without a place in the log (`seq`), and is given one after the commit, in
a short transaction of its own. All numbering locks the one row of LogState, whose `head` is therefore always the
newest visible event. The caller's transaction holds no lock, however long it takes. If the publisher dies between
its commit and the numbering, any process that follows the log does it instead.
"""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from events.brokers import Reader, Unavailable
from events.brokers.filewatch import FileWatch
from events.brokers.follower import Follower
from events.log import Cursor, Gap
from events.models import LogState, StoredEvent
from events.wire import Event

_BATCH = 500  # rows in one statement: a few milliseconds of somebody else's waiting
_SWEEP = 1.0  # seconds between two looks for what a publisher that died has left without a place
_SQLITE_INTERVAL = 0.05  # seconds; asking SQLite whether anybody has committed takes a fifth of a millisecond of CPU
_SQLITE_SOON = 0.002  # seconds from hearing of a write to asking, then five times as long, and so on
_POLL_INTERVAL = 0.1  # seconds; where a database can neither notify nor be asked cheaply
_TRIM_INTERVAL = 10.0  # seconds between two looks for what has become too old
# Written out, as every event takes them: composing these with the ORM costs three times what running them does.
_LOG, _EVENTS = LogState._meta.db_table, StoredEvent._meta.db_table
_ADVANCE = f"UPDATE {_LOG} SET head = head + %s WHERE id = 1"  # noqa: S608  the names are ours
_STATE = f"SELECT id, generation, head, floor FROM {_LOG} WHERE id = 1"  # noqa: S608
_LEFT = f"SELECT MIN(id) FROM {_EVENTS} WHERE seq IS NULL"  # noqa: S608
_INSERT = f"INSERT INTO {_EVENTS} (seq, channel, type, data, created) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608
_NOTIFICATION = "events"  # the name that PostgreSQL's LISTEN and NOTIFY share


class DatabaseBroker:
    """The log in one database of the project, which any number of processes may publish to and follow."""

    def __init__(self, alias: str, history: int, history_seconds: float) -> None:
        self.database = alias
        self._history = history
        self._history_seconds = history_seconds
        self._slack = max(1, min(_BATCH, history // 20))  # trimming is worth a statement
        self._untrimmed = 0
        self._trim_at = 0.0
        self._trimming = threading.Lock()
        self._follower: Follower | None = None

    def append(self, events: Sequence[Event]) -> list[str]:
        with self._reporting(), transaction.atomic(using=self.database, durable=True):
            state = self._advance(len(events))
            first = state.head - len(events) + 1
            self._insert(events, first)
            self._notify()
        self._published(len(events))
        return [str(Cursor(state.generation, first + n)) for n in range(len(events))]

    def append_on_commit(self, events: Sequence[Event]) -> None:
        with self._reporting():
            self._insert(events, None)
        # Robust: what fails here is done by a follower, and the caller's transaction has succeeded.
        transaction.on_commit(partial(self._after_commit, len(events)), using=self.database, robust=True)

    def after(self, cursor: Cursor, limit: int) -> list[Event]:
        with self._reporting():
            try:
                return self.read(cursor, LogState.objects.using(self.database).filter(pk=1).first(), limit)
            finally:
                # As at the end of a request; a stream that begins with this read may hold its thread for hours.
                self._let_go()

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        follower = _Follower(self, reader, backlog)
        follower.begin()
        self._follower = follower
        return follower.start, follower.backlog

    def close(self) -> None:
        if self._follower:
            self._follower.close()

    def _insert(self, events: Sequence[Event], first: int | None) -> None:
        connection = connections[self.database]
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        with connection.cursor() as cursor:
            cursor.executemany(
                _INSERT,
                [
                    (None if first is None else first + n, event.channel, event.type, event.data, now)
                    for n, event in enumerate(events)
                ],
            )

    def _after_commit(self, count: int) -> None:
        self.number()
        self._published(count)

    def number(self) -> None:
        """Give the events that have no place yet theirs, in the order in which they were inserted."""
        with self._reporting():
            unnumbered = self._events.filter(seq=None).order_by("pk").only("pk", "seq")
            while self._has_left():
                with transaction.atomic(using=self.database, durable=True):
                    self._advance(0)  # the lock first: others may be numbering the same events
                    events = list(unnumbered[:_BATCH])
                    head = self._advance(len(events)).head
                    for seq, event in enumerate(events, head - len(events) + 1):
                        event.seq = seq
                        event.created = timezone.now()  # nobody could see it before
                    self._events.bulk_update(events, ["seq", "created"])
                    self._notify()

    def _has_left(self) -> bool:
        with connections[self.database].cursor() as cursor:
            cursor.execute(_LEFT)
            return cursor.fetchone()[0] is not None

    def _advance(self, count: int) -> LogState:
        """Lock the log until the transaction ends, and move its head.

        An UPDATE is the first statement, rather than SELECT FOR UPDATE, which SQLite does not have: there a
        transaction that has read before it writes fails at once when another one was faster, instead of waiting.
        """
        with connections[self.database].cursor() as cursor:
            cursor.execute(_ADVANCE, [count])
            if not cursor.rowcount:
                self.state()
                cursor.execute(_ADVANCE, [count])
        return self.state()

    def state(self) -> LogState:
        """Where the log is now; it may have to begin just now."""
        with connections[self.database].cursor() as cursor:
            cursor.execute(_STATE)
            if row := cursor.fetchone():
                return LogState(*row)
        generation = time.time_ns() // 1_000_000
        state, _ = LogState.objects.using(self.database).get_or_create(pk=1, defaults={"generation": generation})
        return state

    def read(self, cursor: Cursor, state: LogState | None, limit: int) -> list[Event]:
        """Up to `limit` events after the cursor and up to this state. Raises Gap."""
        if not state or cursor.major != state.generation or not state.floor <= cursor.minor <= state.head:
            raise Gap
        count = min(limit, state.head - cursor.minor)
        rows = self._events.filter(seq__gt=cursor.minor).order_by("seq")
        events = [
            Event(
                str(Cursor(cursor.major, cast(int, row.seq))), row.channel, row.type, row.data, row.created.timestamp()
            )
            for row in rows.values_list("seq", "channel", "type", "data", "created", named=True)[:count]
        ]
        if len(events) < count or (events and events[-1].id != str(Cursor(cursor.major, cursor.minor + count))):
            raise Gap  # some were trimmed since the state was read
        return events

    @property
    def _events(self) -> Any:
        return StoredEvent.objects.using(self.database)

    def _notify(self) -> None:
        connection = connections[self.database]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [_NOTIFICATION])

    def _published(self, count: int) -> None:
        if self._follower:
            self._follower.poke()
        self._untrimmed += count
        if (self._untrimmed < self._slack and time.monotonic() < self._trim_at) or not self._trimming.acquire(False):
            return
        try:
            self._untrimmed, self._trim_at = 0, time.monotonic() + _TRIM_INTERVAL
            with suppress(Unavailable):  # the events are published; the next ones will see to the rest
                while self._trim():
                    pass
        finally:
            self._trimming.release()

    def _trim(self) -> bool:
        """Forget up to a batch of the oldest events. True when there are more to forget."""
        with self._reporting():
            state = self.state()
            keep_from = state.head - self._history
            oldest = self._events.filter(seq__gt=state.floor).order_by("seq").values_list("seq", "created")[:_BATCH]
            too_old = timezone.now() - timedelta(seconds=self._history_seconds)
            floor = state.floor
            for seq, created in oldest:
                if seq > keep_from and created >= too_old:
                    break
                floor = seq
            if floor == state.floor:
                return False
            with transaction.atomic(using=self.database, durable=True):
                self._advance(0)
                # Not lower than what another process has trimmed meanwhile, nor in the log of another generation.
                log = LogState.objects.using(self.database).filter(generation=state.generation, floor__lt=floor)
                if log.update(floor=floor):
                    self._events.filter(seq__lte=floor).delete()
            return floor - state.floor == _BATCH

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """What the database says when it cannot be reached, or has no tables, as Unavailable."""
        try:
            yield
        except (OperationalError, InterfaceError, ProgrammingError) as error:
            self._let_go()  # outside requests nobody else does it
            raise Unavailable(
                f"The database {self.database!r} cannot be used for events: {str(error).strip()}. "
                "It must be running, and migrated (manage.py migrate)."
            ) from error

    def _let_go(self) -> None:
        """Close this thread's connection if it is broken, or was not to be kept; never within a transaction."""
        connection = connections[self.database]
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()

    @contextmanager
    def connected(self) -> Iterator[BaseDatabaseWrapper]:
        """This thread's connection, open, and closed afterwards."""
        connection = connections[self.database]
        with self._reporting():
            try:
                connection.ensure_connection()
                yield connection
            finally:
                connection.close()


class _Follower(Follower):
    def __init__(self, broker: DatabaseBroker, reader: Reader, wanted: int) -> None:
        super().__init__(reader, wanted)
        self._broker = broker

    def follow(self) -> None:
        with self._broker.connected() as connection, closing(_changes(connection, self)) as changes:
            sweep_at = 0.0
            for _ in changes:
                if self.closing:
                    return
                self._catch_up()
                self.began()
                if time.monotonic() >= sweep_at:
                    self._broker.number()
                    sweep_at = time.monotonic() + _SWEEP

    def _catch_up(self) -> None:
        state = self._broker.state()
        if not self.place:
            self._begin(state)
            return
        try:
            while self.place != (state.generation, state.head):
                events = self._broker.read(self.place, state, _BATCH)
                self.reader.deliver(events)
                self.place = Cursor(self.place.major, self.place.minor + len(events))
        except Gap:
            state = self._broker.state()
            self.place = Cursor(state.generation, state.head)
            self.reader.restart(self.place)

    def _begin(self, state: LogState) -> None:
        self.start = self.place = Cursor(state.generation, state.head)
        with suppress(Gap):  # being trimmed just now: then without a backlog
            start = Cursor(state.generation, max(state.floor, state.head - self.wanted))
            self.backlog = self._broker.read(start, state, self.wanted)
            self.start = start


def _changes(connection: BaseDatabaseWrapper, follower: Follower) -> Generator[None, None, None]:
    """Yields at once, then whenever something may have been committed, and at least every second."""
    if connection.vendor == "sqlite":
        return _sqlite_changes(connection, follower)
    if connection.vendor == "postgresql" and hasattr(connection.connection, "add_notify_handler"):
        return _postgresql_changes(connection, follower)
    return _unknown_changes(follower)


def _sqlite_changes(connection: BaseDatabaseWrapper, follower: Follower) -> Generator[None, None, None]:
    """Asks when the files are written to; without inotify, or where it does not see other machines, all the time."""
    # On the driver's own connection: so often is nothing to log or to keep for DEBUG.
    # https://www.sqlite.org/pragma.html#pragma_data_version
    execute = connection.connection.execute
    known, sweep_at = None, 0.0
    heard, due, pause = 0.0, 0.0, _SWEEP
    with ExitStack() as stack:
        watch = _watch_sqlite(Path(execute("PRAGMA database_list").fetchone()[2]))
        if watch:
            stack.callback(watch.close)
        while True:
            with connection.wrap_database_errors:
                version = execute("PRAGMA data_version").fetchone()
            now = time.monotonic()
            is_written, is_new = bool(watch and watch.was_written()), version != known
            if is_written:
                heard, pause = now, _SQLITE_SOON
            elif known and is_new and now > heard + _SWEEP:
                stack.close()
                watch = None  # it did not tell
            if is_new or follower.closing or now >= sweep_at:
                known, sweep_at = version, now + _SWEEP
                yield
            # Woken in vain: another file was written to, as logs are all the time, and is not listened to for now.
            if not watch or (now < due and not is_written and not is_new):
                due = 0.0
                follower.wait(_SQLITE_INTERVAL)
                continue
            # What was written can be seen a little later, once the disk has it; and when it is seen, the next one may
            # be on its way, and announced. So asking goes on, ever more slowly; at first without listening, as there
            # may be no end of writing.
            listens = pause > _SQLITE_SOON
            due = now + pause if listens else 0.0
            follower.wait(pause, watch.fileno() if listens else None)
            pause = min(pause * 5, _SWEEP)


def _watch_sqlite(path: Path) -> FileWatch | None:
    with suppress(OSError):
        if path.name:  # else it is in memory
            return FileWatch(path.parent, {path.name, f"{path.name}-wal", f"{path.name}-journal"})
    return None


def _postgresql_changes(connection: BaseDatabaseWrapper, follower: Follower) -> Generator[None, None, None]:
    driver = connection.connection

    def poke(_: Any) -> None:
        follower.poke()

    # A notification that comes in with the answer to a query is taken by the driver and handed to this.
    driver.add_notify_handler(poke)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {_NOTIFICATION}")
        while True:
            yield
            follower.wait(_SWEEP, driver.pgconn.socket)
            with connection.wrap_database_errors:
                driver.pgconn.consume_input()
                while driver.pgconn.notifies():
                    pass
    finally:  # the connection may go back into a pool
        driver.remove_notify_handler(poke)
        with suppress(DatabaseError, InterfaceError), connection.cursor() as cursor:
            cursor.execute(f"UNLISTEN {_NOTIFICATION}")


def _unknown_changes(follower: Follower) -> Generator[None, None, None]:
    while True:
        yield
        follower.wait(_POLL_INTERVAL)
