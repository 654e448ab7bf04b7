"""`db:` keeps the log in the project's own database: an event commits with the data that it speaks of, or not at all.

An id tells when an event became visible, not when it was inserted. Two transactions may commit in the other order
than they inserted, and a reader that has seen the later id would never look for the earlier one. So an event that is
published inside a transaction is inserted without a position, and is numbered after the commit, in a short
transaction of its own. All numbering locks the one row of LogState, whose `head` is therefore never before the newest
visible event. The caller's transaction holds no lock, however long it takes. If the publisher dies between its commit
and the numbering, the next publisher or any process that follows the log numbers the event instead.

A position is one integer, `milliseconds << 20 | number`, and the id is its two halves. Positions follow the clock, and
increase when the clock does not. So a store that was set back never gives a position twice, once a process that has
seen the later ones has noticed: see `_renew`.
"""

import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from django.db import DatabaseError, Error, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from ..journal import Trouble, tell
from ..log import Cursor, Gap
from ..models import ChannelFloor, LogState, StoredEvent
from ..wire import Event
from . import Reader, Unavailable
from .committing import on_commit
from .filewatch import FileWatch
from .follower import Follower
from .forkguard import guard

_T = TypeVar("_T")
_Row = tuple[Any, ...]  # position, channel, type, data, created

_BITS = 20  # of a position, for the number within the millisecond: a million events
_LAST = 2**63 - 1  # the greatest position that a column can hold
_BATCH = 500  # rows in one statement: a few milliseconds of somebody else's waiting
_CHANNELS = 100  # in one statement; SQLite takes 500 parts of a UNION
_SWEEP = 1.0  # seconds between two looks for events that a publisher left without a position when it died
_SWEEPS_FAILED = 10  # in a row before it is told: somebody may hold SQLite's write lock for a few seconds
_SWEEP_PATIENCE = 200  # milliseconds that a sweep waits for SQLite's write lock; nothing is delivered meanwhile
_ANSWER = 10.0  # seconds without an answer until the server is taken for unreachable
_SQLITE_INTERVAL = 0.05  # seconds; without inotify
_SQLITE_SOON = 0.002  # seconds from hearing of a write to asking, then five times as long, and so on
_LATE = 3  # times that a sweep finds events that no notification announced, until it is told
_POLL_INTERVAL = 0.1  # seconds; where a database can neither notify nor be asked cheaply
_TRIM_INTERVAL = 10.0  # seconds between two looks for events that have become too old
_TRIM_BATCHES = 10  # in one look: a few hundred milliseconds, then others go first
_ATTEMPTS = 10  # of a transaction that was in conflict with another one
_CONFLICTS = {"40001", "40P01", 1213}  # serialization failure, deadlock; a deadlock of MySQL
_NOTIFICATION = "events"  # the name that PostgreSQL's LISTEN and NOTIFY share

# Written out, as every event takes them: composing these with the ORM costs three times what running them does.
_LOG, _EVENTS, _FLOORS = (model._meta.db_table for model in (LogState, StoredEvent, ChannelFloor))
_COLUMNS = "position, channel, type, data, created"
_INSERT = f"INSERT INTO {_EVENTS} ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608  the names are ours
# An UPDATE comes first, rather than SELECT FOR UPDATE, which SQLite does not have: there a transaction that has read
# before it writes fails at once when another one was faster, instead of waiting.
_ADVANCE = f"UPDATE {_LOG} SET head = (CASE WHEN head < %s THEN %s ELSE head END) + %s WHERE id = 1 AND head >= %s"  # noqa: S608
_MOVE = f"UPDATE {_LOG} SET head = %s WHERE id = 1"  # noqa: S608
_LOCK = f"UPDATE {_LOG} SET head = head WHERE id = 1"  # noqa: S608
_HAS_LEFT = f"EXISTS (SELECT 1 FROM {_EVENTS} WHERE position IS NULL)"  # noqa: S608
_HEAD = f"SELECT head, {_HAS_LEFT} FROM {_LOG} WHERE id = 1"  # noqa: S608
_HEAD_AND_NOTIFY = f"SELECT head, {_HAS_LEFT}, pg_notify('{_NOTIFICATION}', '') FROM {_LOG} WHERE id = 1"  # noqa: S608
_LEFT = f"SELECT id FROM {_EVENTS} WHERE position IS NULL ORDER BY id LIMIT {_BATCH}"  # noqa: S608
_NUMBER = f"UPDATE {_EVENTS} SET position = %s, created = %s WHERE id = %s"  # noqa: S608
_STATE = f"SELECT head, floor, mark FROM {_LOG} WHERE id = 1"  # noqa: S608
_RENEW = f"UPDATE {_LOG} SET head = %s, floor = %s, mark = %s WHERE id = 1"  # noqa: S608
# Where the log is, and its events from one position on, in one statement and so of one moment.
_READ = (
    f"SELECT head, floor, trimmed, {_COLUMNS} FROM {_LOG} LEFT JOIN "  # noqa: S608
    f"(SELECT {_COLUMNS} FROM {_EVENTS} WHERE position >= %s ORDER BY position LIMIT {_BATCH + 1}) e ON 1 = 1 "
    f"WHERE {_LOG}.id = 1 ORDER BY position"
)
_READ_NEWEST = (
    f"SELECT head, floor, trimmed, {_COLUMNS} FROM {_LOG} LEFT JOIN "  # noqa: S608
    f"(SELECT {_COLUMNS} FROM {_EVENTS} WHERE position IS NOT NULL ORDER BY position DESC LIMIT %s) e ON 1 = 1 "
    f"WHERE {_LOG}.id = 1 ORDER BY position"
)
_READ_FLOORS = f"SELECT channel, floor FROM {_FLOORS} WHERE floor > %s"  # noqa: S608
# One by one from the index, as a planner may else walk through the events of all channels.
_OF_CHANNEL = (
    f"SELECT * FROM (SELECT {_COLUMNS} FROM {_EVENTS} WHERE channel = %s AND position > %s "  # noqa: S608
    "ORDER BY position LIMIT %s) c{}"
)
# What tells one PostgreSQL from another: the cluster, its timeline, which a promotion changes, and the table.
_POSTGRESQL_MARKS = (
    "SELECT system_identifier FROM pg_control_system()",
    "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)",
    f"SELECT '{_LOG}'::regclass::oid",
)

_bad_rows = Trouble("A stored event cannot be delivered and is skipped", "events")
_failed_trims = Trouble("Old events cannot be removed for now", "attempts")
_failed_sweeps = Trouble("Events of publishers that died cannot be numbered for now", "attempts")
_failed_hooks = Trouble("Events cannot be numbered after a commit; a process that follows will do it", "attempts")


class DatabaseBroker:
    """The log in one database of the project, which any number of processes may publish to and follow."""

    def __init__(self, alias: str, history: int, history_seconds: float) -> None:
        self.database = alias
        self._history = history
        self._history_seconds = history_seconds
        self._slack = max(1, min(_BATCH, history // 20))  # events more than asked, so that trimming is worth it
        self._trim_at = 0.0
        self._trimming = threading.Lock()
        self._seen = 0  # the latest position that this process knows of
        self._told: set[int] = set()  # positions of rows that cannot be delivered
        self._isolated: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # by the driver's connection
        self._follower: _Follower | None = None

    def append(self, events: Sequence[Event]) -> list[str]:
        """As the protocol has it; without ids where autocommit is off: the events belong to the open transaction."""
        if not events:
            return []
        with self._reporting():
            if self._is_manual():
                self._insert_unnumbered(events)
                return []
            first = self._transaction(lambda: self._append(events))
        last = first + len(events) - 1
        self.saw(last)
        self._published(events)
        return [str(_cursor(position)) for position in range(first, last + 1)]

    def append_on_commit(self, events: Sequence[Event]) -> None:
        with self._reporting():
            self._insert_unnumbered(events)
            if self._is_manual():
                return  # Django runs no hooks then

        def number() -> None:
            self.number()
            self._published(events)

        def failed(error: Exception) -> None:
            _failed_hooks.hit(error=type(error).__name__, reason=error)

        on_commit(number, failed, self.database)

    def after(self, cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
        position = (cursor.major << _BITS) + cursor.minor
        if position > _LAST:
            raise Gap
        channels = sorted(set(channels))
        with self._reporting():
            try:
                events = self._read(position, channels, limit)
                # After the events: what is trimmed in between is a gap.
                if not self._is_kept(position, channels):
                    raise Gap
                return events
            finally:
                # As at the end of a request; a stream that begins with this read may hold its thread for hours.
                self._let_go()

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        follower = _Follower(self, reader, backlog)
        follower.begin()
        self._follower = follower
        return follower.start, follower.backlog

    def check_following(self) -> None:
        if self._follower:
            self._follower.check()

    def close(self) -> None:
        if self._follower:
            self._follower.close()

    # Publishing

    def _append(self, events: Sequence[Event]) -> int:
        first = self._take_positions(len(events))
        self._insert(events, first)
        return first

    def _take_positions(self, count: int, limit: int | None = None) -> int:
        """Lock the log until the transaction ends and move its head by `count` events; returns the first's position.

        Events that committed transactions have left without a position are numbered before these: whatever caused
        what is published now may be among them.
        """
        now = _now()
        with connections[self.database].cursor() as cursor:
            for _ in range(3):
                cursor.execute(_ADVANCE, [now << _BITS, now << _BITS, count, self._seen])
                if cursor.rowcount:
                    break
                self._renew(cursor, self._seen)
            is_postgresql = connections[self.database].vendor == "postgresql"
            cursor.execute(_HEAD_AND_NOTIFY if is_postgresql else _HEAD)
            head, has_left = cursor.fetchone()[:2]
            first = int(head) - count + 1
            if has_left:
                first = self._number_left(cursor, first, now, limit)
                cursor.execute(_MOVE, [first + count - 1])
        return first

    def _number_left(self, cursor: CursorWrapper, first: int, now: int, limit: int | None) -> int:
        """Number them in the order in which they were inserted; returns the position after the last of them."""
        begin = first
        while True:
            cursor.execute(_LEFT)
            left = [row[0] for row in cursor.fetchall()]
            _execute(cursor, _NUMBER, [(first + n, now, pk) for n, pk in enumerate(left)])
            first += len(left)
            if len(left) < _BATCH or (limit and first - begin >= limit):
                return first

    def _insert(self, events: Sequence[Event], first: int | None) -> None:
        now = _now()
        with connections[self.database].cursor() as cursor:
            rows = [
                (None if first is None else first + n, event.channel, event.type, event.data, now)
                for n, event in enumerate(events)
            ]
            _execute(cursor, _INSERT, rows)

    def _insert_unnumbered(self, events: Sequence[Event]) -> None:
        connection = connections[self.database]
        if connection.vendor == "sqlite":
            self._insert(events, None)
            return
        # A statement that fails would abort the caller's transaction, which may well want to go on without the event.
        with transaction.atomic(using=self.database):
            self._insert(events, None)

    def number(self) -> bool:
        """Give the events that have no position yet theirs. Whether there were any."""
        had_left = False
        while self._has_left():
            had_left = True
            with self._reporting():
                self._transaction(lambda: self._take_positions(0, _BATCH))
        return had_left

    def _has_left(self) -> bool:
        with self._reporting(), connections[self.database].cursor() as cursor:
            cursor.execute(f"SELECT {_HAS_LEFT}")
            return bool(cursor.fetchone()[0])

    def saw(self, position: int) -> None:
        """Note a position that others may know of as well: the log can never go back before it."""
        if position > self._seen:
            self._seen = position

    def _is_manual(self) -> bool:
        """Whether autocommit is off, so that there is always a transaction, and one that Django does not manage."""
        connection = connections[self.database]
        return not connection.in_atomic_block and not connection.get_autocommit()

    def _transaction(self, work: Callable[[], _T]) -> _T:
        """Do the work in a transaction of its own, and again when it is in conflict with another one."""
        attempt = 1
        while True:
            try:
                with transaction.atomic(using=self.database, durable=True):
                    self._read_committed()
                    return work()
            except DatabaseError as error:
                if attempt == _ATTEMPTS or not _codes(error) & _CONFLICTS:
                    raise
            time.sleep(random.uniform(0, 0.01 * attempt))  # noqa: S311
            attempt += 1

    def _read_committed(self) -> None:
        """Set what the numbering relies on: a statement sees what was committed while it waited for the lock."""
        connection = connections[self.database]
        if connection.vendor != "postgresql":
            return
        connection.ensure_connection()
        is_isolated = self._isolated.get(connection.connection)
        if is_isolated is False:
            return
        with connection.cursor() as cursor:
            if is_isolated is None:
                cursor.execute("SHOW transaction_isolation")
                is_isolated = self._isolated[connection.connection] = cursor.fetchone()[0] != "read committed"
            if is_isolated:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    # Reading

    def _read(self, position: int, channels: Sequence[str], limit: int) -> list[Event]:
        events: list[Event] = []
        while len(events) < limit:
            count = limit - len(events)
            rows: list[_Row] = []
            with connections[self.database].cursor() as cursor:
                for at in range(0, len(channels), _CHANNELS):
                    part = channels[at : at + _CHANNELS]
                    cursor.execute(
                        " UNION ALL ".join(_OF_CHANNEL.format(n) for n in range(len(part))) + " ORDER BY 1 LIMIT %s",
                        [value for channel in part for value in (channel, position, count)] + [count],
                    )
                    rows += cursor.fetchall()
            rows.sort(key=lambda row: row[0])
            events += self.events(rows[:count])
            if len(rows) < count:
                break
            position = rows[count - 1][0]  # some of them may be bad
        return events

    def _is_kept(self, position: int, channels: Sequence[str]) -> bool:
        """Whether all events of these channels after the position are kept, and it is of this history."""
        with connections[self.database].cursor() as cursor:
            cursor.execute(_STATE)
            if not (state := cursor.fetchone()) or not state[1] <= position <= state[0]:
                return False
            for at in range(0, len(channels), _BATCH):
                part = channels[at : at + _BATCH]
                marks = ", ".join(["%s"] * len(part))
                cursor.execute(
                    f"SELECT 1 FROM {_FLOORS} WHERE floor > %s AND channel IN ({marks}) LIMIT 1",  # noqa: S608
                    [position, *part],
                )
                if cursor.fetchone():
                    return False
        return True

    def events(self, rows: Iterable[_Row]) -> list[Event]:
        """The events of these rows. A row that cannot be delivered is skipped, and told once."""
        events = []
        for position, channel, kind, data, created in rows:
            if (
                isinstance(kind, str)
                and isinstance(data, str)
                and isinstance(channel, str)
                and isinstance(created, int)
                and not ("\n" in kind or "\r" in kind or "\0" in kind)
            ):
                events.append(Event(_id(position), channel, kind, data, created / 1000))
            elif position not in self._told and len(self._told) < _BATCH:
                self._told.add(position)
                _bad_rows.hit(id=_id(position), channel=channel)
        return events

    # Another history

    def check_history(self, known: int) -> None:
        """Begin a new history when this is not the store that the history was in. Ids up to `known` were in use."""
        with self._reporting():
            with connections[self.database].cursor() as cursor:
                cursor.execute(_STATE)
                row = cursor.fetchone()
            current = self._mark()
            if not row or not _may_be_same(row[2], current):
                self.renew(known)
            elif _says_more(current, row[2]):
                # This process may look at more of it than the earlier ones. It goes on without, as the database may be
                # read-only, or somebody may hold SQLite's write lock.
                connection = connections[self.database]
                with suppress(Unavailable), self._reporting(), _impatient(connection), connection.cursor() as cursor:
                    cursor.execute(f"UPDATE {_LOG} SET mark = %s WHERE id = 1", [current])  # noqa: S608

    def renew(self, known: int) -> None:
        def work() -> None:
            with connections[self.database].cursor() as cursor:
                self._renew(cursor, known)

        with self._reporting():
            self._transaction(work)

    def _renew(self, cursor: CursorWrapper, known: int) -> None:
        """Begin a new history, unless another process has: every cursor up to now is a gap.

        The next millisecond, as ids of this one may be in use.
        """
        mark = self._mark()
        cursor.execute(_LOCK)
        if not cursor.rowcount:
            cursor.execute(f"SELECT MAX(position) FROM {_EVENTS}")  # noqa: S608
            head = max((_now() + 1) << _BITS, (cursor.fetchone()[0] or 0) + 1, known + 1)
            state = {"head": head, "floor": head, "trimmed": head, "mark": mark}
            LogState.objects.using(self.database).get_or_create(pk=1, defaults=state)
            return
        cursor.execute(_STATE)
        head, floor, stored = cursor.fetchone()
        if floor <= known or not _may_be_same(stored, mark):
            head = max((_now() + 1) << _BITS, head + 1, known + 1)
            cursor.execute(_RENEW, [head, head, mark])

    def _mark(self) -> str:
        """What identifies the store; '-' in each place that cannot be known."""
        connection = connections[self.database]
        parts = []
        if connection.vendor == "sqlite":
            found = _inode(_sqlite_path(connection))
            parts.append(str(found) if found else "-")
        elif connection.vendor == "postgresql":
            for question in _POSTGRESQL_MARKS:
                # In a savepoint or a transaction: the role may not be permitted to ask.
                try:
                    with transaction.atomic(using=self.database), connection.cursor() as cursor:
                        cursor.execute(question)
                        parts.append(str(cursor.fetchone()[0]))
                except DatabaseError:
                    parts.append("-")
        return " ".join(parts)

    # Trimming

    def _published(self, events: Sequence[Event]) -> None:
        if self._follower:
            self._follower.poke()
        try:
            for channel, count in Counter(event.channel for event in events).items():
                if random.random() * self._slack < count:  # noqa: S311
                    self._trim_channel(channel)
            if not self._follower:
                self.trim_by_age()
        except Unavailable as error:  # the events are published; the next ones will see to the rest
            _failed_trims.hit(reason=error)

    def _trim_channel(self, channel: str) -> None:
        """Remove all but the newest events of a channel."""
        with self._reporting(), connections[self.database].cursor() as cursor:
            cursor.execute(
                f"SELECT position FROM {_EVENTS} WHERE channel = %s AND position IS NOT NULL "  # noqa: S608
                "ORDER BY position DESC LIMIT 1 OFFSET %s",
                [channel, self._history],
            )
            if not (row := cursor.fetchone()):
                return
            while True:
                cursor.execute(
                    f"SELECT position FROM {_EVENTS} WHERE channel = %s AND position <= %s "  # noqa: S608
                    f"ORDER BY position LIMIT {_BATCH}",
                    [channel, row[0]],
                )
                positions = [position for (position,) in cursor.fetchall()]
                if positions:
                    self._remove(positions, {channel: positions[-1]})
                if len(positions) < _BATCH:
                    return

    def trim_by_age(self) -> None:
        """Remove events that have become too old, at most every few seconds, and at most some batches of them."""
        if time.monotonic() < self._trim_at or not self._trimming.acquire(False):
            return
        try:
            self._trim_at = time.monotonic() + _TRIM_INTERVAL
            with self._reporting():
                for _ in range(_TRIM_BATCHES):
                    if not self._trim_batch():
                        break
                else:
                    self._trim_at = 0.0
                self._fold_floors()
        finally:
            self._trimming.release()

    def _trim_batch(self) -> bool:
        """Remove what is too old among the first events. True when there may be more to remove."""
        now = _now()
        oldest = now - int(self._history_seconds * 1000)
        with connections[self.database].cursor() as cursor:
            cursor.execute(
                f"SELECT position, channel, created FROM {_EVENTS} WHERE position IS NOT NULL "  # noqa: S608
                f"ORDER BY position LIMIT {_BATCH}"
            )
            rows = cursor.fetchall()
        old = [(position, channel) for position, channel, created in rows if created < oldest]
        if not old:
            return False
        self._remove([position for position, _ in old], {channel: position for position, channel in old})
        # An event of the future is of a clock that was wrong, and says nothing of those after it.
        return len(rows) == _BATCH and all(not oldest <= created <= now for _, _, created in rows)

    def _remove(self, positions: Sequence[int], floors: Mapping[str, int]) -> None:
        """Remove these events, a batch at most; the floors are those of their channels then."""

        def work() -> None:
            with connections[self.database].cursor() as cursor:
                last = max(positions)
                cursor.execute(
                    f"UPDATE {_LOG} SET trimmed = CASE WHEN trimmed < %s THEN %s ELSE trimmed END WHERE id = 1",  # noqa: S608
                    [last, last],
                )
                if not cursor.rowcount:
                    return  # the log begins anew
                marks = ", ".join(["%s"] * len(positions))
                cursor.execute(f"DELETE FROM {_EVENTS} WHERE position IN ({marks})", list(positions))  # noqa: S608
            manager = ChannelFloor.objects.using(self.database)
            # Events with a wrong time may stay for longer than later ones: a floor never falls.
            known = dict(manager.filter(channel__in=floors).values_list("channel", "floor"))
            raised = [
                ChannelFloor(channel=channel, floor=floor)
                for channel, floor in floors.items()
                if floor > known.get(channel, 0)
            ]
            by_channel = connections[self.database].features.supports_update_conflicts_with_target
            manager.bulk_create(
                raised,
                update_conflicts=True,
                update_fields=["floor"],
                unique_fields=["channel"] if by_channel else None,
            )

        self._transaction(work)

    def _fold_floors(self) -> None:
        """Fold floors that no cursor of a living reader can be before into the one of the whole history."""
        before = max(0, _now() - int(2 * self._history_seconds * 1000)) << _BITS
        for _ in range(_TRIM_BATCHES):
            with connections[self.database].cursor() as cursor:
                cursor.execute(
                    f"SELECT floor FROM {_FLOORS} WHERE floor < %s ORDER BY floor LIMIT {_BATCH}",  # noqa: S608
                    [before],
                )
                floors = [floor for (floor,) in cursor.fetchall()]
            if not floors:
                return
            self._transaction(lambda floor=floors[-1]: self._fold(floor))  # type: ignore[misc]
            if len(floors) < _BATCH:
                return

    def _fold(self, floor: int) -> None:
        with connections[self.database].cursor() as cursor:
            cursor.execute(
                f"UPDATE {_LOG} SET floor = CASE WHEN floor < %s THEN %s ELSE floor END WHERE id = 1",  # noqa: S608
                [floor, floor],
            )
            cursor.execute(f"DELETE FROM {_FLOORS} WHERE floor <= %s", [floor])  # noqa: S608

    # Connections

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Any error of the database as Unavailable."""
        try:
            with self.unforked():
                yield
        except Error as error:
            self._let_go()  # outside requests nobody else does it
            text = f"The database {self.database!r} cannot be used for events: {str(error).strip()}."
            if _lacks_tables(error):
                text += " Its tables are missing or out of date: run manage.py migrate."
            raise Unavailable(text) from error

    def _let_go(self) -> None:
        """Close this thread's connection if it is broken, or was not to be kept; never within a transaction."""
        connection = connections[self.database]
        if not connection.in_atomic_block and connection.autocommit:
            connection.close_if_unusable_or_obsolete()

    def unforked(self) -> AbstractContextManager[None]:
        """Within this no process is forked, where the children of one that is would hang."""
        return guard.within() if connections[self.database].vendor == "sqlite" else nullcontext()

    @contextmanager
    def connected(self) -> Iterator[BaseDatabaseWrapper]:
        """This thread's connection, open, and closed afterwards."""
        connection = connections[self.database]
        with self._reporting():
            try:
                connection.ensure_connection()
                if not connection.get_autocommit():
                    connection.set_autocommit(True)  # else it would see one moment for ever
                yield connection
            finally:
                connection.close()


class _Follower(Follower):
    def __init__(self, broker: DatabaseBroker, reader: Reader, wanted: int) -> None:
        super().__init__(reader, wanted)
        self._broker = broker
        self._at: int | None = None  # the position up to which all is delivered
        self._last: _Row | None = None  # the event there, unless there was none
        self._forgot = 0  # `trimmed` of the log, for which the reader was told the floors
        self._is_guarded = connections[broker.database].vendor == "sqlite"
        self._asked: float | None = None  # since when the server owes an answer, by the monotonic clock
        self._connection: BaseDatabaseWrapper | None = None
        self._sweep_at = 0.0
        self._failed_sweeps = 0
        self._is_told = False
        self.delivered = 0  # events, since the thread began

    def follow(self) -> None:
        with self._broker.unforked(), self._watched(), self._broker.connected() as connection:
            self._connection = connection
            driver = connection.connection
            self._broker.check_history(self._at or 0)
            with closing(_changes(connection, self)) as changes:
                for _ in changes:
                    if self.closing:
                        self._asked = time.monotonic()  # the server is told that nobody listens
                        return
                    if connection.connection is not driver:
                        raise Unavailable("The connection was lost.")  # and what was set on it
                    self._catch_up()
                    self.began()
                    if time.monotonic() >= self._sweep_at:
                        self._sweep(connection)
                        self._sweep_at = time.monotonic() + _SWEEP

    def wait(self, timeout: float, connection: int | None = None) -> None:
        if not self._is_guarded:
            super().wait(timeout, connection)
            return
        depth = guard.step_out()
        try:
            super().wait(timeout, connection)
        finally:
            guard.step_in(depth)

    def _catch_up(self) -> None:
        if self._at is None:
            self._begin()
        else:
            while not self.closing and self._take(self._at):
                pass

    def _begin(self) -> None:
        while not (rows := self._select(_READ_NEWEST, self.wanted + 1)):
            self._broker.renew(0)
        head, floor, trimmed = rows[0][:3]
        events = [row[3:] for row in rows if row[3] is not None]
        self._at = head
        self._last = events[-1] if events and events[-1][0] == head else None
        # No further back than where all channels are complete.
        start = max(floor, trimmed, events[0][0] if len(events) > self.wanted else 0)
        self.start = _cursor(start)
        self.backlog = self._broker.events(row for row in events if row[0] > start)
        self._forgot = trimmed
        self._broker.saw(head)

    def _take(self, at: int) -> bool:
        """Deliver the next events. True when there may be more to take at once."""
        rows = self._select(_READ, at)
        if not rows:
            self._broker.renew(at)
            return True
        head, floor, trimmed = rows[0][:3]
        if floor > at:  # another history, or one that this process was away from for longer than it is kept
            self._restart(head)
            return True
        events = [row[3:] for row in rows if row[3] is not None]
        here = events[0] if events and events[0][0] == at else None
        if head < at or (self._last and here != self._last and (here or trimmed < at)):
            self._broker.renew(at)
            return True
        if trimmed > max(at, self._forgot):
            floors = self._select(_READ_FLOORS, at)
            self._forgot = trimmed
            self.reader.forget({channel: _cursor(min(floor, trimmed)) for channel, floor in floors})
        if here:
            del events[0]
        if events:
            if fit := self._broker.events(events):
                self.reader.deliver(fit)
                self.delivered += len(fit)
            self._last = events[-1]
            self._at = self._last[0]
            self._broker.saw(self._last[0])
        return len(rows) > _BATCH

    def _restart(self, head: int) -> None:
        self._at, self._last = head, None
        self._broker.saw(head)
        self.reader.restart(_cursor(head))

    def _select(self, question: str, value: int) -> list[_Row]:
        """On the driver's own connection: so often is nothing to log or to keep for DEBUG."""
        connection = connections[self._broker.database]
        self._asked = time.monotonic()
        with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
            cursor.execute(question.replace("%s", "?") if connection.vendor == "sqlite" else question, (value,))
            rows: list[_Row] = cursor.fetchall()
        self._asked = None
        return rows

    def tell_no_notification(self) -> None:
        if not self._is_told:
            self._is_told = True
            text = "PostgreSQL's notifications do not arrive, so events of other processes come up to a second late"
            tell(logging.WARNING, text, reason="a pooler in transaction mode drops LISTEN")

    def _sweep(self, connection: BaseDatabaseWrapper) -> None:
        """Number what publishers that died have left, and remove what is too old."""
        self._asked = time.monotonic()
        try:
            with _impatient(connection):
                if self._broker.number():
                    self._catch_up()  # SQLite does not count a connection's own commits as news
                self._asked = time.monotonic()
                self._broker.trim_by_age()
            self._failed_sweeps = 0
        except Unavailable as error:
            self._failed_sweeps += 1
            if self._failed_sweeps >= _SWEEPS_FAILED:
                _failed_sweeps.hit(reason=error)
        finally:
            self._asked = None

    # A server that does not answer

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Break off what waits for a server that is silent: a network may swallow a connection without a word."""
        connection = connections[self._broker.database]
        if connection.vendor == "sqlite":  # its waits end by themselves
            yield
            return
        is_over = threading.Event()
        self._asked = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(is_over,), name="events-follower-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._asked, self._connection = None, None
            is_over.set()
            thread.join()

    def _watch(self, is_over: threading.Event) -> None:
        is_told = False
        while not is_over.wait(1.0):
            asked = self._asked
            if asked is None or time.monotonic() - asked < _ANSWER:
                is_told = False
            elif not is_told:
                is_told = True
                tell(logging.WARNING, "Cannot reach the broker; retrying", reason=f"no answer for {_ANSWER:g} seconds")
                self._break_off()

    def interrupt(self) -> None:
        asked = self._asked
        if asked is not None and time.monotonic() - asked > 1:
            self._break_off()

    def _break_off(self) -> None:
        connection = self._connection
        with suppress(Exception):  # it may end just now, or be of another driver
            if connection and connection.vendor == "postgresql":
                with socket.socket(fileno=os.dup(connection.connection.fileno())) as one:
                    one.shutdown(socket.SHUT_RDWR)


def _changes(connection: BaseDatabaseWrapper, follower: _Follower) -> Generator[None, None, None]:
    """Yields at once, then whenever something may have been committed, and at least every second."""
    if connection.vendor == "sqlite":
        return _sqlite_changes(connection, follower)
    if connection.vendor == "postgresql" and hasattr(connection.connection, "add_notify_handler"):
        return _postgresql_changes(connection, follower)
    return _unknown_changes(follower)


def _sqlite_changes(connection: BaseDatabaseWrapper, follower: _Follower) -> Generator[None, None, None]:
    """Asks when the files are written to; without inotify, or where it does not see other machines, all the time.

    Ends when another file has taken the database's place: this connection would read the old one for ever.
    """
    # On the driver's own connection: so often is nothing to log or to keep for DEBUG.
    # https://www.sqlite.org/pragma.html#pragma_data_version
    execute = connection.connection.execute
    known, sweep_at = None, 0.0
    heard, due, pause = 0.0, 0.0, _SWEEP
    path = _sqlite_path(connection)
    inode = _inode(path)
    with ExitStack() as stack:
        watch = _watch_sqlite(path)
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
            if now >= sweep_at and _inode(path) not in (inode, None):
                return
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


def _postgresql_changes(connection: BaseDatabaseWrapper, follower: _Follower) -> Generator[None, None, None]:
    driver = connection.connection
    is_heard, is_late, late = False, False, 0

    def poke(_: Any) -> None:
        nonlocal is_heard
        is_heard = True
        follower.poke()

    # A notification that comes in with the answer to a query is taken by the driver and handed to this.
    driver.add_notify_handler(poke)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {_NOTIFICATION}")
        while True:
            before = follower.delivered
            yield
            if is_late and not is_heard and follower.delivered > before:
                late += 1
                if late == _LATE:
                    follower.tell_no_notification()
            began = time.monotonic()
            follower.wait(_SWEEP, driver.pgconn.socket)
            is_late = time.monotonic() >= began + _SWEEP
            with connection.wrap_database_errors:
                driver.pgconn.consume_input()
                while driver.pgconn.notifies():
                    is_heard = True
    finally:  # the connection may go back into a pool
        driver.remove_notify_handler(poke)
        with suppress(DatabaseError, InterfaceError), connection.cursor() as cursor:
            cursor.execute(f"UNLISTEN {_NOTIFICATION}")


def _unknown_changes(follower: Follower) -> Generator[None, None, None]:
    while True:
        yield
        follower.wait(_POLL_INTERVAL)


@contextmanager
def _impatient(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Do not wait long for SQLite's write lock; the next sweep tries again."""
    if connection.vendor != "sqlite":
        yield
        return
    execute = connection.connection.execute
    with connection.wrap_database_errors:
        [patience] = execute("PRAGMA busy_timeout").fetchone()
        execute(f"PRAGMA busy_timeout = {_SWEEP_PATIENCE}")
    try:
        yield
    finally:
        with connection.wrap_database_errors:
            execute(f"PRAGMA busy_timeout = {patience}")


def _sqlite_path(connection: BaseDatabaseWrapper) -> Path:
    """The database's file; without a name it is in memory."""
    with connection.wrap_database_errors:
        return Path(connection.connection.execute("PRAGMA database_list").fetchone()[2])


def _inode(path: Path) -> int | None:
    with suppress(OSError):
        if path.name:
            return path.stat().st_ino
    return None


def _now() -> int:
    return time.time_ns() // 1_000_000


def _cursor(position: int) -> Cursor:
    return Cursor(position >> _BITS, position & (1 << _BITS) - 1)


def _id(position: int) -> str:
    return f"{position >> _BITS}-{position & (1 << _BITS) - 1}"


def _may_be_same(stored: str, current: str) -> bool:
    """Whether these marks do not contradict each other."""
    return all(one == other or "-" in (one, other) for one, other in zip(stored.split(), current.split(), strict=False))


def _says_more(mark: str, than: str) -> bool:
    return bool(mark) and (not than or than.count("-") > mark.count("-"))


def _execute(cursor: CursorWrapper, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """One row without executemany: what wraps a cursor to look at its statements may not know that."""
    if len(rows) == 1:
        cursor.execute(statement, rows[0])
    elif rows:
        cursor.executemany(statement, rows)


def _codes(error: BaseException) -> set[Any]:
    """What the driver says that the error is: an SQLSTATE, or MySQL's number."""
    cause = error.__cause__ or error
    return {getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None), *cause.args[:1]}


def _lacks_tables(error: BaseException) -> bool:
    text = str(error)
    return bool(_codes(error) & {"42P01", "42703", 1146, 1054}) or "no such table" in text or "no such column" in text
