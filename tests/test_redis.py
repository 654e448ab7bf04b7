"""What Redis does besides the contract: foreign entries, restarts, histories by channel, and its URL."""

import json
import logging
import random
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from events.brokers import Broker, Reader, Unavailable
from events.brokers.follower import Follower
from events.brokers.redis import RedisBroker
from events.log import Cursor, Gap
from events.wire import Event
from tests.brokers import PATIENCE, Log, OpenLog, Recorder
from tests.services import Valkey

DAY = 86_400.0


class Snapshots(Valkey):
    """Has on disk what it saved last."""

    def command(self) -> list[str]:
        return [*super().command(), "--appendonly", "no"]


@pytest.fixture
def log(open_log: OpenLog) -> Log:
    return open_log("valkey")


@pytest.fixture
def stream(log: Log) -> str:
    return f"{{{log.url.partition('=')[2]}}}"


@pytest.fixture
def client(valkey_server: Valkey) -> Iterator["redis.Redis"]:
    with valkey_server.client() as client:
        yield client


@pytest.fixture
def durable_server() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def snapshot_server() -> Iterator[Valkey]:
    server = Snapshots()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def open_on() -> Iterator[Callable[..., RedisBroker]]:
    brokers = []

    def open_(server: Valkey, history: int = 1000, seconds: float = DAY) -> RedisBroker:
        brokers.append(RedisBroker(server.url, history, seconds))
        return brokers[-1]

    yield open_
    for broker in brokers:
        broker.close()


def add(broker: Broker, *data: Any, channel: str = "a") -> list[Cursor]:
    return [
        Cursor.parse(given) for given in broker.append([Event(None, channel, "message", json.dumps(d)) for d in data])
    ]


def after(broker: Broker, cursor: Cursor, *channels: str, limit: int = 1000) -> list[Any]:
    return [json.loads(event.data) for event in broker.after(cursor, channels or ("a",), limit)]


def next_restart(recorder: Recorder) -> Cursor:
    while not isinstance(told := recorder.next(), Cursor):
        pass
    return told


class TestForeignEntries:
    FOREIGN: tuple[dict[str | bytes, str | bytes], ...] = (
        {"something": "else"},
        {"channel": "a", "type": "message"},
        {"channel": "a", "type": "message", "data": b"\xff\xfe"},
        {"channel": b"\xff", "type": "message", "data": "1"},
        {"channel": "a", "type": "mess\nage", "data": "1"},
        {"channel": "", "type": "message", "data": "1"},
    )

    def test_they_are_skipped_and_told_once(
        self, log: Log, stream: str, client: "redis.Redis", caplog: pytest.LogCaptureFixture
    ) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        [first] = add(broker, 1)
        for fields in self.FOREIGN:
            client.xadd(stream, fields)  # type: ignore[arg-type]
        add(broker, 2)
        assert [event.data for event in recorder.events(2)] == ["1", "2"]
        assert after(broker, first) == [2]
        assert [event.data for event in Recorder(log.open(), backlog=100).backlog] == ["1", "2"]
        told = [record for record in caplog.records if record.message.startswith("Skipped entries")]
        assert len(told) == 2  # once by each process

    def test_in_the_history_of_a_channel(self, log: Log, stream: str, client: "redis.Redis") -> None:
        broker = log.open()
        [first] = add(broker, 1)
        client.xadd(f"{stream}:c:a", {"some": "thing"})
        time.sleep(0.002)  # its id is the clock's, and must be before ours
        add(broker, 2)
        assert after(broker, first) == [2]

    def test_a_channels_key_that_is_no_stream_is_replaced(self, log: Log, stream: str, client: "redis.Redis") -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        client.set(f"{stream}:c:a", "a string")
        [first] = add(broker, 1)
        with pytest.raises(Gap):
            after(broker, begin)
        add(broker, 2)
        assert after(broker, first) == [2]

    def test_a_channels_stream_with_later_ids_is_begun_anew(self, log: Log, stream: str, client: "redis.Redis") -> None:
        broker = log.open()
        [first] = add(broker, 1)
        client.xadd(f"{stream}:c:a", {"prev": "0-0", "type": "message", "data": "0"}, id=f"{first.major + 10**9}-0")
        [second] = add(broker, 2)
        with pytest.raises(Gap):
            after(broker, first)
        add(broker, 3)
        assert after(broker, second) == [3]


class TestLostHistory:
    def test_a_follower_is_not_deaf_after_a_flush_with_the_clock_set_back(
        self, log: Log, stream: str, client: "redis.Redis"
    ) -> None:
        """The ids ran ahead of the clock, as they do once it is set back."""
        broker, other = log.open(), log.open()
        recorder = Recorder(broker)
        ahead = int(time.time() * 1000) + 3_600_000
        client.xadd(stream, {"channel": "a", "type": "message", "data": "1"}, id=f"{ahead}-0")
        [before] = recorder.events(1)
        assert log.lose_history
        log.lose_history()
        add(other, "with an id that is earlier")
        restart = next_restart(recorder)
        assert restart > Cursor(ahead, 0)
        [given] = add(other, 2)
        assert given > restart
        assert [event.data for event in recorder.events(1)] == ["2"]
        for one in (broker, other):
            with pytest.raises(Gap):
                after(one, Cursor.parse(before.id or ""))

    @pytest.mark.parametrize("suffix", ["", ":log"])
    def test_without_the_stream_or_its_log_all_earlier_cursors_are_a_gap(
        self, log: Log, stream: str, client: "redis.Redis", suffix: str
    ) -> None:
        broker = log.open()
        recorder = Recorder(broker)
        [before] = add(broker, 1)
        recorder.events(1)
        client.delete(stream + suffix)
        restart = next_restart(recorder)
        assert restart > before
        with pytest.raises(Gap):
            after(broker, before)
        add(broker, 2)
        assert after(broker, restart) == [2]

    def test_the_scripts_are_forgotten_and_nothing_else(self, log: Log, client: "redis.Redis") -> None:
        broker = log.open()
        recorder = Recorder(broker)
        [first] = add(broker, 1)
        client.script_flush()
        add(broker, 2)
        assert after(broker, first) == [2]
        assert len(recorder.events(2)) == 2

    def test_after_a_restart_from_a_snapshot_all_earlier_cursors_are_a_gap(
        self, snapshot_server: Valkey, open_on: Callable[..., RedisBroker]
    ) -> None:
        broker = open_on(snapshot_server)
        recorder = Recorder(broker)
        [saved] = add(broker, "saved")
        with snapshot_server.client() as client:
            client.save()
        [lost] = add(broker, "lost")
        recorder.events(2)
        snapshot_server.restart()
        restart = next_restart(recorder)
        assert restart > lost
        newcomer = open_on(snapshot_server)
        for one in (broker, newcomer):
            for cursor in (saved, lost):
                with pytest.raises(Gap):
                    after(one, cursor)
        add(newcomer, "next")
        assert after(broker, restart) == ["next"]
        assert [event.data for event in recorder.events(1)] == ['"next"']

    def test_a_process_that_knows_nothing_notices_a_restart_too(
        self, snapshot_server: Valkey, open_on: Callable[..., RedisBroker]
    ) -> None:
        [saved] = add(open_on(snapshot_server), "saved")
        with snapshot_server.client() as client:
            client.save()
        snapshot_server.restart()
        with pytest.raises(Gap):
            after(open_on(snapshot_server), saved)

    def test_history_goes_on_over_a_restart_with_everything_on_disk(
        self, durable_server: Valkey, open_on: Callable[..., RedisBroker]
    ) -> None:
        broker = open_on(durable_server)
        recorder = Recorder(broker)
        given = add(broker, 1, 2)
        recorder.events(2)
        durable_server.restart()
        add(broker, 3)
        assert after(broker, given[0]) == [2, 3]
        assert after(open_on(durable_server), given[0]) == [2, 3]
        assert [event.data for event in recorder.events(1)] == ["3"]

    def test_a_promoted_replica_begins_a_new_history_even_with_everything_on_disk(
        self, durable_server: Valkey, open_on: Callable[..., RedisBroker]
    ) -> None:
        replica = Valkey()
        replica.start()
        try:
            [given] = add(open_on(durable_server), 1)
            with replica.client() as client:
                client.replicaof("127.0.0.1", durable_server.port)
                while not client.exists("{events}"):
                    time.sleep(0.02)
                with pytest.raises(Unavailable):
                    add(open_on(replica), "refused")
                client.replicaof("NO", "ONE")
            with pytest.raises(Gap):
                after(open_on(replica), given)
        finally:
            replica.remove()


class TestHistories:
    def test_events_elsewhere_do_not_hurt_a_quiet_channel(self, log: Log) -> None:
        broker = log.open(history=100)
        begin = Recorder(broker).begin
        add(broker, "quiet", channel="quiet")
        for _ in range(30):
            add(broker, *range(1000), channel="busy")
        assert after(broker, begin, "quiet") == ["quiet"]
        assert after(broker, begin, "quiet", "never used") == ["quiet"]
        for channels in (("busy",), ("quiet", "busy")):
            with pytest.raises(Gap):
                after(broker, begin, *channels)

    def test_channels_are_merged_in_order_and_up_to_the_limit(self, log: Log) -> None:
        broker = log.open()
        begin = Recorder(broker).begin
        for n in range(100):
            add(broker, n, channel="abcde"[n * 7 % 5])
        assert after(broker, begin, *"abcde", "f") == list(range(100))
        for limit in (1, 7, 50):
            assert after(broker, begin, *"edcba", limit=limit) == list(range(limit))
        assert after(broker, begin, "b", limit=3) == [n for n in range(100) if "abcde"[n * 7 % 5] == "b"][:3]

    def test_a_floor_is_exact(self, log: Log) -> None:
        broker = log.open(history=100)
        given = add(broker, *range(1000))
        kept = len(after(broker, given[-100]))
        assert kept == 99
        gaps = []
        for cursor in given:
            try:
                after(broker, cursor)
            except Gap:
                gaps.append(cursor)
        assert gaps
        assert gaps == given[: len(gaps)]
        assert after(broker, given[len(gaps)])[0] == len(gaps) + 1

    def test_with_a_history_of_one_followers_get_everything(self, log: Log) -> None:
        broker = log.open(history=1)
        recorders = [Recorder(broker), Recorder(log.open(history=1))]
        for n in range(20):
            add(broker, *[[n, m, "x" * 5000] for m in range(50)])
        for recorder in recorders:
            assert [json.loads(event.data)[:2] for event in recorder.events(1000)] == [
                [n, m] for n in range(20) for m in range(50)
            ]

    def test_what_is_too_old_is_not_served_and_a_channel_expires(
        self, log: Log, stream: str, client: "redis.Redis"
    ) -> None:
        broker = log.open(history_seconds=0.3)
        begin = Recorder(broker).begin
        [old] = add(broker, "old")
        add(broker, "elsewhere", channel="b")
        time.sleep(0.35)
        with pytest.raises(Gap):
            after(broker, begin)
        assert after(broker, old) == []
        assert Recorder(log.open(history_seconds=0.3), backlog=10).backlog == []
        time.sleep(0.35)
        assert not client.exists(f"{stream}:c:a")
        add(broker, "new")
        with pytest.raises(Gap):
            after(broker, begin)

    def test_a_reader_who_was_told_everything_has_no_gap_however_long_it_was_silent(self, log: Log) -> None:
        broker = log.open(history_seconds=0.05)
        [newest] = add(broker, 1)
        time.sleep(0.15)
        assert after(broker, newest, "a", "never used") == []

    def test_a_process_that_lags_beyond_what_is_kept_to_follow_is_restarted(
        self, log: Log, stream: str, client: "redis.Redis"
    ) -> None:
        broker = log.open()
        released = threading.Event()

        class Slow(Recorder):
            def _deliver(self, events: Any) -> None:
                super()._deliver(events)
                released.wait(PATIENCE)

        recorder = Slow(broker)
        add(broker, 0)
        recorder.events(1)
        for n in range(12):
            add(log.open(), *range(n * 1000, (n + 1) * 1000))
        released.set()
        restart = next_restart(recorder)
        [given] = add(broker, "next")
        assert restart < given
        assert recorder.events(1)[0].data == '"next"'


class TestConnections:
    def test_a_pool_whose_connections_were_closed_is_usable(self, log: Log, client: "redis.Redis") -> None:
        broker = log.open()
        add(broker, 1)
        client.client_kill_filter(_type="normal", skipme=True)
        add(broker, 2)

    def test_a_pool_that_is_connected_to_what_is_a_replica_now_reports_it(
        self, snapshot_server: Valkey, valkey_server: Valkey, open_on: Callable[..., RedisBroker]
    ) -> None:
        broker = open_on(snapshot_server)
        add(broker, 1)
        with snapshot_server.client() as client:
            client.config_set("min-replicas-to-write", 0)
            client.replicaof("127.0.0.1", 1)
            with pytest.raises(Unavailable, match=r"(?i)read.?only"):
                add(broker, 2)
            client.replicaof("NO", "ONE")
        add(broker, 3)

    def test_a_broker_that_is_down_at_the_commit_harms_nobody(self, log: Log, caplog: pytest.LogCaptureFixture) -> None:
        broker = RedisBroker("redis://127.0.0.1:1", 100, DAY)
        broker.database = log.alias
        hooks = []
        with transaction.atomic(using=log.alias):
            broker.append_on_commit([Event(None, "a", "message", "1")])
            transaction.on_commit(lambda: hooks.append("ran"), using=log.alias)
        assert hooks == ["ran"]
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "channels=a" in record.message
        broker.close()


class _Failing(Follower):
    """Reaches its log each time, and fails before it has read anything."""

    def follow(self) -> None:
        self.began()
        self.attempts.append(time.monotonic())
        raise Unavailable("Reached, and lost again.")

    attempts: list[float]


def test_a_follower_that_connects_and_gets_no_further_tries_ever_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    follower = _Failing(Reader(lambda _: None, lambda _: None, lambda _: None), 0)
    follower.attempts = []
    follower.begin()
    time.sleep(2.0)
    follower.close()
    pauses = [after - before for before, after in pairwise(follower.attempts)]
    assert [round(pause, 1) for pause in pauses] == [0.2, 0.4, 0.8]


class TestUrl:
    @pytest.mark.parametrize(
        "option",
        ["protocol=3", "decode_responses=1", "socket_timeout=1", "retry_on_timeout=1", "ssl_ca_certs=x", "nonsense=1"],
    )
    def test_an_option_that_the_broker_does_not_take_is_refused(self, option: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=option.partition("=")[0]) as raised:
            RedisBroker(f"redis://:secret@localhost/0?{option}", 1, DAY)
        assert "stream" in str(raised.value)
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:secret/word@localhost",
            "redis://:secret@localhost:port",
            "redis://:secret@localhost?db=x",
            "redis://:secret@localhost?stream=",
            "redis://:secret@localhost?stream={a}b",
            "rediss://:secret@localhost?ssl_cert_reqs=perhaps",
        ],
    )
    def test_no_message_shows_a_password(self, url: str) -> None:
        with pytest.raises(ImproperlyConfigured) as raised:
            RedisBroker(url, 1, DAY)
        assert "secret" not in "".join(traceback.format_exception_only(raised.value))
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__ or raised.value.__context__ is None

    def test_what_it_takes(self, valkey_server: Valkey) -> None:
        name = uuid.uuid4()
        for url in (
            f"{valkey_server.url}/3?stream={name}&client_name=events",
            f"unix://{valkey_server.socket}?db=3&stream={name}",
        ):
            broker = RedisBroker(url, 1, DAY)
            add(broker, 1)
            broker.close()
        RedisBroker("rediss://user:secret@localhost:6380/0?ssl_cert_reqs=none&ssl_check_hostname=false", 1, DAY).close()
