"""The stream through Django's own handlers, read from both twins: no server, no socket."""

import asyncio
import gc
import io
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import close_old_connections
from django.http import HttpRequest
from django.test import AsyncRequestFactory, RequestFactory
from pytest_django.fixtures import Settings

from events import Event, publish
from events.limits import Full
from events.process import get_hub
from events.streams import EventStreamResponse, capacity
from events.wire import Decoder


class Reader:
    """Reads a response as its server would, one piece of the body at a time."""

    def __init__(self, request: HttpRequest, *channels: str, last_event_id: str = "") -> None:
        self.response = EventStreamResponse(request, channels, last_event_id)
        self._decoder = Decoder()
        self._events: list[Event] = []
        self._runner = asyncio.Runner()
        self._pieces = aiter(self.response) if self.response.is_async else iter(self.response)

    def piece(self) -> bytes:
        if not isinstance(self._pieces, AsyncIterator):
            return next(self._pieces)

        async def next_piece(pieces: AsyncIterator[bytes]) -> bytes:
            return await anext(pieces)

        return self._runner.run(next_piece(self._pieces))

    def next(self) -> Event:
        while not self._events:
            self._events.extend(self._decoder.feed(self.piece()))
        return self._events.pop(0)

    def control(self, type: str) -> Any:
        event = self.next()
        assert event.type == type
        return json.loads(event.data)

    def close(self) -> None:
        self.response.close()
        self._runner.close()


Open = Callable[..., Reader]


@pytest.fixture(autouse=True)
def no_database() -> Iterator[None]:
    """As Django's test client has it: the end of a response closes no connections, which belong to the test."""
    gc.collect()  # what the test client left of other tests connects it again
    request_finished.disconnect(close_old_connections)
    yield
    request_finished.connect(close_old_connections)


@pytest.fixture(params=["threads", "coroutines"])
def open_stream(request: pytest.FixtureRequest) -> Iterator[Open]:
    factory = RequestFactory() if request.param == "threads" else AsyncRequestFactory()
    with ExitStack() as readers:

        def open_reader(*channels: str, **options: Any) -> Reader:
            return readers.enter_context(closing(Reader(factory.get("/"), *channels, **options)))

        yield open_reader


def head() -> str:
    return str(get_hub().log.head)


def test_hello_comes_first_and_says_where_the_stream_begins(open_stream: Open) -> None:
    publish("a", 1)
    stream = open_stream("a")
    assert stream.control("hello") == {"cursor": head(), "heartbeat": 15.0}


def test_the_first_bytes_are_those_of_the_contract(open_stream: Open) -> None:
    assert open_stream("a").piece().decode() == (
        f'retry: 2000\nevent: hello\nid: {head()}\ndata: {{"cursor": "{head()}", "heartbeat": 15.0}}\n\n'
    )


def test_live_events_follow(open_stream: Open) -> None:
    stream = open_stream("a")
    stream.control("hello")
    first = publish("a", {"text": "hi"}, type="announcement")
    publish("b", "elsewhere")
    second = publish("a", 2)
    assert stream.next() == Event(first, "", "announcement", '{"text":"hi"}')
    assert stream.next() == Event(second, "", "message", "2")


def test_what_was_missed_comes_first_in_order_and_then_what_happens(open_stream: Open) -> None:
    cursor = publish("a", 0)
    missed = [publish("a", number) for number in range(1, 200)]
    stream = open_stream("a", last_event_id=cursor)
    live = publish("a", "live")
    assert stream.control("hello") == {"cursor": cursor, "heartbeat": 15.0}
    assert [stream.next().id for _ in range(200)] == [*missed, live]


def test_a_long_replay_goes_out_in_pieces(open_stream: Open) -> None:
    cursor = publish("a", 0)
    for _ in range(20):
        publish("a", "x" * 30_000)
    stream = open_stream("a", last_event_id=cursor)
    assert max(len(stream.piece()) for _ in range(5)) < 100_000


@pytest.mark.parametrize("cursor", ["1-0", "nonsense", "99999999999999-1", "1-2-3", "\U0001f389"])
def test_a_cursor_that_cannot_be_resumed_is_answered_with_a_reset(open_stream: Open, cursor: str) -> None:
    publish("a", "missed")
    stream = open_stream("a", last_event_id=cursor)
    assert stream.control("hello") == {"cursor": head(), "heartbeat": 15.0}
    assert stream.control("reset") == {"cursor": head()}
    publish("a", "live")
    assert stream.next().data == '"live"'


def test_a_stream_that_falls_behind_the_history_is_told(open_stream: Open, settings: Settings) -> None:
    settings.EVENTS = {"HISTORY": 3, "BROKER": "memory:"}
    stream = open_stream("a")
    stream.control("hello")
    for number in range(10):
        publish("a", number)
    assert stream.control("reset") == {"cursor": head()}
    publish("a", "live")
    assert stream.next().data == '"live"'


def test_a_heartbeat_breaks_a_silence(open_stream: Open, settings: Settings) -> None:
    settings.EVENTS = {"HEARTBEAT": 0.1, "BROKER": "memory:"}
    stream = open_stream("a")
    assert stream.control("hello")["heartbeat"] == 0.1
    assert stream.control("heartbeat") == {}
    assert stream.control("heartbeat") == {}


class TestAClientThatKnowsTheStandardAloneResumesExactly:
    """Its only cursor is the id of the block that it read last, of whatever type: 9.2.6 of the standard."""

    def test_from_the_hello_of_a_new_stream(self, open_stream: Open) -> None:
        publish("a", "before")
        hello = open_stream("a").next()
        missed = publish("a", "missed")
        again = open_stream("a", last_event_id=str(hello.id))
        assert again.next().type == "hello"
        assert again.next().id == missed

    def test_from_the_hello_of_a_stream_whose_replay_was_cut_off(self, open_stream: Open) -> None:
        cursor, missed = str(publish("a", 0)), publish("a", 1)
        hello = open_stream("a", last_event_id=cursor).next()
        assert hello.id == cursor
        again = open_stream("a", last_event_id=cursor)
        assert [again.next().type, again.next().id] == ["hello", missed]

    def test_from_a_reset(self, open_stream: Open) -> None:
        stream = open_stream("a", last_event_id="nonsense")
        stream.control("hello")
        reset = stream.next()
        assert (reset.type, reset.id) == ("reset", head())
        missed = publish("a", 1)
        again = open_stream("a", last_event_id=reset.id)
        assert [again.next().type, again.next().id] == ["hello", missed]

    def test_from_a_heartbeat_which_has_passed_what_happened_elsewhere(
        self, open_stream: Open, settings: Settings
    ) -> None:
        settings.EVENTS = {"HEARTBEAT": 0.1, "BROKER": "memory:"}
        stream = open_stream("a")
        stream.control("hello")
        publish("a", 1)
        assert stream.next().type == "message"
        for number in range(10):
            publish("b", number)
        beat = stream.next()
        assert (beat.type, beat.id) == ("heartbeat", head())
        missed = publish("a", 2)
        again = open_stream("a", last_event_id=str(beat.id))
        assert [again.next().type, again.next().id] == ["hello", missed]

    def test_from_a_stream_that_was_drained(self, open_stream: Open, settings: Settings) -> None:
        settings.EVENTS = {"BROKER": "memory:", "RETRY": 1000, "SPREAD": 500}
        stream = open_stream("a")
        stream.control("hello")
        last = publish("a", 1)
        assert stream.next().id == last
        stream.response.limit(0)
        block = stream.piece().decode()
        assert block.splitlines()[1] == "event: drain"
        drain = next(Decoder(str(last)).feed(block.encode()))
        assert drain.id == last
        retry = json.loads(drain.data)["retry"]
        assert 1000 <= retry <= 1500
        assert block == f'retry: {retry}\nevent: drain\ndata: {{"retry": {retry}}}\n\n'
        with pytest.raises((StopIteration, StopAsyncIteration)):
            stream.piece()


def test_clients_that_split_lines_where_the_standard_does_not_read_the_same(open_stream: Open) -> None:
    awkward = "a\x85b\u2028c\u2029d\x0b\x0c\x1c\x1d\x1e"
    stream = open_stream("a")
    stream.piece()
    publish("a", awkward)
    frame = stream.piece().decode()
    assert frame.splitlines() == frame.split("\n")[:-1]
    [event] = Decoder().feed(frame.encode())
    assert json.loads(event.data) == awkward


def test_a_closed_response_gives_its_place_up(open_stream: Open) -> None:
    stream = open_stream("a")
    assert get_hub().streams == 1
    stream.response.close()
    assert get_hub().streams == 0


@pytest.mark.parametrize("factory", [RequestFactory(), AsyncRequestFactory()])
def test_a_response_that_nobody_ever_read_gives_its_place_up(factory: RequestFactory) -> None:
    response = EventStreamResponse(factory.get("/"), ["a"])
    assert get_hub().streams == 1
    del response
    gc.collect()
    assert get_hub().streams == 0


def test_a_coroutine_that_is_cancelled_gives_its_place_up() -> None:
    async def main() -> int:
        response = EventStreamResponse(AsyncRequestFactory().get("/"), ["a"])

        async def serve() -> None:
            async for _ in response:
                pass

        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return get_hub().streams

    assert asyncio.run(main()) == 0


def test_under_wsgi_as_many_streams_as_the_setting_says(settings: Settings) -> None:
    settings.EVENTS = {"MAX_THREAD_STREAMS": 1, "BROKER": "memory:"}
    with closing(EventStreamResponse(RequestFactory().get("/"), ["a"])), pytest.raises(Full):
        EventStreamResponse(RequestFactory().get("/"), ["a"])


def test_a_server_without_threads_serves_no_stream() -> None:
    request = RequestFactory().get("/", **{"wsgi.multithread": False, "wsgi.input": io.BytesIO()})  # type: ignore[arg-type]
    with pytest.raises(Full):
        EventStreamResponse(request, ["a"])


THREADED: dict[str, Any] = {"wsgi.multithread": True, "wsgi.input": io.BytesIO()}


def test_a_server_that_is_not_known_serves_one_stream(settings: Settings) -> None:
    request = RequestFactory().get("/", **THREADED)
    with closing(EventStreamResponse(request, ["a"])), pytest.raises(Full):
        EventStreamResponse(request, ["a"])


def test_a_server_that_is_not_known_serves_as_many_streams_as_the_setting_says(settings: Settings) -> None:
    settings.EVENTS = {"MAX_THREAD_STREAMS": 2, "BROKER": "memory:"}
    request = RequestFactory().get("/", **THREADED)
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(closing(EventStreamResponse(request, ["a"])))
        with pytest.raises(Full):
            EventStreamResponse(request, ["a"])


@pytest.mark.parametrize(
    ("module", "environment", "streams"),
    [
        (("uwsgi", "opt", {"threads": b"4"}), {"uwsgi.version": b"2.0.31"}, 3),
        (("uwsgi", "opt", {"threads": b"1"}), {"uwsgi.version": b"2.0.31"}, 0),
        (("uwsgi", "opt", {}), {"uwsgi.version": b"2.0.31"}, 1),
        (("mod_wsgi", "threads_per_process", 15), {"mod_wsgi.version": (5, 0, 2)}, 11),
        (("mod_wsgi", "version", (4, 5)), {"mod_wsgi.version": (4, 5)}, 1),
    ],
)
def test_a_server_that_is_a_module_says_how_many_threads_it_has(
    monkeypatch: pytest.MonkeyPatch, module: tuple[str, str, Any], environment: dict[str, Any], streams: int
) -> None:
    name, attribute, value = module
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{attribute: value}))
    assert capacity(RequestFactory().get("/", **THREADED, **environment)) == streams
