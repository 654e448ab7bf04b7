"""The fan-out: writes shared frames straight to the transports of an event loop, each at its own pace.

It has one position for the whole loop. A pass takes what is new since the last one once, routes each event to the
streams that listen to its channel, joins and wraps the bytes once for each distinct run of events, and writes them to
every stream that is in sync. When events come faster than a pass takes, the next one carries several: throughput rises
with the load, and latency stays at one pass.

A stream whose transport has not emptied falls behind: it keeps a position of its own. When it can write again it
catches up from there, or is told of the gap. When the log no longer reaches back that far and it still cannot write, it
is ended: a reader that never reads costs one payload, and not for ever.
"""

import asyncio
import logging
import math
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from .conf import get_config
from .hub import Hub
from .journal import tell
from .log import Cursor
from .metrics import counters
from .streams import EventStream, farewell, heartbeat
from .subscription import Behind
from .wire import Event

_SLICE = 0.002  # seconds of writing before others have their turn in the loop
_CATCH_UP = 0.001  # seconds of a turn that those who are behind may take, each of which is written a piece of its own
# Bytes, which Linux doubles: more than a client takes in a round trip. Left to itself the kernel keeps up to 4 MB of
# what a client does not read, and who never reads is written to for as long as that takes.
_SEND_BUFFER = 131_072
_INBOX = 2**24  # bytes of events that wait for a pass: more are read from the log again, by each stream for itself
_NAMED = 10  # channels that a line in the log names
_BEHIND = math.inf


class _Due(Protocol):
    due_in: int | None  # the second, by the monotonic clock, when it is looked at


Item = TypeVar("Item", bound=_Due)


class FanOut:
    """All streams of one event loop whose connections were taken over. For use within that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.passes = 0  # so far; a stream that joins during one is not written what that one brings
        self.routes: defaultdict[str, dict[_Group, None]] = defaultdict(dict)
        self.behind: set[_Connection] = set()
        self._groups: dict[tuple[frozenset[str], bool], _Group] = {}
        self._ready: dict[_Connection, None] = {}  # behind, and able to write; in order
        self._ages: _Wheel[_Connection] = _Wheel()
        self._silences: _Wheel[_Group] = _Wheel()
        self._hub: Hub | None = None
        self._position = Cursor(0, 0), 0  # of all streams in sync: the log's cursor, and the last ephemeral event
        self._is_passing = False  # a pass is under way, and some of them are not there yet
        # What came since the last pass; the hub's lock guards these.
        self._events: list[Event] = []
        self._size = 0  # of their frames, in bytes
        self._ephemeral: dict[tuple[str, str], Event] = {}
        self._revoked: list[_Connection] = []
        self._is_lost = False
        self._is_notified = False
        self._task: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()  # the loop itself does not keep them
        self._clock: asyncio.TimerHandle | None = None

    def take(self, transport: asyncio.Transport, stream: EventStream, *, chunked: bool, paused: bool) -> None:
        """Serve a stream from after its greeting on; its connection is ours from now on.

        `chunked`: whether the body goes out in chunks (RFC 9112, 7.1); `paused`: whether the transport has already
        called pause_writing on the protocol that it had until now.
        """
        subscription = stream.subscription
        if self._hub is not subscription.hub:
            self._follow(subscription.hub)
        key = subscription.channels, chunked
        if not (group := self._groups.get(key)):
            group = self._groups[key] = _Group(self, *key, stream.has_cursor)
            for channel in group.channels:
                self.routes[channel][group] = None
            self._silences.add(group, group.written + get_config().HEARTBEAT)
        subscription.channels = group.channels  # one set for all
        connection = _Connection(transport, stream, group, paused)
        transport.set_protocol(connection)
        # Pause as soon as a write was not taken whole, so that there is never more than one to wait for. 0 would be
        # the number, but there the TLS transports of asyncio pause for ever.
        transport.set_write_buffer_limits(high=1)
        if sock := transport.get_extra_info("socket"):
            with suppress(OSError):  # the client has just gone
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        group.streams.add(connection)
        self._ages.add(connection, stream.expires)
        self.settle(connection)
        if stream.is_over():
            connection.end(stream.ending())
        if not self._clock:
            self._tick()

    def settle(self, connection: "_Connection") -> None:
        """Find out whether a connection is in sync. If not, and it can write, a turn takes it further."""
        subscription = connection.stream.subscription
        hub = subscription.hub
        with hub.lock:
            subscription.taken_by = connection
            if subscription.is_revoked:
                connection.on_revoked()
            if not self._events and not self._ephemeral and not self._is_lost:
                self._position = hub.log.head, hub.shown  # there is nothing on the way to anybody
            cursor, seen = self._position
            is_told = hub.log.reaches(subscription.cursor, subscription.channels) and (
                subscription.cursor == cursor or not hub.log.has_news(subscription.cursor, subscription.channels)
            )
            # Further than this loop, or this process, is: what is still to come of that is left out for it.
            is_ahead = subscription.cursor > cursor and (
                subscription.cursor > hub.log.head or hub.log.has_news(cursor, subscription.channels)
            )
        if is_told and subscription.seen >= seen:
            connection.skips = subscription.cursor if is_ahead else None
            connection.in_sync = self.passes
            self.behind.discard(connection)
            return
        connection.in_sync = _BEHIND
        self.behind.add(connection)
        if not connection.is_paused:
            self._ready[connection] = None
            self._start()

    def forget(self, connection: "_Connection") -> None:
        group = connection.group
        self.behind.discard(connection)
        self._ready.pop(connection, None)
        self._ages.discard(connection)
        if connection not in group.streams:
            return  # it was ended here, and its transport says so later, when others may be a group in our place
        group.streams.remove(connection)
        if group.streams:
            return
        del self._groups[group.channels, group.chunked]
        self._silences.discard(group)
        for channel in group.channels:
            del self.routes[channel][group]
            if not self.routes[channel]:
                del self.routes[channel]
        if not self._groups and self._hub:
            self._hub.ignore(self)
            self._hub = None

    # What the hub calls, within its lock

    def notify(self, events: Sequence[Event]) -> None:
        routes = self.routes
        for event in events:
            if event.channel in routes:
                self._events.append(event)
                self._size += len(event.frame)
        if self._size > _INBOX:
            self.lose()
        if self._events or not events:
            self._wake()

    def show(self, event: Event) -> None:
        if event.channel in self.routes:
            self._ephemeral.pop((event.channel, event.type), None)
            self._ephemeral[event.channel, event.type] = event
            self._wake()

    def lose(self) -> None:
        self._is_lost = True
        self._events, self._size = [], 0
        self._wake()

    def revoke(self, connection: "_Connection") -> None:
        self._revoked.append(connection)
        self._wake()

    def _wake(self) -> None:
        if not self._is_notified:
            self._is_notified = True
            try:
                self.loop.call_soon_threadsafe(self._start)
            except RuntimeError:  # the loop is closed, and its streams with it
                return

    # What happens in the loop

    def _follow(self, hub: Hub) -> None:
        if self._hub:
            self._hub.ignore(self)
        self._hub = hub
        # What came after the last stream had left is for nobody.
        self._events, self._size, self._ephemeral, self._revoked, self._is_lost = [], 0, {}, [], False
        self._position = hub.listen(self)

    def _start(self) -> None:
        if not self._task or self._task.done():
            self._task = self.loop.create_task(self._run())

    async def _run(self) -> None:
        while True:
            if self._is_notified:
                try:
                    await self._pass()
                except Exception as error:  # noqa: BLE001  it goes on with the next pass
                    self._abort(error, list(self._groups.values()))
            if self._ready:
                self._catch_up()
            if not self._is_notified and not self._ready:
                return
            await asyncio.sleep(0)

    async def _pass(self) -> None:
        """Take what is new, and write it to the streams that are in sync."""
        hub = self._hub
        if not hub:
            self._is_notified = False
            return
        with hub.lock:
            self._is_notified = False
            events, self._events, self._size = self._events, [], 0
            ephemeral, self._ephemeral = list(self._ephemeral.values()), {}
            revoked, self._revoked = self._revoked, []
            is_lost, self._is_lost = self._is_lost, False
            before, self._position = self._position, (hub.log.head, hub.shown)
        self.passes += 1
        for connection in revoked:  # they get nothing that came with or after the revocation
            connection.end("revoked")
        self._is_passing = True
        try:
            if hub.draining:
                await self._end_all()
            elif is_lost:
                await self._fall_all(before)
            elif events or ephemeral:
                await self._write(events + ephemeral, before)
        finally:
            self._is_passing = False

    async def _write(self, events: list[Event], before: tuple[Cursor, int]) -> None:
        number = self.passes
        news: defaultdict[str, list[tuple[int, Event]]] = defaultdict(list)
        for at, event in enumerate(events):
            news[event.channel].append((at, event))
        runs: dict[tuple[str, ...], _Run] = {}
        turn = _Turn()
        for channel in news:
            for group in list(self.routes.get(channel, ())):
                if group.passed == number:
                    continue  # it has been written this, and what else is new for it
                group.passed = number
                hit = (channel,) if len(group.channels) == 1 or len(news) == 1 else group.among(news)
                if not (run := runs.get(hit)):
                    run = runs[hit] = _Run([news[each] for each in hit])
                try:
                    payload = run.payload(group.chunked)
                except Exception as error:  # noqa: BLE001  the other groups go on
                    self._abort(error, [group])
                    continue
                group.written = turn.began
                for count, connection in enumerate(list(group.streams), 1):
                    if connection.in_sync < number:
                        run.written += connection.pass_on(payload, run, before, self._position)
                    if not count % 64 and turn.is_over():
                        await turn.next()
                if turn.is_over():
                    await turn.next()
        turn.end()
        finished = time.time()
        for run in runs.values():
            counters.deliveries += len(run.events) * run.written
            counters.observe([event.time for event in run.events], finished, run.written)

    def _catch_up(self) -> None:
        began = time.thread_time()
        while self._ready and time.thread_time() < began + _CATCH_UP:
            connection = next(iter(self._ready))
            del self._ready[connection]
            stream = connection.stream
            if stream.is_over():
                connection.end(stream.ending())
                continue
            try:
                payload = stream.read_now()
            except Behind:
                asking = self.loop.create_task(self._ask(connection))
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)
                continue
            except Exception as error:  # noqa: BLE001  the others go on
                self._abort(error, [], connection)
                continue
            if payload:
                connection.write(connection.group.wrap(payload))
            self.settle(connection)
        counters.stream_seconds += time.thread_time() - began

    async def _ask(self, connection: "_Connection") -> None:
        """Have the broker tell one stream what this process no longer has."""
        try:
            payload = await asyncio.to_thread(connection.stream.read)
        except Exception as error:  # noqa: BLE001  the others go on
            self._abort(error, [], connection)
            return
        if connection not in connection.group.streams:
            return
        if payload:
            connection.write(connection.group.wrap(payload))
        if connection.stream.is_over():
            connection.end(connection.stream.ending())
        else:
            self.settle(connection)

    async def _fall_all(self, before: tuple[Cursor, int]) -> None:
        """Every stream may have missed something, and finds out for itself."""
        number = self.passes
        for count, connection in enumerate([each for group in self._groups.values() for each in group.streams], 1):
            if connection.in_sync < number and connection in connection.group.streams:
                connection.fall(before)
            if not count % 500:
                await asyncio.sleep(0)

    async def _end_all(self) -> None:
        for count, connection in enumerate([each for group in self._groups.values() for each in group.streams], 1):
            connection.end("drained")
            if not count % 500:
                await asyncio.sleep(0)

    def _abort(self, error: Exception, groups: "Collection[_Group]", *connections: "_Connection") -> None:
        streams = [*connections, *(each for group in groups for each in group.streams)]
        names = [group.name for group in groups] or [connection.group.name for connection in connections]
        text = "A pass of the fan-out has failed, and ends the streams that may have missed something"
        tell(logging.ERROR, text, error, streams=len(streams), channels=" ".join(names[:_NAMED]))
        for connection in streams:
            connection.abort("cut")

    def _tick(self) -> None:
        """Look after what is due: silence, old age, and those who take nothing of what the log no longer has."""
        silence = get_config().HEARTBEAT
        interval = min(1.0, silence / 4)
        now = time.monotonic()
        for connection in self._ages.due(now):
            connection.end("aged")
        payloads: dict[tuple[bool, bool], bytes] = {}
        # While a pass is under way, not all have been told everything up to the position; then there is a next time.
        for group in [] if self._is_passing else self._silences.due(now + interval / 2):
            if group.written + silence <= now + interval / 2:
                group.break_silence(self._position, payloads)
                group.written = now
            if group.streams:
                self._silences.add(group, group.written + silence)
        slow, cut = 0, []
        for connection in [each for each in self.behind if each.is_paused]:
            subscription = connection.stream.subscription
            with subscription.hub.lock:
                is_kept = subscription.hub.log.reaches(subscription.cursor, subscription.channels)
            if is_kept:
                slow += 1
            else:
                cut.append(connection.group.name)
                connection.end("cut")
        counters.slow = slow
        if cut:
            names = " ".join(sorted(set(cut))[:_NAMED])
            tell(logging.WARNING, "Streams are cut, as their clients read nothing", streams=len(cut), channels=names)
        self._clock = self.loop.call_later(interval, self._tick) if self._groups else None


class _Turn:
    """A turn of the loop that is spent on writing: not longer than a slice, and accounted for."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.began = time.monotonic()
        self._used = time.thread_time()

    def is_over(self) -> bool:
        return time.monotonic() > self.began + _SLICE

    async def next(self) -> None:
        """Let others have their turn."""
        self.end()
        await asyncio.sleep(0)
        self._begin()

    def end(self) -> None:
        counters.stream_seconds += time.thread_time() - self._used


class _Wheel(Generic[Item]):
    """Items by the second in which they are due, so that a look costs what is due, not what there is."""

    def __init__(self) -> None:
        self._seconds: defaultdict[int, set[Item]] = defaultdict(set)

    def add(self, item: Item, when: float) -> None:
        if when != math.inf:
            item.due_in = int(when)
            self._seconds[item.due_in].add(item)

    def discard(self, item: Item) -> None:
        if item.due_in is not None:
            items = self._seconds[item.due_in]
            items.discard(item)
            if not items:
                del self._seconds[item.due_in]
            item.due_in = None

    def due(self, now: float) -> list[Item]:
        """Take out those that are due within this second or were earlier."""
        items = [item for second in [each for each in self._seconds if each <= now] for item in self._seconds[second]]
        for item in items:
            self.discard(item)
        return items


class _Run:
    """What a pass brings to all streams that listen to the same of the channels in which something is new."""

    __slots__ = ("_payloads", "events", "written")

    def __init__(self, channels: Sequence[list[tuple[int, Event]]]) -> None:
        entries = channels[0] if len(channels) == 1 else sorted(entry for each in channels for entry in each)
        self.events = [event for _, event in entries]
        self.written = 0  # to how many streams
        self._payloads: dict[bool, bytes] = {}

    def payload(self, chunked: bool) -> bytes:
        if not (payload := self._payloads.get(chunked)):
            payload = self._payloads[chunked] = _wrap(_join(self.events), chunked)
        return payload


class _Group:
    """The streams of one set of channels and one transfer coding: they are written the same bytes."""

    __slots__ = ("channels", "chunked", "due_in", "fan_out", "has_cursor", "passed", "streams", "written")

    def __init__(self, fan_out: FanOut, channels: frozenset[str], chunked: bool, has_cursor: bool) -> None:
        self.channels = channels
        self.chunked = chunked
        self.has_cursor = has_cursor
        self.fan_out = fan_out
        self.streams: set[_Connection] = set()
        self.due_in: int | None = None
        self.passed = 0  # the last pass that had something for it
        self.written = time.monotonic()  # when those in sync were written to

    @property
    def name(self) -> str:
        return ",".join(sorted(self.channels))

    def among(self, news: "defaultdict[str, list[tuple[int, Event]]]") -> tuple[str, ...]:
        """Those of its channels in which something is new."""
        hit = [channel for channel in self.channels if channel in news]
        return (hit[0],) if len(hit) == 1 else tuple(sorted(hit))

    def wrap(self, payload: bytes) -> bytes:
        return _wrap(payload, self.chunked)

    def break_silence(self, position: tuple[Cursor, int], payloads: dict[tuple[bool, bool], bytes]) -> None:
        kind = self.chunked, self.has_cursor
        if not (payload := payloads.get(kind)):
            payload = payloads[kind] = self.wrap(heartbeat(position[0] if self.has_cursor else None))
        for connection in list(self.streams):
            if connection.in_sync == _BEHIND or connection.is_paused:
                continue
            if connection.skips and connection.skips > position[0]:
                connection.write(self.wrap(heartbeat(connection.skips)))
            elif not connection.write(payload):
                connection.fall(position)


class _Connection(asyncio.Protocol):
    """One stream's connection. What the client sends after its request is not read: nothing can be answered here."""

    __slots__ = ("_transport", "due_in", "group", "in_sync", "is_paused", "skips", "stream")

    def __init__(self, transport: asyncio.Transport, stream: EventStream, group: _Group, is_paused: bool) -> None:
        stream.greeting = b""  # it was sent
        self.stream = stream
        self.group = group
        self.is_paused = is_paused
        self.due_in: int | None = None
        self.in_sync: float = _BEHIND  # the pass after which it has been in sync
        self.skips: Cursor | None = None  # it has been told everything up to there: further than the loop
        self._transport = transport

    def pass_on(self, payload: bytes, run: _Run, before: tuple[Cursor, int], after: tuple[Cursor, int]) -> bool:
        """Write what a pass brings. Whether that was done: not when the transport still holds what came before."""
        if self.is_paused:
            self.fall(before)
            return False
        if self.skips:
            cursor = self.skips
            if after[0] >= cursor:
                self.skips = None
            events = [event for event in run.events if event.id is None or Cursor.parse(event.id) > cursor]
            if not events:
                return False
            payload = self.group.wrap(_join(events))
        if not self.write(payload):
            self.fall(after)
        return True

    def fall(self, position: tuple[Cursor, int]) -> None:
        """Be in sync no more, from this position on."""
        subscription = self.stream.subscription
        subscription.cursor, subscription.seen = max(self.skips or position[0], position[0]), position[1]
        self.skips = None
        self.in_sync = _BEHIND
        self.group.fan_out.behind.add(self)
        if not self.is_paused:
            self.group.fan_out.settle(self)

    def write(self, payload: bytes) -> bool:
        """Whether the transport took the payload whole."""
        try:
            self._transport.write(payload)
        except RuntimeError:  # uvloop: it has just been closed, and connection_lost is on its way
            return False
        return not self.is_paused

    def end(self, ending: str) -> None:
        """End the stream in good order, or at once when nobody takes what was written before."""
        if self not in self.group.streams:
            return
        if self.is_paused:
            self.abort(ending)
            return
        self.stream.subscription.ending = ending
        last_chunk = b"0\r\n\r\n" if self.group.chunked else b""
        self.write(self.group.wrap(farewell()) + last_chunk)
        self._transport.close()
        self.connection_lost(None)

    def abort(self, ending: str) -> None:
        self.stream.subscription.ending = ending
        self._transport.abort()
        self.connection_lost(None)

    def on_revoked(self) -> None:
        self.group.fan_out.revoke(self)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.in_sync == _BEHIND and self in self.group.streams:
            self.group.fan_out.settle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.in_sync = _BEHIND
        self.group.fan_out.forget(self)
        self.stream.subscription.taken_by = None  # no cycle, for the garbage collector to find some time
        self.stream.close()


def _join(events: Iterable[Event]) -> bytes:
    return b"".join([event.frame for event in events])


def _wrap(payload: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if chunked else payload
