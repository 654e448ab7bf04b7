"""Publishing, and the one place that says which names, types and data an event may have."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, transaction

from .conf import get_config
from .metrics import counters
from .process import get_broker
from .wire import LINE_END, Event

_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}")

_NOT_GIVEN: Any = object()  # None is data: JSON's null

# The stream's own control events, what EventSource calls its own, and what feed.js tells its page.
RESERVED_TYPES = frozenset({"hello", "reset", "heartbeat", "drain", "open", "error", "state", "traffic", "role"})

watchers: list[Callable[[Event], object]] = []  # told of each event that this process has published: events.testing


class InvalidEvent(ValueError):
    """The event cannot be published; the text says why and what is accepted."""


class TooLarge(InvalidEvent):
    """The event's data is longer than EVENTS["MAX_EVENT_BYTES"]."""


def publish(channel: str, data: Any = _NOT_GIVEN, type: str = "message", *, text: str | None = None) -> str | None:
    """Publish one event to everyone who reads the channel, in any process, and return its id.

    `data` is anything that Django's JSON encoder takes (dates, Decimals and UUIDs too); clients receive it as JSON.
    `text`, in place of `data`, arrives as it is: HTML, for instance. A CR or CRLF in it arrives as LF.
    `type` is the event's name in the browser: `feed.addEventListener(type, ...)`.
    Inside `transaction.atomic()` the event becomes visible when the transaction commits, and never if it does not;
    it has no id before that, and None is returned.
    Raises InvalidEvent for a channel, type, data or text that is not accepted, and events.brokers.Unavailable when the
    broker cannot be reached. If that happens after the broker was told, the event may have been published all the
    same.
    """
    return send(new_event(channel, data, type, text=text))


def send(event: Event) -> str | None:
    """Hand an event to the broker, at once or with the transaction around the call: as `publish` does."""
    broker = get_broker()
    if connections[broker.database].in_atomic_block:
        broker.append_on_commit([event])
        transaction.on_commit(partial(_published, event), using=broker.database)
        return None
    ids = broker.append([event])
    _published(event)
    return ids[0] if ids else None  # without autocommit, db: publishes with the transaction that is open


def _published(event: Event) -> None:
    counters.published += 1
    for watch in watchers:
        watch(event)


async def apublish(
    channel: str, data: Any = _NOT_GIVEN, type: str = "message", *, text: str | None = None
) -> str | None:
    """As `publish`, for async code."""
    return await sync_to_async(publish)(channel, data, type, text=text)


def new_event(channel: str, data: Any = _NOT_GIVEN, type: str = "message", *, text: str | None = None) -> Event:
    """The event, checked, before the broker gives it an id. Raises InvalidEvent."""
    check_channels([channel])
    if not isinstance(type, str) or not _TYPE.fullmatch(type):
        raise InvalidEvent(
            f"An event's type is 1 to 64 letters, digits, '_', '.', ':' or '-', beginning with a letter; "
            f"not {_shown(type)}."
        )
    if type in RESERVED_TYPES:
        raise InvalidEvent(f"The type {type!r} is reserved, as are {', '.join(sorted(RESERVED_TYPES - {type}))}.")
    if (data is _NOT_GIVEN) is (text is None):
        given = "neither" if text is None else "both"
        raise InvalidEvent(
            f"An event has either data, which arrives as JSON, or text, which arrives as it is; this one has {given}."
        )
    return Event(None, channel, type, _to_json(data) if text is None else _as_it_is(text))


def check_channels(channels: Sequence[str]) -> None:
    """Raises InvalidEvent unless every one of them is the name of a channel."""
    for channel in channels:
        if not isinstance(channel, str) or not _CHANNEL.fullmatch(channel):
            raise InvalidEvent(
                f"A channel's name is 1 to 100 letters, digits, '_', '.', ':' or '-', beginning with a letter or "
                f"digit; not {_shown(channel)}."
            )


def _to_json(data: Any) -> str:
    try:
        text = json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"An event's data is what JSON can carry: {error}.") from None
    # Some clients split lines there, as Python's str.splitlines() does, though the standard does not.
    text = _OTHER_LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    _check_size(text, "data", "bytes of JSON")
    return text


def _as_it_is(text: str) -> str:
    if not isinstance(text, str):
        raise InvalidEvent(f"An event's text is a string, not {_shown(text)}; other values are its data.")
    if "\0" in text:  # which PostgreSQL does not store; JSON escapes it
        raise InvalidEvent("An event's text has no NUL; its data may have one.")
    # As an event stream carries them, so that polls tell the same (9.2.5).
    text = LINE_END.sub("\n", text)
    _check_size(text, "text", "bytes of UTF-8")
    return text


def _check_size(text: str, field: str, unit: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(f"An event's {field} is text that UTF-8 can carry: no lone surrogates.") from None
    limit = get_config().MAX_EVENT_BYTES
    if size > limit:
        raise TooLarge(f"An event's {field} is at most {limit:,} {unit}; this is {size:,}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
