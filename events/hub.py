"""The hub, one per process: feeds the log from the broker and notifies the readers."""

import asyncio
import json
import threading
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from .asking import Asker
from .brokers import Broker, Reader, Unavailable
from .conf import get_config
from .journal import Trouble
from .limits import Full, Slots, TooMany
from .log import Cursor, EventLog, Gap
from .metrics import counters
from .sources import Sources
from .subscription import Subscription
from .wire import Event

__all__ = ["REVOKED", "Full", "Hub", "Listener", "TooMany", "revocation"]

_BACKLOG = 1_000  # events that a new process reads at once, so that those who reconnect to it need not, one by one
_PAGE = 500  # events that are read from the broker at once, for a reader who is further behind than the log
_EPHEMERAL = 1_000  # ephemeral events kept, for readers that are behind by less
_ANSWER = 1_048_576  # bytes of frames in one answer to a poll, and the rest of the last one

# The channel of revocations. No name that can be asked for or published to, so only the hubs read it.
REVOKED = "!revoked"

_unusable = Trouble("Events that cannot be sent are left out", counted="events")


class Listener(Protocol):
    """Who reads for many streams of one event loop. All of this runs within the hub's lock: take note, never block."""

    def notify(self, events: Sequence[Event]) -> None:
        """Take the next durable events, of all channels, or none: something else has changed."""

    def show(self, event: Event) -> None:
        """Take an ephemeral event."""

    def lose(self) -> None:
        """The log begins anew, or has holes: each stream has to ask for what it has not been told."""


def revocation(user: str, channel: str | None) -> Event:
    """The event that ends this user's streams on the channel (None: all of theirs), once it is in the log."""
    return Event(None, REVOKED, "message", json.dumps({"user": user, "channel": channel}))


def _revoked(event: Event) -> tuple[str, str | None]:
    """The user and the channel of a revocation. Raises ValueError when the event is none."""
    match json.loads(event.data):
        case {"user": str(user), "channel": str() | None as channel}:
            return user, channel
    raise ValueError("It revokes nothing")


def _is_ended_by(event: Event, subscription: Subscription) -> bool:
    user, channel = _revoked(event)
    return bool(subscription.user == user and (channel is None or channel in subscription.channels))


class _Wakers:
    """Those who wait in one event loop, or in threads (loop None), by channel. The hub's lock guards it."""

    def __init__(self, hub: "Hub", loop: asyncio.AbstractEventLoop | None) -> None:
        self._hub = hub
        self._loop = loop
        self._members: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._news: set[str] = set()  # channels to wake once the loop gets to it

    def add(self, subscription: Subscription) -> None:
        for channel in subscription.channels:
            self._members[channel].add(subscription)

    def discard(self, subscription: Subscription) -> bool:
        """True when nobody is left."""
        for channel in subscription.channels & self._members.keys():
            self._members[channel].discard(subscription)
            if not self._members[channel]:
                del self._members[channel]
        return not self._members

    def wake(self, channels: Collection[str]) -> None:
        """Wake the members of these channels. However many they are, their loop is crossed into once."""
        news = {channel for channel in channels if channel in self._members}
        if news and self._loop and not self._news:
            try:
                self._loop.call_soon_threadsafe(self._wake_in_loop)
            except RuntimeError:  # the loop is closed, and whoever waited in it is gone
                return
        self._news |= news
        if not self._loop:
            self._notify()

    def wake_all(self) -> None:
        self.wake(self._members)

    def _wake_in_loop(self) -> None:
        with self._hub.lock:
            self._notify()

    def _notify(self) -> None:
        for channel in self._news & self._members.keys():
            for subscription in self._members[channel]:
                subscription.notify()
        self._news = set()


class Hub:
    """Feeds the log from the broker and notifies the readers. Everything here may be called from any thread."""

    def __init__(self, broker: Broker, history: int, history_bytes: int = 2**26) -> None:
        self.broker = broker
        self.lock = threading.Lock()
        self.latest: dict[tuple[str, str], tuple[int, Event]] = {}  # the newest of a channel and type, in order
        self.states: dict[str, tuple[int, Event]] = {}  # the newest of a channel that has a state
        self.shown = 0  # ephemeral events so far
        self.is_closed = False
        self.draining = False  # every stream is to end
        self._wakers: dict[asyncio.AbstractEventLoop | None, _Wakers] = {}
        self._listeners: list[Listener] = []
        self._slots = Slots()
        self._left: deque[Subscription] = deque()  # they have closed, and are yet to be removed
        self._sources = Sources(self.show)
        self._asker = Asker()
        self._history, self._history_bytes = history, history_bytes
        with self.lock:  # what the broker delivers meanwhile waits for the log that it goes into
            start, backlog = broker.follow(Reader(self.deliver, self.restart, self.forget), _BACKLOG)
            self.log = EventLog(history, history_bytes, start)
            for event in backlog:
                self._take(event)
        counters.hubs = 1

    @property
    def streams(self) -> int:
        """How many subscriptions are open."""
        with self.lock:
            self._remove_left()
            return len(self._slots.open)

    # What the broker calls

    def deliver(self, events: Sequence[Event]) -> None:
        """Take durable events from the broker."""
        with self.lock:
            self._remove_left()
            taken = [event for event in events if self._take(event)]
            for event in taken:
                if event.channel == REVOKED:
                    user, _ = _revoked(event)
                    self._revoke(each for each in self._slots.of_user(user) if _is_ended_by(event, each))
            counters.received += len(events)
            if self._wakers:
                channels = {event.channel for event in taken}
                for wakers in self._wakers.values():
                    wakers.wake(channels)
            for listener in self._listeners:
                listener.notify(taken)

    def restart(self, cursor: Cursor) -> None:
        """Begin a new log after this cursor: events before it may be missing. Each reader is told what it has missed.

        What is missing may be a revocation, so users' streams end and come back, to be authorized anew.
        """
        with self.lock:
            self.log = EventLog(self._history, self._history_bytes, cursor)
            for subscription in self._slots.open:
                self.log.watch(subscription.channels)
            self._lose(is_revocation_lost=True)

    def forget(self, floors: Mapping[str, Cursor]) -> None:
        """Of these channels, events up to these cursors may be missing."""
        with self.lock:
            for channel, floor in floors.items():
                self.log.forget(channel, floor)
            self._lose(is_revocation_lost=REVOKED in floors)

    # What readers call

    def show(self, event: Event, *, is_state: bool = False) -> None:
        """Show an ephemeral event to whoever is here now. A reader that is slow sees the next one instead.

        `is_state`: keep it until `end_state`, however many others are shown.
        """
        with self.lock:
            self._remove_left()
            self.shown += 1
            if is_state:
                self.states[event.channel] = (self.shown, event)
                self._tell(event)
                return
            key = event.channel, event.type
            self.latest.pop(key, None)
            self.latest[key] = (self.shown, event)
            if len(self.latest) > _EPHEMERAL:
                del self.latest[next(iter(self.latest))]
            self._tell(event)

    def end_state(self, channel: str, readers: Collection[Subscription]) -> None:
        """Forget the state of a channel, and end its readers: they come back, and find out why."""
        with self.lock:
            self.states.pop(channel, None)
            self._revoke(readers)

    def _tell(self, event: Event) -> None:
        for wakers in self._wakers.values():
            wakers.wake([event.channel])
        for listener in self._listeners:
            listener.show(event)

    def since(self, cursor: Cursor, channels: Collection[str], limit: int) -> tuple[list[Event], Cursor]:
        """Up to `limit` events after the cursor, fewer if they are long, and the cursor after them.

        Raises Gap, and Unavailable.
        """
        with self.lock:
            known = cursor <= self.log.head and self.log.reaches(cursor, channels)
            events, end = (self.log.since(cursor, channels), self.log.head) if known else ([], cursor)
        if not known:
            events, end = self.fetch(cursor, channels)
        size = 0
        for count, event in enumerate(events, 1):
            size += len(event.frame)
            if (count >= limit or size >= _ANSWER) and count < len(events):
                return events[:count], Cursor.parse(event.id or "")
        return events, end

    def reach(self, cursor: Cursor, channels: Collection[str]) -> None:
        """Make sure that everything of these channels after the cursor can be read. Raises Gap, and Unavailable."""
        with self.lock:
            if cursor <= self.log.head and self.log.reaches(cursor, channels):
                return
        self.fetch(cursor, channels)

    def fetch(self, cursor: Cursor, channels: Collection[str]) -> tuple[list[Event], Cursor]:
        """Some events after the cursor, from the broker, and the cursor after them. Blocks, but not for ever.

        What it brings is kept, where there is room, so that it is read once for all who ask for it.
        Raises Gap, and Unavailable.
        """
        return self._asker.ask(lambda: self._fetch(cursor, frozenset(channels)))

    def after_gap(self, cursor: Cursor, channels: Collection[str]) -> Cursor:
        """Where a reader of these channels goes on that has a gap after this cursor: from the end of what is here.

        Or from its cursor, if it is of this history but another process was further along; else events that the reader
        has seen would come again.
        """
        with self.lock:
            end = self.log.end_of(channels)
        if cursor > end:
            with suppress(Gap, Unavailable):
                self._asker.ask(lambda: self.broker.after(cursor, (), 1))
                return cursor
        return end

    def _fetch(self, cursor: Cursor, channels: frozenset[str]) -> tuple[list[Event], Cursor]:
        with self.lock:
            log, head = self.log, self.log.head
            if cursor <= head and log.reaches(cursor, channels):  # somebody else has asked meanwhile
                return log.since(cursor, channels), head
            until = log.end_of(channels)
        page = self.broker.after(cursor, channels, _PAGE)
        is_all = len(page) < _PAGE
        if cursor <= until:
            # The follower brings what is later, and before it the revocations that come before it.
            known = [event for event in page if Cursor.parse(event.id or "") <= until]
            is_all = is_all or len(known) < len(page)
            page = known
        end = Cursor.parse(page[-1].id or "") if page else cursor
        if is_all:
            end = max(end, until)
            with self.lock:
                if self.log is log and cursor <= head:
                    log.extend_back(cursor, head, channels, page)
        return page, end

    def subscribe(
        self,
        channels: Collection[str],
        limit: int,
        user: str = "",
        address: str = "",
        authorized: Cursor | None = None,
    ) -> Subscription:
        """Open a subscription at the log's head. It counts against the quotas of its user and its address.

        `authorized`: the log's head before it was asked whether this user may read. A revocation since then holds.
        Raises Full when `limit` of them are open in this process, and TooMany when too many are this user's or
        from this address.
        """
        with self.lock:
            self._remove_left()
            self._slots.check(limit, user, address, get_config())
            subscription = Subscription(self, frozenset(channels), self.log.head, self.shown, user, address)
            if user and authorized and self._is_revoked_since(authorized, subscription):
                subscription.ending = "revoked"
            self._sources.add_listener(subscription.channels)
            self._slots.add(subscription)
            self.log.watch(subscription.channels)
        return subscription

    def check_slots(self, limit: int, user: str, address: str) -> None:
        """Raises what `subscribe` would."""
        with self.lock:
            self._remove_left()
            self._slots.check(limit, user, address, get_config())

    def wake_from_now(self, subscription: Subscription, loop: asyncio.AbstractEventLoop | None) -> None:
        """Notify this subscription from now on, in its loop or (None) in its thread."""
        with self.lock:
            if subscription in self._slots.open:
                self._wakers.setdefault(loop, _Wakers(self, loop)).add(subscription)

    def listen(self, listener: Listener) -> tuple[Cursor, int]:
        """Notify one who reads for many streams, from the log's head and the last ephemeral event on: returns both."""
        with self.lock:
            self._listeners.append(listener)
            return self.log.head, self.shown

    def ignore(self, listener: Listener) -> None:
        with self.lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def drain(self) -> None:
        """End every stream of this process, and each that is opened from now on."""
        with self.lock:
            self.draining = True
            for wakers in self._wakers.values():
                wakers.wake_all()
            for listener in self._listeners:
                listener.notify(())

    def leave(self, subscription: Subscription) -> None:
        """Free the slot: now, or when the lock that is held just now is taken next. Does nothing when it is free."""
        self._left.append(subscription)
        # The garbage collector may close a stream within a thread that holds the lock: waiting would be for ever.
        if self.lock.acquire(blocking=False):
            try:
                self._remove_left()
            finally:
                self.lock.release()

    def close(self) -> None:
        """Stop following the broker, and every source."""
        self.is_closed = True
        self.broker.close()
        self._asker.close()
        for subscription in list(self._slots.open):
            self.leave(subscription)
        counters.hubs = counters.lost = 0

    def _take(self, event: Event) -> bool:
        """Append to the log; an event that cannot be sent, or that has come already, harms nobody else."""
        try:
            if event.channel == REVOKED:
                _revoked(event)
            self.log.append(event)
        except ValueError as error:
            _unusable.hit(id=event.id, reason=error)
            return False
        return True

    def _lose(self, *, is_revocation_lost: bool) -> None:
        if is_revocation_lost:
            self._revoke(subscription for subscription in self._slots.open if subscription.user)
        for wakers in self._wakers.values():
            wakers.wake_all()
        for listener in self._listeners:
            listener.lose()

    def _revoke(self, subscriptions: Iterable[Subscription]) -> None:
        for subscription in list(subscriptions):
            subscription.revoke()

    def _is_revoked_since(self, cursor: Cursor, subscription: Subscription) -> bool:
        try:
            return any(_is_ended_by(event, subscription) for event in self.log.since(cursor, {REVOKED}))
        except Gap:
            return True  # nobody knows what is missing

    def _remove_left(self) -> None:
        while self._left:
            subscription = self._left.popleft()
            if not self._slots.remove(subscription):
                continue
            self.log.unwatch(subscription.channels)
            self._sources.remove_listener(subscription.channels)
            for loop, wakers in list(self._wakers.items()):
                if wakers.discard(subscription):
                    del self._wakers[loop]
