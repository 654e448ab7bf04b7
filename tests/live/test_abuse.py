"""Clients that mean harm, or behave as if they did, against EventWorker: the others are served all the same."""

import json
import os
import resource
import select
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.servers import Server, Stream, serve
from tests.live.test_worker import Connection, wait_for_streams

STREAMS = int(os.environ.get("STREAMS", 1_000))  # opened and cut at once; `make fuzz` does it with ten times as many
TIMEOUT = 5  # seconds, gunicorn's setting: until what does not come is not waited for any longer
ALLOWED = 2_621_440  # bytes of a body: DATA_UPLOAD_MAX_MEMORY_SIZE
LARGE = "x" * 60_000
TOKEN = {"Authorization": "Bearer secret"}
PUBLISH = b"POST /events/publish/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
BYE = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed is reset


@pytest.fixture(scope="module", autouse=True)
def open_files() -> Iterator[None]:
    """As many as the machine allows: a stream is one, on either side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(open_files: None, static_root: Path) -> Iterator[Server]:
    with serve(
        "asgi", static_root, "--timeout", str(TIMEOUT), PUBLISH_TOKEN="secret", MAX_STREAMS=20_000, HEARTBEAT=1
    ) as server:
        yield server


def open_files_of(server: Server) -> int:
    return len(list(Path(f"/proc/{server.state()['pid']}/fd").iterdir()))


def is_held(server: Server, client: socket.socket) -> bool:
    """Whether the server has its end of a connection open: what it has sent last may not have arrived yet."""
    _, port = client.getsockname()
    established = f":{server.port:04X} 0100007F:{port:04X} 01 "
    return established in Path("/proc/net/tcp").read_text()


def objects_of(server: Server) -> int:
    return int(requests.get(f"{server.url}/test/objects/", timeout=30).json()["objects"])


def memory_of(server: Server) -> int:
    """Bytes that the worker has resident."""
    pages = Path(f"/proc/{server.state()['pid']}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def last_words(client: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1000):
            said += piece
    return said


def cut(server: Server, count: int) -> None:
    """Open so many streams, and reset them all at once: half of them before they have said anything."""
    request = b"GET /events/?channel=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", server.port), 30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, BYE)
        client.sendall(request)
        clients.append(client)
    for client in clients[::2]:
        assert client.recv(12) == b"HTTP/1.1 200"
    for client in clients:
        client.close()


def test_streams_that_are_opened_and_cut_leave_nothing_behind(server: Server) -> None:
    cut(server, 10)  # whatever is made at the first use
    wait_for_streams(server, 0)
    files, objects, memory = open_files_of(server), objects_of(server), memory_of(server)
    for _ in range(3):
        cut(server, STREAMS)
        wait_for_streams(server, 0)
    while open_files_of(server) > files:
        pass
    while objects_of(server) > objects + STREAMS:  # one for each that was left behind would be three times as many
        pass
    assert server.state()["threads"] < 20
    assert memory_of(server) - memory < 50_000 * STREAMS  # as much as so many take that are just being opened
    with Stream(server, channel="a") as stream:
        stream.next("hello")
        assert server.publish("a", 1) == stream.next("message").id


SLOW = [
    (b"", b"", b""),  # connects, and says nothing
    (b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"", b""),  # stops in the head
    (b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"x", b""),  # never comes to its end
    (PUBLISH + b"Content-Length: 9000\r\n\r\n" + b" " * 5000, b"", b"HTTP/1.1 408 "),  # stops in the body
    (PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b"HTTP/1.1 408 "),  # byte by byte
]


def test_those_who_never_finish_a_request_are_cut_off_and_nobody_waits_for_them(server: Server) -> None:
    with ExitStack() as clients:
        slow = {clients.enter_context(Connection(server)).socket: SLOW[number % len(SLOW)] for number in range(200)}
        for client, (beginning, _, _) in slow.items():
            client.sendall(beginning)
        # Slow as well, but a kilobyte each time: an upload.
        upload = clients.enter_context(Connection(server))
        upload.socket.sendall(PUBLISH + b'Transfer-Encoding: chunked\r\n\r\n1e\r\n{"channel": "a", "data": null \r\n')
        stream = clients.enter_context(Stream(server, channel="a"))
        stream.next("hello")
        while slow:
            assert server.publish("a", len(slow)) == stream.next("message").id
            for client in select.select(list(slow), [], [], 0.2)[0]:
                _, _, answer = slow.pop(client)
                assert last_words(client)[:13] == answer
            for client, (_, more, _) in slow.items():
                with suppress(ConnectionError):  # closed this very moment
                    client.sendall(more)
            upload.socket.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        upload.socket.sendall(b"1\r\n}\r\n0\r\n\r\n")
        accepted = upload.answer()
        assert (accepted.status, json.loads(accepted.read())["id"]) == (201, stream.next("message").id)


def test_answers_that_nobody_takes_are_given_up(server: Server) -> None:
    cursor = server.publish("a", 0)
    for _ in range(50):
        server.publish("a", LARGE)
    with Connection(server, receive_buffer=4096) as mute:
        for _ in range(50):  # more than the buffers of both sockets hold
            mute.ask(f"/events/poll/?channel=a&since={cursor}")
        while is_held(server, mute.socket):
            server.poll()
        assert last_words(mute.socket).count(b"HTTP/1.1 200 OK") < 50


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /events/?channel=%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (b"a" * 5_000), 414),
        (b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: %b\r\n\r\n" % (b"a" * 10_000), 431),
        (b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n" % (b"X: y\r\n" * 150), 431),
        (b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX y\r\n\r\n", 400),
        (b"GET /events/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (PUBLISH + b"Content-Length: 9999999999999999999\r\nExpect: 100-continue\r\n\r\n", 413),
        (PUBLISH + b"Content-Length: 3000000\r\n\r\n", 413),
    ],
)
def test_what_is_too_large_or_malformed_is_refused_at_once(server: Server, head: bytes, status: int) -> None:
    with Connection(server) as client:
        client.socket.sendall(head)
        answer = client.answer()
        assert answer.status == status
        assert b"Traceback" not in answer.read()


def test_a_body_that_does_not_say_how_long_it_is_is_read_no_further_than_is_allowed(server: Server) -> None:
    with Connection(server) as client:
        client.socket.sendall(PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 100_000_000 and not select.select([client.socket], [], [], 0)[0]:
                client.socket.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                sent += 0x10000
        answer = client.answer()
        assert answer.status == 413
        assert json.loads(answer.read()) == {"error": f"A body is at most {ALLOWED:,} bytes."}
        assert ALLOWED < sent < 100_000_000


def test_a_flood_of_publishes_loses_none_that_it_has_taken(server: Server) -> None:
    cursor = server.poll(channel="flood").json()["cursor"]

    def publish(number: int) -> Any:
        body = {"channel": "flood", "data": number}
        return requests.post(f"{server.url}/events/publish/", json=body, headers=TOKEN, timeout=30)

    with Stream(server, channel="flood") as stream, ThreadPoolExecutor(16) as crowd:
        stream.next("hello")
        answers = list(crowd.map(publish, range(600)))
        assert {answer.status_code for answer in answers} <= {201, 429, 503}
        taken = {answer.json()["id"]: str(n) for n, answer in enumerate(answers) if answer.status_code == 201}
        streamed = [stream.next("message") for _ in taken]
    polled = server.poll(channel="flood", since=cursor).json()["events"]
    assert {event.id: event.data for event in streamed} == taken
    assert [(event["id"], event["data"]) for event in polled] == [(event.id, event.data) for event in streamed]


def test_a_flood_of_strangers_publishes_nothing(server: Server) -> None:
    before = server.poll().json()["cursor"]
    body = {"channel": "flood", "data": LARGE}

    def publish(session: requests.Session) -> int:
        return session.post(f"{server.url}/events/publish/", json=body, timeout=30).status_code

    with ThreadPoolExecutor(16) as crowd, requests.Session() as session:
        assert set(crowd.map(publish, [session] * 600)) == {403}
    assert server.poll().json()["cursor"] == before
