"""Failures that visitors of the demonstration can give themselves, and nobody else: a cookie asks for one.

A cookie, because it reaches whichever process answers. It does not reach a stream that is open already, so the page
opens a new one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from events import views
from events.limits import Full
from events.process import get_hub
from events.streams import HEADERS, EventStreamResponse, capacity
from events.subscription import Subscription

COOKIE = "fault"

RETRY_AFTER = "1"  # seconds; the failure may be over at any moment
CUT_AFTER = 3.0  # seconds
HANG_FOR = 10.0  # seconds; longer than the client's patience, and short as it may hold a thread


class Fault(StrEnum):
    """What the cookie may say."""

    CUT = "cut"  # every stream ends after a few seconds, as behind a proxy that limits how long an answer may take
    REFUSE = "refuse"  # the stream is answered 503, as when the server has no room for another
    HANG = "hang"  # the stream begins and says nothing, as behind a proxy that holds its bytes back
    RESTART = "restart"  # the stream and the polls are answered 503, as by a proxy whose server is being restarted


@views.allow("GET", "HEAD")
def stream(request: HttpRequest) -> HttpResponseBase:
    """The stream, or the failure that this visitor has asked for."""
    match request.COOKIES.get(COOKIE):
        case Fault.REFUSE | Fault.RESTART:
            return _refusal()
        case Fault.HANG:
            return _hanging(request)
        case Fault.CUT:
            return _cut(views.stream(request))
    return views.stream(request)


@views.allow("GET", "HEAD")
def poll(request: HttpRequest) -> HttpResponseBase:
    """The poll, which only a restart of the server prevents."""
    return _refusal() if request.COOKIES.get(COOKIE) == Fault.RESTART else views.poll(request)


def _refusal() -> HttpResponse:
    message = "Refused, as your fault cookie asks; without it this would work."
    return views.error(503, message, {"Retry-After": RETRY_AFTER})


def _cut(response: HttpResponseBase) -> HttpResponseBase:
    if isinstance(response, EventStreamResponse):
        response.limit(CUT_AFTER)
    return response


def _hanging(request: HttpRequest) -> HttpResponseBase:
    try:
        # It takes the place of a stream: those who play with this must not take all threads.
        place = get_hub().subscribe(["fault"], capacity(request))
    except Full:
        return _refusal()
    silence = _silence_async(place) if isinstance(request, ASGIRequest) else _silence(place)
    return StreamingHttpResponse(silence, headers=HEADERS)


def _silence(place: Subscription) -> Iterator[bytes]:
    try:
        time.sleep(HANG_FOR)
        yield b""
    finally:
        place.close()


async def _silence_async(place: Subscription) -> AsyncIterator[bytes]:
    try:
        await asyncio.sleep(HANG_FOR)
        yield b""
    finally:
        place.close()
