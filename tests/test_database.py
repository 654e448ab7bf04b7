"""What `db:` promises beyond the contract of every broker."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings

from events.brokers import Unavailable, database
from events.journal import Trouble
from events.log import Cursor, Gap
from events.models import ChannelFloor, LogState, StoredEvent
from events.wire import Event
from tests.brokers import PATIENCE, Log, OpenLog, Recorder
from tests.test_brokers import add, close_after, data, databases, event, ids, run_all

sqlite = pytest.mark.parametrize("log", ["sqlite"], indirect=True)
postgresql = pytest.mark.parametrize("log", ["postgresql"], indirect=True)


@pytest.fixture
def log(request: pytest.FixtureRequest, open_log: OpenLog) -> Log:
    return open_log(request.param)


@contextmanager
def options(log: Log, **values: Any) -> Iterator[None]:
    """New connections to the log's database have these options."""
    settings = connections.databases[log.alias]
    before = settings["OPTIONS"]
    settings["OPTIONS"] = {**before, **values}
    connections[log.alias].close()
    del connections[log.alias]
    try:
        yield
    finally:
        settings["OPTIONS"] = before
        connections[log.alias].close()
        del connections[log.alias]


def path_of(log: Log) -> Path:
    return Path(connections.databases[log.alias]["NAME"])


def back_up(log: Log, target: Path) -> None:
    with closing(sqlite3.connect(path_of(log))) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def unnumbered(log: Log, value: Any) -> None:
    """As a publisher leaves it that dies after its commit."""
    StoredEvent.objects.using(log.alias).create(channel="a", type="message", data=f'"{value}"', created=0)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestNumbering:
    @databases
    def test_an_id_tells_its_milliseconds(self, log: Log) -> None:
        before = time.time_ns() // 1_000_000
        [given] = add(log.open(), 1)
        assert before <= given.major <= time.time_ns() // 1_000_000 + 1

    @databases
    def test_ids_increase_when_the_clock_goes_back(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        broker = log.open()
        given = add(broker, 1)
        monkeypatch.setattr(database, "_now", lambda: 1)
        given += add(broker, 2) + add(log.open(), 3)
        assert given == sorted(set(given))
        assert data(broker.after(given[0], ["a"], 10)) == [2, 3]

    @databases
    def test_more_events_than_a_millisecond_has_numbers_for_carry(self, log: Log) -> None:
        broker = log.open()
        [first] = add(broker, 1)
        head = ((first.major + 1000) << 20) - 2
        LogState.objects.using(log.alias).update(head=head)
        given = add(broker, 2, 3, 4)
        assert given == [(first.major + 999, 2**20 - 1), (first.major + 1000, 0), (first.major + 1000, 1)]
        # A cursor that does not carry is the same one.
        assert data(broker.after(Cursor(first.major, (1000 << 20) - 1), ["a"], 10)) == [3, 4]

    @databases
    def test_an_effect_comes_after_its_cause(self, log: Log) -> None:
        """The cause's transaction has committed; its publisher died, or is slower than the effect's."""
        broker, other = log.open(), log.open()
        begin = Recorder(other).begin
        for n in range(20):
            with (
                patch.object(broker, "number", side_effect=Unavailable("slow")),
                transaction.atomic(using=log.alias),
            ):
                broker.append_on_commit([event(["cause", n])])
            add(other, ["effect", n])
        told = data(other.after(begin, ["a"], 100))
        assert told == [[what, n] for n in range(20) for what in ("cause", "effect")]

    @databases
    def test_thousands_of_events_left_are_numbered_in_order(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        with patch.object(broker, "number"), transaction.atomic(using=log.alias):
            broker.append_on_commit([event(n) for n in range(1200)])
        add(log.open(), "effect")
        assert data(broker.after(begin, ["a"], 2000)) == [*range(1200), "effect"]

    @databases
    def test_a_follower_numbers_what_a_dead_publisher_left(self, log: Log) -> None:
        recorder = Recorder(log.open())
        unnumbered(log, "left")
        assert data(recorder.events(1)) == ["left"]

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    @pytest.mark.parametrize("is_for_the_driver", [True, False])
    @postgresql
    def test_many_threads_publish_at_any_isolation_level(self, log: Log, level: str, is_for_the_driver: bool) -> None:
        driver = getattr(psycopg.IsolationLevel, level.replace(" ", "_"))
        chosen = (
            {"isolation_level": driver}
            if is_for_the_driver
            else {"options": f"-c default_transaction_isolation={level.lower().replace(' ', chr(92) + ' ')}"}
        )
        with options(log, **chosen):
            broker = log.open()
            recorder = Recorder(broker)
            failures: list[Exception] = []

            def publish(worker: int) -> None:
                try:
                    for n in range(20):
                        if n % 2:
                            add(broker, [worker, n])
                        else:
                            with transaction.atomic(using=log.alias):
                                broker.append_on_commit([event([worker, n])])
                except Exception as error:  # noqa: BLE001
                    failures.append(error)

            run_all([threading.Thread(target=close_after, args=(log, publish, worker)) for worker in range(8)])
            assert failures == []
            events = recorder.events(160)
            assert ids(events) == sorted(set(ids(events)))
            for worker in range(8):
                assert [n for who, n in data(events) if who == worker] == list(range(20))
            log.close()
            log.brokers.clear()

    @databases
    def test_one_event_is_never_inserted_with_executemany(self, log: Log) -> None:
        broker = log.open()

        def is_one(execute: Any, statement: str, rows: Any, many: bool, context: Any) -> Any:
            assert not many
            return execute(statement, rows, many, context)

        with connections[log.alias].execute_wrapper(is_one):
            add(broker, 1)
            with transaction.atomic(using=log.alias):
                broker.append_on_commit([event(2)])

    @databases
    def test_without_autocommit_an_event_belongs_to_the_open_transaction(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        transaction.set_autocommit(False, using=log.alias)
        try:
            assert broker.append([event("rolled back")]) == []
            transaction.rollback(using=log.alias)
            assert broker.append([event("committed")]) == []
            broker.append_on_commit([event("too")])
            assert broker.after(recorder.begin, ["a"], 10) == []
            transaction.commit(using=log.alias)
        finally:
            transaction.rollback(using=log.alias)
            transaction.set_autocommit(True, using=log.alias)
        assert data(recorder.events(2)) == ["committed", "too"]


class TestTheCallersTransaction:
    @sqlite
    def test_nothing_comes_out_of_it_while_another_connection_writes(self, log: Log) -> None:
        with options(log, timeout=0.1):
            broker = log.open()
            recorder = Recorder(log.open())
            ran = []
            with closing(sqlite3.connect(path_of(log), isolation_level=None)) as other:
                with transaction.atomic(using=log.alias):
                    broker.append_on_commit([event(1)])
                    transaction.on_commit(lambda: other.execute("BEGIN IMMEDIATE"), using=log.alias)
                    broker.append_on_commit([event(2)])
                    transaction.on_commit(lambda: ran.append(True), using=log.alias)
                assert ran == [True]
                other.execute("ROLLBACK")
            assert data(recorder.events(2)) == [1, 2]
            log.close()
            log.brokers.clear()

    @databases
    @pytest.mark.parametrize("failure", [Unavailable("x"), AttributeError("x"), RuntimeError("x")])
    def test_whatever_fails_after_it_the_callers_hooks_run(self, log: Log, failure: Exception) -> None:
        broker = log.open()
        ran = []
        with patch.object(broker, "number", side_effect=failure), transaction.atomic(using=log.alias):
            broker.append_on_commit([event(1)])
            transaction.on_commit(lambda: ran.append(True), using=log.alias)
        assert ran == [True]
        assert connections[log.alias].is_usable()

    @databases
    def test_an_event_that_cannot_be_inserted_leaves_it_usable(self, log: Log) -> None:
        broker = log.open()
        with transaction.atomic(using=log.alias):
            LogState.objects.using(log.alias).create(head=1, floor=1, mark="mine")
            with pytest.raises(Unavailable):
                broker.append_on_commit([Event(None, None, "message", "1")])  # type: ignore[arg-type]
            assert LogState.objects.using(log.alias).get().mark == "mine"
        assert LogState.objects.using(log.alias).get().mark == "mine"


class TestAnotherHistory:
    @sqlite
    @pytest.mark.parametrize("is_in_place", [True, False])
    def test_a_restored_file_is_told_and_old_cursors_are_gaps(
        self, log: Log, tmp_path: Path, is_in_place: bool
    ) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        kept = add(broker, 1)
        backup = tmp_path / "backup"
        back_up(log, backup)
        lost = add(broker, 2)
        recorder.events(2)
        connections[log.alias].close()
        if is_in_place:
            with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path_of(log))) as target:
                source.backup(target)
        else:
            backup.replace(path_of(log))
            for end in ("-wal", "-shm"):
                path_of(log).with_name(path_of(log).name + end).unlink(missing_ok=True)
        restart = recorder.next()
        assert isinstance(restart, Cursor)
        assert restart > lost[0]
        for cursor in (*kept, *lost):
            with pytest.raises(Gap):
                broker.after(cursor, ["a"], 10)
        add(log.open(), 3)
        assert data(recorder.events(1)) == [3]

    @databases
    def test_a_history_that_went_back_and_on_is_told(self, log: Log) -> None:
        """Restored without its newest events, and then others were published: the head alone does not show it."""
        broker = log.open()
        recorder = Recorder(broker)
        kept = add(broker, 1)
        lost = add(broker, 2)
        recorder.events(2)
        with transaction.atomic(using=log.alias):
            StoredEvent.objects.using(log.alias).filter(data="2").delete()
            LogState.objects.using(log.alias).update(head=(kept[0].major << 20) + kept[0].minor)
            unnumbered(log, "other")
        add(log.open(), 3)
        restart = recorder.next()
        assert isinstance(restart, Cursor)
        assert restart > lost[0]
        with pytest.raises(Gap):
            broker.after(kept[0], ["a"], 10)
        add(broker, 4)
        assert data(recorder.events(1)) == [4]

    @databases
    def test_a_publisher_that_does_not_follow_notices_it(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, 1, 2)
        LogState.objects.using(log.alias).update(head=(given[0].major << 20) + given[0].minor)
        StoredEvent.objects.using(log.alias).filter(data="2").delete()
        [new] = add(broker, 3)
        assert new > given[1]
        with pytest.raises(Gap):
            log.open().after(given[1], ["a"], 10)

    @databases
    def test_a_lost_state_begins_anew(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        before = add(broker, 1, 2)
        recorder.events(2)
        LogState.objects.using(log.alias).all().delete()
        with pytest.raises(Gap):
            broker.after(before[1], ["a"], 10)
        [new] = add(broker, 3)
        assert new > before[1]
        restart = recorder.next()
        assert isinstance(restart, Cursor)
        for cursor in before:
            with pytest.raises(Gap):
                broker.after(cursor, ["a"], 10)

    @databases
    def test_another_store_under_the_same_name_is_told_at_the_next_connection(self, log: Log) -> None:
        [before] = add(log.open(), 1)
        Recorder(log.open())
        mark = LogState.objects.using(log.alias).get().mark
        assert mark
        LogState.objects.using(log.alias).update(mark=" ".join(["0"] * len(mark.split())))
        Recorder(log.open())
        assert LogState.objects.using(log.alias).get().mark == mark
        with pytest.raises(Gap):
            log.open().after(before, ["a"], 10)

    @databases
    def test_the_same_store_goes_on_after_a_restart(self, log: Log) -> None:
        first = log.open()
        Recorder(first)
        [before] = add(first, 1)
        first.close()
        second = log.open()
        Recorder(second)
        add(second, 2)
        assert data(second.after(before, ["a"], 10)) == [2]


class TestTrimming:
    @databases
    def test_a_follower_that_lagged_is_told_which_channels_lack_events(self, log: Log) -> None:
        broker, other = log.open(history=10), log.open(history=10)
        recorder = Recorder(broker)
        with patch.object(database._Follower, "_catch_up"):
            time.sleep(0.2)  # it may be reading just now
            other.append([event("quiet", "b")])
            for n in range(40):
                add(other, n)
        other.append([event("last", "b")])
        kept = StoredEvent.objects.using(log.alias).count()
        told = data(recorder.events(kept))
        assert (told[0], told[-1]) == ("quiet", "last")
        assert list(recorder.forgotten) == ["a"]
        with pytest.raises(Gap):
            broker.after(recorder.begin, ["a"], 100)
        assert data(broker.after(recorder.forgotten["a"], ["a"], 100)) == told[1:-1] == list(range(42 - kept, 40))

    @databases
    def test_no_more_than_asked_and_the_slack_are_kept(self, log: Log) -> None:
        broker = log.open(history=40)
        for n in range(400):
            add(broker, n)
        assert 40 <= StoredEvent.objects.using(log.alias).count() <= 60

    @databases
    def test_floors_are_bounded_and_stay_gaps(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        broker = log.open(history_seconds=100.0)
        begin = Recorder(log.open()).begin
        broker.append([event(n, f"channel-{n}") for n in range(700)])
        now = database._now()
        monkeypatch.setattr(database, "_now", lambda: now + 101_000)
        aged = log.open(history_seconds=100.0)
        [cursor] = add(aged, "new")
        assert ChannelFloor.objects.using(log.alias).count() == 700
        assert aged.after(begin, ["another"], 10) == []
        with pytest.raises(Gap):
            aged.after(begin, ["channel-3"], 10)
        monkeypatch.setattr(database, "_now", lambda: now + 250_000)
        later = log.open(history_seconds=100.0)
        add(later, "newer")
        assert ChannelFloor.objects.using(log.alias).count() == 1
        with pytest.raises(Gap):
            later.after(begin, ["channel-3"], 10)
        assert data(later.after(cursor, ["a"], 10)) == ["newer"]


class TestFaults:
    @databases
    def test_a_bad_row_is_skipped_and_told_once(
        self, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_bad_rows", Trouble("It cannot be delivered", "events"))
        broker = log.open()
        recorder = Recorder(broker)
        StoredEvent.objects.using(log.alias).create(channel="a", type="x\ny", data="1", created=0)
        add(broker, "next")
        assert data(recorder.events(1)) == ["next"]
        for _ in range(3):
            assert data(broker.after(recorder.begin, ["a"], 1)) == ["next"]
        assert caplog.text.count("cannot be delivered") == 1

    @databases
    def test_missing_tables_are_told_as_such(self, log: Log) -> None:
        call_command("migrate", "events", "zero", database=log.alias, verbosity=0)
        broker = log.open()
        for attempt in (lambda: add(broker, 1), lambda: broker.after(Cursor(1, 1), ["a"], 1), lambda: Recorder(broker)):
            with pytest.raises(Unavailable, match=r"manage\.py migrate"):
                attempt()

    @sqlite
    def test_a_database_that_is_only_for_reading_is_unavailable(self, log: Log) -> None:
        broker = log.open()
        with connections[log.alias].cursor() as cursor:
            cursor.execute("PRAGMA query_only = 1")
        with pytest.raises(Unavailable) as raised:
            add(broker, 1)
        assert "readonly" in str(raised.value)
        assert "migrate" not in str(raised.value)

    @databases
    def test_a_sweep_that_fails_floods_no_log(self, log: Log, caplog: pytest.LogCaptureFixture) -> None:
        with (
            patch.object(database, "_SWEEP", 0.005),
            patch.object(database.DatabaseBroker, "number", side_effect=Unavailable("read-only")),
        ):
            broker = log.open()
            recorder = Recorder(broker)
            time.sleep(0.5)
            add(broker, 1)
            recorder.events(1)
        assert caplog.text.count("cannot be numbered") <= 1

    @postgresql
    def test_a_pooler_that_drops_notifications_is_told_once(
        self, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_SWEEP", 0.05)
        recorder = Recorder(log.open())
        monkeypatch.setattr(database, "_HEAD_AND_NOTIFY", database._HEAD)
        other = log.open()
        for n in range(10):
            add(other, n)
            recorder.events(1)
        assert caplog.text.count("notifications do not arrive") == 1

    @postgresql
    def test_a_server_that_does_not_answer_is_told_and_looked_for(
        self, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_ANSWER", 0.5)
        recorder = Recorder(log.open())
        with psycopg.connect(**_parameters(log), autocommit=True) as other:
            other.execute("BEGIN; LOCK TABLE events_logstate IN ACCESS EXCLUSIVE MODE")
            until(lambda: "Cannot reach the broker; retrying" in caplog.text)
            other.execute("ROLLBACK")
        add(log.open(), 1)
        assert data(recorder.events(1)) == [1]

    @databases
    def test_use_tz_does_not_matter(self, log: Log) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            broker = log.open(history_seconds=60.0)
            recorder = Recorder(broker)
            add(broker, 1)
            [one] = recorder.events(1)
            assert one.time is not None
            assert abs(time.time() - one.time) < 30
            assert data(broker.after(recorder.begin, ["a"], 10)) == [1]


class TestMigration:
    @databases
    def test_rows_and_the_cursors_of_clients_are_carried_over(self, log: Log) -> None:
        call_command("migrate", "events", "zero", database=log.alias, verbosity=0)
        call_command("migrate", "events", "0001", database=log.alias, verbosity=0)
        generation = 1_700_000_000_000
        with connections[log.alias].cursor() as cursor:
            cursor.execute(
                "INSERT INTO events_logstate (id, generation, head, floor) VALUES (1, %s, 7, 3)", [generation]
            )
            now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            for seq in (4, 5, 6, 7, None):
                cursor.execute(
                    "INSERT INTO events_storedevent (seq, channel, type, data, created) VALUES (%s, 'a', 'x', %s, %s)",
                    [seq, str(seq or 8), now],
                )
        call_command("migrate", "events", database=log.alias, verbosity=0)
        broker = log.open()
        assert data(broker.after(Cursor(generation, 5), ["a"], 10)) == [6, 7]
        assert data(broker.after(Cursor(generation, 3), ["a"], 10)) == [4, 5, 6, 7]
        with pytest.raises(Gap):
            broker.after(Cursor(generation, 2), ["a"], 10)
        with pytest.raises(Gap):
            broker.after(Cursor(generation, 8), ["a"], 10)
        recorder = Recorder(broker)
        add(broker, 9)
        assert data(recorder.events(2)) == [8, 9]
        assert data(broker.after(Cursor(generation, 6), ["a"], 10)) == [7, 8, 9]
        [seven] = broker.after(Cursor(generation, 6), ["a"], 1)
        assert seven.time is not None
        assert abs(time.time() - seven.time) < 60


def _parameters(log: Log) -> dict[str, Any]:
    settings = connections.databases[log.alias]
    return {
        "host": settings["HOST"],
        "port": settings["PORT"],
        "user": settings["USER"],
        "dbname": settings["NAME"],
    }


FORKING = """
import os, threading
import django
django.setup()
from events import publish
from events.process import get_hub

def publish_on() -> None:
    while True:
        publish("a", 1)

get_hub()
threading.Thread(target=publish_on, daemon=True).start()
for _ in range(100):
    if not (pid := os.fork()):
        code = 1
        try:
            get_hub()
            code = 0
        finally:
            os._exit(code)
    print(os.waitpid(pid, 0)[1], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("log", ["sqlite"], indirect=True)
def test_a_child_that_is_forked_while_others_use_sqlite_can_use_it_too(log: Log) -> None:
    output, errors = log.process("-c", FORKING).communicate(timeout=PATIENCE * 3)
    assert output.split() == ["0"] * 100, errors
