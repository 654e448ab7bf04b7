"""The ASGI application: an open stream holds no thread, no database connection and no request.

    application = EventStreamHandler()

instead of `get_asgi_application()`, after `django.setup(set_prefix=False)`; or `get_event_stream_application()`,
which does both. Every request is answered as Django's own handler answers it, but for streams: their request ends
(middleware, view, request_finished, connections closed) before they begin.
"""

import asyncio
import math
import string
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import quote

import django
from django.conf import settings
from django.core import signals
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured, RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http.response import HttpResponseBase, JsonResponse
from django.urls import Resolver404, resolve, set_script_prefix

from .process import close_hub, get_broker
from .streams import EventStream, EventStreamResponse

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_View = TypeVar("_View", bound=Callable[..., HttpResponseBase])

TAKEOVER = "events.takeover"
"""The ASGI extension of a server that serves a stream from after its greeting on.

`scope["extensions"][TAKEOVER](stream)` takes an EventStream, and with it the connection: the application returns."""

_EXCHANGE = "events.exchange"  # a key of the scope, for this module alone

# All requests of a process for marked views run in these. A crowd is greeted no sooner with more of them, as they take
# turns anyway; with fewer, some that wait for a slow session store would hold up everybody.
THREADS = 8


def get_event_stream_application() -> "EventStreamHandler":
    """Set Django up and return the application."""
    django.setup(set_prefix=False)
    return EventStreamHandler()


class EventStreamHandler(ASGIHandler):
    """Django's handler, and streams that outlive their request. Serves the lifespan protocol: the hub ends with it.

    Django under ASGI takes a thread for every request that has sync parts, keeps it until the response ends, which a
    stream does not, and goes there and back for every middleware. A request for a view marked with `in_one_thread`
    runs in one piece in one of a few threads that are kept, through a sync chain of the same middleware; any other
    one takes Django's way, and if a stream comes of it, it is taken out of the response.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sync = BaseHandler()
        self._sync.load_middleware()
        self._threads = ThreadPoolExecutor(THREADS, "events-request", _open_caches)  # starts none before there is work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which the server tells as 403; Django would raise
            return
        path = scope["path"].removeprefix(get_script_prefix(scope))
        if not scope.get("query_string", b"").isascii():  # Django answers 400, with a traceback in its log
            scope = scope | {"query_string": quote(scope["query_string"], safe=string.printable).encode()}
        if scope.get("method") == "HEAD":
            send = partial(_send_head_alone, send)
        exchange = _Exchange(_runs_in_one_thread(path, settings.ROOT_URLCONF))
        with closing(_Receiver(receive)) as receiver:
            # Error trackers isolate a request, and time it, where they wrap ASGIHandler.__call__: so every request
            # goes through it. The stream is served outside, or its hours would be the request's.
            await super().__call__(
                scope | {_EXCHANGE: exchange}, receive if exchange.runs_in_one_thread else receiver, send
            )
            stream, exchange.stream = exchange.stream, None
            if stream:
                await self._serve(stream, scope, receiver, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What stands within ASGIHandler.__call__, and so within whatever wraps that."""
        exchange = scope[_EXCHANGE]
        if exchange.runs_in_one_thread:
            exchange.stream = await self._answer(scope, receive, send)
        else:
            await super().handle(scope, receive, _Sender(send, exchange))

    async def _serve(self, stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
        if takeover := (scope.get("extensions") or {}).get(TAKEOVER):
            await send({"type": "http.response.body", "body": stream.greeting, "more_body": True})
            takeover(stream)
            return
        gone = asyncio.ensure_future(receive())
        gone.add_done_callback(lambda _: stream.leave())
        try:
            async with aclosing(aiter(stream)) as pieces:
                async for frames in pieces:
                    await send({"type": "http.response.body", "body": frames, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            gone.cancel()

    def create_request(self, scope: Mapping[str, Any], body_file: Any) -> tuple[Any, Any]:
        """As Django's, and 400 also for a Content-Type whose parameters it fails on."""
        try:
            return super().create_request(scope, body_file)
        except (ValueError, LookupError):
            wrong = JsonResponse({"error": "The parameters of this Content-Type cannot be read."}, status=400)
            return None, wrong

    async def send_response(self, response: HttpResponseBase, send: Send) -> None:
        """Of a stream, sends the head; the stream itself is for when the request has ended."""
        if isinstance(send, _Sender) and isinstance(response, EventStreamResponse) and (stream := response.detach()):
            await super().send_response(response, send.head)
            send.exchange.stream = stream
        else:
            await super().send_response(response, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> EventStream | None:
        """A whole request in one go: sends the response, or the head of a stream, which is returned."""
        try:
            body = await self.read_body(_limited(scope, receive))
        except RequestAborted:
            return None
        loop = asyncio.get_running_loop()
        answering = loop.run_in_executor(self._threads, self._respond_apart, copy_context(), scope, body)
        response, stream = await answering
        if stream:
            await super().send_response(response, _Sender(send, scope[_EXCHANGE]).head)
            return stream
        if not response.streaming:
            await super().send_response(response, send)
            return None
        sending = asyncio.ensure_future(self.send_response(response, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await loop.run_in_executor(self._threads, response.close)
        return None

    def _respond_apart(self, outer: Context, scope: Scope, body: Any) -> tuple[HttpResponseBase, EventStream | None]:
        """In a context of its own, with what is set around the application.

        The thread is kept, and the language or the time zone that a request activates in it is not for the next one.
        """

        def respond() -> tuple[HttpResponseBase, EventStream | None]:
            for variable, value in outer.items():
                variable.set(value)
            return self._respond(scope, body)

        return copy_context().run(respond)

    def _respond(self, scope: Scope, body: Any) -> tuple[HttpResponseBase, EventStream | None]:
        """As WSGIHandler does it; what can be closed already is, in the thread whose connections it has used."""
        with body:
            set_script_prefix(get_script_prefix(scope))
            signals.request_started.send(sender=self.__class__, scope=scope)
            request, error = self.create_request(scope, body)
            response: HttpResponseBase = self._sync.get_response(request) if request else error
            vars(response)["_handler_class"] = self.__class__  # the sender of request_finished
            stream = response.detach() if isinstance(response, EventStreamResponse) else None
            if stream or not response.streaming:
                response.close()
            return response, stream


def _open_caches() -> None:
    """Have those of this thread for all of its requests: Redis, for one, is connected to by each of them anew."""
    for alias in caches:
        with suppress(Exception):  # whoever uses it is told
            caches[alias]


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Of a body that is longer than Django takes into memory, no more than shows that it is.

    Django itself keeps all of it on disk until somebody asks for it, who is then told that it is too long.
    """
    left: float = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or math.inf
    announced = dict(scope["headers"]).get(b"content-length", b"")
    is_too_long = announced.isdigit() and float(announced) > left

    async def receive_some() -> Message:
        nonlocal left
        message = {"type": "http.request"} if is_too_long else await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {**message, "more_body": False}

    return receive_some


async def _send_head_alone(send: Send, message: Message) -> None:
    """The answer to HEAD has no body (RFC 9110, 9.3.2). Django sends one, and gunicorn warns of each."""
    await send({**message, "body": b""} if message["type"] == "http.response.body" else message)


@dataclass(slots=True)
class _Exchange:
    """How one request is answered, and the stream that came of it. It travels in the scope, past what wraps `send`."""

    runs_in_one_thread: bool
    stream: EventStream | None = None


class _Sender:
    """The `send` of a request that takes Django's way."""

    def __init__(self, send: Send, exchange: _Exchange) -> None:
        self._send = send
        self.exchange = exchange

    async def __call__(self, message: Message) -> None:
        await self._send(message)

    async def head(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)


class _Receiver:
    """The server's `receive`, in which a cancelled call takes nothing with it.

    At the end of a request Django cancels its wait for a disconnect, whereupon some servers report one for ever.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._pending: asyncio.Future[Message] | None = None

    async def __call__(self) -> Message:
        self._pending = self._pending or asyncio.ensure_future(self._receive())
        message = await asyncio.shield(self._pending)
        self._pending = None
        return message

    def close(self) -> None:
        if self._pending:
            self._pending.cancel()


def in_one_thread(view: _View) -> _View:
    """Mark a sync view whose whole request EventStreamHandler runs in one thread: cheaper, but one of THREADS.

    The mark goes through decorators that use functools.wraps, as Django's own do. Not for uploads: of a body no more
    is read than DATA_UPLOAD_MAX_MEMORY_SIZE.
    """
    vars(view)["in_one_thread"] = True
    return view


@lru_cache(maxsize=1024)
def _runs_in_one_thread(path: str, urlconf: str) -> bool:
    try:
        return hasattr(resolve(path, urlconf).func, "in_one_thread")
    except Resolver404:
        return False


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await asyncio.to_thread(close_hub)  # it waits for the broker's thread
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            get_broker()
        except ImproperlyConfigured as error:  # every request would be answered 500
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
