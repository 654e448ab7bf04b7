"""The contract of a broker, promised by each of them on its real server."""

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connections, transaction

from events.brokers import Broker, Reader, Unavailable, database
from events.log import Cursor, Gap
from events.publishing import new_event
from events.wire import Event
from tests.brokers import PATIENCE, Log, OpenLog, Recorder

KINDS = ("memory", "sqlite", "postgresql", "valkey")
SHARED = ("sqlite", "postgresql", "valkey")
DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, open_log: OpenLog) -> Log:
    return open_log(request.param)


shared = pytest.mark.parametrize("log", SHARED, indirect=True)
databases = pytest.mark.parametrize("log", DATABASES, indirect=True)


class Failure(Exception):
    """Something went wrong in the caller's transaction."""


def event(data: Any, channel: str = "a", type: str = "message") -> Event:
    return Event(None, channel, type, json.dumps(data))


def add(broker: Broker, *data: Any) -> list[Cursor]:
    return [Cursor.parse(given) for given in broker.append([event(one) for one in data])]


def data(events: list[Event]) -> list[Any]:
    return [json.loads(event.data) for event in events]


def ids(events: list[Event]) -> list[Cursor]:
    return [Cursor.parse(event.id or "") for event in events]


class TestAppend:
    def test_ids_increase_from_event_to_event_and_from_call_to_call(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, 1, 2, 3) + add(broker, 4) + add(broker, 5, 6)
        assert len(given) == 6
        assert given == sorted(set(given))

    def test_an_event_comes_back_as_it_was(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        texts = ["", "two\r\nlines", "data: x", "</script>", "🎉", "\0", "\u2028", "'; DROP TABLE", "x" * 60_000]
        broker.append([event(text, "a:b.c-d", "some.type") for text in texts])
        events = broker.after(begin, ["a:b.c-d"], 100)
        assert data(events) == texts
        assert {(event.channel, event.type) for event in events} == {("a:b.c-d", "some.type")}

    def test_text_comes_back_as_it_was(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        texts = [
            "",
            "a\n\nb\n",
            " <b>x</b> ",
            "{not json",
            "data: x",
            "🎉",
            "\u2028\x85\x0b\x1b",
            "'; DROP TABLE",
            "%s \\",
        ]
        broker.append([new_event("a", text=text) for text in texts])
        assert [event.data for event in broker.after(recorder.begin, ["a"], 100)] == texts
        assert [event.data for event in recorder.events(len(texts))] == texts
        if log.url != "memory:":
            assert [event.data for event in Recorder(log.open(), backlog=100).backlog] == texts

    def test_many_threads_get_different_ids_and_all_events_are_there(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        given: list[Cursor] = []

        def publish(worker: int) -> None:
            for n in range(20):
                given.extend(add(broker, [worker, n]))

        run_all([threading.Thread(target=close_after, args=(log, publish, worker)) for worker in range(8)])
        events = recorder.events(160)
        assert ids(events) == sorted(set(given))
        for worker in range(8):
            assert [n for who, n in data(events) if who == worker] == list(range(20))


class TestAfter:
    def test_what_came_after_a_cursor_oldest_first(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, *range(10))
        assert data(broker.after(given[3], ["a"], 100)) == [4, 5, 6, 7, 8, 9]
        assert ids(broker.after(given[3], ["a"], 100)) == given[4:]

    def test_no_more_than_the_limit(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, *range(10))
        assert data(broker.after(given[0], ["a"], 3)) == [1, 2, 3]

    def test_nothing_after_the_newest(self, log: Log) -> None:
        broker = log.open()
        assert broker.after(add(broker, 1, 2)[-1], ["a"], 100) == []

    def test_everything_after_the_place_where_an_empty_log_began(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        add(broker, 1, 2)
        assert data(broker.after(begin, ["a"], 100)) == [1, 2]

    @pytest.mark.parametrize(
        "cursor", [Cursor(0, 0), Cursor(1, 1), Cursor(2**62, 0), Cursor(2**62, 2**62), Cursor(10**20 - 1, 10**20 - 1)]
    )
    def test_a_cursor_of_another_log_is_a_gap(self, log: Log, cursor: Cursor) -> None:
        broker = log.open()
        with pytest.raises(Gap):
            broker.after(cursor, ["a"], 100)
        add(broker, 1)
        with pytest.raises(Gap):
            broker.after(cursor, ["a"], 100)

    def test_what_is_trimmed_is_a_gap_and_what_is_kept_is_there(self, log: Log) -> None:
        broker = log.open(history=50)
        given = [cursor for n in range(0, 300, 30) for cursor in add(broker, *range(n, n + 30))]
        with pytest.raises(Gap):
            broker.after(given[0], ["a"], 1000)
        assert data(broker.after(given[-50], ["a"], 1000)) == list(range(251, 300))

    def test_only_events_of_the_channels_asked_for(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        broker.append([event(n, "abc"[n % 3]) for n in range(30)])
        assert data(broker.after(begin, ["a", "c"], 5)) == [0, 2, 3, 5, 6]
        assert data(broker.after(begin, ["b", "never used"], 100)) == list(range(1, 30, 3))
        assert broker.after(begin, [f"unused-{n}" for n in range(700)], 100) == []

    def test_a_busy_channel_takes_nothing_from_a_quiet_one(self, log: Log) -> None:
        broker = log.open(history=50)
        begin = Recorder(broker).begin
        broker.append([event("quiet", "b")])
        for n in range(0, 300, 30):
            add(broker, *range(n, n + 30))
        assert data(broker.after(begin, ["b"], 100)) == ["quiet"]
        for channels in (["a"], ["a", "b"]):
            with pytest.raises(Gap):
                broker.after(begin, channels, 100)

    @shared
    def test_every_process_tells_the_same_gap(self, log: Log) -> None:
        broker = log.open(history=50)
        begin = Recorder(broker).begin
        given = [cursor for n in range(0, 300, 30) for cursor in add(broker, *range(n, n + 30))]
        other = log.open(history=50)
        with pytest.raises(Gap):
            other.after(begin, ["a"], 1000)
        assert len(other.after(given[-50], ["a"], 1000)) == 49

    @shared
    def test_what_is_too_old_is_trimmed_and_a_gap(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, *range(500))
        wait_for_the_clock_to_pass(given[-1])
        # Another one, as one process looks for what is old every few seconds only.
        add(log.open(history_seconds=0.0), "new")
        with pytest.raises(Gap):
            broker.after(given[0], ["a"], 1000)


class TestFollow:
    def test_what_is_appended_is_delivered_in_order_each_once(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        given = add(broker, *range(5)) + [add(broker, n)[0] for n in range(5, 10)]
        events = recorder.events(10)
        assert data(events) == list(range(10))
        assert ids(events) == given
        assert recorder.nothing_more()

    def test_it_begins_with_the_newest_events_up_to_the_backlog(self, log: Log) -> None:
        broker = log.open()
        given = add(broker, *range(10))
        recorder = Recorder(broker, backlog=4)
        assert recorder.begin == given[5]
        assert data(recorder.backlog) == [6, 7, 8, 9]
        add(broker, 10)
        assert data(recorder.events(1)) == [10]

    def test_its_backlog_is_all_there_is_when_that_is_less(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        if log.url != "memory:":
            broker = log.open()
        add(broker, 1, 2)
        recorder = Recorder(broker, backlog=100)
        assert (recorder.begin, data(recorder.backlog)) == (begin, [1, 2])

    @shared
    def test_every_process_gets_what_any_of_them_appends_in_the_same_order(self, log: Log) -> None:
        brokers = [log.open() for _ in range(3)]
        recorders = [Recorder(broker) for broker in brokers]
        for n in range(30):
            add(brokers[n % 3], n)
        told = [recorder.events(30) for recorder in recorders]
        assert told[0] == told[1] == told[2]
        assert data(told[0]) == list(range(30))

    @shared
    def test_a_lost_history_is_told_and_following_goes_on(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        [before] = add(broker, "before")
        recorder.events(1)
        assert log.lose_history
        log.lose_history()
        add(log.open(), "lost to nobody")
        restart = recorder.next()
        assert isinstance(restart, Cursor)
        assert restart > before
        with pytest.raises(Gap):
            broker.after(before, ["a"], 100)
        add(broker, "after")
        told: Event | Cursor = restart
        while not isinstance(told, Event) or told.data != '"after"':  # Recorder.next() raises when nothing comes
            told = recorder.next()

    def test_a_closed_broker_delivers_nothing_and_ends_its_thread(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        broker.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "events-follower"]
        add(log.open(), 1)
        assert recorder.nothing_more()

    @shared
    def test_the_health_check_is_told_while_events_do_not_reach_the_reader(self, log: Log) -> None:
        broker = log.open()
        is_broken = True
        told: queue.Queue[Event] = queue.Queue()

        def deliver(events: Sequence[Event]) -> None:
            if is_broken:
                raise Failure
            for one in events:
                told.put(one)

        broker.follow(Reader(deliver, lambda _: None, lambda _: None), 0)
        broker.check_following()
        add(log.open(), "late")
        assert until(lambda: is_told_to_health(broker))
        is_broken = False
        assert data([told.get(timeout=PATIENCE)]) == ["late"]
        assert until(lambda: not is_told_to_health(broker))


def is_told_to_health(broker: Broker) -> bool:
    try:
        broker.check_following()
    except Unavailable:
        return True
    return False


def until(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + PATIENCE
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_true


class TestTransactions:
    def test_an_event_appears_when_the_transaction_commits(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        with transaction.atomic(using=log.alias):
            broker.append_on_commit([event(1)])
            broker.append_on_commit([event(2), event(3)])
            assert broker.after(recorder.begin, ["a"], 100) == []
            assert recorder.nothing_more()
        assert data(recorder.events(3)) == [1, 2, 3]
        assert data(broker.after(recorder.begin, ["a"], 100)) == [1, 2, 3]

    def test_a_transaction_that_fails_publishes_nothing(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        with suppress(Failure), transaction.atomic(using=log.alias):
            broker.append_on_commit([event("never")])
            raise Failure
        add(broker, "next")
        assert data(recorder.events(1)) == ["next"]

    def test_a_hook_of_the_caller_that_fails_keeps_no_event_from_being_published(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)

        def fail() -> None:
            raise Failure

        ran: list[str] = []
        with suppress(Failure), transaction.atomic(using=log.alias):
            transaction.on_commit(lambda: ran.append("before"), using=log.alias)
            transaction.on_commit(fail, using=log.alias)
            broker.append_on_commit([event(1)])
            with transaction.atomic(using=log.alias):
                broker.append_on_commit([event(2)])
            transaction.on_commit(lambda: ran.append("after"), using=log.alias)
        assert data(recorder.events(2)) == [1, 2]
        assert ran == ["before"]

    def test_a_savepoint_that_is_rolled_back_takes_its_events_with_it(self, log: Log) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        with transaction.atomic(using=log.alias):
            broker.append_on_commit([event("outer")])
            with suppress(Failure), transaction.atomic(using=log.alias):
                broker.append_on_commit([event("inner")])
                raise Failure
            broker.append_on_commit([event("outer again")])
        add(broker, "next")
        assert data(recorder.events(3)) == ["outer", "outer again", "next"]

    @pytest.mark.parametrize("log", ["postgresql"], indirect=True)
    def test_transactions_that_commit_in_the_other_order_hide_nothing(self, log: Log) -> None:
        """The first to publish is the last to commit. (SQLite lets only one of them write at a time.)"""
        broker = log.open()
        recorder = Recorder(broker)
        published, may_commit = threading.Event(), threading.Event()

        def slow(_: int) -> None:
            with transaction.atomic(using=log.alias):
                broker.append_on_commit([event("first to publish")])
                published.set()
                assert may_commit.wait(PATIENCE)

        thread = threading.Thread(target=close_after, args=(log, slow, 0))
        thread.start()
        assert published.wait(PATIENCE)
        with transaction.atomic(using=log.alias):
            broker.append_on_commit([event("first to commit")])
        add(broker, "outside")
        seen = recorder.events(2)
        may_commit.set()
        thread.join(PATIENCE)
        seen += recorder.events(1)
        assert data(seen) == ["first to commit", "outside", "first to publish"]
        assert ids(seen) == sorted(ids(seen))
        assert broker.after(recorder.begin, ["a"], 100) == seen


@pytest.mark.parametrize("log", ["postgresql"], indirect=True)
def test_who_followed_on_a_connection_that_goes_back_into_a_pool_hears_no_more_of_it(log: Log) -> None:
    connection, follower = connections[log.alias], Mock()
    connection.ensure_connection()
    with closing(database._changes(connection, follower)) as changes:
        next(changes)
    with connection.cursor() as cursor:
        cursor.execute("LISTEN events")  # as the next one who follows on it
        cursor.execute("NOTIFY events")
    assert not follower.poke.called


def close_after(log: Log, work: Any, argument: int) -> None:
    """Runs in a thread, whose database connection nobody else would close."""
    try:
        work(argument)
    finally:
        connections[log.alias].close()


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def wait_for_the_clock_to_pass(_: Cursor) -> None:
    """Age is told in milliseconds."""
    threading.Event().wait(0.005)
