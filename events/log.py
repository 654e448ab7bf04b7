"""A bounded, ordered log of events, and the cursors that mark a reader's place in it. No threads, no I/O here."""

import re
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from events.wire import Event


class Gap(Exception):
    """The log cannot tell what came after a cursor: it is too old, malformed, or from another log."""


class Cursor(NamedTuple):
    """The place after one event, ordered as the events are. Text outside (`str`), two numbers inside.

    The numbers mean something to the broker alone; a memory log, say, counts in the second one and keeps in the
    first one the time when it began, so that a cursor from before a restart is recognised as foreign.
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


_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
LONGEST_CURSOR = 41


class EventLog:
    """Keeps the newest `capacity` events after the cursor `start`, each appended with a greater id than the last."""

    def __init__(self, capacity: int, start: Cursor) -> None:
        self._events: deque[tuple[Cursor, Event]] = deque()
        self._capacity = capacity
        self.floor = start  # everything after this cursor is kept
        self.head = start  # the newest event's cursor

    @property
    def is_full(self) -> bool:
        return len(self._events) >= self._capacity

    def append(self, event: Event) -> None:
        """Raises ValueError when the event has no id, or one that is not greater than every id before."""
        cursor = Cursor.parse(event.id or "")
        if cursor <= self.head:
            raise ValueError(f"Event {cursor} comes after {self.head}")
        self._events.append((cursor, event))
        self.head = cursor
        if len(self._events) > self._capacity:
            self.floor, _ = self._events.popleft()

    def extend_back(self, start: Cursor, events: Sequence[Event]) -> None:
        """Take in all events after `start` and up to the floor, or the newest of them where not all fit."""
        room = self._capacity - len(self._events)
        if len(events) > room:
            start = Cursor.parse(events[len(events) - room - 1].id or "")
        newest = events[max(0, len(events) - room) :]
        self._events.extendleft((Cursor.parse(event.id or ""), event) for event in reversed(newest))
        self.floor = start

    def since(self, cursor: Cursor, channels: Collection[str] | None = None) -> list[Event]:
        """The events after `cursor`, oldest first, in these channels (None: in all). Raises Gap."""
        if not self.floor <= cursor <= self.head:
            raise Gap
        missed = []
        for at, event in reversed(self._events):  # from the new end: most readers are nearly up to date
            if at <= cursor:
                break
            if channels is None or event.channel in channels:
                missed.append(event)
        missed.reverse()
        return missed
