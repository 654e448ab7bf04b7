"""The application, asked anything in process: whatever comes, its answers keep to the contract."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from asgiref.testing import ApplicationCommunicator
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from events.asgi import EventStreamHandler
from events.log import Cursor
from events.process import get_hub
from events.wire import Decoder, Event
from tests.fuzz import requests

Headers = Sequence[tuple[bytes, bytes]]
STREAM, POLL, PUBLISH = "/events/", "/events/poll/", "/events/publish/"
OPENING = b"retry: 2000\nevent: hello\n"
PATIENCE = 30  # seconds


@pytest.fixture(autouse=True)
def project(settings: Settings) -> Iterator[None]:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"  # without a database
    settings.EVENTS = {
        "BROKER": "memory:",
        "PUBLISH_TOKEN": requests.TOKEN,
        "METRICS_TOKEN": requests.TOKEN,
        "MAX_EVENT_BYTES": 1000,
    }
    yield
    application()._threads.shutdown()
    application.cache_clear()


@cache
def application() -> EventStreamHandler:
    return EventStreamHandler()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type") == "text/event-stream; charset=utf-8"

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


def ask(method: str, path: str, query: bytes = b"", headers: Headers = (), pieces: Sequence[bytes] = (b"",)) -> Answer:
    """The whole answer; of a stream, what it begins with."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "query_string": query,
        "headers": [(b"host", b"testserver"), (b"content-length", b"%d" % sum(map(len, pieces))), *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("testserver", 80),
    }

    async def main() -> Answer:
        server: Any = ApplicationCommunicator(application(), scope)  # type: ignore[no-untyped-call]
        for left, piece in zip(range(len(pieces) - 1, -1, -1), pieces, strict=True):
            await server.send_input({"type": "http.request", "body": piece, "more_body": left > 0})
        start = await server.receive_output(PATIENCE)
        for name, value in start["headers"]:
            assert re.fullmatch(rb"[A-Za-z0-9-]+: [^\r\n\0]*", name + b": " + value)
        answer = Answer(start["status"], {n.decode().lower(): v.decode("latin-1") for n, v in start["headers"]}, b"")
        more = True
        while more:
            message = await server.receive_output(PATIENCE)
            answer.body += message.get("body", b"")
            more = message.get("more_body", False) and not answer.is_stream
        await server.send_input({"type": "http.disconnect"})
        await server.wait(PATIENCE)
        return answer

    answer = asyncio.run(main())
    check(answer)
    return answer


def check(answer: Answer) -> None:
    """What holds of every answer, whatever was asked."""
    assert answer.status < 500 or (answer.status == 503 and int(answer.headers["retry-after"]) > 0), answer
    assert b"Traceback" not in answer.body
    if answer.is_stream and answer.body:
        check_opening(answer.body)
    assert get_hub().streams == 0


def check_opening(opening: bytes) -> None:
    """A stream says how soon to come back, then hello; and nothing that was asked for becomes a field of it."""
    decoder = Decoder()
    types = [event.type for event in decoder.feed(opening)]
    assert opening.startswith(OPENING), opening
    assert types in (["hello"], ["hello", "reset"])
    Cursor.parse(decoder.last_event_id)
    assert {line.partition(b":")[0] for line in opening.splitlines()} <= {b"retry", b"event", b"id", b"data", b""}


@given(
    requests.methods,
    requests.paths,
    requests.queries,
    requests.headers,
    st.lists(requests.bodies, min_size=1, max_size=3),
)
def test_any_request_has_an_answer_that_keeps_to_the_contract(
    method: str, path: str, query: bytes, headers: Headers, pieces: list[bytes]
) -> None:
    answer = ask(method, path, query, headers, pieces)
    if path in requests.ENDPOINTS[1:] and answer.status >= 400 and method != "HEAD":
        assert len(answer.json["error"]) > 20


@given(st.sampled_from([STREAM, POLL]), requests.queries, requests.headers)
@example(POLL, b"channel=\xff", [])
@example(POLL, b"channel=a", [(b"content-type", b"text/plain; charset=base64")])
@example(STREAM, b"channel=%ff", [(b"content-type", b"text/plain; charset=undefined")])
@example(STREAM, b"channel=a", [(b"content-type", b"text/plain; charset*=x'%ff")])
def test_reading_with_any_parameters_either_works_or_says_what_is_accepted(
    path: str, query: bytes, headers: Headers
) -> None:
    answer = ask("GET", path, query, headers)
    if answer.status == 200 and path == POLL:
        assert answer.json.keys() == {"server_time", "cursor", "gap", "events"}
    elif answer.status == 304:
        assert (path, answer.body) == (POLL, b"")
    elif answer.status != 200:
        assert answer.status in (400, 403, 503)
        assert len(answer.json["error"]) > 20


@given(requests.octets)
@example(b"\0")
def test_any_cursor_is_resumed_after_or_is_a_gap_or_refused(cursor: bytes) -> None:
    poll = ask("GET", POLL, b"since=" + requests.quoted(cursor))
    assert poll.json.get("gap", poll.status == 400) is bool(cursor)
    one_line = re.sub(rb"[\r\n\0]", b"", cursor).strip()
    stream = ask("GET", STREAM, headers=[(b"last-event-id", one_line)] if one_line else [])
    assert (b"event: reset" in stream.body or stream.status == 400) is bool(one_line)


@given(requests.events, st.integers(0, 3))
def test_any_event_that_is_taken_arrives_as_one_event(event: dict[str, Any], cuts: int) -> None:
    body = json.dumps(event).encode()
    size = len(body) // (cuts + 1) + 1
    headers = [(b"authorization", b"Bearer " + requests.TOKEN.encode())]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    answer = ask("POST", PUBLISH, headers=headers, pieces=pieces)
    if answer.status == 201:
        log = get_hub().log
        [*_, published] = log.newest(100)[1]
        assert published.id == answer.json["id"]
        assert [*Decoder().feed(published.frame)] == [Event(published.id, "", published.type, published.data)]
        assert json.loads(published.data) == json.loads(json.dumps(event["data"]))
    else:
        assert answer.status in (400, 413)
        assert len(answer.json["error"]) > 20


@given(requests.bodies, requests.headers)
@example(b'{"channel": "a", "data": null}', [(b"cookie", b'sessionid="\\000"')])
def test_nobody_publishes_without_the_token(body: bytes, headers: Headers) -> None:
    headers = [header for header in headers if requests.TOKEN.encode() not in header[1]]
    answer = ask("POST", PUBLISH, headers=headers, pieces=[body])
    assert answer.status in (400, 403)  # 400: no session can have the key in the cookie
    assert answer.json["error"]
    log = get_hub().log
    assert log.newest(100)[1] == []
