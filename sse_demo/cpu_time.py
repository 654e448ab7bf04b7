"""What a request cost, told in its answer: `Server-Timing: cpu;dur=0.8`, in milliseconds of processor time.

https://www.w3.org/TR/server-timing/
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from events.metrics import counters


class _Requests:
    """Those that are being answered now, and those that there have been."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = 0
        self.begun = 0


_requests = _Requests()


@sync_and_async_middleware
def cpu_time(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """The first middleware, so that it counts all others; what the server does before and after is not in it."""
    if iscoroutinefunction(get_response):
        get_response_async: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            with _measured() as tell:
                return tell(await get_response_async(request))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        with _measured() as tell:
            return tell(get_response(request))

    return answer


@contextmanager
def _measured() -> Iterator[Callable[[HttpResponseBase], HttpResponseBase]]:
    # A request under ASGI visits several threads, so the clock is that of the process. Therefore nothing is told of a
    # request that did not have the process to itself; and what streams were written meanwhile is taken off.
    with _requests.lock:
        _requests.open += 1
        _requests.begun += 1
        alone, begun = _requests.open == 1, _requests.begun
    started = time.process_time() - counters.stream_seconds

    def tell(response: HttpResponseBase) -> HttpResponseBase:
        spent = time.process_time() - counters.stream_seconds - started
        if alone and begun == _requests.begun:
            response.headers["Server-Timing"] = f"cpu;dur={spent * 1000:.3f}"
        return response

    try:
        yield tell
    finally:
        with _requests.lock:
            _requests.open -= 1
