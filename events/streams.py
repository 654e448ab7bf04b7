"""The stream: one open SSE response, as a generator for threads and its twin for event loops."""

import json
import math
import random
import socketserver
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from types import FrameType
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, StreamingHttpResponse

from events.authorization import user_of
from events.conf import get_config
from events.hub import Subscription, get_hub
from events.limits import address_of
from events.log import Cursor, Gap
from events.metrics import counters
from events.wire import Event, encode_retry

HEADERS = {
    # The format is always UTF-8 (9.2.5), but a general HTTP client takes text without a charset for Latin-1.
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # RFC 9111, 5.2.2.6: a proxy may not compress, and so not hold back
    "X-Accel-Buffering": "no",  # nginx passes each write on, whatever proxy_buffering says
    "Content-Encoding": "identity",  # GZipMiddleware leaves alone what has an encoding
}


def control(type: str, told: Cursor, /, **data: object) -> bytes:
    """The frame of an event about the stream itself.

    Its id is the cursor up to which the stream has told everything, so that a client resumes there.
    """
    return Event(str(told), "", type, json.dumps(data)).frame


def heartbeat(told: Cursor) -> bytes:
    """What a stream says after a silence."""
    return control("heartbeat", told)


_LOOK = 1.0  # seconds between two looks at whether gunicorn wants the worker to stop, which nothing else tells a thread


class EventStreamResponse(StreamingHttpResponse):
    """An open stream on these channels: hello, then what was missed after the cursor, then what happens.

    Without a cursor it begins with what happens next. It ends when the client leaves: at once under ASGI, at the
    next write under WSGI. Whether these channels may be read is for the caller to find out; `authorized` is where the
    log was before that, as `authorize` returns it.
    Raises events.hub.Full when this process holds as many streams as it can, and events.hub.TooMany when this user
    or this address has as many as they may.
    """

    def __init__(
        self,
        request: HttpRequest,
        channels: Collection[str],
        last_event_id: str = "",
        authorized: Cursor | None = None,
    ) -> None:
        address = address_of(request) if get_config().MAX_STREAMS_PER_ADDRESS else ""
        subscription = get_hub().subscribe(channels, capacity(request), user_of(request), address, authorized)
        self._stream: EventStream | None = EventStream(subscription, last_event_id)
        self._frames: AsyncIterator[bytes] | Iterator[bytes] = (
            aiter(self._stream) if isinstance(request, ASGIRequest) else iter(self._stream)
        )
        super().__init__(self._frames, headers=HEADERS)

    def limit(self, seconds: float) -> None:
        """End the stream after so long, if nothing ends it before."""
        if self._stream:
            self._stream.expires = min(self._stream.expires, time.monotonic() + seconds)

    def detach(self) -> "EventStream | None":
        """Take the stream out, for whoever serves it after the request has ended; the response is empty then.

        None when middleware has put something around the content: what it does there must go on.
        """
        if self._iterator is not self._frames:  # type: ignore[attr-defined]  # streaming_content is wrapped on the way out
            return None
        stream, self._stream = self._stream, None
        self._frames = self.streaming_content = _nothing()
        return stream

    def close(self) -> None:
        if self._stream:
            self._stream.close()
        super().close()


def describe_stream(request: HttpRequest) -> StreamingHttpResponse:
    """The answer to HEAD: what GET would begin with, and so no Content-Length (RFC 9110, 8.6)."""
    return StreamingHttpResponse(_nothing() if isinstance(request, ASGIRequest) else (), headers=HEADERS)


async def _nothing() -> AsyncIterator[bytes]:
    for _ in ():
        yield b""


class EventStream:
    """What a stream says, and when: an iterator for threads and its twin for event loops, for one of them to use."""

    __slots__ = ("_left", "expires", "greeting", "subscription")

    def __init__(self, subscription: Subscription, last_event_id: str = "") -> None:
        config = get_config()
        self.subscription = subscription
        self._left = False
        age = config.MAX_STREAM_AGE * random.uniform(0.8, 1)  # noqa: S311  those who came together leave one by one
        self.expires = time.monotonic() + age if age else math.inf
        reset = b""
        if last_event_id:
            try:
                subscription.resume(Cursor.parse(last_event_id))
            except Gap:
                reset = self._reset()
        cursor = subscription.cursor
        hello = control("hello", cursor, cursor=str(cursor), heartbeat=config.HEARTBEAT)
        self.greeting = encode_retry(config.RETRY) + hello + reset

    def __iter__(self) -> Iterator[bytes]:
        try:
            _let_go_of_databases()
            yield self.greeting
            worker = _gthread_worker()
            written = time.monotonic()
            is_live = False  # what was there before us is late because we are
            while not self.is_over() and (not worker or worker.alive):
                began = time.thread_time()
                frames = self.read(is_live)
                is_live = is_live or self._is_up_to_date()
                if frames:
                    yield frames
                    counters.stream_seconds += time.thread_time() - began
                elif self.subscription.wait(min(self._patience(), _LOOK)):
                    continue
                elif time.monotonic() - written >= get_config().HEARTBEAT:
                    yield heartbeat(self.subscription.cursor)
                else:
                    continue
                written = time.monotonic()
            self.subscription.ending = self.ending()
            yield farewell()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            yield self.greeting
            is_live = False
            while not self.is_over():
                began = time.thread_time()
                frames = self.read(is_live)
                is_live = is_live or self._is_up_to_date()
                if frames:
                    yield frames
                    counters.stream_seconds += time.thread_time() - began
                elif not await self.subscription.wait_async(self._patience()) and not self.is_over():
                    # Reading moves the cursor past what happened in other channels meanwhile.
                    yield self.read(is_live) or heartbeat(self.subscription.cursor)
            self.subscription.ending = self.ending()
            yield farewell()
        finally:
            self.close()

    def read(self, is_live: bool = False) -> bytes:
        """The next frames, not many more bytes than a socket's buffer takes; empty when there are none.

        `is_live`: whether they count for the delay of delivery.
        """
        try:
            events = self.subscription.read()
            counters.deliveries += len(events)
            if is_live:
                counters.observe([event.time for event in events], time.time())
            return b"".join([event.frame for event in events])
        except Gap:
            return self._reset()

    def _reset(self) -> bytes:
        counters.gaps += 1
        cursor = self.subscription.cursor
        return control("reset", cursor, cursor=str(cursor))

    def is_over(self) -> bool:
        subscription = self.subscription
        return self._left or subscription.is_revoked or subscription.hub.draining or time.monotonic() >= self.expires

    def ending(self) -> str:
        """Why it is over: one of events.metrics.ENDINGS."""
        if self._left:
            return "left"
        if self.subscription.is_revoked:
            return "revoked"
        return "aged" if time.monotonic() >= self.expires else "drained"

    def leave(self) -> None:
        """End it from within its event loop: the client has gone."""
        self._left = True
        self.subscription.ring()

    def close(self) -> None:
        """Give the place up. May be called again, and from any thread."""
        self.subscription.close()

    # A client may leave before anything was sent, and then nobody iterates it and nobody closes it.
    __del__ = close

    def _is_up_to_date(self) -> bool:
        return self.subscription.cursor >= self.subscription.hub.log.head

    def _patience(self) -> float:
        return max(0.0, min(get_config().HEARTBEAT, self.expires - time.monotonic()))


def _let_go_of_databases() -> None:
    """Close what the request has opened in this thread, which the stream may hold for hours."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def farewell() -> bytes:
    """The last words of a stream that is ended on purpose: when to come back, each client at another time."""
    config = get_config()
    retry = config.RETRY + random.randrange(config.SPREAD + 1)  # noqa: S311  no secret
    # Some parsers drop a block without data, and its retry with it.
    return encode_retry(retry) + Event(None, "", "drain", json.dumps({"retry": retry})).frame


def capacity(request: HttpRequest) -> int:
    """How many streams this process may hold open, by the server that brought the request.

    A stream under WSGI holds a thread, and without a free one the site would answer nobody.
    """
    config = get_config()
    if isinstance(request, ASGIRequest):
        return config.MAX_STREAMS
    worker = _gthread_worker()
    if worker:
        return int(worker.cfg.threads - math.ceil(worker.cfg.threads / 4))
    client = sys.modules.get("django.test.client")
    if client and isinstance(request.META.get("wsgi.input"), client.FakePayload):
        return config.MAX_THREAD_STREAMS  # Django's test client claims to have no threads, but keeps nobody waiting
    return config.MAX_THREAD_STREAMS if request.META.get("wsgi.multithread") and not _is_one_at_a_time() else 0


def _gthread_worker() -> Any:
    """The gunicorn worker whose pool of threads we run in, None in any other server.

    gunicorn tells an application nothing of its configuration, but its worker is further up on our own stack.
    """
    gthread = sys.modules.get("gunicorn.workers.gthread")
    workers = (caller for caller in _callers() if gthread and isinstance(caller, gthread.ThreadWorker))
    return next(workers, None)


def _is_one_at_a_time() -> bool:
    """Whether we run in a wsgiref server without threads, as `runserver --nothreading`, which claims to have some."""
    servers = (caller for caller in _callers() if isinstance(caller, socketserver.BaseServer))
    return not all(isinstance(server, socketserver.ThreadingMixIn) for server in servers)


def _callers() -> Iterator[object]:
    """The objects whose methods are on our stack, from the innermost."""
    frame: FrameType | None = sys._getframe()
    while frame:
        yield frame.f_locals.get("self")
        frame = frame.f_back
