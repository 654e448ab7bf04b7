"""What operators watch: metrics, health and the log, of real servers with real brokers that fail."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
import requests
from django.db import connections
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from tests.brokers import PATIENCE, OpenLog
from tests.live.servers import COMMANDS, ROOT, Server, Stream, serve
from tests.live.test_durability import publish, running
from tests.services import PostgreSQL, Valkey

TOKEN = {"Authorization": "Bearer secret"}
WORKERS = 3


def scrape(server: Server) -> dict[str, float]:
    """The samples, by name and label: `events_polls_total 304`."""
    answer = requests.get(f"{server.url}/events/metrics/", headers=TOKEN, timeout=10)
    assert answer.status_code == 200, answer.text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def health(server: Server) -> requests.Response:
    return requests.get(f"{server.url}/events/health/", timeout=10)


def streams_on(server: Server, count: int, stack: ExitStack) -> list[Stream]:
    streams = [stack.enter_context(Stream(server, channel="a")) for _ in range(count)]
    for stream in streams:
        stream.next("hello")
    return streams


def wait_for_workers(server: Server, count: int) -> None:
    """Return when so many have begun: one that is told to stop before does not hear it, and gunicorn waits in vain."""
    while server.kind == "asgi" and server.log().count("EventWorker listening") < count:
        pass


@pytest.fixture(params=[("asgi", []), ("gthread", ["--threads", "16"])], ids=["EventWorker", "gthread"])
def server(request: pytest.FixtureRequest, open_log: OpenLog, static_root: Path) -> Iterator[Server]:
    kind, arguments = request.param
    server = open_log("sqlite").server(
        static_root, "--workers", str(WORKERS), *arguments, kind=kind, METRICS_TOKEN="secret", HEARTBEAT=0.5
    )
    with running(server):
        yield server


def test_any_worker_tells_the_sum_of_all_and_those_that_are_replaced_take_nothing_away(server: Server) -> None:
    with ExitStack() as stack:
        streams = streams_on(server, 12, stack)
        published = [server.publish("a", n) for n in range(5)]
        for stream in streams:
            assert [stream.next("message").id for _ in published] == published
        polled = server.poll()
        for _ in range(7):
            requests.get(polled.url, headers={"If-None-Match": polled.headers["ETag"]}, timeout=10)
        for _ in range(10):  # whichever worker answers
            seen = scrape(server)
            assert seen["events_streams"] == seen["events_streams_opened_total"] == 12
            assert seen["events_published_total"] == 5
            assert seen["events_delivered_total"] == 60
            assert 0 < seen["events_delivery_delay_seconds_count"] <= 60
            assert seen["events_delivery_delay_seconds_sum"] < 60 * PATIENCE
            assert (seen["events_polls_total 200"], seen["events_polls_total 304"]) == (1, 7)
            assert 0 < seen["events_processes"] <= WORKERS
        for stream in streams[:4]:
            stream.response.close()
        while (seen := scrape(server))["events_streams"] != 8:
            pass
        assert seen["events_streams_closed_total left"] == 4

        killed = server.state()["pid"]
        os.kill(killed, signal.SIGKILL)
        for stream in streams[4:]:
            with suppress(OSError, HTTPError, StopIteration):  # ended, if it was that worker's
                stream.next("heartbeat")
        while killed in {server.state()["pid"] for _ in range(3)} or scrape(server)["events_streams"] > 8:
            pass
        before = scrape(server)
        assert (before["events_streams_opened_total"], before["events_published_total"]) == (12, 5)

        wait_for_workers(server, WORKERS + 1)
        assert server.process
        server.process.send_signal(signal.SIGHUP)
        while (seen := scrape(server))["events_streams"] > 0:
            assert seen["events_streams_opened_total"] == 12
        assert seen["events_delivered_total"] == 60
        # Those that were killed with their worker have no end that anybody saw.
        drained = seen["events_streams_closed_total drained"] + seen["events_streams_closed_total left"] - 4
        assert drained == before["events_streams"]
    wait_for_workers(server, 2 * WORKERS + 1)


def test_processes_that_come_and_go_leave_one_row_behind() -> None:
    code = """
        import os
        from events.metrics import counters
        counters.share()
        for _ in range(600):  # more than there are rows
            if not (child := os.fork()):
                counters.polls += 1
                counters.streams = 9
                os._exit(0 if counters.total().polls else 1)
            assert os.waitpid(child, 0)[1] == 0
        total = counters.total()
        assert (total.polls, total.streams, total.in_use) == (600, 0, 1), (total.polls, total.streams, total.in_use)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True, timeout=PATIENCE)


def test_the_metrics_are_for_those_who_bring_the_token(static_root: Path) -> None:
    with serve("asgi", static_root, METRICS_TOKEN="secret") as server:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
            refused = requests.get(f"{server.url}/events/metrics/", headers=headers, timeout=10)
            assert refused.status_code == 403
            assert "METRICS_TOKEN" in refused.json()["error"]
        assert scrape(server)["events_streams"] == 0
        # Healthy, and answering so, when nobody else fits in.
        assert health(server).json() == {"status": "ok"}


@pytest.mark.parametrize(("kind", "service"), [("valkey", "valkey_server"), ("postgresql", "postgresql_server")])
def test_health_fails_while_the_broker_is_gone_and_the_log_says_so_once(
    kind: str, service: str, request: pytest.FixtureRequest, open_log: OpenLog, static_root: Path
) -> None:
    log = open_log(kind)
    broker: Valkey | PostgreSQL = request.getfixturevalue(service)
    server = log.server(static_root, METRICS_TOKEN="secret", MAX_STREAMS=1)
    with running(server), Stream(server, channel="a") as stream:
        stream.next("hello")
        assert requests.get(f"{server.url}/events/", timeout=10).status_code == 503  # there is no room
        assert health(server).status_code == 200
        broker.stop()
        try:
            while (answer := health(server)).status_code == 200:
                pass
            assert answer.status_code == 503
            assert answer.json()["error"].startswith("The events cannot be reached now")
            while not scrape(server)["events_broker_lost_processes"]:
                pass
            for _ in range(20):
                server.poll(since="1-1")
        finally:
            broker.start()
        while health(server).status_code != 200:
            pass
        while (seen := scrape(server))["events_broker_lost_processes"]:
            pass
        assert seen["events_broker_reconnects_total"] == 1
        [given] = publish(log, 1)
        assert stream.next("message").id == given
        lines = server.log()
        assert lines.count("Cannot reach the broker; retrying: reason=") == 1
        assert lines.count("The broker is reached again: seconds=") == 1
        assert lines.count("Answered 503, as the events cannot be reached: answers=1 reason=") == 1
        assert "Traceback" not in lines


def test_health_does_not_wait_for_a_broker_that_is_silent(
    open_log: OpenLog, valkey_server: Valkey, static_root: Path
) -> None:
    server = open_log("valkey").server(static_root)
    with running(server):
        assert health(server).status_code == 200
        threads = server.state()["threads"]
        assert valkey_server.process
        valkey_server.process.send_signal(signal.SIGSTOP)
        try:
            while health(server).status_code == 200:
                pass
            for _ in range(50):
                assert health(server).status_code == 503
            assert server.state()["threads"] <= threads + 8  # those that requests run in, and the one that asks
        finally:
            valkey_server.process.send_signal(signal.SIGCONT)
        while health(server).status_code != 200:
            pass


def test_readers_that_are_cut_are_counted_and_told_of_in_one_line(static_root: Path) -> None:
    with serve("asgi", static_root, HISTORY=200, METRICS_TOKEN="secret") as server, ExitStack() as stack:
        for _ in range(10):
            mute = stack.enter_context(socket.socket())
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", server.port))
            mute.sendall(b"GET /events/?channel=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while scrape(server)["events_streams"] != 10:
            pass
        while scrape(server)["events_slow_streams"] != 10:
            server.publish("a", "x" * 60_000)
        while (seen := scrape(server))["events_streams"]:
            server.publish("a", 1)
        assert seen["events_streams_closed_total cut"] == 10
        assert seen["events_slow_streams"] == 0
        lines = [line for line in server.log().splitlines() if "Streams are cut" in line]
        assert sum(int(line.split("streams=")[1].split()[0]) for line in lines) == 10
        assert all(line.endswith(" channels=a") for line in lines)
        assert len(lines) < 10


def test_streams_that_end_well_leave_no_line(static_root: Path) -> None:
    with serve("asgi", static_root, MAX_STREAM_AGE=1, METRICS_TOKEN="secret") as server, ExitStack() as stack:
        began = server.log()
        aged, *left = streams_on(server, 10, stack)
        for stream in left:
            stream.response.close()
        with pytest.raises(StopIteration):
            aged.next("message")
        while (seen := scrape(server))["events_streams"]:
            pass
        assert seen["events_streams_closed_total left"] + seen["events_streams_closed_total aged"] == 10
        assert seen["events_streams_closed_total aged"] > 0
        assert server.log() == began


def test_workers_that_have_a_memory_each_are_warned_of_once(static_root: Path) -> None:
    with serve("asgi", static_root, "--workers", "2") as server:
        wait_for_workers(server, 2)
        assert server.log().count("EVENTS['BROKER'] is 'memory:', which each of the 2 workers has for itself") == 1


@pytest.mark.parametrize("age", [0, 600])
def test_a_stream_in_a_thread_holds_no_connection_to_the_database(
    age: int, open_log: OpenLog, static_root: Path
) -> None:
    log = open_log("postgresql")
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env=os.environ | log.environment | {"DJANGO_SETTINGS_MODULE": "sse_demo.settings", "DJANGO_SECRET_KEY": "x"},
        check=True,
    )
    server = log.server(static_root, kind="gthread")
    server.environment |= {"TEST_DATABASE": f'{{"CONN_MAX_AGE": {age}, "ATOMIC_REQUESTS": true}}'}
    with running(server), ExitStack() as stack, psycopg.connect(log.environment["DATABASE_URL"]) as connection:
        connections[log.alias].close()  # our own
        for _ in range(3):
            cookie = {"Cookie": "sessionid=" + "x" * 32}  # which is looked for in the database
            stack.enter_context(Stream(f"{server.url}/test", cookie, channel="a")).next("hello")
        connection.autocommit = True
        held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while connection.execute(held).fetchone() != (1,):  # the one that follows the log
            pass
        assert server.state()["streams"] == 3


def test_nothing_needs_a_file_system_that_can_be_written_to(static_root: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("this user may not mount anything")
    read_only = 'mount -o remount,bind,ro / && exec "$0" "$@"'
    unshare = ["-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", "unshare", "--mount", "sh", "-c"]
    gunicorn = [sys.executable, *COMMANDS["asgi"], "--worker-tmp-dir", "/dev/shm", "--workers", "2"]
    with serve("asgi", static_root, command=[*unshare, read_only, *gunicorn], METRICS_TOKEN="secret") as server:
        token = {"Authorization": "Bearer secret"}
        for number in range(1, 5):
            assert server.poll().status_code == 200
            text = requests.get(f"{server.url}/events/metrics/", headers=token, timeout=10).text
            assert f'events_polls_total{{status="200"}} {number}.0' in text  # of both workers
        assert "count" not in server.log()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_whoever_has_connected_is_answered_though_their_worker_is_replaced(
    loop: str, open_log: OpenLog, static_root: Path
) -> None:
    server = open_log("sqlite").server(static_root, "--workers", str(WORKERS), "--asgi-loop", loop)
    ended = threading.Event()

    def ask() -> int:
        count = 0
        while not ended.is_set():  # each on a connection of its own
            assert requests.get(f"{server.url}/test/process/", timeout=10).status_code == 200
            count += 1
        return count

    with running(server), ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            for reload in range(2, 12):
                assert server.process
                server.process.send_signal(signal.SIGHUP)
                wait_for_workers(server, reload * WORKERS)
        finally:
            ended.set()
        assert all(answers.result() for answers in asking)
