"""A proxy in front of a real server, which can break its stream and its poll: a named function for each failure."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

STREAM = "/events/"
POLL = "/events/poll/"
BLANK = "/blank"

Failure = Callable[["Exchange"], None]


# What can be wrong with a stream


def refuses(exchange: "Exchange") -> None:
    """As a server does that has no room for another stream."""
    exchange.answer(503, "application/json", b'{"error": "No more streams fit here."}', {"Retry-After": "1"})


def is_a_web_page(exchange: "Exchange") -> None:
    """As a captive portal or a login page: all is well, but it is no stream."""
    exchange.answer(200, "text/html", b"<p>Welcome to our wireless network.</p>")


def says_nothing(exchange: "Exchange") -> None:
    """Takes the request and answers nothing at all."""
    exchange.wait_until_the_client_leaves()


def holds_back(exchange: "Exchange") -> None:
    """As a proxy that buffers: a head, and never a body."""
    exchange.begin(200, "text/event-stream")
    exchange.wait_until_the_client_leaves()


def falls_silent(exchange: "Exchange") -> None:
    """A half-open connection: hello comes through, and then nothing more."""
    with exchange.upstream() as response:
        exchange.begin(response.status, "text/event-stream")
        exchange.wfile.write(response.read1())
        exchange.wait_until_the_client_leaves()


def drains_for_an_hour(exchange: "Exchange") -> None:
    """Ends in good order after its hello, with an hour to wait."""
    with exchange.upstream() as response:
        exchange.begin(response.status, "text/event-stream")
        exchange.wfile.write(response.read1() + b'retry: 3600000\nevent: drain\ndata: {"retry": 3600000}\n\n')


def hangs_up(exchange: "Exchange") -> None:
    """Closes the connection instead of answering."""
    exchange.connection.shutdown(socket.SHUT_RDWR)


# What can be wrong with a poll


def asks_who_is_there(exchange: "Exchange") -> None:
    exchange.answer(401, "application/json", b'{"error": "Who is there?"}')


def forbids(exchange: "Exchange") -> None:
    exchange.answer(403, "application/json", b'{"error": "Not yours to read."}')


def is_missing(exchange: "Exchange") -> None:
    exchange.answer(404, "application/json", b'{"error": "Nothing here."}')


def has_lost_its_server(status: int, content_type: str, body: bytes) -> Failure:
    """As a proxy that answers by itself, while what is behind it is replaced."""
    return lambda exchange: exchange.answer(status, content_type, body)


def is_out_of_order(exchange: "Exchange") -> None:
    exchange.answer(500, "text/html", b"<p>Sorry.</p>")


def is_asked_too_often(exchange: "Exchange") -> None:
    exchange.answer(429, "application/json", b'{"error": "Slower, please."}', {"Retry-After": "3600"})


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, except those that are to fail. It counts all, and can cut what is open."""

    daemon_threads = True

    def __init__(self, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream_port = upstream_port
        self.failures: dict[str, Failure] = {}
        self.requests: list[str] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def break_stream(self, failure: Failure) -> None:
        """Cuts the streams that are open, and lets every further one fail."""
        self.failures[STREAM] = failure
        self.cut()

    def mend_stream(self) -> None:
        """Lets streams through again. Those that hang go on hanging, as they would."""
        del self.failures[STREAM]

    def cut(self) -> None:
        """Ends every stream that is open, in the middle of what it says."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def asked(self, path: str) -> int:
        """How many requests there were for a path."""
        return sum(urlsplit(request).path == path for request in self.requests)

    @contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or a server that is dead, is what these tests are about."""


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer, on a connection of its own."""

    server: Proxy

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(self.path)
        if path == BLANK:
            self.answer(200, "text/html", b"<!doctype html><title>Blank</title>", {"Cache-Control": "no-cache"})
        elif failure := self.server.failures.get(path):
            failure(self)
        else:
            self.pass_on()

    def do_HEAD(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        with self.upstream() as response, self.server.holding(self.connection):
            self.send_response(response.status, response.reason)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            while chunk := response.read1():
                self.wfile.write(chunk)

    @contextmanager
    def upstream(self) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        try:
            connection.request(self.command, self.path, headers=dict(self.headers) | {"Connection": "close"})
            response = connection.getresponse()
            with response:
                yield response
        finally:
            connection.close()

    def begin(self, status: int, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.begin(status, content_type, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def wait_until_the_client_leaves(self) -> None:
        with suppress(OSError):
            self.connection.recv(1)

    def log_message(self, format: str, *args: Any) -> None:
        """Quietly."""


@contextmanager
def proxy(upstream_port: int) -> Iterator[Proxy]:
    server = Proxy(upstream_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.cut()
