"""Nothing lost, nothing doubled: between processes, and through their deaths and restarts."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from django.db import connections

from events.brokers import Unavailable
from events.log import Cursor
from events.models import StoredEvent
from events.wire import Event
from tests.brokers import PATIENCE, Log, OpenLog, Recorder
from tests.live.servers import Server, Stream, free_port
from tests.services import PostgreSQL, Tls, Valkey

SHARED = ("sqlite", "postgresql", "valkey")


@pytest.fixture(params=SHARED)
def log(request: pytest.FixtureRequest, open_log: OpenLog) -> Log:
    return open_log(request.param)


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        yield


def publish(log: Log, *data: object) -> list[str]:
    """Publish from a process of its own; returns the ids."""
    process = log.process("manage.py", "publish", "a", "-", stdin=-1)
    output, errors = process.communicate("\n".join(json.dumps(one) for one in data), timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    return output.split()


def run(log: Log, code: str) -> int:
    """Run this code in a Python process of the project; returns how it ended."""
    setup = "import django; django.setup()\n"
    process = log.process("-c", setup + textwrap.dedent(code))
    _, errors = process.communicate(timeout=PATIENCE)
    sys.stderr.write(errors)
    return process.returncode


def test_what_one_process_publishes_arrives_on_streams_of_others(log: Log, static_root: Path) -> None:
    server = log.server(static_root, "--workers", "2")
    with running(server), ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, channel="a")) for _ in range(8)]
        for stream in streams:
            stream.next("hello")
        [given] = publish(log, {"from": "outside"})
        for stream in streams:
            event = stream.next("message")
            assert (event.id, event.data) == (given, '{"from":"outside"}')


def test_a_reader_goes_on_in_another_process_by_stream_and_by_poll(log: Log, static_root: Path) -> None:
    """The other process has only just begun: its own log holds nothing of what was missed."""
    first, second = log.server(static_root), log.server(static_root)
    with running(first):
        cursor = first.poll(channel="a").json()["cursor"]
        missed = publish(log, *range(900))
    with running(second):
        with Stream(second, {"Last-Event-ID": cursor}, channel="a") as stream:
            assert stream.next("hello").id == cursor
            assert [stream.next("message").id for _ in missed] == missed
            [live] = publish(log, "live")
            assert stream.next("message").id == live
        polled: list[str] = []
        while len(polled) < 901:
            answer = second.poll(channel="a", since=cursor).json()
            assert not answer["gap"]
            polled += [event["id"] for event in answer["events"]]
            cursor = answer["cursor"]
        assert polled == [*missed, live]


def test_a_reader_goes_on_after_a_restart(log: Log, static_root: Path) -> None:
    server = log.server(static_root)
    with running(server):
        with Stream(server, channel="a") as stream:
            stream.next("hello")
            [first] = publish(log, 1)
            assert stream.next("message").id == first
        server.stop(signal.SIGKILL)
        missed = publish(log, 2, 3)
        server.start()
        with Stream(server, {"Last-Event-ID": first}, channel="a") as stream:
            stream.next("hello")
            assert [stream.next("message").id for _ in missed] == missed


def test_a_cursor_from_a_process_that_is_ahead_is_not_a_gap(log: Log, static_root: Path) -> None:
    server = log.server(static_root)
    with running(server):
        server.poll(channel="a")
        # The server is frozen while a cursor comes to be that it has not heard of.
        worker = server.state()["pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            ahead = publish(log, *range(20))[-1]
        finally:
            os.kill(worker, signal.SIGCONT)
        answer = server.poll(channel="a", since=ahead).json()
        assert (answer["gap"], answer["events"], answer["cursor"]) == (False, [], ahead)
        with Stream(server, {"Last-Event-ID": ahead}, channel="a") as stream:
            assert json.loads(stream.next().data)["cursor"] == ahead
            [live] = publish(log, "live")
            assert stream.next("message").id == live


def test_a_lost_history_is_told_to_open_streams_and_to_polls(log: Log, static_root: Path) -> None:
    server = log.server(static_root)
    with running(server), Stream(server, channel="a") as stream:
        stream.next("hello")
        [before] = publish(log, "before")
        stream.next("message")
        assert log.lose_history
        log.lose_history()
        publish(log, "meanwhile")
        reset = stream.next()
        assert reset.type == "reset"
        assert server.poll(channel="a", since=before).json()["gap"] is True
        after = publish(log, "after")
        while (event := stream.next()).data != '"after"':
            # Told twice, if it was noticed before the publisher began a new history for good.
            assert event.type == "reset" or event.data == '"meanwhile"'
        assert [event.id] == after


@pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)
def test_a_publisher_that_dies_between_its_commit_and_the_numbering_loses_nothing(log: Log) -> None:
    recorder = Recorder(log.open())
    ended = run(
        log,
        """
        import os, signal
        from django.db import transaction
        from events import publish

        with transaction.atomic():
            transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))  # before our own turn comes
            publish("a", "committed")
            publish("a", "as well")
        """,
    )
    assert ended == -signal.SIGKILL
    assert [event.data for event in recorder.events(2)] == ['"committed"', '"as well"']


@pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)
def test_a_publisher_that_dies_before_its_commit_has_published_nothing(log: Log) -> None:
    recorder = Recorder(log.open())
    ended = run(
        log,
        """
        import os, signal
        from django.db import transaction
        from events import publish

        with transaction.atomic():
            publish("a", "never")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert ended == -signal.SIGKILL
    publish(log, "next")
    assert [event.data for event in recorder.events(1)] == ['"next"']
    assert StoredEvent.objects.using(log.alias).count() == 1


def test_many_processes_publish_at_once_and_none_fails(log: Log) -> None:
    recorder = Recorder(log.open())
    writers = [
        log.process(
            "-c",
            "import django; django.setup()\n"
            "from django.db import transaction\n"
            "from events import publish\n"
            "for n in range(40):\n"
            "    if n % 2:\n"
            f"        publish('a', [{writer}, n])\n"
            "    else:\n"
            "        with transaction.atomic():\n"
            f"            publish('a', [{writer}, n])\n",
        )
        for writer in range(6)
    ]
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    events = recorder.events(240)
    cursors = [Cursor.parse(event.id or "") for event in events]
    assert cursors == sorted(set(cursors))
    for writer in range(6):
        assert [n for who, n in map(json.loads, (event.data for event in events)) if who == writer] == list(range(40))


def test_following_survives_a_restart_of_postgresql(open_log: OpenLog, postgresql_server: PostgreSQL) -> None:
    log = open_log("postgresql")
    recorder = Recorder(log.open())
    publish(log, 1)
    for sig in (signal.SIGINT, signal.SIGQUIT):  # in order, and as a crash
        connections[log.alias].close()
        postgresql_server.restart(sig)
        publish(log, 2)
    assert [event.data for event in recorder.events(3)] == ["1", "2", "2"]


def test_following_survives_a_restart_of_valkey(open_log: OpenLog, valkey_server: Valkey) -> None:
    log = open_log("valkey")
    recorder = Recorder(log.open())
    publish(log, 1)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        valkey_server.restart(sig)
        publish(log, 2)
    assert [event.data for event in recorder.events(3)] == ["1", "2", "2"]


@pytest.mark.parametrize(
    "broker",
    ["redis://127.0.0.1:{port}", "unix:///nowhere/socket", "db:"],
)
def test_without_its_broker_the_site_says_so_and_the_rest_of_it_works(
    broker: str, static_root: Path, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path / 'not-migrated.sqlite3'}"}
    events = {"BROKER": broker.format(port=free_port()), "PUBLISH_TOKEN": "secret"}
    server = Server("asgi", static_root, events, [], environment)
    with running(server):
        for answer in (
            requests.get(f"{server.url}/events/", timeout=10),
            requests.get(f"{server.url}/events/poll/", timeout=10),
            requests.post(
                f"{server.url}/events/publish/",
                json={"channel": "a", "data": 1},
                headers={"Authorization": "Bearer secret"},
                timeout=10,
            ),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "cannot be reached" in answer.json()["error"]
        assert requests.get(f"{server.url}/", timeout=10).status_code == 200


def test_a_site_that_started_before_its_broker_finds_it_later(
    open_log: OpenLog, valkey_server: Valkey, static_root: Path
) -> None:
    log = open_log("valkey")
    valkey_server.stop()
    server = log.server(static_root)
    try:
        with running(server):
            assert server.poll().status_code == 503
            valkey_server.start()
            while (answer := server.poll()).status_code == 503:
                pass
            assert answer.status_code == 200
            with Stream(server, channel="a") as stream:
                stream.next("hello")
                [given] = publish(log, 1)
                assert stream.next("message").id == given
    finally:
        if not valkey_server.process:
            valkey_server.start()


def test_a_unix_socket_serves_as_well(valkey_server: Valkey) -> None:
    log = Log(f"unix://{valkey_server.socket}?stream=by-socket&db=1")
    recorder = Recorder(log.open())
    publish(log, 1)
    assert [event.data for event in recorder.events(1)] == ["1"]
    log.close()


def test_tls_serves_as_well_and_only_with_a_certificate_that_is_trusted(valkey_server: Valkey) -> None:
    proxy = Tls(valkey_server.port)
    proxy.start()
    url = f"rediss://127.0.0.1:{proxy.port}?stream=by-tls"
    log = Log(f"{url}&ssl_ca_certs={proxy.authority}")
    try:
        recorder = Recorder(log.open())
        publish(log, 1)
        assert [event.data for event in recorder.events(1)] == ["1"]
        with pytest.raises(Unavailable, match="certificate"):
            Log(url).open().append([Event(None, "a", "message", "2")])
    finally:
        log.close()
        proxy.remove()


@contextmanager
def frozen(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """A server that is there and says nothing, with all of its processes."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pids = [process.pid, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_a_database_that_hangs_keeps_nobody_from_what_memory_knows(
    open_log: OpenLog, postgresql_server: PostgreSQL, static_root: Path
) -> None:
    server = open_log("postgresql").server(static_root)
    with running(server), ThreadPoolExecutor(20) as threads:
        cursor = server.poll(channel="a").json()["cursor"]
        ahead = str(Cursor(Cursor.parse(cursor).major + 5_000, 0))
        assert postgresql_server.process
        with frozen(postgresql_server.process):
            # More than the threads that requests have: only the database could say whether there is such a cursor.
            asked = [threads.submit(server.poll, channel="a", since=ahead) for _ in range(20)]
            known = [threads.submit(server.poll, channel="a", since=cursor) for _ in range(5)]
            assert {answer.result(PATIENCE).status_code for answer in known} == {200}
            assert {answer.result(PATIENCE).status_code for answer in asked} == {503}
            assert requests.get(f"{server.url}/events/health/", timeout=PATIENCE).status_code == 503
        while requests.get(f"{server.url}/events/health/", timeout=PATIENCE).status_code != 200:
            pass
        with Stream(server, {"Last-Event-ID": cursor}, channel="a") as stream:
            given = server.publish("a", 1)
            assert stream.next("message").id == given
