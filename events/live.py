"""Live views: the view that a page polls, streamed.

    @live(every=2)
    def status(request):
        return JsonResponse(...)

The same URL answers `Accept: text/event-stream` with a stream of the view's present answer and each one that differs,
and everybody else as before, with an ETag. While somebody listens the view is evaluated again, once for all who ask the
same: through all of the project's middleware, with the headers of one of them, as their poll would be.

Two requests ask the same if HTTP caching says so: one URL, and the same in the headers that `Vary` names. An answer that
is private, or that was made from a session, from `Authorization` or from any header that the view has looked at, is
shared with nobody who sends another one.
"""

import io
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache, wraps
from hashlib import blake2b
from heapq import heappop, heappush
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, TypeVar, cast

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.request import HttpHeaders
from django.http.response import ResponseHeaders
from django.template.response import SimpleTemplateResponse
from django.urls import get_script_prefix, set_script_prefix
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.http import quote_etag

from events.authorization import user_of
from events.brokers import Unavailable
from events.conf import get_config
from events.hub import Hub
from events.journal import Trouble, tell
from events.limits import Full, TooMany, address_of
from events.metrics import counters
from events.process import get_hub
from events.streams import (
    EventStream,
    EventStreamResponse,
    capacity,
    control,
    describe_stream,
    farewell,
    is_in_test,
)
from events.subscription import Subscription
from events.wire import Event, encode_retry

STREAM = "text/event-stream"
_CHANNEL = "!live:"  # what the channels of live views begin with: no name that can be asked for or published to
_EVALUATION = "events.live.evaluation"  # in the META of a request that an evaluation makes
_THREADS = 4  # in which views are evaluated: more that wait for the database would take its connections from requests
_SOONEST = 0.05  # seconds between two evaluations of the same, however many events ask for one
_CONDITIONS = frozenset({"IF_NONE_MATCH", "IF_MODIFIED_SINCE", "IF_MATCH", "IF_UNMODIFIED_SINCE", "RANGE", "IF_RANGE"})
_SCOPE = frozenset(  # what of an ASGI scope is kept to make the request again
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server"}
)
_RESTLESS = 5  # answers in a row, each unlike the one before, from the first one on, until that is told
_SHOWN = 60  # characters of two answers that a line in the log shows

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
    if isinstance(on, str) or not (on is None or callable(on) or isinstance(on, list | tuple | set | frozenset)):
        raise TypeError(f"live(on=…) takes a list of channels, or a function that returns one; not {on!r}.")
    sent = {"ACCEPT": "*/*"} | {name.upper().replace("-", "_"): value for name, value in (headers or {}).items()}
    plan = _Plan(math.inf if every is None else float(every), on, sent)

    def decorate(view: View) -> View:
        name = f"{view.__module__}.{getattr(view, '__qualname__', view)}"
        if iscoroutinefunction(view):

            @wraps(view)
            async def answer_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                visit = _Visit(plan, name, request, args, kwargs)
                return visit.finish(await view(visit.prepare(), *args, **kwargs))

            answer_async.is_live = True  # type: ignore[attr-defined]
            return answer_async  # type: ignore[return-value]

        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            visit = _Visit(plan, name, request, args, kwargs)
            return visit.finish(view(visit.prepare(), *args, **kwargs))

        answer.is_live = True  # type: ignore[attr-defined]  # for `manage.py polls`
        return answer  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True)
class _Plan:
    """What the decorator was given."""

    every: float
    on: Channels | None
    headers: Mapping[str, str]


class _Visit:
    """One request for a live view: a poll, an evaluation, or one that asks for a stream."""

    def __init__(self, plan: _Plan, name: str, request: HttpRequest, args: Any, kwargs: Any) -> None:
        self.plan, self.name = plan, name
        self.given = request
        self.request: HttpRequest = getattr(request, "_request", request)  # of Django REST framework
        self.args, self.kwargs = args, kwargs
        self.is_evaluation = bool(request.META.get(_EVALUATION))
        self.wants_stream = not self.is_evaluation and request.method in ("GET", "HEAD") and _asks_for_stream(request)
        self.looked: set[str] = set()

    def prepare(self) -> HttpRequest:
        """The request that the view is called with: of one that asks for a stream, as its poll would be."""
        request = self.request
        if self.wants_stream:
            self.last_event_id = request.headers.get("Last-Event-ID") or request.GET.get("lastEventId", "")
            self.again = _Again(request, self.plan.headers)
            request.META = _Watched(self.again.altered(request.META), self.looked)
        elif self.is_evaluation:
            request.META = _Watched(request.META, self.looked)
        else:
            return self.given
        for cached in ("accepted_types", "accepted_types_by_precedence"):
            vars(request).pop(cached, None)
        request.headers = _WatchedHeaders(request.META, self.looked)
        request.COOKIES = _WatchedCookies(request.COOKIES, self.looked)
        return self.given

    def channels(self) -> frozenset[str]:
        """At events in which the view is evaluated. Raises what the function in the decorator does."""
        on = self.plan.on
        return frozenset((on(self.given, *self.args, **self.kwargs) if callable(on) else on) or ())

    def finish(self, response: HttpResponseBase) -> HttpResponseBase:
        self.looked = set(self.looked)  # what middleware looks at from here on says nothing of the answer
        if self.is_evaluation:
            self.request.META[_EVALUATION].looked |= self.looked
            return response
        if self.request.method not in ("GET", "HEAD"):
            return response
        if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
            if not self.wants_stream:
                response.add_post_render_callback(self._finish)
                return response
            response = response.render()
        return self._finish(response)

    def _finish(self, response: HttpResponseBase) -> HttpResponseBase:
        patch_vary_headers(response, ("Accept",))
        if self.wants_stream and response.status_code == 200:
            return self._stream(response)
        if response.status_code != 200 or response.streaming or not isinstance(response, HttpResponse):
            return response
        response.headers.setdefault("ETag", _etag_of(response.content))
        if conditional := get_conditional_response(self.request, etag=response["ETag"], response=response):
            return conditional
        return response

    def _stream(self, response: HttpResponseBase) -> HttpResponseBase:
        if reason := _why_not(response):
            _tell_once(self.name, reason)
            return response
        if self.request.method == "HEAD":
            return describe_stream(self.request)
        try:
            address = address_of(self.request) if get_config().MAX_STREAMS_PER_ADDRESS else ""
            get_hub().check_slots(capacity(self.request), user_of(self.request), address)
        except (Full, TooMany, Unavailable) as error:
            status, text = (429, str(error)) if isinstance(error, TooMany) else (503, "No stream can be had now; poll.")
            headers = {"Retry-After": "10", "Cache-Control": "no-store"}
            return JsonResponse({"error": text}, status=status, headers=headers)
        return LiveResponse(self, response)  # type: ignore[arg-type]


class _Watched(dict[str, Any]):
    """A request's META that notes which of the client's headers are looked at."""

    def __init__(self, items: Mapping[str, Any], looked: set[str]) -> None:
        super().__init__(items)
        self._looked = looked

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def _note(self, key: str) -> None:
        if isinstance(key, str) and (key.startswith("HTTP_") or key in ("REMOTE_ADDR", "REMOTE_USER")):
            self._looked.add(key)


class _WatchedHeaders(HttpHeaders):
    """The same of `request.headers`."""

    def __init__(self, meta: "_Watched", looked: set[str]) -> None:
        super().__init__(dict(meta.items()))
        self._looked = looked

    def __getitem__(self, key: str) -> str:
        self._looked.add(f"HTTP_{key.upper().replace('-', '_')}")
        return super().__getitem__(key)


class _WatchedCookies(dict[str, str]):
    """The same of `request.COOKIES`, which all come in one header."""

    def __init__(self, items: Mapping[str, str], looked: set[str]) -> None:
        super().__init__(items)
        self._looked = looked

    def __getitem__(self, key: str) -> str:
        self._looked.add("HTTP_COOKIE")
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._looked.add("HTTP_COOKIE")
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self._looked.add("HTTP_COOKIE")
        return super().__iter__()

    def __contains__(self, key: object) -> bool:
        self._looked.add("HTTP_COOKIE")
        return super().__contains__(key)


class _Again:
    """What is needed to make a visitor's request again: once more for each evaluation."""

    def __init__(self, request: HttpRequest, headers: Mapping[str, str]) -> None:
        self.prefix = get_script_prefix()
        self.headers = headers
        self.looked: set[str] = set()
        self.meta = dict(request.META)  # as the client sent it
        self._scope = None
        if isinstance(request, ASGIRequest):
            self._scope = {key: value for key, value in request.scope.items() if key in _SCOPE}

    def altered(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in meta.items() if key.removeprefix("HTTP_") not in _CONDITIONS}
        kept.pop("HTTP_LAST_EVENT_ID", None)
        return kept | {f"HTTP_{name}": value for name, value in self.headers.items()}

    def request(self) -> HttpRequest:
        self.looked = set()
        request: HttpRequest
        if self._scope is not None:
            request = ASGIRequest(self._scope, io.BytesIO())
            request.META = self.altered(request.META)
        else:
            environ = self.altered(self.meta) | {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}
            request = WSGIRequest(environ)
        vars(request).pop("headers", None)
        request.META[_EVALUATION] = self
        return request


class _Answer(NamedTuple):
    """What a view has answered: as text, and its ETag, quotes included."""

    text: str
    etag: str

    def event(self, channel: str) -> Event:
        return Event(self.etag, channel, "message", self.text)


def _answer_of(response: HttpResponse) -> _Answer:
    return _Answer(
        response.content.decode(response.charset, "replace"), response.get("ETag") or _etag_of(response.content)
    )


def _etag_of(content: bytes) -> str:
    return quote_etag(blake2b(content, digest_size=12).hexdigest())


def _asks_for_stream(request: HttpRequest) -> bool:
    """Whether the client names the type of event streams among those that it accepts (RFC 9110, 12.5.1)."""
    accepted = request.META.get("HTTP_ACCEPT", "").split(",")
    return any(one.partition(";")[0].strip().lower() == STREAM for one in accepted)


def _why_not(response: HttpResponseBase) -> str:
    """Why this answer cannot be streamed; empty when it can."""
    limit = get_config().MAX_EVENT_BYTES
    if response.streaming or not isinstance(response, HttpResponse):
        return "its response is streamed itself"
    if len(response.content) > limit:
        return f"its answer has {len(response.content):,} bytes, more than EVENTS['MAX_EVENT_BYTES'], {limit:,}"
    if reason := _why_not_shared(response):
        return reason
    if response.has_header("Content-Encoding"):
        return "its answer is encoded"
    if "\n" in response.get("ETag", "") or "\r" in response.get("ETag", ""):
        return "its ETag has a line break"
    return ""


def _why_not_shared(response: HttpResponseBase) -> str:
    if response.cookies:
        return f"its answer sets a cookie: {', '.join(response.cookies)}"
    if "*" in response.get("Vary", ""):  # RFC 9110, 12.5.5
        return "its answer varies with what no header tells: Vary: *"
    return ""


_told: set[tuple[str, str]] = set()


def _tell_once(view: str, reason: str) -> None:
    kind = (view, reason.partition(":")[0])
    if kind not in _told and len(_told) < 1000:
        _told.add(kind)
        tell(logging.WARNING, "A live view is answered without a stream", view=view, reason=reason)


class _Key(NamedTuple):
    """Who asks the same: where, and the values of the headers that count."""

    scheme: str
    host: str
    path: str
    headers: tuple[tuple[str, str], ...]


def _key_of(request: HttpRequest, headers: ResponseHeaders, looked: Iterable[str], meta: Mapping[str, Any]) -> _Key:
    """`meta`: of the request, as the client sent it; `headers`: of the response, as it has left all middleware."""
    names = {f"HTTP_{name.strip().upper().replace('-', '_')}" for name in headers.get("Vary", "").split(",")}
    names |= {name for name in looked if name not in ("HTTP_HOST", "HTTP_ACCEPT")}
    names -= {"HTTP_ACCEPT", "HTTP_"}
    caching = {part.strip().lower() for part in headers.get("Cache-Control", "").split(",")}
    session = getattr(request, "session", None)
    if caching & {"private", "no-store"} or any(part.startswith("private=") for part in caching):
        names |= {"HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_USER"}
    if getattr(session, "accessed", False):
        names.add("HTTP_COOKIE")
    names.add("HTTP_AUTHORIZATION")
    values = tuple(sorted((name, str(meta[name])) for name in names if name in meta))
    return _Key(request.scheme or "", request.get_host(), request.get_full_path(), values)


class LiveStream(EventStream):
    """The stream of a live view: hello, the present answer, then each that differs. Only the newest counts."""

    __slots__ = ("_source",)

    has_cursor = False

    def __init__(self, subscription: Subscription, source: "_Source", last_event_id: str) -> None:
        super().__init__(subscription)
        self._source: _Source | None = source
        config = get_config()
        self.greeting = encode_retry(config.RETRY) + control("hello", None, heartbeat=config.HEARTBEAT)
        answer = source.answer
        if last_event_id.removeprefix("W/") != answer.etag.removeprefix("W/"):
            self.greeting += answer.event(source.channel).frame

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
    """The open stream of a live view. Whom it is shared with is known once all middleware has seen the response."""

    def __init__(self, visit: _Visit, response: HttpResponse) -> None:
        self._visit: _Visit | None = visit
        self._plain = response
        self._is_async = isinstance(visit.request, ASGIRequest)
        self._begin(self._pieces_async() if self._is_async else self._pieces())
        for name in response.headers.keys() - self.headers.keys() - {"Content-Length", "ETag"}:
            self.headers[name] = response.headers[name]

    def items(self) -> Any:
        self._open()
        return super().items()

    def detach(self) -> EventStream | None:
        self._open()
        return super().detach() if self._stream else None

    def _pieces(self) -> Iterator[bytes]:
        self._open()
        if self._stream:
            yield from self._stream
        else:
            yield self._plain.content

    async def _pieces_async(self) -> AsyncIterator[bytes]:
        self._open()
        if self._stream:
            async for piece in self._stream:
                yield piece
        else:
            yield self._plain.content

    def _open(self) -> None:
        """Find out who asks the same, and open the stream; or answer as a poll is answered."""
        visit, self._visit = self._visit, None
        if not visit:
            return
        if reason := _why_not_shared(self):
            _tell_once(visit.name, reason)
        else:
            try:
                key = _key_of(visit.request, self.headers, visit.looked, visit.again.meta)
                self._stream = _evaluator.join(key, visit, _answer_of(self._plain))
                return
            except (Full, TooMany, Unavailable):
                pass  # there was room a moment ago
        for name in ("Content-Encoding", "Content-Type", "Cache-Control", "X-Accel-Buffering"):
            del self.headers[name]
        for name, value in self._plain.headers.items():
            self.headers[name] = value

    def close(self) -> None:
        self._visit = None
        super().close()


class _Source:
    """What is evaluated for all who ask the same, for as long as one of them listens."""

    def __init__(
        self, evaluator: "_Evaluator", key: _Key, number: int, visit: _Visit, answer: _Answer, on: frozenset[str]
    ) -> None:
        self.key = key
        self.hub = get_hub()
        self.channel = f"{_CHANNEL}{number}"
        self.plan, self.view = visit.plan, visit.name
        self.answer = answer
        self.due = math.inf
        self.is_ended = False
        self.is_evaluating = False
        self.is_asked = False  # by an event, while it was being evaluated
        self.is_manual = is_in_test(visit.request)
        self.on = on
        self._evaluator = evaluator
        self._lock = threading.Lock()  # before the hub's
        self._listeners: dict[Subscription, _Again] = {}
        self._evaluations = self._changes = 0

    def join(self, visit: _Visit, answer: _Answer, user: str, address: str) -> LiveStream | None:
        """A stream from this answer on; None when the last listener has just left."""
        with self._lock:
            if self.is_ended:
                return None
            subscription = self.hub.subscribe([self.channel], capacity(visit.request), user, address)
            self._listeners[subscription] = visit.again
            self._take(answer)
        return LiveStream(subscription, self, visit.last_event_id)

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
            again = next(iter(self._listeners.values()), None)
            if not again or self.hub.is_closed:
                self._end()
                return
        counters.evaluations += 1
        request = again.request()
        response = Context().run(
            _respond, request, again.prefix, self.is_manual
        )  # what it notes there is nobody else's
        if response.status_code >= 500 or response.status_code in (408, 425, 429):
            _failed.hit(view=self.view, path=self.key.path, status=response.status_code)
            return
        why_not = "" if response.status_code != 200 else _why_not(response)
        if why_not:
            _tell_once(self.view, why_not)
        if response.status_code != 200 or why_not or self._is_anothers(request, response, again):
            with self._lock:
                self._end()  # the client's next request is told why, or is told apart from the others
            return
        with self._lock:
            self._take(_answer_of(cast(HttpResponse, response)))

    def _is_anothers(self, request: HttpRequest, response: HttpResponseBase, again: _Again) -> bool:
        return _key_of(request, response.headers, again.looked, again.meta) != self.key

    def _take(self, answer: _Answer) -> None:
        self._evaluations += 1
        if answer.etag == self.answer.etag:
            return
        self._changes += 1
        if self._changes == self._evaluations - 1 == _RESTLESS:
            before, after = _difference(self.answer.text, answer.text)
            text = "A live view answers otherwise each time: what is new each time should not be in it"
            tell(logging.WARNING, text, view=self.view, before=before, after=after)
        self.answer = answer
        self.hub.show(answer.event(self.channel), is_state=True)

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

    Threads begin with the first listener and end with the last. Each takes what is due first: with more than can be
    evaluated in time, all are evaluated less often, evenly.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sources: dict[_Key, _Source] = {}
        self._on: dict[str, set[_Source]] = {}
        self._heap: list[tuple[float, int, _Source]] = []
        self._number = 0
        self._threads = 0
        self._idle = 0
        self._hub: Hub | None = None
        self.left: list[tuple[_Source, Subscription]] = []  # appended to without a lock

    def join(self, key: _Key, visit: _Visit, answer: _Answer) -> LiveStream:
        """Raises Full, TooMany and Unavailable."""
        hub = get_hub()
        user = user_of(visit.request)
        address = address_of(visit.request) if get_config().MAX_STREAMS_PER_ADDRESS else ""
        on = visit.channels()
        while True:
            with self._changed:
                if self._hub is not hub:
                    self._sources, self._on, self._heap = {}, {}, []
                    is_new_hub, self._hub = True, hub
                else:
                    is_new_hub = False
                source = self._sources.get(key)
                if not source:
                    self._number += 1
                    source = self._sources[key] = _Source(self, key, self._number, visit, answer, on)
                    for channel in source.on:
                        self._on.setdefault(channel, set()).add(source)
                    if not source.is_manual:
                        self._schedule(source, time.monotonic() + source.plan.every)
                    if self._threads < _THREADS:
                        self._threads += 1
                        threading.Thread(target=self._work, name="events-live", daemon=True).start()
            if is_new_hub:
                hub.listen(self)
            try:
                if stream := source.join(visit, answer, user, address):
                    return stream
            except BaseException:
                source.remove()
                raise

    def forget(self, source: _Source) -> None:
        with self._changed:
            if self._sources.get(source.key) is source:
                del self._sources[source.key]
            for channel in source.on:
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
        elif source.due > (soon := time.monotonic()):
            self._schedule(source, soon)

    # The threads

    def _schedule(self, source: _Source, due: float) -> None:
        source.due = due
        if due != math.inf:
            self._number += 1
            heappush(self._heap, (due, self._number, source))
            self._changed.notify()

    def _work(self) -> None:
        while source := self._next():
            began = time.monotonic()
            if began - source.due > max(source.plan.every, 1.0) and source.plan.every != math.inf:
                _late.hit(views=len(self._sources), seconds=f"{began - source.due:.1f}")
                counters.evaluations_late += 1
            try:
                source.evaluate()
            except Exception as error:  # noqa: BLE001  the other views go on
                tell(logging.ERROR, "A live view cannot be evaluated", error, view=source.view, path=source.key.path)
            with self._changed:
                source.is_evaluating = False
                if not source.is_ended:
                    now = time.monotonic()
                    soon = began + _SOONEST if source.is_asked else math.inf
                    source.is_asked = False
                    self._schedule(source, max(now, min(began + source.plan.every, soon)))

    def _next(self) -> _Source | None:
        """The source that is due first, once it is due; None when there is nothing left to evaluate."""
        while True:
            self._remove_left()
            with self._changed:
                if not self._sources and not self.left:
                    self._threads -= 1
                    return None
                while self._heap and (self._heap[0][2].is_ended or self._heap[0][0] != self._heap[0][2].due):
                    heappop(self._heap)  # it has ended, or been put to another time
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    _, _, source = heappop(self._heap)
                    source.is_evaluating = True
                    return source
                if not self.left:
                    self._changed.wait(min(1.0, self._heap[0][0] - now) if self._heap else 1.0)

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


def _respond(request: HttpRequest, prefix: str, is_in_test: bool) -> HttpResponseBase:
    """Answer a request as a server would, and end it."""
    set_script_prefix(prefix)
    if is_in_test:  # whose connection is not to be closed
        return _handler().get_response(request)
    sender = _handler().__class__
    environment = {"scope": request.scope} if isinstance(request, ASGIRequest) else {"environ": request.META}
    signals.request_started.send(sender=sender, **environment)
    response = _handler().get_response(request)
    vars(response)["_handler_class"] = sender  # the sender of request_finished
    response.close()
    return response


_evaluator = _Evaluator()


def _forget() -> None:
    # The parent's threads are not here, and its streams are not ours.
    global _evaluator
    _evaluator = _Evaluator()


os.register_at_fork(after_in_child=_forget)
