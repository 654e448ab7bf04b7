"""What EventWorker promises beyond the contract of every server: on both event loops, with TLS and without."""

import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests
import trustme

from events.wire import Decoder, Event
from tests.live.servers import GUNICORN, ROOT, Server, Stream, serve

LARGE = "x" * 60_000  # a hundred of them are more than what socket buffers hold


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the certificate of an authority of our own, and one for 127.0.0.1 with its key."""
    directory = tmp_path_factory.mktemp("tls")
    own = trustme.CA()
    own.cert_pem.write_to_path(directory / "ca.pem")
    own.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    return directory


Start = Callable[..., Server]


with_and_without_tls = pytest.mark.parametrize(
    "start", list(itertools.product(["uvloop", "asyncio"], ["plain", "tls"])), ids="-".join, indirect=True
)


@pytest.fixture(params=[("uvloop", "plain"), ("asyncio", "plain")], ids="-".join)
def start(
    request: pytest.FixtureRequest, static_root: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts a server with these arguments and settings."""
    loop, security = request.param
    options = ["--asgi-loop", loop]
    if security == "tls":
        options += ["--certfile", str(authority / "server.pem"), "--keyfile", str(authority / "server.pem")]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority / "ca.pem"))
    with ExitStack() as servers:
        yield lambda *arguments, **events: servers.enter_context(
            serve("asgi", static_root, *options, *arguments, **events)
        )


class Connection:
    """A client that says exactly what it is told to, and reads no sooner."""

    def __init__(self, server: Server, receive_buffer: int | None = None) -> None:
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(30)
        raw.connect(("127.0.0.1", server.port))
        self.socket = raw
        if server.url.startswith("https"):
            context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
            self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self.decoder = Decoder()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, path: str = "/events/?channel=a", method: str = "GET", version: str = "1.1", more: str = "") -> None:
        head = f"{method} {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        self.socket.sendall((head + more).encode())

    def answer(self, method: str = "GET") -> HTTPResponse:
        """The next answer on this connection; its parser is strict about chunks."""
        response = HTTPResponse(self.socket, method=method)
        response.begin()
        return response

    def events(self, response: HTTPResponse) -> Iterator[Event]:
        while piece := response.read1():
            yield from self.decoder.feed(piece)


def next_of(events: Iterator[Event], type: str) -> Event:
    return next(event for event in events if event.type == type)


def wait_for_streams(server: Server, count: int) -> None:
    while server.state()["streams"] != count:
        pass


@with_and_without_tls
def test_a_stream_over_http_1_1_is_chunked_to_its_end(start: Start) -> None:
    server = start()
    with Connection(server) as client:
        client.ask()
        response = client.answer()
        assert response.getheader("Transfer-Encoding") == "chunked"
        events = client.events(response)
        next_of(events, "hello")
        published = [server.publish("a", n) for n in range(3)]
        assert [next_of(events, "message").id for _ in published] == published
        server.stop()
        assert [event.type for event in events] == ["drain"]
        assert response.isclosed()  # the last chunk came
        assert client.socket.recv(1) == b""


@with_and_without_tls
def test_a_stream_over_http_1_0_is_plain_and_ends_with_the_connection(start: Start) -> None:
    server = start()
    with Connection(server) as client:
        client.ask(version="1.0")
        response = client.answer()
        assert response.getheader("Transfer-Encoding") is None
        events = client.events(response)
        next_of(events, "hello")
        assert server.publish("a", 1) == next_of(events, "message").id
        server.stop()
        assert [event.type for event in events] == ["drain"]


def test_streams_of_other_channels_and_versions_stand_beside_each_other(start: Start) -> None:
    server = start()
    with ExitStack() as clients:
        streams = []
        for channels, version in itertools.product(["channel=a", "channel=b", "channel=a&channel=b"], ["1.0", "1.1"]):
            client = clients.enter_context(Connection(server))
            client.ask(f"/events/?{channels}", version=version)
            events = client.events(client.answer())
            next_of(events, "hello")
            streams.append((channels, events))
        ids = {channel: server.publish(channel, channel) for channel in "ab"}
        for channels, events in streams:
            for channel in sorted(channels.replace("channel=", "").replace("&", "")):
                assert next_of(events, "message").id == ids[channel]


@with_and_without_tls
def test_a_stream_may_follow_a_poll_and_a_head_on_one_connection(start: Start) -> None:
    server = start()
    with Connection(server) as client:
        client.ask("/events/poll/")
        poll = client.answer()
        assert poll.status == 200
        poll.read()
        client.ask(method="HEAD")
        assert client.answer("HEAD").getheader("Content-Type") == "text/event-stream; charset=utf-8"
        client.ask()
        next_of(client.events(client.answer()), "hello")


def test_what_a_client_sends_after_its_request_for_a_stream_changes_nothing(start: Start) -> None:
    server = start()
    with Connection(server) as client:
        client.ask(more="GET /events/poll/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        events = client.events(client.answer())
        next_of(events, "hello")
        client.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\0" * 1000)
        assert server.publish("a", 1) == next_of(events, "message").id


@with_and_without_tls
def test_a_replay_larger_than_any_buffer_arrives_whole_and_in_order(start: Start) -> None:
    server = start()
    cursor = server.publish("a", 0)
    missed = [server.publish("a", LARGE) for _ in range(60)]
    with Stream(server, {"Last-Event-ID": cursor}, channel="a") as stream:
        assert stream.next("hello").id == cursor
        assert [stream.next("message").id for _ in missed] == missed
        assert server.publish("a", 1) == stream.next("message").id


@with_and_without_tls
def test_a_slow_reader_catches_up_and_misses_nothing_while_others_do_not_wait(start: Start) -> None:
    server = start()
    with Connection(server, receive_buffer=4096) as slow, Stream(server, channel="a") as fast:
        slow.ask()
        events = slow.events(slow.answer())
        next_of(events, "hello")
        fast.next("hello")
        published = []
        for _ in range(100):
            published.append(server.publish("a", LARGE))
            assert fast.next("message").id == published[-1]
        assert [next_of(events, "message").id for _ in published] == published
        last = server.publish("a", "level again")
        assert next_of(events, "message").id == fast.next("message").id == last


def test_of_ephemeral_events_a_slow_reader_misses_all_but_the_newest(start: Start) -> None:
    server = start()
    with Connection(server, receive_buffer=4096) as slow, Stream(server) as fast:
        slow.ask("/events/?channel=a&channel=clock")
        for _ in range(100):
            server.publish("a", LARGE)
        ticks = [fast.next("message").data for _ in range(4)]
        events = slow.events(slow.answer())
        seen = [
            event.data
            for event in itertools.takewhile(lambda event: event.data < ticks[-1], events)
            if "T" in event.data
        ]
        assert len(set(seen)) == len(seen) < 4


@with_and_without_tls
def test_a_reader_that_never_reads_is_ended_when_the_log_has_left_it_behind(start: Start) -> None:
    server = start(HISTORY=20)
    with Connection(server, receive_buffer=4096) as mute, Stream(server, channel="a") as other:
        mute.ask()
        other.next("hello")
        wait_for_streams(server, 2)
        for _ in range(120):
            event_id = server.publish("a", LARGE)
            assert other.next("message").id == event_id
        wait_for_streams(server, 1)


@with_and_without_tls
def test_a_client_that_leaves_or_half_closes_is_noticed_without_a_write(start: Start) -> None:
    server = start(HEARTBEAT=3600)
    for leave in (socket.socket.close, lambda raw: raw.shutdown(socket.SHUT_WR)):
        with Connection(server) as client:
            client.ask()
            next_of(client.events(client.answer()), "hello")
            wait_for_streams(server, 1)
            leave(client.socket)
            wait_for_streams(server, 0)


def test_a_place_is_free_again_when_its_client_has_left(start: Start) -> None:
    server = start(MAX_STREAMS=2)
    with Stream(server) as first, Stream(server) as second:
        first.next("hello")
        second.next("hello")
        refused = requests.get(f"{server.url}/events/", timeout=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
    wait_for_streams(server, 0)
    with Stream(server) as third:
        third.next("hello")


def test_open_streams_hold_no_threads(start: Start) -> None:
    server = start()
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(Stream(server, channel="a")).next("hello")
        assert server.state()["streams"] == 100
        assert server.state()["threads"] < 20  # the loop, the ones that requests run in, and this very request's


def test_heartbeats_break_the_silence_of_each_channel(start: Start) -> None:
    server = start(HEARTBEAT=0.5)
    with Stream(server, channel="quiet") as quiet, Stream(server) as clock:
        quiet.next("hello")
        assert [quiet.next().type for _ in range(3)] == ["heartbeat"] * 3
        assert clock.next("message")


@with_and_without_tls
def test_a_stop_ends_every_stream_and_spreads_out_those_who_come_back(start: Start) -> None:
    server = start(RETRY=1000, SPREAD=5000)
    with ExitStack() as clients:
        streams = [clients.enter_context(Stream(server, channel="a")) for _ in range(50)]
        for stream in streams:
            stream.next("hello")
        idle = requests.Session()
        idle.get(f"{server.url}/events/poll/", timeout=10)
        assert server.process
        server.process.send_signal(signal.SIGTERM)
        retries = []
        for stream in streams:
            assert stream.next().type == "drain"
            with pytest.raises(StopIteration):
                stream.next()
            retries.append(stream.decoder.retry or 0)
        assert server.process.wait(20) == 0
        idle.close()
    assert all(1000 <= retry <= 6000 for retry in retries)
    assert len(set(retries)) > 25


def test_a_reload_ends_the_streams_of_the_old_worker_and_the_new_one_takes_over(start: Start) -> None:
    server = start()
    before = server.state()["pid"]
    with Stream(server) as stream:
        stream.next("hello")
        assert server.process
        server.process.send_signal(signal.SIGHUP)
        while True:
            try:
                stream.next()
            except StopIteration:
                break
    while server.state()["pid"] == before:
        pass
    with Stream(server) as stream:
        stream.next("hello")


def test_streams_end_when_their_worker_has_had_its_requests(start: Start) -> None:
    server = start("--max-requests", "5")
    with Stream(server, channel="a") as stream:
        stream.next("hello")
        for _ in range(3):  # after the one that has found the server ready, and the stream's own
            server.state()
        assert stream.next().type == "drain"
        with pytest.raises(StopIteration):
            stream.next()
        assert stream.decoder.retry


def test_a_stream_ends_at_its_age(start: Start) -> None:
    server = start(MAX_STREAM_AGE=0.5)
    with Stream(server, channel="a") as stream:
        stream.next("hello")
        assert stream.next().type == "drain"
        with pytest.raises(StopIteration):
            stream.next()
        assert stream.decoder.retry
    wait_for_streams(server, 0)


def test_the_kernel_holds_as_many_connections_as_the_backlog_says(static_root: Path) -> None:
    with serve("asgi", static_root, "--backlog", "400") as server:
        worker = server.state()["pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            for _ in range(300):
                Connection(server).socket.close()  # the 102nd would wait for a free place
        finally:
            os.kill(worker, signal.SIGCONT)


def test_workers_that_were_forked_from_a_loaded_application_serve_streams(static_root: Path) -> None:
    with serve("asgi", static_root, "--preload", "--workers", "2") as server:
        pids = {server.state()["pid"]}
        while len(pids) < 2:
            pids.add(server.state()["pid"])
        with Stream(server) as stream:
            assert stream.next("hello")
            assert stream.next("message")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [(["sse_demo.wsgi"], "serve sse_demo.asgi"), (["sse_demo.asgi", "-k", "gthread"], "leave the worker class out")],
)
def test_an_application_of_the_other_kind_is_refused_with_advice(
    arguments: list[str], advice: str, static_root: Path
) -> None:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.live.settings",
        "DJANGO_SECRET_KEY": "for tests only",
        "TEST_STATIC_ROOT": str(static_root),
    }
    command = [sys.executable, *GUNICORN[:-1], "127.0.0.1:0", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4
    assert advice in ended.stderr.lower()
