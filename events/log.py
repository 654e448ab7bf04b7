"""A bounded log of events, kept by channel, and the cursors that mark a reader's position. No threads, no I/O here."""

import re
from collections import deque
from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import NamedTuple

from .wire import Event


class Gap(Exception):
    """An event after the cursor is kept no more, or the cursor is malformed, or of another history."""


class Cursor(NamedTuple):
    """The position after one event, ordered as the events are. Text outside (`str`), two numbers inside.

    The first number is the time, in milliseconds since the epoch, when the event was given its id; the second one tells
    apart those of one millisecond. Ids only grow, also where a clock is set back, so a cursor from a history that was
    lost is never mistaken for one of the history that followed.
    """

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises Gap when the text is not a cursor: nobody can tell what came after it."""
        if not (match := _CURSOR.fullmatch(text)):
            raise Gap
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}-{self.minor}"

    def next(self, now: float) -> "Cursor":
        """The id after this one, at a time in seconds since the epoch."""
        milliseconds = int(now * 1000)
        return Cursor(milliseconds, 0) if milliseconds > self.major else Cursor(self.major, self.minor + 1)


_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
LONGEST_CURSOR = 41

_EVENT_COST = 320  # bytes of memory that an event takes beside its text: objects, id, and its entries in the log
_CHANNEL_COST = 400  # bytes of memory that a channel takes beside its name
_FEW = 64  # entries of a channel that are kept in a list: a deque takes 600 bytes from the first one on

Entry = tuple[Cursor, Event]
_position = itemgetter(0)


class _Channel:
    """One channel's newest events. Everything after `floor` that happened in it is here."""

    __slots__ = ("entries", "floor", "in_order", "readers")

    def __init__(self, floor: Cursor) -> None:
        self.entries: list[Entry] | deque[Entry] | None = None  # None: there are none
        self.floor = floor
        self.in_order = 0  # how often it stands in the log's order
        self.readers = 0


class EventLog:
    """Keeps the newest events of each channel, with ever greater ids: `history` a channel, `size` bytes in all.

    Only the bound in bytes, and that of `seconds`, take events of a channel that has not used up its share: the oldest
    first. A channel without events and readers is forgotten in the same order; what happened in it is then known from
    `floor` on alone.
    """

    def __init__(self, history: int, size: int, start: Cursor, seconds: float = 0.0) -> None:
        """`seconds`: how long an event is kept; 0 for as long as the other bounds let it."""
        self.floor = start  # of the channels that are not in `_channels`
        self.head = start  # the newest event's cursor
        self.size = 0  # bytes that all of this takes, about
        self._history = history
        self._most = size
        self._seconds = seconds
        self._channels: dict[str, _Channel] = {}
        # A channel for each event in the order of their ids, and for each time that it ran empty. Those whose event has
        # been taken by the channel's own bound are stale: of each channel the first `in_order - len(entries)`.
        self._order: deque[str] = deque()
        self._stale = 0

    def append(self, event: Event) -> None:
        """Raises ValueError, and takes nothing, when the event cannot be sent, or its id is not the greatest so far."""
        cursor = _cursor_of(event)
        if cursor <= self.head:
            raise ValueError(f"The event {cursor} does not come after {self.head}")
        size = len(event.frame) + _EVENT_COST
        channel = self._channel(event.channel)
        if channel.entries is None:
            self._stale += channel.in_order > 0  # where it had run empty
            channel.entries = []
        channel.entries.append((cursor, event))
        if len(channel.entries) == _FEW:
            channel.entries = deque(channel.entries)
        self.size += size
        self._enter(event.channel, channel)
        self.head = cursor
        if len(channel.entries) > self._history:
            self._drop_oldest(channel)
            self._stale += 1
        self._trim()

    def since(self, cursor: Cursor, channels: Collection[str]) -> list[Event]:
        """The events of these channels after the cursor, oldest first.

        Costs what it returns, and a look at each channel. Raises Gap when the log does not reach back that far.
        """
        found: list[Entry] = []
        parts = 0
        for name in channels:
            channel = self._channels.get(name)
            if (channel.floor if channel else self.floor) > cursor:
                raise Gap
            if not channel or not channel.entries or channel.entries[-1][0] <= cursor:
                continue
            missed = []
            for entry in reversed(channel.entries):  # from the new end: most readers are nearly up to date
                if entry[0] <= cursor:
                    break
                missed.append(entry)
            missed.reverse()
            found += missed
            parts += 1
        if parts > 1:
            found.sort(key=_position)
        return [event for _, event in found]

    def newest(self, limit: int) -> tuple[Cursor, list[Event]]:
        """A cursor, and all events of all channels after it: the newest, up to `limit`."""
        entries = sorted((entry for each in self._channels.values() for entry in each.entries or ()), key=_position)
        start = max([self.floor, *(each.floor for each in self._channels.values())])
        if len(entries) > limit:
            start = max(start, entries[len(entries) - limit - 1][0])
        return start, [event for at, event in entries if at > start]

    def reaches(self, cursor: Cursor, channels: Collection[str]) -> bool:
        """Whether all that happened in these channels after the cursor is here."""
        known = self._channels
        return all((known[name].floor if name in known else self.floor) <= cursor for name in channels)

    def end_of(self, channels: Iterable[str]) -> Cursor:
        """The cursor up to which it is settled what happened in these channels: it is here, or was missed.

        That is the log's head, unless this process knows that it misses something later.
        """
        return max([self.head, *(self._channels[name].floor for name in channels if name in self._channels)])

    def has_news(self, cursor: Cursor, channels: Collection[str]) -> bool:
        """Whether something happened in these channels after the cursor."""
        return any(
            (channel := self._channels.get(name)) is not None
            and (channel.entries[-1][0] if channel.entries else channel.floor) > cursor
            for name in channels
        )

    def extend_back(self, cursor: Cursor, until: Cursor, channels: Collection[str], events: Iterable[Event]) -> None:
        """Take in what happened in these channels after the cursor: all of it up to `until`, in order.

        A channel that begins later than that by now, or whose share, or the log's bytes, would not hold it, stays as
        it is.
        """
        earlier: dict[str, list[Entry]] = {name: [] for name in channels}
        for event in events:
            earlier[event.channel].append((_cursor_of(event), event))
        for name, all_entries in earlier.items():
            channel = self._channels.get(name)
            floor = channel.floor if channel else self.floor
            if not cursor < floor <= until:
                continue
            entries = [entry for entry in all_entries if entry[0] <= floor]
            size = sum(len(event.frame) + _EVENT_COST for _, event in entries)
            kept = len(channel.entries or ()) if channel else 0
            if self.size + size > self._most or kept + len(entries) > self._history:
                continue
            if not channel:
                channel = self._channel(name)
            if entries:
                if not channel.entries:
                    self._stale += channel.in_order > 0  # where it had run empty
                together = [*entries, *(channel.entries or ())]
                channel.entries = together if len(together) < _FEW else deque(together)
                self.size += size
                channel.in_order += len(entries)
                self._order.extendleft([name] * len(entries))  # of what is here they are nearly the oldest
            channel.floor = cursor
            if not entries and not channel.in_order:
                self._enter(name, channel)

    def forget(self, name: str, cursor: Cursor) -> None:
        """What happened in this channel up to the cursor may not have come here."""
        channel = self._channel(name)
        while channel.entries and channel.entries[0][0] <= cursor:
            self._drop_oldest(channel)
            self._stale += channel.entries is not None  # else it now stands for the channel's floor
        channel.floor = max(channel.floor, cursor)
        if not channel.in_order:
            self._enter(name, channel)

    def watch(self, channels: Iterable[str]) -> None:
        """Do not forget these channels, however much happens elsewhere: they have one more reader."""
        for name in channels:
            self._channel(name).readers += 1

    def unwatch(self, channels: Iterable[str]) -> None:
        for name in channels:
            if not (channel := self._channels.get(name)):
                continue
            channel.readers -= 1
            if not channel.readers and not channel.in_order:
                if channel.floor > self.floor:
                    self._enter(name, channel)  # it says more than the log's floor does, for a while
                else:
                    self._remove(name)

    def _channel(self, name: str) -> _Channel:
        if not (channel := self._channels.get(name)):
            channel = self._channels[name] = _Channel(self.floor)
            self.size += _CHANNEL_COST + len(name)
        return channel

    def _remove(self, name: str) -> None:
        del self._channels[name]
        self.size -= _CHANNEL_COST + len(name)

    def _enter(self, name: str, channel: _Channel) -> None:
        self._order.append(name)
        channel.in_order += 1

    def _drop_oldest(self, channel: _Channel) -> None:
        if channel.entries:
            entries = channel.entries
            cursor, event = entries.popleft() if isinstance(entries, deque) else entries.pop(0)
            channel.floor = max(channel.floor, cursor)
            self.size -= len(event.frame) + _EVENT_COST
            if not channel.entries:
                channel.entries = None

    def _trim(self) -> None:
        too_old = self.head.major - self._seconds * 1000 if self._seconds else 0
        while self._order:
            name = self._order[0]
            channel = self._channels[name]
            entries = channel.entries
            oldest = entries[0][0] if entries else channel.floor
            if channel.in_order > (len(entries) if entries else 1):
                self._stale -= 1
            elif self.size <= self._most and oldest.major >= too_old:
                break
            elif entries:
                self._drop_oldest(channel)
                if channel.in_order == 1:  # from now on it only tells its floor, and goes when its turn comes again
                    self._order.append(name)
                    channel.in_order += 1
            elif not channel.readers:
                self.floor = max(self.floor, channel.floor)
                self._order.popleft()
                self._remove(name)
                continue
            self._order.popleft()
            channel.in_order -= 1
        if self._stale > 1000 and self._stale > len(self._order) // 2:
            self._compact()

    def _compact(self) -> None:
        stale: dict[str, int] = {}
        for name in set(self._order):
            channel = self._channels[name]
            stale[name] = channel.in_order - (len(channel.entries) if channel.entries else 1)  # 1: where it ran empty
            channel.in_order -= stale[name]
        order: deque[str] = deque()
        for name in self._order:
            if stale[name]:
                stale[name] -= 1
            else:
                order.append(name)
        self._order = order
        self._stale = 0


def _cursor_of(event: Event) -> Cursor:
    try:
        return Cursor.parse(event.id or "")
    except Gap:
        raise ValueError(f"An event in the log has an id, not {event.id!r}") from None
