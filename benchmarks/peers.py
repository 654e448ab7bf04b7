"""What this project is measured beside: the same stream, built as each of them is meant to be used.

Each function is a factory for an ASGI server. All of them publish in their own process, in a thread, like this
project: RATE events a second, each with the time when it was due.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any


def publish_at_rate(publish: Callable[[str], object], stop: Callable[[float], bool]) -> None:
    """Publish, once the gate is open, until told to stop. Who is late publishes what was due meanwhile, one by one."""
    while not Path(os.environ["GATE"]).exists():
        if stop(0.05):
            return
    period = 1 / float(os.environ["RATE"])
    due = time.monotonic()
    while not stop(max(0.0, due - time.monotonic())):
        while due <= time.monotonic():
            publish(f"t={int(due * 1e6):015d}")
            due += period


def start_publishing(publish: Callable[[str], object]) -> None:
    if float(os.environ["RATE"]):
        threading.Thread(target=publish_at_rate, args=(publish, threading.Event().wait), daemon=True).start()


class Broadcast:
    """A queue for each client, as every tutorial has it."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[tuple[int, str]]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0

    def publish(self, data: str) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._put, data)

    def _put(self, data: str) -> None:
        self._count += 1
        for queue in self._queues:
            queue.put_nowait((self._count, data))

    async def listen(self) -> AsyncIterator[tuple[int, str]]:
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)


def starlette() -> Any:
    from sse_starlette import EventSourceResponse, ServerSentEvent
    from starlette.applications import Starlette
    from starlette.routing import Route

    broadcast = Broadcast()

    async def stream(request: Any) -> Any:
        async def events() -> AsyncIterator[ServerSentEvent]:
            async for number, data in broadcast.listen():
                yield ServerSentEvent(id=f"{number:015d}", data=data)

        return EventSourceResponse(events())

    start_publishing(broadcast.publish)
    return Starlette(routes=[Route("/", stream)])


def _django(*apps: str, **more: Any) -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    settings.configure(
        SECRET_KEY="benchmark",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
        INSTALLED_APPS=apps,
        **more,
    )
    return get_asgi_application()


urlpatterns: list[Any] = []


def stock() -> Any:
    """Django's own asynchronous generator response."""
    from django.http import HttpRequest, StreamingHttpResponse
    from django.urls import path

    broadcast = Broadcast()

    async def stream(request: HttpRequest) -> StreamingHttpResponse:
        async def events() -> AsyncIterator[str]:
            yield ": hello\n\n"
            async for number, data in broadcast.listen():
                yield f"id: {number:015d}\ndata: {data}\n\n"

        return StreamingHttpResponse(events(), content_type="text/event-stream")

    application = _django()
    urlpatterns.append(path("", stream))
    start_publishing(broadcast.publish)
    return application


def eventstream() -> Any:
    application = _django("django_eventstream")
    import django_eventstream
    from django.urls import include, path

    urlpatterns.append(path("", include(django_eventstream.urls), {"channels": ["bench"]}))

    def publish(data: str) -> None:
        django_eventstream.send_event("bench", "message", data, json_encode=False)

    start_publishing(publish)
    return application
