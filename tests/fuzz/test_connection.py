"""EventWorker, told anything over TCP: it answers as HTTP has it, or closes, and goes on."""

import re
import select
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import requests
from tests.fuzz.test_application import OPENING
from tests.live.servers import Server
from tests.live.test_worker import wait_for_streams

ROUNDS = 3  # requests of others that are answered meanwhile; who has no answer then is not going to get one
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
CONTROLS = bytes(range(32)) + b"\x7f"


def mostly(good: st.SearchStrategy[bytes], bad: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Wrong now and then: of what is wrong everywhere a server reads no further than the first fault."""
    return st.integers(0, 15).flatmap(lambda number: bad if number == 15 else good)


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def without(octets: bytes, strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda value: value.translate(None, octets))


ends = mostly(st.just(b"\r\n"), st.sampled_from([b"\n", b"\r", b"\0", b""]))
spaces = mostly(st.just(b" "), st.sampled_from([b"", b"\t", b"  "]))
queries = without(CONTROLS + b" #", requests.queries)
targets = joined(requests.paths.map(str.encode), st.just(b"?"), queries)
lines = joined(
    mostly(requests.methods.map(str.encode), st.sampled_from([b"PRI", b"", b"G\0T"]) | requests.octets),
    spaces,
    mostly(targets, st.sampled_from([b"*", b"http://x/events/", b"//", b"/" + b"a" * 5000]) | requests.octets),
    spaces,
    mostly(
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]),
        st.sampled_from([b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1", b""]) | requests.octets,
    ),
)
framing = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: -5",
        b"Content-Length: 5, 6",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length: 0x5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY,
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA",
        b"Host: 127.0.0.1",
        b"Host: " + b"a" * 300,
        b"Host: x\0y",
        b" folded: line",
        b": nameless",
        b"no colon",
        b"X_Forwarded_For: 1.1.1.1",
        b"Long: " + b"a" * 10_000,
        b"\r\n".join(b"H%d: v" % number for number in range(150)),
    ]
)
names = st.sampled_from(sorted(requests.HEADERS))
usual = names.flatmap(lambda name: joined(st.just(name + b": "), without(CONTROLS, requests.HEADERS[name])))
fields = mostly(
    usual | st.sampled_from([b"Transfer-Encoding: chunked", b"Content-Length: 5", b"Expect: 100-continue"]),
    framing | joined(names | requests.octets, st.sampled_from([b": ", b":", b" : "]), requests.octets),
)
sizes = mostly(
    st.sampled_from([b"5", b"0"]),
    st.sampled_from([b"-5", b"5;x=y", b"5;" + b"x" * 9000, b"f" * 24, b"5_0", b"0x5", b""]),
)
chunks = joined(sizes, ends, mostly(st.sampled_from([b"12345", b""]), requests.octets), ends)
messages = joined(
    lines,
    ends,
    mostly(st.just(b"Host: 127.0.0.1"), framing),
    ends,
    st.lists(joined(fields, ends), max_size=4).map(b"".join),
    ends,
    st.lists(chunks, max_size=4).map(b"".join) | requests.bodies,
)


@pytest.fixture(scope="module")
def server(static_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = tmp_path_factory.mktemp("fuzz") / "db.sqlite3"
    server = Server(
        "asgi", static_root, {"BROKER": "db:", "PUBLISH_TOKEN": requests.TOKEN, "METRICS_TOKEN": requests.TOKEN}
    )
    server.environment["DATABASE_URL"] = f"sqlite:///{database}"
    server.manage("migrate", "--verbosity", "0")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def tell(server: Server, message: bytes) -> bytes:
    """What the server says to it, if anything, before it has answered others a few times."""
    said = b""
    other = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(other), socket.create_connection(("127.0.0.1", server.port), 30) as client:
        with suppress(ConnectionError):  # closed before all was read
            client.sendall(message)
        for _ in range(ROUNDS):
            other.request("GET", "/events/poll/")
            assert other.getresponse().read()
            with suppress(ConnectionError):
                while select.select([client], [], [], 0)[0] and (piece := client.recv(1 << 20)):
                    said += piece
    return said


def ask(server: Server, message: bytes) -> bytes:
    """What the server says first to a request that it has to answer."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(message)
        return client.recv(1 << 20)


HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [A-Za-z -]+((?:\r\n[A-Za-z0-9-]+: [^\r\n\0]*)*)\r\n\r\n")


def check(said: bytes) -> None:
    """What holds of everything that the server says."""
    assert b"Traceback" not in said
    assert b"\r\nx-injected" not in said.lower()
    if not said:
        return
    head = HEAD.match(said)
    assert head, said
    status, fields = int(head[1]), head[2]
    # 501 and 505 are for a transfer coding or a version that nobody knows (RFC 9112, 6.1; RFC 9110, 15.6.6).
    assert status < 500 or status in (501, 505) or (status == 503 and b"\r\nRetry-After: " in fields), said
    body = said[head.end() :]
    if b"text/event-stream" in fields and body and not HEAD.match(body):  # as it does behind HEAD
        opening = body.partition(b"\r\n")[2] if b"chunked" in fields else body
        assert opening.startswith(OPENING), said


WEB_SOCKET = (
    b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@given(messages)
@example(WEB_SOCKET)
def test_anything_that_is_nearly_a_request_is_answered_or_refused(server: Server, message: bytes) -> None:
    check(tell(server, message))


@given(st.lists(messages | st.binary(max_size=100), max_size=4).map(b"".join))
def test_anything_after_anything_is_answered_or_refused(server: Server, message: bytes) -> None:
    check(tell(server, message))


@given(requests.methods.map(str.encode), targets, st.lists(usual, max_size=8), requests.bodies)
def test_any_request_is_answered(server: Server, method: bytes, target: bytes, given: list[bytes], body: bytes) -> None:
    head = [
        b"%b %b HTTP/1.1" % (method, target),
        b"Host: 127.0.0.1",
        b"Content-Length: %d" % len(body),
        *given,
        b"\r\n",
    ]
    said = ask(server, b"\r\n".join(head) + body)
    assert said
    check(said)


def test_all_that_left_the_server_as_it_was(server: Server) -> None:
    wait_for_streams(server, 0)
    assert "Traceback" not in server.log()
