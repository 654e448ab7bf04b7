"""A subscription: one reader, its channels, its position in the log, and its waiting."""

import asyncio
import threading
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from .log import Cursor, Gap
from .wire import Event

if TYPE_CHECKING:
    from .hub import Hub

PIECE = 65_536  # bytes: a long replay goes out in pieces, each about as much as a socket's buffer takes


class Behind(Exception):
    """This process's memory no longer reaches back to where the reader is. `Subscription.read` asks the broker."""


class Taker(Protocol):
    """Who writes a subscription's stream together with others."""

    def on_revoked(self) -> None:
        """Take note, within the hub's lock, that the stream is to end."""


class Subscription:
    """One reader's position in the log, and its alarm clock.

    Reading is asking the log for what came after that position, whether it happened yesterday or just now. So there is
    nothing between replay and live that could be lost, no queue that could grow, and it does not matter when an
    alarm is missed. `wait` and `wait_async` are for one thread or one coroutine at a time, never both.
    """

    __slots__ = (
        "_alarm",
        "_awake",
        "_is_due",
        "_is_waking",
        "_loop",
        "address",
        "channels",
        "cursor",
        "ending",
        "hub",
        "seen",
        "taken_by",
        "user",
    )

    def __init__(
        self, hub: "Hub", channels: frozenset[str], cursor: Cursor, seen: int, user: str = "", address: str = ""
    ) -> None:
        self.channels = channels
        self.cursor = cursor
        self.hub = hub
        self.seen = seen  # the number of the last ephemeral event read
        self.ending = "left"  # or another of events.metrics.ENDINGS, when it is closed for another reason
        self.user = user
        self.address = address
        self.taken_by: Taker | None = None  # who writes it, where that is neither a thread nor a task of its own
        self._is_waking = False
        self._loop: asyncio.AbstractEventLoop | None = None  # that it is woken in
        self._is_due = False  # it was notified while it did not wait, and has not read since
        self._awake: threading.Event | None = None
        self._alarm: asyncio.Future[bool] | None = None

    def revoke(self) -> None:
        """Let it read nothing more. The hub calls this, within its lock, when the user may read no more."""
        self.ending = "revoked"
        if self.taken_by:
            self.taken_by.on_revoked()
        else:
            self.notify_from_any_thread()

    @property
    def is_revoked(self) -> bool:
        """Whether it is to end, and reads nothing more."""
        return self.ending == "revoked"

    def read(self, limit: int = PIECE) -> list[Event]:
        """What happened since the last read: `limit` bytes of frames and the rest of the last, or else all of it.

        Blocks while the broker is asked for what this process no longer has. Raises Gap, once, when that is kept
        nowhere any more, and Unavailable.
        """
        try:
            return self.read_now(limit)
        except Behind:
            pass
        try:
            events, cursor = self.hub.fetch(self.cursor, self.channels)
        except Gap:
            self.skip(self.cursor)
            raise
        with self.hub.lock:
            if self.is_revoked:
                return []
            self.cursor = cursor
        return events

    def read_now(self, limit: int = PIECE) -> list[Event]:
        """As `read`, from memory. Raises Behind when the broker has to be asked."""
        hub = self.hub
        with hub.lock:
            if self.is_revoked:
                return []
            log = hub.log
            after, seen = self.cursor, self.seen
            # The cursor may be newer than this log: another process was further along. That is not a gap.
            if after < log.end_of(self.channels):
                try:
                    events = log.since(after, self.channels)
                except Gap:
                    raise Behind from None
                for count, event in enumerate(events, 1):
                    limit -= len(event.frame)
                    if limit <= 0 and count < len(events):
                        self.cursor = Cursor.parse(event.id or "")
                        return events[:count]
                self.cursor = log.head
            else:
                events = []
            self._is_due = False
            if seen != hub.shown:
                self.seen = hub.shown
                newest = takewhile(lambda shown: shown[0] > seen, reversed(hub.latest.values()))
                events += [event for _, event in newest if event.channel in self.channels][::-1]
                for channel in self.channels & hub.states.keys():
                    number, state = hub.states[channel]
                    if number > seen:
                        events.append(state)
        return events

    def resume(self, cursor: Cursor) -> None:
        """Move to this cursor. Raises Gap; Unavailable when the broker knows, but cannot say."""
        self.hub.reach(cursor, self.channels)
        self.cursor = cursor

    def skip(self, cursor: Cursor) -> None:
        """Go on from where a reader with a gap after this cursor does."""
        after = self.hub.after_gap(cursor, self.channels)
        with self.hub.lock:
            self.cursor = after

    def wait(self, timeout: float) -> bool:
        """Block this thread until there may be something to read (True), or for `timeout` seconds (False)."""
        if self._awake is None:
            self._awake = threading.Event()
        if self._begin_waking(None):
            return True
        if awake := self._awake.wait(timeout):
            self._awake.clear()
        return awake

    async def wait_async(self, timeout: float) -> bool:
        """As `wait`, for a coroutine."""
        loop = asyncio.get_running_loop()
        if self._begin_waking(loop) or self._is_due:
            self._is_due = False
            return True
        self._alarm = loop.create_future()
        snooze = loop.call_later(timeout, _wake, self._alarm, False)
        try:
            return await self._alarm
        finally:
            snooze.cancel()
            self._alarm = None

    def notify(self) -> None:
        """Wake the reader: in its own loop, or from any thread when it is one that blocks."""
        if self._alarm:
            _wake(self._alarm, True)
        elif self._awake:
            self._awake.set()
        else:
            self._is_due = True

    def notify_from_any_thread(self) -> None:
        """As `notify`, for a reader that waits in a loop as well."""
        if not self._loop:
            self.notify()
            return
        with suppress(RuntimeError):  # the loop is closed, and the reader gone with it
            self._loop.call_soon_threadsafe(self.notify)

    def close(self) -> None:
        """Give the slot up. May be called again, from any thread, and while the garbage collector runs."""
        self.hub.leave(self)

    def _begin_waking(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """True the first time: what happened before it could be woken is there to read."""
        if self._is_waking:
            return False
        self._is_waking = True
        self._loop = loop
        self.hub.wake_from_now(self, loop)
        return True


def _wake(alarm: "asyncio.Future[bool]", awake: bool) -> None:
    if not alarm.done():
        alarm.set_result(awake)
