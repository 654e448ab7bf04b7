"""Live views: the view that a page polls, streamed.

    @live(every=2)
    def status(request):
        return JsonResponse(...)

The same URL answers `Accept: text/event-stream` with a stream of the view's present answer and each one that differs,
and everybody else as before, with an ETag. While somebody listens the view is evaluated again, once for all who ask the
same: through all of the project's middleware, with the headers of one of them, as their poll would be. So is the first
answer, within the request for the stream, unless others were told one a moment ago; what middleware counts, and a
session that is saved on every request, see each evaluation as the poll that it stands for. Datastar's client is sent
events of its own types.

An answer is shared by those who ask for the same URL and have sent the same in every header and cookie that it was made
from: those that its `Vary` names, and those that the view, a template or any middleware has looked at. Where a session
was read, where the answer is `private`, and with `Authorization`, nobody else has sent the same.
"""

import io
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache, wraps
from hashlib import blake2b
from heapq import heappop, heappush
from inspect import isawaitable
from typing import Any, NamedTuple, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core import signals
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import response_for_exception
from django.core.signals import setting_changed
from django.db import connections
from django.dispatch import receiver
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.cookie import parse_cookie
from django.http.request import HttpHeaders
from django.template.response import SimpleTemplateResponse
from django.urls import get_script_prefix, set_script_prefix
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.http import quote_etag

from .authorization import user_of
from .brokers import Unavailable
from .conf import get_config
from .hub import Hub
from .journal import Trouble, tell
from .limits import Full, TooMany, address_of
from .log import Cursor
from .metrics import counters
from .process import get_hub
from .publishing import InvalidEvent, check_channels
from .streams import (
    EventStream,
    EventStreamResponse,
    capacity,
    control,
    describe_stream,
    farewell,
    is_in_test,
)
from .subscription import Subscription
from .watched import COOKIE, EVERYTHING, WatchedASGIRequest, WatchedWSGIRequest
from .wire import LINE_END, Event, encode_retry

STREAM = "text/event-stream"
_DATASTAR = "HTTP_DATASTAR_REQUEST"  # sent by Datastar's client, which takes events of its own types alone
_CHANNEL = "!live:"  # what the channels of live views begin with: no name that can be asked for or published to
_EVALUATION = "_events_live_evaluation"  # an attribute of a request that an evaluation makes
_THREADS = 4  # in which views are evaluated: more that wait for the database would take its connections from requests
_SOONEST = 0.05  # seconds between two evaluations of the same, however many events ask for one
_RETRY = 2.0  # seconds until a view that has failed is asked again, where `every` is not sooner
_FRESH = 1.0  # seconds in which an answer is told to whoever comes, if its view is not evaluated sooner anyway
_URL = ("wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
# Of a visitor's headers, those by which this client alone would be answered otherwise.
_LEFT_OUT = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE"}
_LEFT_OUT |= {"HTTP_RANGE", "HTTP_IF_RANGE", "HTTP_LAST_EVENT_ID", "HTTP_ACCEPT_ENCODING"}
_LEFT_OUT |= {"CONTENT_TYPE", "CONTENT_LENGTH"}
_OF_THE_BODY = frozenset({"Content-Length", "ETag", "Last-Modified", "Expires", "Content-Disposition", "Accept-Ranges"})
_SENT = "events.live.sent"  # in the environ of a request for a stream: what it was before any middleware
_LEARNED = 4096  # URLs
_SCOPE = frozenset(  # what of an ASGI scope is kept to make the request again
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client"}
    | {"server", "state"}
)
_RESTLESS = 5  # answers in a row, each unlike the one before, from the first one on, until that is told
_SHOWN = 60  # characters of two answers that a line in the log shows

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # 5.5

Channels = Sequence[str] | Callable[..., Iterable[str]]
View = TypeVar("View", bound=Callable[..., Any])

_late = Trouble(
    "Live views are evaluated less often than they ask for, as there are too many, or they are slow", "times"
)
_failed = Trouble("A live view fails, and its readers keep the last answer", "times")


def live(
    every: float | None = None, on: Channels | None = None, *, headers: Mapping[str, str] | None = None
) -> Callable[[View], View]:
    """Stream the decorated view to whoever asks for `text/event-stream`.

    `every`: seconds from one evaluation to the next, while somebody listens. `on`: channels, or a function of the
    view's own arguments that returns them; the view is evaluated when an event is published there. One, or both.
    `headers`: what an evaluation sends in place of what the EventSource did, which can send none of its own: those that
    the poll sends and the view looks at, such as {"HX-Request": "true"}. `Accept` is `*/*` unless it is among them.
    For function views, async ones too, for `View.as_view()`, and with `method_decorator` for `dispatch`.
    Raises TypeError and ValueError for arguments that are not accepted.
    """
    if every is None and on is None:
        raise TypeError("live() takes every=SECONDS, on=CHANNELS, or both.")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int | float) or not 0 < every <= 86_400):
        raise ValueError(f"live(every=…) takes seconds, more than 0 and at most 86,400; not {every!r}.")
    if iscoroutinefunction(on):
        raise TypeError(
            "live(on=…) takes a function that returns channels, not an async one, which only promises them."
        )
    channels = on if callable(on) else _checked(() if on is None else on)
    if on is not None and not channels and every is None:
        raise ValueError("live(on=…) takes one channel at least, where there is no every=SECONDS.")
    sent = {"accept": "*/*"} | _checked_headers(headers or {})
    plan = _Plan(math.inf if every is None else float(every), channels, sent)

    def decorate(view: View) -> View:
        name = f"{view.__module__}.{getattr(view, '__qualname__', view)}"
        is_async = _is_async(view)

        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            visit = _Visit(plan, name, request, args, kwargs)
            if visit.wants_stream:
                return sync_to_async(visit.open_stream)() if is_async else visit.open_stream()
            try:
                response = view(request, *args, **kwargs)
            except (Http404, PermissionDenied) as error:
                response = visit.refuse(error)
            return visit.finish_async(response) if isawaitable(response) else visit.finish(response)

        answer.is_live = True  # type: ignore[attr-defined]  # for `manage.py polls`
        if is_async:
            markcoroutinefunction(answer)
        if "rest_framework" in sys.modules:
            # @api_view, if it comes next, takes this from the function, and would answer 406 before we are asked.
            vars(answer).setdefault("content_negotiation_class", _negotiation())
        return answer  # type: ignore[return-value]

    return decorate


def _checked(channels: Any) -> frozenset[str]:
    if isinstance(channels, str | bytes | Mapping) or not isinstance(channels, Iterable):
        raise TypeError(f"live(on=…) takes a list of channels, or a function that returns one; not {channels!r}.")
    channels = list(channels)
    try:
        check_channels(channels)
    except InvalidEvent as error:
        raise ValueError(f"live(on=…): {error}") from None
    return frozenset(channels)


def _checked_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise TypeError(f'live(headers=…) takes names and values as text, {{"HX-Request": "true"}}; not {headers!r}.')
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                "live(headers=…): a name is letters, digits and '-', a value one line of Latin-1; "
                f"not {name!r}: {value!r}."
            )
    return {name.lower(): value for name, value in headers.items()}


def _is_async(view: Any) -> bool:
    owner = getattr(getattr(view, "func", None), "__self__", None)  # of a method that method_decorator has bound
    return iscoroutinefunction(view) or getattr(owner, "view_is_async", False)


@receiver(signals.request_started)
def _keep_what_was_sent(environ: dict[str, Any] | None = None, **_: Any) -> None:
    """WSGI's requests have what was sent and what middleware adds in one; an evaluation begins with the former.

    From the first request on, as the app imports this; the views are imported while that is answered.
    """
    if environ is not None and STREAM in environ.get("HTTP_ACCEPT", ""):
        environ[_SENT] = environ.copy()


@lru_cache(maxsize=1)
def _negotiation() -> type:
    from rest_framework.settings import api_settings

    base: Any = api_settings.DEFAULT_CONTENT_NEGOTIATION_CLASS

    class Negotiation(base):  # type: ignore[misc]
        """The project's own, but for an EventSource: no renderer has its type, and none renders the stream."""

        def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
            if request.method in ("GET", "HEAD") and _asks_for_stream(request):
                return renderers[0], renderers[0].media_type
            return super().select_renderer(request, renderers, format_suffix)

    return Negotiation


@dataclass(frozen=True)
class _Plan:
    """What the decorator was given."""

    every: float
    on: frozenset[str] | Callable[..., Iterable[str]]
    headers: Mapping[str, str]


class _Visit:
    """One request for a live view: a poll, an evaluation, or one that asks for a stream."""

    def __init__(self, plan: _Plan, name: str, request: HttpRequest, args: Any, kwargs: Any) -> None:
        self.plan, self.name = plan, name
        self.given = request
        self.request: HttpRequest = getattr(request, "_request", request)  # of Django REST framework
        if not isinstance(self.request, HttpRequest):
            raise TypeError(
                f"live() decorates a function of the request, and was given {request!r}: "
                "on a method write @method_decorator(live(…)), on a class @method_decorator(live(…), name='dispatch')."
            )
        self.args, self.kwargs = args, kwargs
        self.is_evaluation = _EVALUATION in vars(self.request)
        self.wants_stream = not self.is_evaluation and request.method in ("GET", "HEAD") and _asks_for_stream(request)

    def _channels(self) -> frozenset[str]:
        """At events in which the view is evaluated. Raises what the function in the decorator does."""
        on = self.plan.on
        return _checked(on(self.given, *self.args, **self.kwargs) or ()) if callable(on) else on

    def finish(self, response: HttpResponseBase) -> HttpResponseBase:
        """The answer to a poll, or of an evaluation."""
        if self.request.method not in ("GET", "HEAD") or not isinstance(response, HttpResponseBase):
            return response  # Django says what is wrong with what is no response
        if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
            response.add_post_render_callback(self._finish)
            return response
        return self._finish(response)

    async def finish_async(self, response: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        try:
            return self.finish(await response)
        except (Http404, PermissionDenied) as error:
            return self.finish(await sync_to_async(self.refuse)(error))

    def refuse(self, error: Exception) -> HttpResponseBase:
        """The page that Django answers this with, marked as the view's: a proxy has such pages, too, in passing."""
        if self.request.method not in ("GET", "HEAD"):
            raise error
        for connection in connections.all(initialized_only=True):
            if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
                connection.set_rollback(True)  # as the exception would have had it done
        return response_for_exception(self.request, error)

    def _finish(self, response: HttpResponseBase) -> HttpResponseBase:
        patch_vary_headers(response, ("Accept",))
        if response.status_code != 200 or response.streaming or not isinstance(response, HttpResponse):
            return response
        response.headers.setdefault("ETag", _etag_of(response.content))
        if conditional := get_conditional_response(self.request, etag=response["ETag"], response=response):
            return conditional
        return response

    def open_stream(self) -> HttpResponseBase:
        """The stream, or what a poll would be answered, where that is not to be streamed."""
        is_head = self.request.method == "HEAD"
        address = address_of(self.request) if get_config().MAX_STREAMS_PER_ADDRESS else ""
        try:
            if not is_head:
                get_hub().check_slots(capacity(self.request), "", address)
            again = _Again(self.request, self.plan.headers, self._channels())
            stream = None if is_head else _evaluator.find(self, again, address)
            if stream:
                return LiveResponse(self.request, stream)
            head = get_hub().log.head
            reply = again.ask(is_in_request=True)
            if reply.why_not:
                _tell_once(self.name, reply.why_not)
            if not reply.answer:
                return reply.response
            if is_head:
                return describe_stream(self.request)
            stream = _evaluator.join(self, again, reply, address, head)
        except (Full, TooMany, Unavailable) as error:
            if polled := self._answer_without_stream():
                return polled
            status, text = (429, str(error)) if isinstance(error, TooMany) else (503, "No stream can be had now; poll.")
            headers = {"Retry-After": "10", "Cache-Control": "no-store", "Vary": "Accept"}
            return JsonResponse({"error": text}, status=status, headers=headers)
        return LiveResponse(self.request, stream)

    def _answer_without_stream(self) -> HttpResponseBase | None:
        """What a poll would be answered, for a client that takes that as well as a stream, as htmx 4 does."""
        accepted = set(_accepted(self.request)) - {STREAM, ""}
        if not accepted or self.request.method == "HEAD":
            return None
        response = _Again(self.request, self.plan.headers, self._channels()).ask(is_in_request=True).response
        kind = _type_of(response)
        return None if accepted.isdisjoint({kind, f"{kind.partition('/')[0]}/*", "*/*"}) else response


class _Key(NamedTuple):
    """Who asks the same: where, to be evaluated at which events, and what they have sent under the names that count."""

    url: tuple[Any, ...]
    on: frozenset[str]
    sent: tuple[tuple[str, str | None], ...]

    def covers(self, names: frozenset[str]) -> bool:
        """Whether those who share it have sent the same under these names, too."""
        own = {name for name, _ in self.sent}
        return EVERYTHING in own or names <= own


class _Again:
    """What is needed to make a visitor's request again, once more for each evaluation."""

    def __init__(self, request: HttpRequest, headers: Mapping[str, str], on: frozenset[str]) -> None:
        self.on = on
        self.is_in_test = is_in_test(request)
        self._prefix = get_script_prefix()
        left_out = _LEFT_OUT | {_meta_name(name) for name in headers}
        if isinstance(request, ASGIRequest):
            sent = [(name, value) for name, value in request.scope["headers"] if _meta_name(name) not in left_out]
            sent += [(name.encode("latin1"), value.encode("latin1")) for name, value in headers.items()]
            scope = {key: value for key, value in request.scope.items() if key in _SCOPE} | {"headers": sent}
            self._make: Callable[[], Any] = lambda: WatchedASGIRequest(scope, io.BytesIO())
            self.meta = ASGIRequest(scope, io.BytesIO()).META | {"wsgi.url_scheme": scope.get("scheme")}
        else:
            environ = request.META.get(_SENT) or request.META
            self.meta = {key: value for key, value in environ.items() if key not in left_out and _is_kept(key, value)}
            self.meta |= {_meta_name(name): value for name, value in headers.items()}
            self._make = lambda: WatchedWSGIRequest(self.meta | {"wsgi.input": io.BytesIO()})
        self.url = tuple(self.meta.get(name) for name in _URL)

    def ask(self, is_in_request: bool = False) -> "_Reply":
        """Answer the request as a server would, and end it.

        `is_in_request`: in the thread of a request that goes on, and needs its database connections. In a context of
        its own: what is noted there is nobody else's.
        """
        return Context().run(self._ask, is_in_request or self.is_in_test)

    def key(self, names: Iterable[str]) -> _Key:
        """Also of what was looked at and not there: who sends it may be answered otherwise."""
        cookies = parse_cookie(self.meta.get("HTTP_COOKIE", ""))
        sent = {name: self.meta.get(name) for name in names if not name.startswith(COOKIE)}
        sent |= {name: cookies.get(name.removeprefix(COOKIE)) for name in names if name.startswith(COOKIE)}
        if EVERYTHING in names:
            sent |= self.meta
        return _Key(self.url, self.on, tuple(sorted((k, v if v is None else str(v)) for k, v in sent.items())))

    def _ask(self, is_in_request: bool) -> "_Reply":
        set_script_prefix(self._prefix)
        sender = _handler().__class__
        began = time.monotonic()
        request = self._make()
        vars(request)[_EVALUATION] = True
        if is_in_request:
            return self._reply(request, _handler().get_response(request), began)
        source = {"scope": request.scope} if isinstance(request, ASGIRequest) else {"environ": request.environ}
        signals.request_started.send(sender=sender, **source)
        try:
            response = _handler().get_response(request)
        except BaseException:  # as with DEBUG_PROPAGATE_EXCEPTIONS, or SystemExit
            signals.request_finished.send(sender=sender)
            raise
        try:
            return self._reply(request, response, began)
        finally:
            vars(response)["_handler_class"] = sender  # the sender of request_finished
            response.close()

    def _reply(self, request: Any, response: HttpResponseBase, began: float) -> "_Reply":
        if response.status_code != 200:
            return _Reply(response)
        cookies = parse_cookie(self.meta.get("HTTP_COOKIE", ""))
        if why_not := _why_not(response, cookies):
            return _Reply(response, why_not)
        content = cast(HttpResponse, response)
        try:
            text = content.content.decode(content.charset)
        except (UnicodeError, LookupError):
            return _Reply(response, "its answer is not text in its charset")
        etag = response.get("ETag") or _etag_of(content.content)
        answer = _Answer(text, etag, _type_of(response) == "application/json")
        return _Reply(response, "", answer, began, self._names(request, response), user_of(request))

    def _names(self, request: Any, response: HttpResponseBase) -> frozenset[str]:
        """Under which names the answer, as it has left all middleware, depends on what was sent."""
        names = {_meta_name(name.strip()) for name in response.get("Vary", "").split(",") if name.strip()}
        names |= request.looks.names | {"HTTP_AUTHORIZATION", _DATASTAR}
        caching = {part.strip().lower().partition("=")[0] for part in response.get("Cache-Control", "").split(",")}
        session = vars(request).get("session")
        if (
            caching & {"private", "no-store"}
            or response.cookies
            or (session is not None and getattr(session, "accessed", True))
            or "CSRF_COOKIE" in names  # which Django has put there from a cookie
        ):
            names |= {"HTTP_COOKIE", "REMOTE_USER"}
        return frozenset(names)


def _meta_name(header: str | bytes) -> str:
    return HttpHeaders.to_wsgi_name(header.decode("latin1") if isinstance(header, bytes) else header)


def _is_kept(key: str, value: object) -> bool:
    """Not what servers add that belongs to the one connection, such as its socket."""
    return isinstance(value, str) or (key.startswith("wsgi.") and not key.startswith("wsgi.input"))


class _Answer(NamedTuple):
    """What a view has answered: as text, its ETag, quotes included, and whether it is JSON."""

    text: str
    etag: str
    is_json: bool

    def event(self, channel: str, is_datastar: bool) -> Event:
        if not is_datastar:
            return Event(self.etag, channel, "message", self.text)
        kind = "signals" if self.is_json else "elements"
        lines = (f"{kind} {line}" for line in LINE_END.split(self.text))
        return Event(self.etag, channel, f"datastar-patch-{kind}", "\n".join(lines))


class _Reply(NamedTuple):
    """What came of an evaluation; without an answer it is nothing to stream."""

    response: HttpResponseBase
    why_not: str = ""
    answer: _Answer | None = None
    began: float = 0.0  # when it was asked for, by the monotonic clock
    names: frozenset[str] = frozenset()  # under which it depends on what was sent
    user: str = ""  # whom it was made for, where it was made for a user


def _etag_of(content: bytes) -> str:
    return quote_etag(blake2b(content, digest_size=12).hexdigest())


def _asks_for_stream(request: HttpRequest) -> bool:
    """Whether the client names the type of event streams among those that it accepts (RFC 9110, 12.5.1)."""
    return STREAM in _accepted(request)


def _accepted(request: HttpRequest) -> list[str]:
    return [one.partition(";")[0].strip().lower() for one in request.META.get("HTTP_ACCEPT", "").split(",")]


def _type_of(response: HttpResponseBase) -> str:
    return response.get("Content-Type", "").partition(";")[0].strip().lower()


def _why_not(response: HttpResponseBase, cookies: Mapping[str, str]) -> str:
    """Why this answer to who has these cookies cannot be streamed; empty when it can."""
    limit = get_config().MAX_EVENT_BYTES
    if response.streaming or not isinstance(response, HttpResponse):
        return "its response is streamed itself"
    if len(response.content) > limit:
        return f"its answer has {len(response.content):,} bytes, more than EVENTS['MAX_EVENT_BYTES'], {limit:,}"
    if response.has_header("Content-Encoding"):
        return "its answer is encoded"
    if "\0" in response.get("ETag", ""):
        return "its ETag is no id of an event"
    if response.has_header("Set-Cookie"):
        return "its answer sets a cookie"
    # Where sessions are saved on every request, that is the one that the visitor has.
    if changed := [name for name, cookie in response.cookies.items() if cookie.value != cookies.get(name)]:
        return f"its answer sets a cookie: {', '.join(changed)}"
    if "*" in response.get("Vary", ""):  # RFC 9110, 12.5.5
        return "its answer varies with what no header tells: Vary: *"
    return ""


_told: set[tuple[str, str]] = set()


def _tell_once(view: str, reason: str) -> None:
    kind = (view, reason.partition(":")[0])
    if kind not in _told and len(_told) < 1000:
        _told.add(kind)
        tell(logging.WARNING, "A live view is answered without a stream", view=view, reason=reason)


class LiveStream(EventStream):
    """The stream of a live view: hello, the present answer, then each that differs. Only the newest counts."""

    __slots__ = ("_source", "headers")

    has_cursor = False

    def __init__(self, subscription: Subscription, source: "_Source", last_event_id: str) -> None:
        super().__init__(subscription)
        self._source: _Source | None = source
        self.headers = source.headers
        config = get_config()
        self.greeting = encode_retry(config.RETRY) + control("hello", None, heartbeat=config.HEARTBEAT)
        answer = source.answer
        if not subscription.is_revoked and last_event_id.removeprefix("W/") != answer.etag.removeprefix("W/"):
            self.greeting += source.event(answer).frame

    def __iter__(self) -> Iterator[bytes]:
        source = self._source
        return self._evaluating(source) if source and source.is_manual else super().__iter__()

    def _evaluating(self, source: "_Source") -> Iterator[bytes]:
        """Evaluate it in the thread that reads it: in a test, whose transaction no other thread can look into."""
        yield self.greeting
        due = time.monotonic() + source.plan.every
        while not self.is_over():
            if source.is_asked or time.monotonic() >= due:
                source.is_asked = False
                due = time.monotonic() + source.plan.every
                source.evaluate()
                if source.has_failed:
                    due = min(due, time.monotonic() + _RETRY)
            if frames := self.read_now():
                yield frames
            else:
                self.subscription.wait(max(0.0, min(due - time.monotonic(), _SOONEST)))
        yield farewell()

    def close(self) -> None:
        super().close()
        source, self._source = getattr(self, "_source", None), None
        if source:
            source.leave(self.subscription)

    __del__ = close


class LiveResponse(EventStreamResponse):
    """The open stream of a live view, with the headers of the answer that it begins with."""

    def __init__(self, request: HttpRequest, stream: LiveStream) -> None:
        self._begin(aiter(stream) if isinstance(request, ASGIRequest) else iter(stream), stream)
        for name in stream.headers.keys() - self.headers.keys() - _OF_THE_BODY:
            self.headers[name] = stream.headers[name]


class _Source:
    """What is evaluated for all who ask the same, for as long as one of them listens."""

    def __init__(
        self, evaluator: "_Evaluator", key: _Key, number: int, visit: _Visit, reply: _Reply, head: Cursor
    ) -> None:
        self.key = key
        self.hub = get_hub()
        self.channel = f"{_CHANNEL}{number}"
        self.plan, self.view = visit.plan, visit.name
        self.answer = cast(_Answer, reply.answer)
        self.headers = reply.response.headers
        self.is_datastar = dict(key.sent).get(_DATASTAR) is not None
        self.due = math.inf
        self.is_ended = False
        self.is_evaluating = False
        self.is_asked = False  # by an event, while it was being evaluated
        self.is_manual = is_in_test(visit.request)
        self.has_failed = False
        self._user = reply.user
        self._began = reply.began
        self._head = head  # of the log before the present answer was asked for: a revocation since then holds
        self.evaluated = -math.inf  # when that began last, in a thread of the evaluator
        self._evaluator = evaluator
        self._lock = threading.Lock()  # before the hub's
        self._listeners: dict[Subscription, _Again] = {}
        self._evaluations = self._changes = 0

    def event(self, answer: _Answer) -> Event:
        return answer.event(self.channel, self.is_datastar)

    def join(
        self, visit: _Visit, again: _Again, reply: _Reply | None, address: str, head: Cursor | None = None
    ) -> LiveStream | None:
        """A stream from this reply on, or from the present answer if it is fresh, for one who would get the same.

        `head`: where the log was before the reply. None when the present answer is old, or from before its user was
        revoked, and when the last listener has just left.
        """
        with self._lock:
            is_fresh = time.monotonic() - self._began < min(_FRESH, self.plan.every)
            if self.is_ended or not (reply or is_fresh):
                return None
            limit = capacity(visit.request)
            subscription = self.hub.subscribe([self.channel], limit, self._user, address, head or self._head)
            if subscription.is_revoked and not reply:
                subscription.close()
                return None
            self._listeners[subscription] = again
            if reply and head:
                self._take(reply, head)
        request = visit.request
        return LiveStream(
            subscription, self, request.headers.get("Last-Event-ID") or request.GET.get("lastEventId", "")
        )

    def leave(self, subscription: Subscription) -> None:
        """One has left. From any thread, also while the garbage collector runs."""
        self._evaluator.left.append((self, subscription))
        self._evaluator.wake()

    def remove(self, subscription: Subscription | None = None) -> None:
        """Take one who has left out; the last one ends it."""
        with self._lock:
            if subscription:
                self._listeners.pop(subscription, None)
            if not self._listeners:
                self._end()

    def evaluate(self) -> None:
        """Ask the view again, and show its answer if that differs. In a thread of the evaluator, or the reader's."""
        with self._lock:
            subscription, again = next(iter(self._listeners.items()), (None, None))
            if not subscription or not again or self.hub.is_closed:
                self._end()
                return
        head = self.hub.log.head
        counters.evaluations += 1
        reply = again.ask()
        status = reply.response.status_code
        self.has_failed = status >= 500 or status in (408, 425, 429)
        if self.has_failed:
            _failed.hit(view=self.view, path=self.key.url[-2], status=status)
            with self._lock:  # it may fail for this one alone: another asks next time
                if self._listeners.pop(subscription, None):
                    self._listeners[subscription] = again
            return
        if reply.why_not:
            _tell_once(self.view, reply.why_not)
        self._evaluator.learn(self.key.url, reply.names)
        with self._lock:
            if reply.answer and self.key.covers(reply.names):
                self._take(reply, head)
            else:  # the client's next request is told why, or is told apart from the others
                self._end()

    def _take(self, reply: _Reply, head: Cursor) -> None:
        if reply.began < self._began:  # one that was asked for later came sooner
            return
        answer, self._began, self._head = cast(_Answer, reply.answer), reply.began, head
        self._evaluations += 1
        if answer.etag == self.answer.etag:
            return
        self._changes += 1
        if self._changes == self._evaluations - 1 == _RESTLESS:
            before, after = _difference(self.answer.text, answer.text)
            text = "A live view answers otherwise each time: what is new each time should not be in it"
            tell(logging.WARNING, text, view=self.view, before=before, after=after)
        self.answer = answer
        self.hub.show(self.event(answer), is_state=True)

    def _end(self) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        self.hub.end_state(self.channel, list(self._listeners))
        self._evaluator.forget(self)


def _difference(before: str, after: str) -> tuple[str, str]:
    """Where two texts begin to differ, and what follows there."""
    at = next(
        (at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
        min(len(before), len(after)),
    )
    start = max(0, at - _SHOWN // 3)
    return before[start : start + _SHOWN], after[start : start + _SHOWN]


class _Evaluator:
    """All live views of this process that somebody listens to, and the threads that evaluate them.

    Threads begin with the first listener and end soon after the last. Each takes what is due first: with more than can
    be evaluated in time, all are evaluated less often, evenly.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sources: dict[_Key, _Source] = {}
        self._on: dict[str, set[_Source]] = {}
        self._heap: list[tuple[float, int, _Source]] = []
        # What evaluations of a URL have looked at. One that had no need to look at all of it asks no other question.
        self._learned: dict[tuple[Any, ...], frozenset[str]] = {}
        self._number = 0
        self._threads = self._idle = 0
        self._hub: Hub | None = None
        self._following = threading.Lock()  # before the hub's
        self.left: list[tuple[_Source, Subscription]] = []  # appended to without a lock

    def find(self, visit: _Visit, again: _Again, address: str) -> LiveStream | None:
        """A stream from an answer that others were told a moment ago, if there is one. Raises as `join` does."""
        self._follow()
        with self._changed:
            names = self._learned.get(again.url)
            source = None if names is None else self._sources.get(again.key(names))
        return source.join(visit, again, None, address) if source else None

    def join(self, visit: _Visit, again: _Again, reply: _Reply, address: str, head: Cursor) -> LiveStream:
        """A stream from this reply on; `head` is where the log was before it. Raises Full, TooMany and Unavailable."""
        key = again.key(self.learn(again.url, reply.names))
        while True:
            with self._changed:
                if not (source := self._sources.get(key)):
                    self._number += 1
                    source = self._sources[key] = _Source(self, key, self._number, visit, reply, head)
                    for channel in key.on:
                        self._on.setdefault(channel, set()).add(source)
                    # An event since then may have come too early for the source, and too late for the reply.
                    source.is_asked = source.is_manual and source.hub.log.head != head
                    is_late = bool(key.on) and source.hub.log.head != head
                    if not source.is_manual:
                        self._schedule(source, time.monotonic() + (0 if is_late else source.plan.every))
                    self._have_one_waiting()
            try:
                if stream := source.join(visit, again, reply, address, head):
                    return stream
            except BaseException:
                source.remove()
                raise

    def learn(self, url: tuple[Any, ...], names: frozenset[str]) -> frozenset[str]:
        """Returns all that evaluations of this URL have looked at."""
        with self._changed:
            names |= self._learned.pop(url, frozenset())
            if EVERYTHING in names:  # nor are names kept that visitors make up
                names = frozenset({EVERYTHING})
            if len(self._learned) >= _LEARNED:
                del self._learned[next(iter(self._learned))]
            self._learned[url] = names
        return names

    def _follow(self) -> None:
        """Be told by the hub of the present time. Sources of another end with it."""
        hub = get_hub()
        with self._following:
            if self._hub is not hub:
                with self._changed:
                    self._sources, self._on, self._heap, self._learned = {}, {}, [], {}
                hub.listen(self)
                self._hub = hub

    def forget(self, source: _Source) -> None:
        with self._changed:
            if self._sources.get(source.key) is source:
                del self._sources[source.key]
            for channel in source.key.on:
                if sources := self._on.get(channel):
                    sources.discard(source)
                    if not sources:
                        del self._on[channel]
            self._changed.notify_all()

    def wake(self) -> None:
        if self._changed.acquire(blocking=False):
            try:
                self._changed.notify()
            finally:
                self._changed.release()

    # What the hub calls, within its lock

    def notify(self, events: Sequence[Event]) -> None:
        on = self._on
        if not any(event.channel in on for event in events):
            return
        with self._changed:
            for source in {source for event in events for source in on.get(event.channel, ())}:
                self._ask(source)
            self._changed.notify()

    def show(self, event: Event) -> None:
        pass

    def lose(self) -> None:
        with self._changed:
            for source in {source for sources in self._on.values() for source in sources}:
                self._ask(source)
            self._changed.notify()

    def _ask(self, source: _Source) -> None:
        if source.is_evaluating or source.is_manual:
            source.is_asked = True
        elif source.due > (soon := max(time.monotonic(), source.evaluated + _SOONEST)):
            self._schedule(source, soon)

    # The threads

    def _schedule(self, source: _Source, due: float) -> None:
        source.due = due
        if due != math.inf:
            self._number += 1
            heappush(self._heap, (due, self._number, source))
            self._changed.notify()

    def _have_one_waiting(self) -> None:
        """A thread for what is due next, also while others wait for their views."""
        if not self._idle and self._threads < _THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="events-live", daemon=True).start()

    def _work(self) -> None:
        while source := self._next():
            began = time.monotonic()
            if began - source.due > max(source.plan.every, 1.0) and source.plan.every != math.inf:
                _late.hit(views=len(self._sources), seconds=f"{began - source.due:.1f}")
                counters.evaluations_late += 1
            try:
                source.evaluate()
            except BaseException as error:  # noqa: BLE001  SystemExit, too: the other views go on
                source.has_failed = True
                tell(logging.ERROR, "A live view cannot be evaluated", error, view=source.view, path=source.key.url[-2])
            with self._changed:
                source.is_evaluating = False
                if not source.is_ended:
                    now = time.monotonic()
                    soon = began + _SOONEST if source.is_asked else now + _RETRY if source.has_failed else math.inf
                    source.is_asked = False
                    self._schedule(source, max(now, min(began + source.plan.every, soon)))
        connections.close_all()  # which CONN_MAX_AGE has kept for the next request of this thread

    def _next(self) -> _Source | None:
        """The source that is due first, once it is due; None when there is nothing left to evaluate."""
        is_over = False
        while True:
            self._remove_left()
            with self._changed:
                if is_over and not self._sources and not self.left:
                    self._threads -= 1
                    return None
                while self._heap and (self._heap[0][2].is_ended or self._heap[0][0] != self._heap[0][2].due):
                    heappop(self._heap)  # it has ended, or been put to another time
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    _, _, source = heappop(self._heap)
                    source.is_evaluating, source.evaluated = True, now
                    if len(self._sources) > 1:
                        self._have_one_waiting()
                    return source
                is_over = not self._sources  # the next one may come soon: from a page to another
                if not self.left:
                    self._idle += 1
                    self._changed.wait(min(1.0, self._heap[0][0] - now) if self._heap else 1.0)
                    self._idle -= 1

    def _remove_left(self) -> None:
        while self.left:
            try:
                source, subscription = self.left.pop()
            except IndexError:  # another thread was faster
                return
            source.remove(subscription)


def _reread(*, setting: str, **_: Any) -> None:
    if setting in ("MIDDLEWARE", "ROOT_URLCONF"):
        _handler.cache_clear()


setting_changed.connect(_reread)  # sent by tests alone


@lru_cache(maxsize=1)
def _handler() -> BaseHandler:
    handler = BaseHandler()
    handler.load_middleware()
    return handler


_evaluator = _Evaluator()


def _forget() -> None:
    # The parent's threads are not here, and its streams are not ours.
    global _evaluator
    _evaluator = _Evaluator()


os.register_at_fork(after_in_child=_forget)
