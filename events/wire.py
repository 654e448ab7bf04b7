"""The event stream format (WHATWG HTML, section 9.2): events to bytes, and bytes to events. No I/O here.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import codecs
import re
from collections.abc import Iterator

# The standard's line ends (9.2.5). str.splitlines() would also split at U+2028 and friends.
LINE_END = re.compile(r"\r\n|\r|\n")
_RETRY_DIGITS = 15  # milliseconds; more would be 30,000 years, and past 4,300 digits int() refuses
_CANNOT_CARRY = re.compile(r"[\r\n\0]")


class Event:
    """One event, immutable. `id` is None when it is ephemeral: such an event never moves a client's Last-Event-ID.

    `time` is when it was given its id, in seconds since the epoch; it does not travel, and does not count for equality.
    The data is in memory once: as text until the frame is first asked for, and from then on within the frame.
    """

    __slots__ = ("_data", "_frame", "channel", "id", "time", "type")

    def __init__(self, id: str | None, channel: str, type: str, data: str, time: float | None = None) -> None:
        self.id = id
        self.channel = channel
        self.type = type
        self.time = time
        self._data: str | None = data
        self._frame: bytes | None = None

    @property
    def data(self) -> str:
        """The data. Once the frame was made, a CR in it has become LF, as clients receive it."""
        data, frame = self._data, self._frame
        if data is None and frame is not None:  # never the other way round, as `frame` sets them in this order
            data = "\n".join(line[6:] for line in frame.decode().split("\n") if line.startswith("data: "))
        return data or ""

    @property
    def frame(self) -> bytes:
        """The event as `encode` has it, encoded once however many streams it goes to."""
        if self._frame is None:
            self._frame = encode(self)
            self._data = None
        return self._frame

    def numbered(self, id: str, time: float) -> "Event":
        """The same event with an id."""
        return Event(id, self.channel, self.type, self.data, time)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Event({self.id!r}, {self.channel!r}, {self.type!r}, {self.data!r})"

    @property
    def _key(self) -> tuple[str | None, str, str, str]:
        return self.id, self.channel, self.type, self.data


def encode(event: Event) -> bytes:
    """The frame for an event (9.2.5). Its channel is not part of the format and does not travel.

    A CR or CRLF in the data arrives as LF: the format has no way to tell them apart.
    Raises ValueError when the id or the type holds CR, LF or NUL, which would end the field or void it.
    """
    fields = []
    if event.id is not None:
        fields.append(f"id: {_one_line('id', event.id)}\n")
    if event.type != "message":
        fields.append(f"event: {_one_line('type', event.type)}\n")
    fields += [f"data: {line}\n" for line in LINE_END.split(event.data)]
    fields.append("\n")
    return "".join(fields).encode("utf-8", "replace")  # a lone surrogate has no UTF-8


def encode_retry(milliseconds: int) -> bytes:
    """The line that sets a client's reconnection time; it goes before or between frames."""
    return b"retry: %d\n" % milliseconds


def _one_line(field: str, value: str) -> str:
    if _CANNOT_CARRY.search(value):
        raise ValueError(f"An event's {field} cannot hold CR, LF or NUL: {value!r}")
    return value


class Decoder:
    """Turns the bytes of an event stream into events, however the bytes were cut (9.2.6).

    `last_event_id` and `retry` (milliseconds, None until the server set it) are what the stream has set so far;
    `last_event_id` is also what to send as Last-Event-ID when reconnecting. What follows the last blank line
    when the stream ends is dropped, as the standard has it. A decoded event's channel is empty.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []  # the pieces of a line whose end has not come yet
        self._at_start = True
        self._after_cr = False
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes and yield the events that they complete."""
        for line in self._lines(self._utf8.decode(chunk)):
            if line:
                self._field(line)
                continue
            # The id counts even when there is no data and so no event (9.2.6, dispatch, steps 1 and 2).
            self.last_event_id = self._id
            if self._data:
                yield Event(self.last_event_id or None, "", self._type or "message", "\n".join(self._data))
            self._type, self._data = "", []

    def _lines(self, text: str) -> Iterator[str]:
        if self._at_start and text:
            text = text.removeprefix("\ufeff")
            self._at_start = False
        if self._after_cr and text:
            text = text.removeprefix("\n")  # the other half of a CRLF cut in two
            self._after_cr = False
        if not text:
            return
        self._after_cr = text.endswith("\r")
        *complete, rest = LINE_END.split(text)
        for line in complete:
            self._line.append(line)
            yield "".join(self._line)
            self._line.clear()
        if rest:
            self._line.append(rest)

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")  # a comment has an empty name, which no case below takes
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= _RETRY_DIGITS:
                self.retry = int(value)
