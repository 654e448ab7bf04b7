"""The fan-out: writes shared frames straight to the transports of an event loop, each at its own pace.

A pass joins what is new since the last one into one payload per set of channels, wrapped for the transfer coding, and
writes it to every stream of that set that is level with the last pass. When events come faster than a pass takes, the
next one carries several: throughput rises with the load, and latency stays at one pass.

A stream whose transport has not emptied keeps its own place in the log. When it can write again it catches up from
there, or is told of the gap. When the log no longer reaches back that far and it still cannot write, it is ended: a
reader that never reads costs one payload, and not for ever.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from events.conf import get_config
from events.hub import Hub
from events.journal import tell
from events.log import Cursor, Gap
from events.metrics import counters
from events.streams import EventStream, farewell, heartbeat
from events.wire import Event

# Streams written to before others have their turn in the loop: about two milliseconds of work.
_SLICE = 500
_CATCH_UP = 50  # the same for those that are not level, each of which may be written a piece of its own

_NAMED = 10  # sets of channels that a line in the log names

Place = tuple[Cursor, int]


class FanOut:
    """All streams of one event loop whose connections were taken over. For use within that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._groups: dict[tuple[frozenset[str], bool], _Group] = {}
        self._news: dict[_Group, None] = {}  # a set in order: all are served once before one is served twice
        self._passes: asyncio.Task[None] | None = None
        self._clock: asyncio.TimerHandle | None = None

    def take(self, transport: asyncio.Transport, stream: EventStream, *, chunked: bool, paused: bool) -> None:
        """Serve a stream from after its greeting on; its connection is ours from now on.

        `chunked`: whether the body goes out in chunks (RFC 9112, 7.1); `paused`: whether the transport has already
        called pause_writing on the protocol that it had until now.
        """
        key = stream.subscription.channels, chunked
        if not (group := self._groups.get(key)):
            group = self._groups[key] = _Group(self, stream.subscription.hub, *key)
        connection = _Connection(transport, stream, group, paused)
        transport.set_protocol(connection)
        # Pause as soon as a write was not taken whole, so that there is never more than one to wait for. 0 would be
        # the number, but there the TLS transports of asyncio pause for ever.
        transport.set_write_buffer_limits(high=1)
        group.add(connection)
        if not self._clock:
            self._tick()

    def announce(self, group: "_Group") -> None:
        """Have the next pass visit the group."""
        self._news[group] = None
        if not self._passes or self._passes.done():
            self._passes = self.loop.create_task(self._pass())

    def forget(self, group: "_Group") -> None:
        self._groups.pop((group.channels, group.chunked), None)
        self._news.pop(group, None)

    async def _pass(self) -> None:
        while self._news:
            group = next(iter(self._news))
            del self._news[group]
            try:
                await group.visit()
            except Exception as error:  # noqa: BLE001  the other groups go on
                text = "A pass of the fan-out has failed, and ends the streams that may have missed something"
                tell(logging.ERROR, text, error, streams=len(group.streams), channels=group.name)
                group.abort()
            await asyncio.sleep(0)

    def _tick(self) -> None:
        silence = get_config().HEARTBEAT
        interval = min(1.0, silence / 4)
        now = time.monotonic()
        slow, cut, names = 0, 0, []
        for group in list(self._groups.values()):
            slow_here, cut_here = group.look(now, silence - interval)
            slow += slow_here
            if cut_here:
                cut += cut_here
                names.append(group.name)
        counters.slow = slow
        if cut:
            tell(
                logging.WARNING,
                "Streams are cut, as their clients read nothing",
                streams=cut,
                channels=" ".join(names[:_NAMED]),
            )
        self._clock = self.loop.call_later(interval, self._tick) if self._groups else None


class _Group:
    """The streams of one set of channels and one transfer coding: they are written the same bytes."""

    def __init__(self, fan_out: FanOut, hub: Hub, channels: frozenset[str], chunked: bool) -> None:
        self.channels = channels
        self.chunked = chunked
        self.streams: set[_Connection] = set()
        self._fan_out = fan_out
        self._hub = hub
        self._ready: set[_Connection] = set()  # behind, and able to write
        self._ahead: set[_Connection] = set()  # come from a faster process, and wait for this one
        self._last = time.monotonic()  # when the level ones were written to
        self._is_silent = False
        self._revocations = hub.revocations
        self._reader = hub.listen(self, fan_out.loop)

    @property
    def place(self) -> Place:
        """Where the level ones are."""
        return self._reader.cursor, self._reader.seen

    @property
    def name(self) -> str:
        return ",".join(sorted(self.channels))

    def ring(self) -> None:
        self._fan_out.announce(self)

    def add(self, connection: "_Connection") -> None:
        connection.stream.subscription.channels = self.channels  # one set for all
        self.streams.add(connection)
        self.settle(connection)
        if connection.stream.is_over():
            connection.end(connection.stream.ending())

    def discard(self, connection: "_Connection") -> None:
        if connection not in self.streams:
            return  # it was ended here, and its transport says so later, when others may be a group in our place
        self.streams.remove(connection)
        self._ready.discard(connection)
        self._ahead.discard(connection)
        if not self.streams:
            self._hub.ignore(self)
            self._fan_out.forget(self)

    def settle(self, connection: "_Connection") -> None:
        """Find out whether a connection is level. If not, and it can write, a pass takes it further."""
        connection.is_level = connection.place == self.place
        if connection.is_level or connection.is_paused:
            return
        if connection.place[0] > self.place[0]:
            self._ahead.add(connection)
        else:
            self._ready.add(connection)
            self.ring()

    async def visit(self) -> None:
        """A pass: write what is new."""
        if self._hub.draining:
            await self.end("drained")
            return
        began = time.thread_time()
        before = self.place
        level = [connection for connection in self.streams if connection.is_level]
        events: list[Event] = []
        try:
            events = self._reader.read()
        except Gap:  # it was a long pass, or a short log
            for connection in level:
                connection.fall(before)
        if self.place != before:
            self._ready |= self._ahead
            self._ahead.clear()
        self._end_revoked()  # after reading: they get nothing of what came after
        payload = _join(events)
        if self._reader.cursor < self._hub.log.head or len(self._ready) > _CATCH_UP:
            self.ring()  # there is more to do than this pass does
        # At once, as whoever reads where the reader just read will be level with it.
        for _ in range(min(len(self._ready), _CATCH_UP)):
            self._catch_up(self._ready.pop())
        if not payload and self._is_silent:
            payload = heartbeat(self._reader.cursor)
        if payload:
            self._is_silent = False
            self._last = time.monotonic()
        counters.stream_seconds += time.thread_time() - began
        if payload:
            written = await self._write(self.wrap(payload), level, before, self.place)
            counters.deliveries += len(events) * written
            counters.observe([event.time for event in events], time.time(), written)

    def look(self, now: float, patience: float) -> tuple[int, int]:
        """Look for silence, old age, and those who take nothing of what the log no longer has.

        Returns how many streams are slow, and how many were cut.
        """
        if now - self._last > patience:
            self._is_silent = True
            self.ring()
        floor = self._hub.log.floor
        slow = cut = 0
        for connection in list(self.streams):
            is_slow = connection.is_paused and not connection.is_level
            if is_slow and connection.place[0] < floor:
                connection.end("cut")
                cut += 1
            elif now >= connection.stream.expires:
                connection.end("aged")
            else:
                slow += is_slow
        return slow, cut

    def wrap(self, payload: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(payload), payload) if self.chunked else payload

    async def _write(self, payload: bytes, level: "list[_Connection]", before: Place, after: Place) -> int:
        """How many streams were written to."""
        written = 0
        began = time.thread_time()
        for number, connection in enumerate(level, 1):
            if connection.is_level:
                if connection.is_paused:
                    connection.fall(before)
                else:
                    written += 1
                    if not connection.write(payload):
                        connection.fall(after)
            if not number % _SLICE:
                counters.stream_seconds += time.thread_time() - began
                await asyncio.sleep(0)
                began = time.thread_time()
        counters.stream_seconds += time.thread_time() - began
        return written

    def _catch_up(self, connection: "_Connection") -> None:
        if connection.stream.is_over():
            connection.end(connection.stream.ending())
            return
        if payload := connection.stream.read():
            connection.write(self.wrap(payload))
        self.settle(connection)

    def _end_revoked(self) -> None:
        if self._revocations == self._hub.revocations:
            return
        self._revocations = self._hub.revocations
        for connection in list(self.streams):
            if connection.stream.subscription.is_revoked:
                connection.end("revoked")

    def abort(self) -> None:
        for connection in list(self.streams):
            connection.abort("cut")

    async def end(self, ending: str) -> None:
        for number, connection in enumerate(list(self.streams), 1):
            connection.end(ending)
            if not number % _SLICE:
                await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One stream's connection. What the client sends after its request is not read: nothing can be answered here."""

    __slots__ = ("_group", "_transport", "is_level", "is_paused", "stream")

    def __init__(self, transport: asyncio.Transport, stream: EventStream, group: _Group, is_paused: bool) -> None:
        stream.greeting = b""  # it was sent
        self.stream = stream
        self.is_level = False
        self.is_paused = is_paused
        self._transport = transport
        self._group = group

    @property
    def place(self) -> Place:
        """Where it is, unless it is level: then the group knows."""
        return self.stream.subscription.cursor, self.stream.subscription.seen

    def fall(self, place: Place) -> None:
        """Be no longer level, from this place on."""
        self.is_level = False
        self.stream.subscription.cursor, self.stream.subscription.seen = place
        if not self.is_paused:
            self._group.settle(self)

    def write(self, payload: bytes) -> bool:
        """Whether the transport took the payload whole."""
        try:
            self._transport.write(payload)
        except RuntimeError:  # uvloop: it has just been closed, and connection_lost is on its way
            return False
        return not self.is_paused

    def end(self, ending: str) -> None:
        """End the stream in good order, or at once when nobody takes what was written before."""
        if self.is_paused:
            self.abort(ending)
            return
        self.stream.subscription.ending = ending
        last_chunk = b"0\r\n\r\n" if self._group.chunked else b""
        self.write(self._group.wrap(farewell()) + last_chunk)
        self._transport.close()
        self.connection_lost(None)

    def abort(self, ending: str) -> None:
        self.stream.subscription.ending = ending
        self._transport.abort()
        self.connection_lost(None)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if not self.is_level and self in self._group.streams:
            self._group.settle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_level = False
        self._group.discard(self)
        self.stream.close()


def _join(events: Iterable[Event]) -> bytes:
    return b"".join([event.frame for event in events])
