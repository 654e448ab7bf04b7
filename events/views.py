"""The HTTP side of the contract: the stream, the poll that it replaces, publishing, and what operators ask for."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import (
    BadRequest,
    ImproperlyConfigured,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.request import RawPostDataException
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.cache import get_conditional_response
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt

from .asgi import in_one_thread
from .authorization import Refused, authorize, user_of
from .brokers import Unavailable
from .conf import get_config
from .cors import preflight, share
from .health import check_health
from .journal import Trouble
from .limits import Full, TooMany, address_of, polls
from .log import LONGEST_CURSOR, Cursor, Gap
from .metrics import counters
from .process import get_hub, is_draining
from .publishing import InvalidEvent, TooLarge, check_channels, publish
from .sources import has_source
from .streams import EventStreamResponse, describe_stream
from .wire import Event

DEFAULT_CHANNEL = "clock"  # where the project has a source of that name, as the demonstration has
RETRY_AFTER = "10"  # seconds; a place may be free by then, and until then the client polls

_unavailable = Trouble("Answered 503, as the events cannot be reached", counted="answers")

View = Callable[[HttpRequest], HttpResponseBase]


def error(status: int, message: str, headers: dict[str, str] | None = None) -> JsonResponse:
    return JsonResponse({"error": message}, status=status, headers={"Cache-Control": "no-store", **(headers or {})})


def _non_atomic_requests(view: View) -> View:
    """As Django's, for every database: the log may be in any of them."""
    for alias in connections:
        view = non_atomic_requests(using=alias)(view)
    return view


def allow(*methods: str) -> Callable[[View], View]:
    """Answers any other method with 405, bad parameters with 400, what is not allowed with 403, and so on, all in JSON.

    What GET reads, pages of the origins that are allowed to may read as well.
    """

    def decorate(view: View) -> View:
        @in_one_thread
        @login_not_required  # who may do what is said below, in JSON: a login page is no answer to a program
        @_non_atomic_requests  # reading needs no transaction, and what is published is, when the answer goes out
        @csrf_exempt  # what is not accepted is told so by 405, and not by a page about cookies
        @wraps(view)
        def answer(request: HttpRequest) -> HttpResponseBase:
            # What this app reads is in UTF-8. Django would believe Content-Type, even that it is in base64.
            if request.encoding:
                request.encoding = "utf-8"
            if "GET" not in methods:
                return respond(request)
            response = preflight(request) or respond(request)
            share(request, response)
            if request.method == "HEAD" and isinstance(response, HttpResponse):
                # Django leaves the body for the server to drop (RFC 9110, 9.3.2), and gunicorn warns of each.
                response.headers.setdefault("Content-Length", str(len(response.content)))
                response.content = b""
            return response

        def respond(request: HttpRequest) -> HttpResponseBase:
            if request.method not in methods:
                accepted = ", ".join(methods)
                return error(405, f"{request.method} is not accepted here; use {accepted}.", {"Allow": accepted})
            if "\0" in request.COOKIES.get(settings.SESSION_COOKIE_NAME, ""):  # PostgreSQL fails on it
                return error(400, "The key of a session has no NUL in it, as the one in this cookie has.")
            try:
                return view(request)
            except TooLarge as large:
                return error(413, str(large))
            except InvalidEvent as invalid:
                return error(400, str(invalid))
            except TooManyFieldsSent:
                return error(400, f"A request has at most {settings.DATA_UPLOAD_MAX_NUMBER_FIELDS:,} parameters.")
            except (BadRequest, SuspiciousOperation, MultiPartParserError, UnreadablePostError) as unreadable:
                return error(400, f"This request cannot be read: {str(unreadable) or type(unreadable).__name__}.")
            except Refused as refused:
                return error(403, str(refused))
            except TooMany as many:
                return error(429, f"{many}; close some, or poll.", {"Retry-After": RETRY_AFTER})
            except Full:
                return error(
                    503, "No more streams fit here now; poll, and try again later.", {"Retry-After": RETRY_AFTER}
                )
            except Unavailable as unavailable:
                _unavailable.hit(reason=unavailable)
                return error(503, "The events cannot be reached now; try again later.", {"Retry-After": RETRY_AFTER})

        return answer

    return decorate


@allow("GET", "HEAD")
def stream(request: HttpRequest) -> HttpResponseBase:
    """An event stream of the channels asked for, from Last-Event-ID on if there is one."""
    channels = _channels(request)
    cursor = _cursor(
        request.headers.get("Last-Event-ID")
        or request.GET.get("lastEventId")  # event-source-polyfill adds it, with the last id that it has seen
        or request.GET.get("last_event_id", "")
    )
    authorized = authorize(request, channels)
    if request.method == "HEAD":
        return describe_stream(request)
    return EventStreamResponse(request, channels, cursor, authorized)


@allow("GET", "HEAD")
def poll(request: HttpRequest) -> HttpResponse:
    """The events after a cursor: what the stream says, for those who ask again and again."""
    channels = _channels(request)
    since = _cursor(request.GET.get("since", ""))
    authorize(request, channels)
    if wait := _wait(request):
        rate = get_config().MAX_POLLS_PER_SECOND
        return error(429, f"At most {rate:g} polls a second; ask again in {wait} s.", {"Retry-After": str(wait)})
    hub = get_hub()
    limit = get_config().MAX_POLL_EVENTS
    gap = False
    counters.polls += 1
    cursor = hub.log.head
    try:
        events: list[Event] = []
        if since:
            cursor = Cursor.parse(since)
            events, cursor = hub.since(cursor, channels, limit)
    except Gap:
        counters.gaps += 1
        gap, events, cursor = True, [], hub.after_gap(cursor, channels)
    # Weak, as only the events count: an answer that differs in server_time alone is not news.
    etag = f'W/"{"gap-" if gap else ""}{cursor}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache, private"}
    conditional = get_conditional_response(request, etag=etag, response=HttpResponse(headers=headers))
    if conditional and conditional.status_code == 304:
        counters.unchanged += 1
        return conditional
    body: dict[str, Any] = {
        "server_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "cursor": str(cursor),
        "gap": gap,
        "events": [{"id": e.id, "channel": e.channel, "type": e.type, "data": e.data} for e in events],
    }
    if cursor < hub.log.head:
        body["more"] = True  # to be had at once, by asking again with this cursor
    return JsonResponse(body, headers=headers)


def _channels(request: HttpRequest) -> list[str]:
    channels = request.GET.getlist("channel") or ([DEFAULT_CHANNEL] if has_source(DEFAULT_CHANNEL) else [])
    if not channels:
        raise InvalidEvent("Name what to read: ?channel=orders, or ?channel=orders&channel=news.")
    limit = get_config().MAX_CHANNELS
    if len(channels) > limit:
        raise InvalidEvent(f"At most {limit} channels fit in one request; this one names {len(channels)}.")
    check_channels(channels)
    return channels


def _cursor(text: str) -> str:
    if len(text) > LONGEST_CURSOR:
        raise InvalidEvent(f"A cursor is at most {LONGEST_CURSOR} characters; this one has {len(text):,}.")
    return text


def _wait(request: HttpRequest) -> int:
    """How many seconds this visitor has to wait before the next poll; 0 for none."""
    if not (rate := get_config().MAX_POLLS_PER_SECOND):
        return 0
    user = user_of(request)
    visitor = f"user {user}" if user else address_of(request)
    return polls.ask(visitor, rate) if visitor else 0


@allow("POST")
def publish_event(request: HttpRequest) -> HttpResponse:
    """Publish the event in the body: for programs that bring the token, and for staff, whose CSRF token is checked."""
    if refusal := _refusal(request):
        return error(403, refusal)
    return accept_event(request)


def accept_event(request: HttpRequest) -> HttpResponse:
    """Publish the event in the body, for those who may: that has been found out."""
    text = _body(request)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or body.keys() - {"type"} not in ({"channel", "data"}, {"channel", "text"}):
        return error(
            400,
            'The body is a JSON object: {"channel": …, "data": …}, or {"channel": …, "text": "…"}; and "type" if it '
            "has one.",
        )
    return JsonResponse({"id": publish(**body)}, status=201, headers={"Cache-Control": "no-store"})


def _body(request: HttpRequest) -> bytes:
    """The body; empty for one that cannot be read any more. Raises TooLarge."""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    try:
        if limit is not None and len(request.body) > limit:  # Django looks at Content-Length, which not all have
            raise RequestDataTooBig
        return request.body
    except RequestDataTooBig:
        raise TooLarge(f"A body is at most {limit:,} bytes.") from None
    except (RawPostDataException, ValueError):  # middleware has read it as a form; Content-Length is no number
        return b""


@allow("GET", "HEAD")
def health(request: HttpRequest) -> HttpResponse:
    """Whether this process can serve events now: 200, or 503 for a load balancer to send clients elsewhere."""
    if is_draining():
        return error(503, "This process is stopping.", {"Retry-After": RETRY_AFTER})
    check_health()
    return JsonResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@allow("GET", "HEAD")
def metrics(request: HttpRequest) -> HttpResponse:
    """What all processes of this server have counted, for Prometheus, which brings the token."""
    token = get_config().METRICS_TOKEN
    if not token:
        return error(404, "There are no metrics here: EVENTS['METRICS_TOKEN'] is not set.")
    if not _is(_bearer(request) or "", token):
        return error(403, "Bring the token in EVENTS['METRICS_TOKEN'], as Authorization: Bearer.")
    try:
        from .prometheus import CONTENT_TYPE_LATEST, exposition
    except ImproperlyConfigured as missing:
        return error(503, str(missing))
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


def _bearer(request: HttpRequest) -> str | None:
    """The token that a program has brought (RFC 9110, 11.1)."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _is(given: str, token: str) -> bool:
    """Whether this is the token. A header is bytes (RFC 9110, 5.5), which Django reads as Latin-1; a token is UTF-8."""
    return constant_time_compare(given, token) or constant_time_compare(given, token.encode().decode("latin-1"))


def _refusal(request: HttpRequest) -> str:
    """Why this request may not publish; empty if it may."""
    token = get_config().PUBLISH_TOKEN
    given = _bearer(request)
    if given is not None:
        if token and _is(given, token):
            return ""
        return "This is not the token in EVENTS['PUBLISH_TOKEN']." if token else "EVENTS['PUBLISH_TOKEN'] is not set."
    user = getattr(request, "user", None)
    if not user or not user.is_active or not user.is_staff:
        how = "bring the token, as Authorization: Bearer, or log in" if token else "log in"
        return f"Publishing is for staff: {how}. Programs need EVENTS['PUBLISH_TOKEN']."
    return forgery(request)


def forgery(request: HttpRequest) -> str:
    """Why this request may come from another site, in a visitor's name; empty if it does not."""
    _body(request)  # read now, as the check looks for the token in a form as well, after which it would be gone
    check = _CsrfCheck(HttpResponse)
    check.process_request(request)
    # Not for this view, whose exemption is not meant for those who come with a session.
    if reason := check.process_view(request, HttpResponse, (), {}):
        return f"With a session, the X-CSRFToken header must match its cookie: {reason.content.decode()}"
    return ""


class _CsrfCheck(CsrfViewMiddleware):
    """Says why, where the middleware would answer with a page."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return HttpResponse(reason)
