"""The stream: one open SSE response, as a generator for threads and its twin for event loops."""

import json
import math
import sys
import weakref
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from functools import cache

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from events.conf import get_config
from events.hub import Subscription, get_hub
from events.log import Cursor, Gap
from events.wire import Event, encode_retry

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",  # RFC 9111, 5.2.2.6: a proxy may not compress, and so not hold back
    "X-Accel-Buffering": "no",  # nginx passes each write on, whatever proxy_buffering says
    "Content-Encoding": "identity",  # GZipMiddleware leaves alone what has an encoding
}
_BATCH = 65_536  # bytes: a long replay goes out in pieces, each about as much as a socket's buffer takes


def control(type: str, **data: object) -> bytes:
    """The frame of an event that speaks of the stream itself. It has no id, so it never moves a client's cursor."""
    return Event(None, "", type, json.dumps(data)).frame


HEARTBEAT = control("heartbeat")


class EventStreamResponse(StreamingHttpResponse):
    """An open stream on these channels: hello, then what was missed after the cursor, then what happens.

    Without a cursor it begins with what happens next. It ends when the client leaves: at once under ASGI, at the
    next write under WSGI. Raises events.hub.Full when this process holds as many streams as it can.
    """

    def __init__(self, request: HttpRequest, channels: Collection[str], last_event_id: str = "") -> None:
        subscription = get_hub().subscribe(channels, capacity(request))
        try:
            stream = _Stream(subscription, last_event_id)
            super().__init__(aiter(stream) if isinstance(request, ASGIRequest) else iter(stream), headers=HEADERS)
        except BaseException:
            subscription.close()
            raise
        # When a client leaves before the first byte, Django's ASGI handler neither iterates nor closes the response.
        self._release = weakref.finalize(self, subscription.close)
        self._release.atexit = False

    def close(self) -> None:
        self._release()
        super().close()


class _Stream:
    """What a stream says, and when; the twins differ in how they wait."""

    def __init__(self, subscription: Subscription, last_event_id: str) -> None:
        config = get_config()
        self._subscription = subscription
        self._heartbeat = config.HEARTBEAT
        cursor, missed, reset = str(subscription.cursor), [], b""
        if last_event_id:
            try:
                missed = subscription.resume(Cursor.parse(last_event_id))
                cursor = last_event_id
            except Gap:
                cursor = str(subscription.cursor)
                reset = control("reset", cursor=cursor)
        hello = control("hello", cursor=cursor, heartbeat=config.HEARTBEAT, resumed=len(missed))
        self._greeting = [encode_retry(config.RETRY) + hello + reset, *_batches(missed)]

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._greeting
            while True:
                if frames := self._read():
                    yield from frames
                elif not self._subscription.wait(self._heartbeat):
                    yield HEARTBEAT
        finally:
            self._subscription.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for frames in self._greeting:
                yield frames
            while True:
                if batches := self._read():
                    for frames in batches:
                        yield frames
                elif not await self._subscription.wait_async(self._heartbeat):
                    yield HEARTBEAT
        finally:
            self._subscription.close()

    def _read(self) -> list[bytes]:
        try:
            return _batches(self._subscription.read())
        except Gap:
            return [control("reset", cursor=str(self._subscription.cursor))]


def _batches(events: Iterable[Event]) -> list[bytes]:
    """The frames of these events, joined into pieces that are worth a write each."""
    batches: list[list[bytes]] = []
    size = _BATCH
    for event in events:
        if size >= _BATCH:
            batches.append([])
            size = 0
        batches[-1].append(event.frame)
        size += len(event.frame)
    return [b"".join(frames) for frames in batches]


def capacity(request: HttpRequest) -> int:
    """How many streams this process may hold open, by the server that brought the request.

    A stream under WSGI holds a thread, and without a free one the site would answer nobody.
    """
    config = get_config()
    if isinstance(request, ASGIRequest):
        return config.MAX_STREAMS
    if not request.META.get("wsgi.multithread") and request.META.get("SERVER_NAME") != "testserver":
        return 0  # Django's test client says so too, but keeps nobody waiting
    threads = _gunicorn_threads()
    return config.MAX_THREAD_STREAMS if threads is None else threads - math.ceil(threads / 4)


@cache
def _gunicorn_threads() -> int | None:
    """The size of the gunicorn thread pool that we run in, None in any other.

    gunicorn tells an application nothing of its configuration, but its worker is further up on our own stack.
    """
    gthread = sys.modules.get("gunicorn.workers.gthread")
    frame = sys._getframe() if gthread else None
    while frame:
        worker = frame.f_locals.get("self")
        if gthread and isinstance(worker, gthread.ThreadWorker):
            return int(worker.cfg.threads)
        frame = frame.f_back
    return None
