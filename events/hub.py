"""The hub, one per process: takes events from the broker into the log and wakes whoever waits for them."""

import asyncio
import json
import math
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Protocol

from events.brokers import Broker, Reader, Unavailable, open_broker
from events.conf import get_config
from events.log import Cursor, EventLog, Gap
from events.metrics import counters
from events.sources import Sources
from events.wire import Event

_BACKLOG = 1_000  # events that a new process reads at once, so that those who reconnect to it need not, one by one
_PAGE = 500  # events that are read from the broker at once, for a reader who is further behind than the log
_STARTS_APART = 1.0  # seconds in which a hub that could not start is not tried again: each try may hold a thread
_SHOWN = 1_000  # ephemeral events kept, for readers that are behind by less
_ANSWER = 1_048_576  # bytes of frames in one answer to a poll, and the rest of the last one
PIECE = 65_536  # bytes: a long replay goes out in pieces, each about as much as a socket's buffer takes


# The channel of revocations. No name that can be asked for or published to, so only the hubs read it.
REVOKED = "!revoked"


class Full(Exception):
    """No more subscriptions fit."""


class TooMany(Exception):
    """One user, or one address, has as many subscriptions as they may; the text says so."""


class Listener(Protocol):
    """Whoever is rung when there is news in its channels; within the hub's lock, so it only takes note."""

    @property
    def channels(self) -> frozenset[str]: ...

    def ring(self) -> None: ...


class Subscription:
    """One reader's place in the log, and its alarm clock.

    Reading is asking the log for what lies behind that place, whether it happened yesterday or just now. So there is
    nothing between replay and live that could be lost, no queue that could grow, and it does not matter when an
    alarm is missed. `wait` and `wait_async` are for one thread or one coroutine at a time, never both.
    """

    __slots__ = (
        "_alarm",
        "_awake",
        "_enlisted",
        "_log",
        "address",
        "channels",
        "cursor",
        "ending",
        "hub",
        "seen",
        "user",
    )

    def __init__(
        self, hub: "Hub", channels: Collection[str], cursor: Cursor, seen: int, user: str = "", address: str = ""
    ) -> None:
        self.channels = frozenset(channels)
        self.cursor = cursor
        self.hub = hub
        self.seen = seen  # the number of the last ephemeral event read
        self.ending = "left"  # or another of events.metrics.ENDINGS, when it is closed for another reason
        self.user = user
        self.address = address
        self._log = hub.log
        self._enlisted = False
        self._awake: threading.Event | None = None
        self._alarm: asyncio.Future[bool] | None = None

    @property
    def is_revoked(self) -> bool:
        """Whether it is to end, and reads nothing more."""
        return self.ending == "revoked"

    def read(self, limit: int = PIECE) -> list[Event]:
        """What happened since the last read: `limit` bytes of frames and the rest of the last, or else all of it.

        Raises Gap, once, when the log has already forgotten some of it.
        """
        hub = self.hub
        with hub.lock:
            if self.is_revoked:
                return []
            log, self._log = self._log, hub.log
            after, seen, shown = self.cursor, self.seen, hub.shown
            # Ahead of this log is not behind it: the reader was there in a process that is faster than this one.
            ahead = after >= hub.log.head and log is hub.log
            self.cursor = after if ahead else hub.log.head
            events = [] if ahead else hub.log.since(after, self.channels)
            newest = takewhile(lambda shown: shown[0] > seen, reversed(hub.latest.values()))
            latest = [event for _, event in newest if event.channel in self.channels][::-1]
        for count, event in enumerate(events, 1):
            limit -= len(event.frame)
            if limit <= 0 and count < len(events):
                self.cursor = Cursor.parse(event.id or "")
                return events[:count]
        self.seen = shown
        return events + latest

    def resume(self, cursor: Cursor) -> int:
        """Move to this place. Returns how many events there are after it.

        Raises Gap; Unavailable when the broker knows, but cannot say.
        """
        self.hub.reach(cursor)
        with self.hub.lock:
            missed = len(self.hub.log.since(cursor, self.channels)) if cursor < self.hub.log.head else 0
            self.cursor = cursor
        return missed

    def wait(self, timeout: float) -> bool:
        """Block this thread until there may be something to read (True), or for `timeout` seconds (False)."""
        if self._awake is None:
            self._awake = threading.Event()
        if self._enlist(None):
            return True
        if awake := self._awake.wait(timeout):
            self._awake.clear()
        return awake

    async def wait_async(self, timeout: float) -> bool:
        """As `wait`, for a coroutine."""
        loop = asyncio.get_running_loop()
        if self._enlist(loop):
            return True
        self._alarm = loop.create_future()
        snooze = loop.call_later(timeout, _ring, self._alarm, False)
        try:
            return await self._alarm
        finally:
            snooze.cancel()
            self._alarm = None

    def close(self) -> None:
        """Give the place up. May be called again, from any thread, and while the garbage collector runs."""
        self.hub.leave(self)

    def _enlist(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """True the first time: what happened before we could be woken is there to read."""
        if self._enlisted:
            return False
        self._enlisted = True
        self.hub.enlist(self, loop)
        return True

    def ring(self) -> None:
        """Wake the reader: in its own loop, or from any thread when it is one that blocks."""
        if self._alarm:
            _ring(self._alarm, True)
        elif self._awake:
            self._awake.set()


def revocation(user: str, channel: str | None) -> Event:
    """The event that ends this user's streams on the channel (None: all of theirs), once it is in the log."""
    return Event(None, REVOKED, "message", json.dumps({"user": user, "channel": channel}))


def _ended_by(event: Event, subscriptions: Collection[Subscription]) -> list[Subscription]:
    revoked = json.loads(event.data)
    user, channel = revoked["user"], revoked["channel"]
    return [each for each in subscriptions if each.user == user and (channel is None or channel in each.channels)]


def _ring(alarm: "asyncio.Future[bool]", awake: bool) -> None:
    if not alarm.done():
        alarm.set_result(awake)


class _Wakers:
    """Those who wait in one event loop, or in threads (loop None), by channel. The hub's lock guards it."""

    def __init__(self, hub: "Hub", loop: asyncio.AbstractEventLoop | None) -> None:
        self._hub = hub
        self._loop = loop
        self._members: defaultdict[str, set[Listener]] = defaultdict(set)
        self._news: set[str] = set()  # channels to wake once the loop gets to it

    def add(self, listener: Listener) -> None:
        for channel in listener.channels:
            self._members[channel].add(listener)

    def discard(self, listener: Listener) -> bool:
        """True when nobody is left."""
        for channel in listener.channels:
            self._members[channel].discard(listener)
            if not self._members[channel]:
                del self._members[channel]
        return not self._members

    def wake(self, channels: set[str]) -> None:
        """Wake the members of these channels. However many they are, their loop is crossed into once."""
        channels = channels & self._members.keys()
        if channels and self._loop and not self._news:
            try:
                self._loop.call_soon_threadsafe(self._wake_in_loop)
            except RuntimeError:  # the loop is closed, and whoever waited in it is gone
                return
        self._news |= channels
        if not self._loop:
            self._ring()

    def _wake_in_loop(self) -> None:
        with self._hub.lock:
            self._ring()

    def _ring(self) -> None:
        for listener in set().union(*(self._members[channel] for channel in self._news & self._members.keys())):
            listener.ring()
        self._news = set()


class Hub:
    """Feeds the log from the broker and wakes the subscriptions. Everything here may be called from any thread."""

    def __init__(self, broker: Broker, history: int) -> None:
        self.broker = broker
        self.lock = threading.Lock()
        self.latest: dict[tuple[str, str], tuple[int, Event]] = {}  # the newest of a channel and type, in order
        self.shown = 0  # ephemeral events so far
        self.draining = False  # every stream is to end
        self.revocations = 0  # so far: who serves many streams looks for those that are to end when it changes
        self._wakers: dict[asyncio.AbstractEventLoop | None, _Wakers] = {}
        self._open: set[Subscription] = set()
        self._users: Counter[str] = Counter()  # whose they are; those of visitors without a name are not in here
        self._addresses: Counter[str] = Counter()
        self._left: deque[Subscription] = deque()  # they have closed, and are yet to be removed
        self._sources = Sources(self.show)
        self._history = history
        with self.lock:  # what the broker delivers meanwhile waits for the log that it goes into
            place, backlog = broker.follow(Reader(self.deliver, self.restart), min(history, _BACKLOG))
            self.log = EventLog(history, place)
            for event in backlog:
                self.log.append(event)
        counters.hubs = 1

    @property
    def streams(self) -> int:
        """How many subscriptions are open."""
        with self.lock:
            self._remove_left()
            return len(self._open)

    def deliver(self, events: Sequence[Event]) -> None:
        """Take durable events from the broker."""
        with self.lock:
            self._remove_left()
            for event in events:
                self.log.append(event)
                if event.channel == REVOKED:
                    self._revoke(_ended_by(event, self._open))
            counters.received += len(events)
            self._wake({event.channel for event in events})

    def restart(self, cursor: Cursor) -> None:
        """Begin a new log after this cursor: the broker has lost what came before. Whoever read it meets a gap.

        What was lost may have been a revocation, so users' streams end and come back, to be authorized anew.
        """
        with self.lock:
            self.log = EventLog(self._history, cursor)
            self._revoke([subscription for subscription in self._open if subscription.user])
            self._wake({channel for subscription in self._open for channel in subscription.channels})

    def show(self, event: Event) -> None:
        """Show an ephemeral event to whoever is here now. A reader that is slow sees the next one instead."""
        with self.lock:
            self._remove_left()
            self.shown += 1
            key = event.channel, event.type
            self.latest.pop(key, None)
            self.latest[key] = (self.shown, event)
            if len(self.latest) > _SHOWN:
                del self.latest[next(iter(self.latest))]
            self._wake({event.channel})

    def since(self, cursor: Cursor, channels: Collection[str], limit: int) -> tuple[list[Event], Cursor]:
        """Up to `limit` events after the cursor, fewer if they are long, and the cursor after them.

        Raises Gap, and Unavailable.
        """
        self.reach(cursor)
        with self.lock:
            events = self.log.since(cursor, channels) if cursor < self.log.head else []
            cursor = max(cursor, self.log.head)
        size = 0
        for count, event in enumerate(events, 1):
            size += len(event.frame)
            if (count >= limit or size >= _ANSWER) and count < len(events):
                return events[:count], Cursor.parse(event.id or "")
        return events, cursor

    def reach(self, cursor: Cursor) -> None:
        """Have the log reach back to the cursor: what a young process lacks is read from the broker, once for all.

        A cursor ahead of the log comes from a process that is faster than this one, which the broker confirms.
        Raises Gap, and Unavailable.
        """
        with self.lock:
            log, floor = self.log, self.log.floor
            if floor <= cursor <= log.head:
                return
            if cursor < floor and log.is_full:
                raise Gap
        events: list[Event] = []
        at = cursor
        is_more = True
        while is_more:
            page = self.broker.after(at, _PAGE)
            events += [event for event in page if Cursor.parse(event.id or "") <= floor]
            at = Cursor.parse(page[-1].id or "") if page else at
            is_more = len(page) == _PAGE and at < floor
        with self.lock:  # the floor may be lower now, as others read back as well
            if self.log is log and cursor < log.floor <= floor:
                log.extend_back(cursor, [event for event in events if Cursor.parse(event.id or "") <= log.floor])

    def subscribe(
        self,
        channels: Collection[str],
        limit: int,
        user: str = "",
        address: str = "",
        authorized: Cursor | None = None,
    ) -> Subscription:
        """A place at the log's head, which counts for its user and its address, where there are any.

        `authorized`: the log's head before it was asked whether this user may read. A revocation since then holds.
        Raises Full when `limit` of them are open in this process, and TooMany when too many are this user's or
        from this address.
        """
        config = get_config()
        with self.lock:
            self._remove_left()
            if len(self._open) >= limit:
                counters.refused += 1
                raise Full
            for counts, whose, most, kind in (
                (self._users, user, config.MAX_STREAMS_PER_USER, "user"),
                (self._addresses, address, config.MAX_STREAMS_PER_ADDRESS, "address"),
            ):
                if 0 < most <= counts[whose]:
                    counters.refused += 1
                    raise TooMany(f"At most {most:,} streams are open here for one {kind}")
            subscription = Subscription(self, channels, self.log.head, self.shown, user, address)
            if user and authorized and self._is_revoked_since(authorized, subscription):
                subscription.ending = "revoked"
            self._sources.add_listener(subscription.channels)
            self._open.add(subscription)
            if user:
                self._users[user] += 1
            if address:
                self._addresses[address] += 1
            counters.opened += 1
            counters.streams = len(self._open)
        return subscription

    def enlist(self, subscription: Subscription, loop: asyncio.AbstractEventLoop | None) -> None:
        """Wake this subscription from now on, in its loop or (None) in its thread."""
        with self.lock:
            if subscription in self._open:
                self._add(subscription, loop)

    def listen(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> Subscription:
        """Ring one who reads for many streams of this loop, until `ignore`. Returns what it reads with."""
        with self.lock:
            self._add(listener, loop)
            return Subscription(self, listener.channels, self.log.head, self.shown)

    def ignore(self, listener: Listener) -> None:
        with self.lock:
            self._discard(listener)

    def drain(self) -> None:
        """End every stream of this process, and each that is opened from now on."""
        with self.lock:
            self.draining = True
            self._wake({channel for subscription in self._open for channel in subscription.channels})

    def leave(self, subscription: Subscription) -> None:
        """Free the place: now, or when the lock that is held just now is taken next. Does nothing when it is free."""
        self._left.append(subscription)
        # The garbage collector may close a stream within a thread that holds the lock: waiting would be for ever.
        if self.lock.acquire(blocking=False):
            try:
                self._remove_left()
            finally:
                self.lock.release()

    def close(self) -> None:
        """Stop following the broker, and every source."""
        self.broker.close()
        for subscription in list(self._open):
            self.leave(subscription)
        counters.hubs = counters.lost = 0

    def _revoke(self, subscriptions: Collection[Subscription]) -> None:
        self.revocations += 1
        for subscription in subscriptions:
            subscription.ending = "revoked"
        self._wake({channel for subscription in subscriptions for channel in subscription.channels})

    def _is_revoked_since(self, cursor: Cursor, subscription: Subscription) -> bool:
        try:
            return any(_ended_by(event, [subscription]) for event in self.log.since(cursor, {REVOKED}))
        except Gap:
            return True  # who knows what was lost

    def _remove_left(self) -> None:
        while self._left:
            subscription = self._left.popleft()
            if subscription not in self._open:
                continue
            self._open.remove(subscription)
            counters.end(subscription.ending)
            counters.streams = len(self._open)
            for counts, whose in ((self._users, subscription.user), (self._addresses, subscription.address)):
                counts[whose] -= 1
                if counts[whose] <= 0:
                    del counts[whose]
            self._sources.remove_listener(subscription.channels)
            self._discard(subscription)

    def _add(self, listener: Listener, loop: asyncio.AbstractEventLoop | None) -> None:
        self._wakers.setdefault(loop, _Wakers(self, loop)).add(listener)

    def _discard(self, listener: Listener) -> None:
        for loop, wakers in list(self._wakers.items()):
            if wakers.discard(listener):
                del self._wakers[loop]

    def _wake(self, channels: set[str]) -> None:
        for wakers in self._wakers.values():
            wakers.wake(channels)


_broker: Broker | None = None
_hub: Hub | None = None
_failure = (-math.inf, "")  # when starting failed, by the monotonic clock, and why
_starting = threading.RLock()


def get_broker() -> Broker:
    """This process's broker, opened on first use: all that publishing needs. A forked child gets its own."""
    global _broker
    if not _broker:
        with _starting:
            if not _broker:
                config = get_config()
                _broker = open_broker(config.BROKER, config.HISTORY, config.HISTORY_SECONDS)
    return _broker


def get_hub() -> Hub:
    """This process's hub, started on first use. A forked child gets its own.

    Raises Unavailable while the broker cannot be reached; a later use tries again.
    """
    global _hub, _failure
    if not _hub:
        with _starting:
            if not _hub:
                failed, failure = _failure
                if time.monotonic() < failed + _STARTS_APART:
                    raise Unavailable(failure)
                try:
                    _hub = Hub(get_broker(), get_config().HISTORY)
                except Unavailable as error:
                    _failure = (time.monotonic(), str(error))
                    raise
    return _hub


def drain_hub() -> None:
    """End every stream of this process."""
    if _hub:
        _hub.drain()


def is_draining() -> bool:
    return bool(_hub and _hub.draining)


def close_hub() -> None:
    """Close this process's hub and broker; the next use starts others."""
    global _hub, _broker, _failure
    with _starting:
        if closing := _hub or _broker:
            closing.close()
        _hub, _broker, _failure = None, None, (-math.inf, "")


def _forget() -> None:
    # The parent's threads and connections are not here; its locks may be, held for ever.
    global _hub, _broker, _starting
    _hub, _broker, _starting = None, None, threading.RLock()


os.register_at_fork(after_in_child=_forget)
