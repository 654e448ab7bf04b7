"""What Sentry, in a real server, reports of requests for streams and polls: each by itself."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.servers import Server, Stream


class Reports:
    """The reports of one server, as they come."""

    def __init__(self, file: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(file))
        self._socket.settimeout(30)

    def next(self, type: str, channel: str) -> Any:
        """The next report of this type about a request for the channel."""
        while True:
            report = json.loads(self._socket.recv(100_000))
            if report["type"] == type and report["query"] == f"channel={channel}":
                return report

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    reports = Reports(tmp_path / "reports")
    yield reports
    reports.close()


@pytest.fixture(params=["asgi", "uvicorn", "gthread"])
def server(request: pytest.FixtureRequest, static_root: Path, tmp_path: Path, reports: Reports) -> Iterator[Server]:
    tracked = {"DJANGO_SETTINGS_MODULE": "tests.live.tracked", "TEST_REPORTS": str(tmp_path / "reports")}
    server = Server(request.param, static_root, environment=tracked)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_what_is_noted_of_one_visitor_is_in_no_report_of_another(server: Server, reports: Reports) -> None:
    # More than the threads that requests run in, so that some thread serves two of them.
    for number in range(10):
        own, other = f"own{number}", f"other{number}"
        requests.get(f"{server.url}/events/poll/?channel={own}", headers={"X-Visitor": "ada"}, timeout=30)
        assert reports.next("event", own)["tags"]["visitor"] == "ada"
        requests.get(f"{server.url}/events/poll/?channel={other}", timeout=30)
        assert "visitor" not in reports.next("event", other)["tags"]


def test_a_stream_that_is_open_leaves_nothing_to_others(server: Server, reports: Reports) -> None:
    with Stream(server, {"X-Visitor": "ada"}, channel="own") as stream:
        stream.next("hello")
        assert reports.next("event", "own")["tags"]["visitor"] == "ada"
        with Stream(server, channel="other") as other:
            other.next("hello")
            assert "visitor" not in reports.next("event", "other")["tags"]


def test_each_poll_is_a_transaction_with_the_name_of_its_view(server: Server, reports: Reports) -> None:
    requests.get(f"{server.url}/events/poll/?channel=polled", headers={"X-Visitor": "ada"}, timeout=30)
    transaction = reports.next("transaction", "polled")
    assert transaction["transaction"] == "/events/poll/"
    assert transaction["tags"]["visitor"] == "ada"


@pytest.mark.parametrize("server", ["asgi", "uvicorn"], indirect=True)
def test_a_stream_is_a_transaction_that_ends_when_the_stream_begins(server: Server, reports: Reports) -> None:
    with Stream(server, channel="streamed") as stream:
        stream.next("hello")
        assert reports.next("transaction", "streamed")["transaction"] == "/events/"
        server.publish("streamed", 1)
        assert stream.next("message").data == "1"
