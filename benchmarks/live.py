"""A live view beside what else brings the same to 1,000 clients each second: publishing it, and polling."""

import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.run import Clients, Running

CLIENTS = 1000
POLLS = 2000
FIRSTS = 200
LEAST = 10.0  # seconds: that many answers


def live(start: "Callable[[int], Running]", core: int, seconds: float) -> dict[str, float]:
    """`start`: a server that publishes so many events a second; `core`: the clients'."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with start(1) as server, server.clients(CLIENTS) as clients:
            server.publish()
            published = _cpu(server, clients, seconds)
        with start(0) as server:
            connection = HTTPConnection("127.0.0.1", server.port)
            with server.clients(CLIENTS, path="/status/") as clients:
                before, began = _asked(connection), time.monotonic()
                streamed = _cpu(server, clients, seconds)
                evaluations = (_asked(connection) - before) / (time.monotonic() - began)
            used = server.cpu()
            for _ in range(POLLS):
                _get(connection, "/status/")
            polled = (server.cpu() - used) / POLLS * CLIENTS
            plain = _times(server.port, "/database/", "application/json")
            joining = _times(server.port, "/database/", "text/event-stream")
            first = _times(server.port, "/database/?n=%d", "text/event-stream")
    finally:
        os.sched_setaffinity(0, mine)
    return {
        "evaluations/s": evaluations,
        "CPU ms/s, live": 1000 * streamed,
        "published": 1000 * published,
        "polled": 1000 * polled,
        "live / published": streamed / published,
        "polled / live": polled / streamed,
        "ms, plain request": plain,
        "first answer / it": first / plain,
        "answer of others / it": joining / plain,
    }


def _cpu(server: "Running", clients: "Clients", seconds: float) -> float:
    """Seconds for each second."""
    clients.measure(2)
    used, began = server.cpu(), time.monotonic()
    clients.measure(max(LEAST, seconds))
    return (server.cpu() - used) / (time.monotonic() - began)


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"Accept": "application/json"})
    return connection.getresponse().read()


def _asked(connection: HTTPConnection) -> int:
    return int(json.loads(_get(connection, "/asked/")))


def _times(port: int, path: str, accept: str) -> float:
    """Milliseconds from connecting until the answer is there, as a median; a number in the path asks anew each time."""
    times = []
    with ExitStack() as clients:
        for number in range(FIRSTS):
            asked = path % number if "%d" in path else path
            request = f"GET {asked} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode()
            began = time.perf_counter()
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(request)
            received = b""
            while b'"t=' not in received:
                if not (piece := client.recv(65_536)):
                    raise RuntimeError(f"No answer but {received!r}")
                received += piece
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)
