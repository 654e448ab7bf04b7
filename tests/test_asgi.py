"""The application by itself, spoken to as an ASGI server would, but without one."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.cache import caches
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils import translation
from django.utils.decorators import async_only_middleware, sync_and_async_middleware, sync_only_middleware
from pytest_django.fixtures import Settings

from events import publish
from events.asgi import TAKEOVER, THREADS, EventStreamHandler, in_one_thread
from events.process import get_hub
from events.streams import EventStream, EventStreamResponse
from events.wire import Decoder, Event

ACCEPT = (b"accept", b"text/event-stream")


@in_one_thread
def marked(request: HttpRequest) -> HttpResponseBase:
    return EventStreamResponse(request, ["a"])


def unmarked(request: HttpRequest) -> HttpResponseBase:
    response = EventStreamResponse(request, ["a"])
    response.set_cookie("seen", "1")
    return response


async def asynchronous(request: HttpRequest) -> HttpResponseBase:
    return EventStreamResponse(request, ["a"])


@in_one_thread
def thread(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse({"thread": threading.current_thread().name})


who = ContextVar("who", default="nobody")


@in_one_thread
def context(request: HttpRequest) -> HttpResponseBase:
    seen = {"who": who.get(), "language": translation.get_language()}
    translation.activate(request.GET.get("language", "en-us"))
    return JsonResponse(seen)


kept: list[object] = []


@in_one_thread
def cache(request: HttpRequest) -> HttpResponseBase:
    kept.append(caches["default"])
    return JsonResponse({"cache": id(kept[-1])})


@in_one_thread
def failing(request: HttpRequest) -> HttpResponseBase:
    raise ValueError("a bug")


@in_one_thread
def of_another_kind(request: HttpRequest) -> HttpResponseBase:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    return StreamingHttpResponse(pieces())


urlpatterns = [
    path("marked", marked),
    path("unmarked", unmarked),
    path("asynchronous", asynchronous),
    path("thread", thread),
    path("context", context),
    path("cache", cache),
    path("failing", failing),
    path("other", of_another_kind),
]


@pytest.fixture(autouse=True)
def project(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 3600}


class Client:
    """One request; the server's part of the conversation."""

    def __init__(self, application: EventStreamHandler, path: str, query: str = "", **extensions: Any) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"host", b"testserver"), ACCEPT],
            "extensions": extensions,
        }
        self._server: Any = ApplicationCommunicator(application, scope)  # type: ignore[no-untyped-call]
        self._events = Decoder()

    async def ask(self) -> dict[str, Any]:
        await self._server.send_input({"type": "http.request"})
        return dict(await self._server.receive_output(30))

    async def body(self) -> bytes:
        return bytes((await self._server.receive_output(30)).get("body", b""))

    async def events(self) -> list[Event]:
        return list(self._events.feed(await self.body()))

    async def leave(self) -> None:
        await self._server.send_input({"type": "http.disconnect"})
        await self._server.wait(30)

    async def end(self) -> None:
        await self._server.wait(30)


STREAMS = ["/marked", "/unmarked", "/asynchronous"]


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_is_served_and_ends_when_the_client_leaves(path: str) -> None:
    async def main() -> None:
        client = Client(EventStreamHandler(), path)
        head = await client.ask()
        assert head["status"] == 200
        assert (b"Content-Type", b"text/event-stream; charset=utf-8") in head["headers"]
        assert [event.type for event in await client.events()] == ["hello"]
        publish("a", 1)
        assert [event.data for event in await client.events()] == ["1"]
        assert get_hub().streams == 1
        await client.leave()
        assert get_hub().streams == 0

    asyncio.run(main())


@contextmanager
def watching_requests() -> Iterator[list[str]]:
    """What happens to requests, and in which thread."""
    seen: list[str] = []

    def started(**_: Any) -> None:
        seen.append(f"started in {threading.current_thread().name}")

    def finished(**_: Any) -> None:
        seen.append(f"finished in {threading.current_thread().name}")

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        yield seen
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)


def test_a_request_begins_and_ends_in_one_thread_before_its_stream_begins() -> None:
    async def main() -> None:
        client = Client(EventStreamHandler(), "/marked")
        with watching_requests() as seen:
            await client.ask()
            # Django closes database connections on these signals, each thread its own.
            assert seen == ["started in events-request_0", "finished in events-request_0"]
            await client.leave()
            assert len(seen) == 2

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/unmarked", "/asynchronous"])
def test_a_request_that_takes_djangos_way_ends_as_well_before_its_stream_begins(path: str) -> None:
    async def main() -> None:
        client = Client(EventStreamHandler(), path)
        with watching_requests() as seen:
            await client.ask()
            await client.events()
            assert [entry.split()[0] for entry in seen] == ["started", "finished"]
            await client.leave()

    asyncio.run(main())


@pytest.mark.parametrize("path", STREAMS)
def test_open_streams_hold_neither_threads_nor_requests(path: str) -> None:
    before = set(threading.enumerate())  # this one; and, of tests before, what asgiref keeps and live views end with

    async def main() -> None:
        application = EventStreamHandler()
        clients = [Client(application, path) for _ in range(50)]
        await asyncio.gather(*(client.ask() for client in clients))
        for client in clients:
            await client.events()
        gc.collect()
        assert len(set(threading.enumerate()) - before) <= THREADS + 1
        assert not [thing for thing in gc.get_objects() if type(thing) is ASGIRequest]
        for client in clients:
            await client.leave()

    asyncio.run(main())


def test_a_response_that_is_not_a_stream_is_sent_as_it_is() -> None:
    async def main() -> None:
        application = EventStreamHandler()
        with watching_requests() as seen:
            client = Client(application, "/thread")
            assert (await client.ask())["status"] == 200
            assert await client.body() == b'{"thread": "events-request_0"}'
            await client.end()
            assert len(seen) == 2
        other = Client(application, "/other")
        await other.ask()
        assert await other.body() + await other.body() == b"onetwo"
        await other.end()

    asyncio.run(main())


class Introduced(EventStreamHandler):
    """As with ASGI middleware around the application."""

    async def __call__(self, *arguments: Any) -> None:
        who.set("ada")
        await super().__call__(*arguments)


def test_a_request_sees_the_context_of_its_connection_and_nothing_of_the_request_before() -> None:
    async def main() -> None:
        application = Introduced()
        for _ in range(2):
            client = Client(application, "/context", "language=de")
            await client.ask()
            assert await client.body() == b'{"who": "ada", "language": "en-us"}'
            await client.end()

    asyncio.run(main())


@pytest.mark.parametrize("path", [*STREAMS, "/thread"])
def test_what_wraps_djangos_handler_sees_each_request_and_its_end_before_the_stream(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = ASGIHandler.__call__

    async def tracked(self: ASGIHandler, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await original(self, dict(scope), receive, watched)
        seen.append("end")

    monkeypatch.setattr(ASGIHandler, "__call__", tracked)

    async def main() -> None:
        client = Client(EventStreamHandler(), path)
        await client.ask()
        await client.body()
        if path == "/thread":
            await client.end()
            assert seen == ["http.response.start", "http.response.body", "end"]
        else:
            assert seen == ["http.response.start", "end"]
            await client.leave()

    asyncio.run(main())


def test_the_caches_of_a_thread_are_for_all_of_its_requests(settings: Settings) -> None:
    settings.CACHES = {**settings.CACHES, "broken": {"BACKEND": "nowhere.Cache"}}

    async def main() -> None:
        application = EventStreamHandler()
        seen = set()
        for _ in range(2):
            client = Client(application, "/cache")
            await client.ask()
            seen.add(await client.body())
            await client.end()
        assert len(seen) == 1  # one connection, where they need one

    asyncio.run(main())


def test_a_view_that_fails_is_a_500_and_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        client = Client(EventStreamHandler(), "/failing")
        assert (await client.ask())["status"] == 500
        await client.end()

    asyncio.run(main())
    assert "a bug" in caplog.text


def test_a_path_that_nothing_stands_for_is_a_404() -> None:
    async def main() -> None:
        client = Client(EventStreamHandler(), "/nowhere")
        assert (await client.ask())["status"] == 404
        await client.end()

    asyncio.run(main())


GetResponse = Callable[[HttpRequest], Any]


@async_only_middleware
def asynchronous_middleware(get_response: GetResponse) -> Callable[[HttpRequest], Awaitable[HttpResponseBase]]:
    async def answer(request: HttpRequest) -> HttpResponseBase:
        name = await sync_to_async(lambda: threading.current_thread().name)()  # where the ORM would run
        response: HttpResponseBase = await get_response(request)
        response["X-Thread"] = name
        return response

    return answer


@sync_only_middleware
def refusing_middleware(get_response: GetResponse) -> Callable[[HttpRequest], HttpResponseBase]:
    return lambda request: HttpResponse("not you", status=403)


@sync_and_async_middleware
def wrapping_middleware(get_response: GetResponse) -> Any:
    def wrap(response: StreamingHttpResponse) -> StreamingHttpResponse:
        frames: Any = response.streaming_content

        async def louder() -> AsyncIterator[bytes]:
            async for frame in frames:
                yield frame.upper()

        response.streaming_content = louder()
        return response

    if not iscoroutinefunction(get_response):
        return lambda request: wrap(get_response(request))

    async def answer(request: HttpRequest) -> StreamingHttpResponse:
        return wrap(await get_response(request))

    return answer


def test_asynchronous_middleware_is_heard_and_its_sync_parts_run_in_the_requests_thread(settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.asynchronous_middleware"]

    async def main() -> None:
        client = Client(EventStreamHandler(), "/marked")
        assert (b"X-Thread", b"events-request_0") in (await client.ask())["headers"]
        await client.leave()

    asyncio.run(main())


def test_middleware_may_refuse_a_stream(settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.refusing_middleware"]

    async def main() -> None:
        client = Client(EventStreamHandler(), "/marked")
        assert (await client.ask())["status"] == 403
        assert await client.body() == b"not you"
        await client.end()
        assert get_hub().streams == 0

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/marked", "/unmarked"])
def test_what_middleware_does_to_the_content_goes_on_for_the_whole_stream(path: str, settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.wrapping_middleware"]

    async def main() -> None:
        client = Client(EventStreamHandler(), path)
        await client.ask()
        assert b"EVENT: HELLO" in await client.body()
        publish("a", "shout")
        assert b'DATA: "SHOUT"' in await client.body()
        await client.leave()

    asyncio.run(main())
    gc.collect()
    assert get_hub().streams == 0


def test_a_server_that_offers_to_take_streams_over_gets_them_after_their_greeting() -> None:
    async def main() -> None:
        taken: list[EventStream] = []
        client = Client(EventStreamHandler(), "/marked", "", **{TAKEOVER: taken.append})
        await client.ask()
        assert [event.type for event in await client.events()] == ["hello"]
        await client.end()  # the application has returned
        assert get_hub().streams == 1
        publish("a", 1)
        assert taken.pop().read() == b"id: %b\ndata: 1\n\n" % str(get_hub().log.head).encode()
        assert get_hub().streams == 0  # who drops a stream has ended it

    asyncio.run(main())


def test_a_drain_ends_streams_with_the_time_to_come_back_at(settings: Settings) -> None:
    settings.EVENTS |= {"RETRY": 1000, "SPREAD": 500}

    async def main() -> None:
        client = Client(EventStreamHandler(), "/marked")
        await client.ask()
        await client.events()
        get_hub().drain()
        farewell = Decoder()
        assert [event.type for event in farewell.feed(await client.body())] == ["drain"]
        assert farewell.retry is not None
        assert 1000 <= farewell.retry <= 1500
        assert await client.body() == b""
        await client.end()

    asyncio.run(main())


def test_a_web_socket_is_refused() -> None:
    async def main() -> None:
        server: Any = ApplicationCommunicator(EventStreamHandler(), {"type": "websocket"})  # type: ignore[no-untyped-call]
        await server.send_input({"type": "websocket.connect"})
        assert await server.receive_output(30) == {"type": "websocket.close"}
        await server.wait(30)

    asyncio.run(main())


def test_the_hub_ends_with_the_application() -> None:
    async def main() -> None:
        server: Any = ApplicationCommunicator(EventStreamHandler(), {"type": "lifespan"})  # type: ignore[no-untyped-call]
        await server.send_input({"type": "lifespan.startup"})
        assert await server.receive_output(30) == {"type": "lifespan.startup.complete"}
        hub = get_hub()
        await server.send_input({"type": "lifespan.shutdown"})
        assert await server.receive_output(30) == {"type": "lifespan.shutdown.complete"}
        await server.wait(30)
        assert get_hub() is not hub

    asyncio.run(main())
