"""The HTTP side of the contract: the stream, and the poll that it replaces."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.cache import get_conditional_response

from events.conf import get_config
from events.hub import Full, get_hub
from events.log import Cursor, Gap
from events.publishing import InvalidEvent, check_channels
from events.streams import HEADERS, EventStreamResponse

DEFAULT_CHANNEL = "clock"
RETRY_AFTER = "10"  # seconds; a place may be free by then, and until then the client polls

View = Callable[[HttpRequest], HttpResponseBase]


def error(status: int, message: str, headers: dict[str, str] | None = None) -> JsonResponse:
    return JsonResponse({"error": message}, status=status, headers=headers)


def allow(*methods: str) -> Callable[[View], View]:
    """Answers any other method with 405 and bad parameters with 400, both in JSON."""

    def decorate(view: View) -> View:
        @wraps(view)
        def answer(request: HttpRequest) -> HttpResponseBase:
            if request.method not in methods:
                accepted = ", ".join(methods)
                return error(405, f"{request.method} is not accepted here; use {accepted}.", {"Allow": accepted})
            try:
                return view(request)
            except InvalidEvent as invalid:
                return error(400, str(invalid))

        return answer

    return decorate


@allow("GET", "HEAD")
def stream(request: HttpRequest) -> HttpResponseBase:
    """An event stream of the channels asked for, from Last-Event-ID on if there is one."""
    channels = _channels(request)
    if request.method == "HEAD":
        return HttpResponse(headers=HEADERS)
    cursor = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id", "")
    try:
        return EventStreamResponse(request, channels, cursor)
    except Full:
        return error(503, "No more streams fit here now; poll, and try again later.", {"Retry-After": RETRY_AFTER})


@allow("GET", "HEAD")
def poll(request: HttpRequest) -> HttpResponse:
    """The events after a cursor: what the stream says, for those who ask again and again."""
    channels = _channels(request)
    hub = get_hub()
    limit = get_config().MAX_POLL_EVENTS
    since = request.GET.get("since", "")
    gap = False
    try:
        cursor = Cursor.parse(since) if since else hub.log.head
        events, cursor = hub.since(cursor, channels, limit)
    except Gap:
        gap, events, cursor = True, [], hub.log.head
    # Weak, as only the events count: an answer that differs in server_time alone is not news.
    etag = f'W/"{"gap-" if gap else ""}{cursor}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache, private"}
    conditional = get_conditional_response(request, etag=etag, response=HttpResponse(headers=headers))
    if conditional and conditional.status_code != 200:
        return conditional
    body: dict[str, Any] = {
        "server_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "cursor": str(cursor),
        "gap": gap,
        "events": [{"id": e.id, "channel": e.channel, "type": e.type, "data": e.data} for e in events],
    }
    if len(events) == limit:
        body["more"] = True  # to be had at once, by asking again with this cursor
    return JsonResponse(body, headers=headers)


def _channels(request: HttpRequest) -> list[str]:
    channels = request.GET.getlist("channel") or [DEFAULT_CHANNEL]
    limit = get_config().MAX_CHANNELS
    if len(channels) > limit:
        raise InvalidEvent(f"At most {limit} channels fit in one request; this one names {len(channels)}.")
    check_channels(channels)
    return channels
