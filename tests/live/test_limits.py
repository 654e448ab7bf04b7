"""How much one address may have, counted by real servers, behind a proxy and a socket file."""

import socket
import tempfile
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.live.servers import serve

PATH = "/events/?channel=quiet"


def ask(where: str | int, forwarded: str) -> HTTPResponse:
    """Ask for a stream at a port, or at a socket file, in somebody's name."""
    connection = HTTPConnection("localhost", where if isinstance(where, int) else None, timeout=30)
    if isinstance(where, str):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(where)
    connection.request("GET", PATH, headers={"X-Forwarded-For": forwarded, "Connection": "close"})
    return connection.getresponse()


@pytest.mark.parametrize("kind", ["asgi", "gthread"])
def test_each_address_behind_a_trusted_proxy_has_its_share_and_gets_it_back(kind: str, static_root: Path) -> None:
    limits: dict[str, Any] = {"MAX_STREAMS_PER_ADDRESS": 1, "TRUSTED_PROXIES": ["127.0.0.1", "unix"], "HEARTBEAT": 0.2}
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(kind, static_root, "--threads", "8", "--bind", f"unix:{directory}/socket", **limits) as server,
    ):
        for where, one, other in (
            (server.port, "198.51.100.1", "198.51.100.2"),
            (f"{directory}/socket", "203.0.113.1", "203.0.113.2"),
        ):
            with ask(where, one) as stream, ask(where, f"{one}, {other}") as another:
                assert (stream.status, another.status) == (200, 200)
                with ask(where, f"1.1.1.1, {one}") as refused:
                    assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
            while True:  # at once under ASGI, after a heartbeat or two under WSGI
                with ask(where, one) as again:
                    if again.status == 200:
                        break
