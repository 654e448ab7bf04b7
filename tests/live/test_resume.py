"""A client that knows Last-Event-ID alone gets each event of its channels once and in order, wherever it is cut."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.brokers import PATIENCE, OpenLog
from tests.live.servers import Server
from tests.standard import EventSource

KINDS = ("runserver", "gthread", "asgi", "stock-asgi", "uvicorn")
HEARTBEAT = 0.2  # seconds; a thread learns that its client has left when it writes next
STEP = 7  # bytes between two cuts
HISTORY = 50  # events of a channel
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Client:
    """Everything that it was told, over all of its connections."""

    def __init__(self, server: Server, *channels: str, last_event_id: str = "") -> None:
        self.source = EventSource()
        self.source.last_event_id = last_event_id
        self.told: list[tuple[str, str]] = []
        self._port = server.port
        self._path = f"/events/?{urlencode([('channel', channel) for channel in channels])}"

    @property
    def data(self) -> list[str]:
        return [data for kind, data in self.told if kind == "message"]

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.told}

    @contextmanager
    def connected(self) -> Iterator[HTTPResponse]:
        """A stream, which is cut in the end."""
        headers = {"Last-Event-ID": self.source.last_event_id} if self.source.last_event_id else {}
        while True:
            with closing(HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
                connection.request("GET", self._path, headers=headers)
                sock = connection.sock
                with connection.getresponse() as response:
                    if response.status == 503:  # the threads of those that were cut are yet to notice
                        continue
                    assert response.status == 200
                    self.source.connect()
                    yield response
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return

    def take(self, response: HTTPResponse, most: int = 65_536) -> int:
        """Read up to so many bytes. Returns how many there were."""
        piece = response.read1(most)
        assert piece, "the stream has ended"
        self.told += self.source.feed(piece)
        return len(piece)

    def read_bytes(self, count: int) -> None:
        """Connect, and be cut after exactly so many bytes."""
        with self.connected() as response:
            while count:
                count -= self.take(response, count)

    def read_until(self, is_done: Callable[[], bool]) -> int:
        """Connect, and be cut as soon as it is done. Returns how many bytes that took."""
        count = 0
        with self.connected() as response:
            while not is_done():
                count += self.take(response)
        return count

    def read_next(self, kind: str) -> None:
        """Connect, and be cut after the next event of this kind, and whatever came along with it."""
        before = len(self.told)
        self.read_until(lambda: kind in [one for one, _ in self.told[before:]])


@pytest.fixture(params=["memory", "sqlite"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, broker: str, open_log: OpenLog, static_root: Path) -> Iterator[Server]:
    arguments = ["--threads", "64"] if request.param == "gthread" else []
    if broker != "memory" and request.param in ("gthread", "asgi", "stock-asgi"):
        arguments += ["--workers", "2"]
    running = open_log(broker).server(
        static_root, *arguments, kind=request.param, HEARTBEAT=HEARTBEAT, MAX_THREAD_STREAMS=128
    )
    with ExitStack() as stack:
        stack.callback(running.stop)
        running.start()
        yield running


def begin(server: Server, *channels: str) -> Client:
    """A client that has been told nothing but hello."""
    client = Client(server, *channels)
    client.read_next("hello")
    assert client.source.last_event_id, "hello carries the id from which this client comes back"
    assert client.data == []
    return client


def test_every_event_comes_once_and_in_order_wherever_a_replay_is_cut(server: Server) -> None:
    start = begin(server, "a", "b").source.last_event_id
    for number, channel in enumerate(["a", "b", "c", "a"]):
        server.publish(channel, number)
    due = ["0", "1", "3"]
    length = Client(server, "a", "b", last_event_id=start)
    for count in range(0, length.read_until(lambda: length.data == due), STEP):
        client = Client(server, "a", "b", last_event_id=start)
        client.read_bytes(count)
        client.read_until(lambda client=client: len(client.data) >= len(due))  # type: ignore[misc]
        assert client.data == due, f"cut after {count} bytes"
        assert "reset" not in client.kinds


def test_every_event_comes_once_and_in_order_to_one_that_is_cut_again_and_again(server: Server) -> None:
    client = begin(server, "a")
    published = 0

    def publish() -> str:
        nonlocal published
        published += 1
        server.publish("elsewhere", 0)
        server.publish("a", published)
        return str(published)

    cuts: list[Callable[[], object]] = [
        lambda: client.read_bytes(0),  # before hello
        lambda: client.read_bytes(30),  # within hello
        lambda: client.read_next("hello"),
        lambda: client.read_bytes(200),  # within what comes after it, or after that
        lambda: client.read_next("heartbeat"),
        lambda: client.read_next("message"),
    ]
    for cut in cuts * 2:
        publish()
        cut()
    with client.connected() as response:  # live, and published at moments of its own choice
        for _ in range(5):
            newest = publish()
            while newest not in client.data:
                client.take(response)
    last = publish()
    client.read_until(lambda: last in client.data)
    assert client.data == [str(number) for number in range(1, published + 1)]
    assert "reset" not in client.kinds


def test_nothing_is_lost_after_a_heartbeat(server: Server) -> None:
    client = begin(server, "quiet")
    for _ in range(2):
        server.publish("elsewhere", 0)
        client.read_next("heartbeat")
    server.publish("quiet", 1)
    client.read_until(lambda: bool(client.data))
    client.read_next("heartbeat")  # also what came along with it does not come again
    assert client.data == ["1"]
    assert "reset" not in client.kinds


def test_a_reset_is_told_once_and_whoever_is_cut_within_it_is_told_again(server: Server) -> None:
    foreign = "1-1"
    length = Client(server, "a", last_event_id=foreign)
    for count in range(0, length.read_until(lambda: "reset" in length.kinds), STEP):
        client = Client(server, "a", last_event_id=foreign)
        client.read_bytes(count)
        number = str(count)
        server.publish("a", count)
        before = len(client.data)
        client.read_until(lambda client=client, number=number: "reset" in client.kinds or number in client.data)  # type: ignore[misc]
        assert "reset" in client.kinds, f"not told of the gap when cut after {count} bytes"
        after = [server.publish("a", f"after {n}") and f'"after {n}"' for n in range(2)]
        client.read_until(lambda client=client, after=after: after[-1] in client.data)  # type: ignore[misc]
        assert client.data[-2:] == after
        assert len(client.data[before:]) == len(set(client.data[before:]))
        assert [kind for kind, _ in client.told].count("reset") == 1


@pytest.mark.parametrize(("kind", "workers"), [("memory", 1), ("sqlite", 2), ("valkey", 2)])
def test_a_busy_channel_beside_it_takes_nothing_from_a_quiet_one(
    kind: str, workers: int, open_log: OpenLog, static_root: Path
) -> None:
    server = open_log(kind).server(static_root, "--workers", str(workers), HEARTBEAT=HEARTBEAT, HISTORY=HISTORY)
    quiet = [str(number) for number in range(8)]
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        away = begin(server, "quiet").source.last_event_id
        stream = Client(server, "quiet")
        with stream.connected() as response:
            while "hello" not in stream.kinds:
                stream.take(response)
            for number in quiet:
                for _ in range(HISTORY):
                    server.publish("busy", 0)
                server.publish("quiet", int(number))
            for _ in range(2 * HISTORY):
                server.publish("busy", 0)
            while len(stream.data) < len(quiet) or stream.told[-1][0] != "heartbeat":
                stream.take(response)
        assert stream.data == quiet
        assert "reset" not in stream.kinds

        def check() -> None:
            for _ in range(2 * workers):  # by any of the processes
                back = Client(server, "quiet", last_event_id=away)
                back.read_until(lambda: len(back.data) >= len(quiet) or "reset" in back.kinds)  # noqa: B023  called here
                assert back.data == quiet
                assert "reset" not in back.kinds
                answer = server.poll(channel="quiet", since=away).json()
                assert [event["data"] for event in answer["events"]] == quiet
                assert answer["gap"] is False
                # The stream's last word was a heartbeat, after which nothing has happened here.
                answer = server.poll(channel="quiet", since=stream.source.last_event_id).json()
                assert (answer["gap"], answer["events"]) == (False, [])

        check()
        if kind != "memory":
            server.stop()
            server.start()
            check()
