"""The stream: one open SSE response, as a generator for threads and its twin for event loops."""

import asyncio
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

from .authorization import user_of
from .brokers import Unavailable
from .conf import get_config, is_set
from .limits import address_of
from .log import Cursor, Gap
from .metrics import counters
from .process import get_hub
from .subscription import Behind, Subscription
from .wire import Event, encode_retry

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",  # always so, but some clients take Latin-1 where it is not said
    "Cache-Control": "no-cache, no-transform",  # RFC 9111, 5.2.2.6: a proxy may not compress, and so not hold back
    "X-Accel-Buffering": "no",  # nginx passes each write on, whatever proxy_buffering says
    "Content-Encoding": "identity",  # GZipMiddleware leaves alone what has an encoding
}


def control(type: str, id: Cursor | None, **data: object) -> bytes:
    """The frame of an event that speaks of the stream itself. Its id is the cursor up to which all has been told.

    So a client that knows the standard alone resumes exactly, also when no event has come yet, or none for long.
    """
    its_id = f"id: {id}\n" if id else ""
    return f"event: {type}\n{its_id}data: {json.dumps(data)}\n\n".encode()


def heartbeat(cursor: Cursor | None) -> bytes:
    """What breaks a silence, told to a stream that has been told everything up to the cursor, if it has one."""
    return control("heartbeat", cursor)


def reset(cursor: Cursor) -> bytes:
    """What is told in place of events that are kept nowhere any more: the stream goes on after the cursor."""
    return control("reset", cursor, cursor=str(cursor))


_LOOK = 1.0  # seconds between two looks at whether gunicorn wants the worker to stop, which nothing else tells a thread


class EventStreamResponse(StreamingHttpResponse):
    """An open stream on these channels: hello, then what was missed after the cursor, then what happens.

    Without a cursor it begins with what happens next. It ends when the client leaves: at once under ASGI, at the
    next write under WSGI. Whether these channels may be read is for the caller to find out; `authorized` is where the
    log was before that, as `authorize` returns it.
    Raises events.limits.Full when this process holds as many streams as it can, and events.limits.TooMany when this
    user or this address has as many as they may.
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
        stream = EventStream(subscription, last_event_id)
        self._begin(aiter(stream) if isinstance(request, ASGIRequest) else iter(stream), stream)

    def _begin(self, frames: "AsyncIterator[bytes] | Iterator[bytes]", stream: "EventStream | None" = None) -> None:
        self._stream, self._frames = stream, frames
        super().__init__(frames, headers=HEADERS)

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

    has_cursor = True  # its control events say up to where all was told

    def __init__(self, subscription: Subscription, last_event_id: str = "") -> None:
        config = get_config()
        self.subscription = subscription
        self._left = False
        age = config.MAX_STREAM_AGE * random.uniform(0.8, 1)  # noqa: S311  those who came together leave one by one
        self.expires = time.monotonic() + age if age else math.inf
        cursor = subscription.cursor
        told: Cursor | None = cursor
        after = b""
        if last_event_id:
            try:
                cursor = told = Cursor.parse(last_event_id)
                subscription.resume(cursor)
            except Gap:
                counters.gaps += 1
                subscription.skip(cursor)
                cursor = subscription.cursor
                # Without an id before the reset is told: a client that is cut in between has to be told again.
                told, after = None, reset(cursor)
        hello = control("hello", told, cursor=str(cursor), heartbeat=config.HEARTBEAT)
        self.greeting = encode_retry(config.RETRY) + hello + after

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
                elif time.monotonic() - written >= get_config().HEARTBEAT:
                    yield self.heartbeat()
                else:
                    self.subscription.wait(min(self._patience(written), _LOOK))
                    continue
                written = time.monotonic()
            self.subscription.ending = self.ending()
            yield farewell()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            yield self.greeting
            written = time.monotonic()
            is_live = False
            while not self.is_over():
                began = time.thread_time()
                try:
                    frames = self.read_now(is_live)
                except Behind:
                    frames = await asyncio.to_thread(self.read, is_live)
                is_live = is_live or self._is_up_to_date()
                if frames:
                    yield frames
                    counters.stream_seconds += time.thread_time() - began
                elif time.monotonic() - written >= get_config().HEARTBEAT:
                    yield self.heartbeat()
                else:
                    await self.subscription.wait_async(self._patience(written))
                    continue
                written = time.monotonic()
            self.subscription.ending = self.ending()
            yield farewell()
        finally:
            self.close()

    def read(self, is_live: bool = False) -> bytes:
        """The next frames, not many more bytes than a socket's buffer takes; empty when there are none.

        `is_live`: whether they count for the delay of delivery. Blocks while the broker is asked for what this process
        no longer has; a stream that cannot be told what comes next ends, and its client comes back.
        """
        try:
            return self._frames(self.subscription.read(), is_live)
        except Gap:
            counters.gaps += 1
            return reset(self.subscription.cursor)
        except Unavailable:
            self._left = True
            return b""

    def read_now(self, is_live: bool = False) -> bytes:
        """As `read`, from memory. Raises Behind when the broker has to be asked."""
        return self._frames(self.subscription.read_now(), is_live)

    def _frames(self, events: list[Event], is_live: bool) -> bytes:
        counters.deliveries += len(events)
        if is_live:
            counters.observe([event.time for event in events], time.time())
        return b"".join([event.frame for event in events])

    def heartbeat(self) -> bytes:
        """What breaks a silence."""
        return heartbeat(self.subscription.cursor if self.has_cursor else None)

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
        self.subscription.notify()

    def close(self) -> None:
        """Give the slot up. May be called again, and from any thread."""
        self.subscription.close()

    # A client may leave before anything was sent, and then nobody iterates it and nobody closes it.
    __del__ = close

    def _is_up_to_date(self) -> bool:
        return self.subscription.cursor >= self.subscription.hub.log.head

    def _patience(self, written: float) -> float:
        return max(0.0, min(written + get_config().HEARTBEAT, self.expires) - time.monotonic())


def _let_go_of_databases() -> None:
    """Close what the request has opened in this thread, which the stream may hold for hours."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def farewell() -> bytes:
    """The last words of a stream that is ended on purpose: when to come back, each client at another time."""
    config = get_config()
    wait = config.RETRY + random.randrange(config.SPREAD + 1)  # noqa: S311  no secret
    # In one block, with data: some clients drop a block without, and would not see the retry.
    return encode_retry(wait) + control("drain", None, retry=wait)


def capacity(request: HttpRequest) -> int:
    """How many streams this process may hold open, by the server that brought the request.

    A stream under WSGI holds a thread, and without a free one the site would answer nobody.
    """
    config = get_config()
    if isinstance(request, ASGIRequest):
        return config.MAX_STREAMS
    if is_in_test(request):
        return config.MAX_THREAD_STREAMS  # Django's test client claims to have no threads, but keeps nobody waiting
    if not request.META.get("wsgi.multithread"):
        return 0
    threads = _threads(request)
    if threads is None and is_set("MAX_THREAD_STREAMS"):
        return config.MAX_THREAD_STREAMS
    if threads == math.inf:
        return config.MAX_THREAD_STREAMS
    if threads is None:
        return _UNKNOWN_THREADS // 4
    return int(threads) - math.ceil(threads / 4)


def is_in_test(request: HttpRequest) -> bool:
    """Whether the request comes from Django's test client, and not from a server."""
    client = sys.modules.get("django.test.client")
    return bool(client and isinstance(request.META.get("wsgi.input"), client.FakePayload))


# Of a server that nobody knows: the fewest threads that servers with threads have by default (waitress).
_UNKNOWN_THREADS = 4


def _gthread_worker() -> Any:
    """The gunicorn worker whose pool of threads we run in, None in any other server.

    gunicorn tells an application nothing of its configuration, but its worker is further up on our own stack.
    """
    gthread = sys.modules.get("gunicorn.workers.gthread")
    workers = (caller for caller in _callers() if gthread and isinstance(caller, gthread.ThreadWorker))
    return next(workers, None)


def _threads(request: HttpRequest) -> float | None:
    """How many threads, for streams and all else, the WSGI server has in this process: infinity if it starts one for
    each request, None when the server is not known. No server tells its application, but each can be asked somehow.
    """
    if "uwsgi.version" in request.META:
        return _number_of(sys.modules["uwsgi"].opt.get("threads"))
    if "mod_wsgi.version" in request.META:
        return _number_of(getattr(sys.modules.get("mod_wsgi"), "threads_per_process", None))
    for caller in _callers():
        match _bases(caller):
            case {"gunicorn.workers.gthread.ThreadWorker": _}:
                return _number_of(caller.cfg.threads)
            case {"gunicorn.workers.base_async.AsyncWorker": _}:
                return math.inf  # greenlets
            case {"waitress.channel.HTTPChannel": _}:
                return _number_of(caller.adj.threads)
            case {"cheroot.workers.threadpool.WorkerThread": _}:
                return _number_of(caller.server.requests.min)
            case {"socketserver.BaseServer": _}:  # runserver, wsgiref, werkzeug
                return math.inf if isinstance(caller, socketserver.ThreadingMixIn) else 1
    return None


def _bases(thing: object) -> dict[str, type]:
    return {f"{base.__module__}.{base.__qualname__}": base for base in type(thing).__mro__}


def _number_of(setting: Any) -> int | None:
    """A setting of a server, as it holds it: uWSGI as bytes."""
    try:
        return int(setting)
    except (TypeError, ValueError):
        return None


def _callers() -> Iterator[Any]:
    """The objects whose methods are on our stack, from the innermost."""
    frame: FrameType | None = sys._getframe()
    while frame:
        yield frame.f_locals.get("self")
        frame = frame.f_back
