"""The users' clients: a Subscriber holds a stream open, a Poller asks again and again. Thousands fit in one process."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from events.wire import Decoder
from sse_demo.compare.http import PATIENCE, Connection, Site, Wire
from sse_demo.compare.screens import Screen, Staleness
from sse_demo.compare.updates import Updates

RETRY = 2.0  # seconds, until a stream has said otherwise
LONGEST_RETRY = 60.0  # seconds; as feed.js has it, which doubles its patience with each failure
DECODED = 64  # pieces of streams to remember; all clients get one within moments
NO_ANSWER = 0  # counted like a status: refused, cut or timed out


@dataclass
class Tally:
    """What all clients of a fleet have done so far."""

    requests: int = 0
    found: int = 0  # updates in answers to polls
    skipped: int = 0  # polls not made, because the answer to the one before was still out
    statuses: Counter[int] = field(default_factory=Counter)
    wire: Wire = field(default_factory=Wire)


class Client:
    """A user's program: it connects when told to, and again when it is cut."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.screen = Screen(fleet.updates, fleet.staleness)
        self.greeted_after: float | None = None  # seconds from wanting to be connected to the first good answer
        self.cursor = ""
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._wanted_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._status = NO_ANSWER

    def start(self, delay: float) -> None:
        """Begin after `delay` seconds."""
        self._wanted_at = time.monotonic() + delay
        self._timer = self._loop.call_later(delay, self._begin)

    def cut(self) -> None:
        """The connection breaks, as in an outage, and the client is back at once, where it was."""
        connection, self._connection = self._connection, None
        if self._timer:
            self._timer.cancel()
        if connection:
            connection.abort()
        self.greeted_after = None
        self.start(0.0)

    def stop(self) -> None:
        self._stopped = True
        if self._timer:
            self._timer.cancel()
        if self._connection:
            self._connection.abort()

    def _begin(self) -> None:
        raise NotImplementedError

    async def _connect(self) -> None:
        self._connection = connection = Connection(self._head, self._body, self._end, self._lost)
        try:
            await self.fleet.site.connect(connection, self.fleet.tally.wire)
        except OSError:
            self._lost(connection)
            return
        if connection is not self._connection or self._stopped:
            connection.abort()
            return
        self._connected(connection)

    def _connected(self, connection: Connection) -> None:
        raise NotImplementedError

    def _greeted(self) -> None:
        if self.greeted_after is None:
            self.greeted_after = time.monotonic() - self._wanted_at

    def _answered(self, status: int) -> None:
        self._status = status
        self.fleet.tally.statuses[status] += 1

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self._answered(status)

    def _body(self, piece: bytes) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _lost(self, connection: Connection) -> None:
        raise NotImplementedError


class Subscriber(Client):
    """Holds one stream open, and resumes after its Last-Event-ID when it is cut."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        super().__init__(fleet, number)
        self._decoder = Decoder()
        self._between_frames = False
        self._failures = 0  # in a row

    def _begin(self) -> None:
        self.fleet.spawn(self._connect())

    def _connected(self, connection: Connection) -> None:
        self._decoder = Decoder(self.cursor)
        self._between_frames = False
        headers = {"Accept": "text/event-stream", **self.fleet.headers_of(self.number)}
        if self.cursor:
            headers["Last-Event-ID"] = self.cursor
        self.fleet.tally.requests += 1
        connection.write(self.fleet.site.request(f"?channel={quote(self.fleet.updates.channel)}", headers))

    def _body(self, piece: bytes) -> None:
        if self._status != 200:
            return
        now = time.monotonic()
        if self._between_frames and piece in self.fleet.decoded:
            numbers, self.cursor = self.fleet.decoded[piece]
            self.screen.show(numbers, now)
            return
        numbers = []
        for event in self._decoder.feed(piece):
            if event.type == "hello":
                self._greeted()
                self.cursor = self.cursor or str(json.loads(event.data).get("cursor", ""))
            elif event.type == "message" and (number := self.fleet.updates.of_stream(event)) is not None:
                numbers.append(number)
                self.cursor = self._decoder.last_event_id
        if numbers:
            self.screen.show(numbers, now)
        whole = self._between_frames
        self._between_frames = piece.endswith(b"\n\n")
        if numbers and whole and self._between_frames:
            self.fleet.remember(piece, numbers, self.cursor)

    def _end(self) -> None:
        if self._connection:
            self._connection.abort()

    def _lost(self, connection: Connection) -> None:
        if connection is not self._connection or self._stopped:
            return
        self._connection = None
        if self._status == NO_ANSWER:
            self._answered(NO_ANSWER)
        self._status = NO_ANSWER
        retry = self._decoder.retry / 1000 if self._decoder.retry is not None else RETRY
        if self.greeted_after is not None:
            self.greeted_after, self._wanted_at, self._failures = None, time.monotonic(), 0
        else:
            self._failures += 1
        # At random, so that those who were cut together do not come back together.
        wait = min(LONGEST_RETRY, retry * 2**self._failures) * random.random()  # noqa: S311
        self._timer = self._loop.call_later(wait, self._begin)


class Poller(Client):
    """Asks each `interval` seconds, always at its own phase, on a connection that it keeps."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        super().__init__(fleet, number)
        self._interval = fleet.interval
        self._slot = 0
        self._began_at = 0.0
        self._asked_at: float | None = None
        self._etag = ""
        self._pieces: list[bytes] = []
        self._headers = {"Accept": "application/json", **fleet.headers_of(number)}

    def start(self, delay: float) -> None:
        super().start(delay)
        self._began_at = self._loop.time() + delay
        self._slot = 0
        self._asked_at = None

    def _begin(self) -> None:
        self._slot += 1
        self._timer = self._loop.call_at(self._began_at + self._slot * self._interval, self._begin)
        if self._asked_at is not None:
            if self._loop.time() - self._asked_at < PATIENCE:
                self.fleet.tally.skipped += 1
                return
            if self._connection:
                self._connection.abort()
            return
        self._asked_at = self._loop.time()
        if self._connection and self._connection.transport:
            self._ask(self._connection)
        else:
            self.fleet.spawn(self._connect())

    def _connected(self, connection: Connection) -> None:
        self._ask(connection)

    def _ask(self, connection: Connection) -> None:
        self.fleet.tally.requests += 1
        self._pieces = []
        headers = self._headers
        if self._etag and self.fleet.conditional:
            headers = {**headers, "If-None-Match": self._etag}
        since = f"&since={quote(self.cursor)}" if self.cursor else ""
        connection.write(self.fleet.site.request(f"poll/?channel={quote(self.fleet.updates.channel)}{since}", headers))

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        super()._head(status, headers)
        if status == 200:
            self._etag = headers.get("etag", "")

    def _body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def _end(self) -> None:
        self._asked_at = None
        if self._status in (200, 304):
            self._greeted()
        if self._status != 200:
            return
        now = time.monotonic()
        answer = json.loads(b"".join(self._pieces))
        self.cursor = answer["cursor"]
        if numbers := self.fleet.updates.of_poll(answer):
            self.fleet.tally.found += len(numbers)
            self.screen.show(numbers, now)

    def _lost(self, connection: Connection) -> None:
        if connection is not self._connection or self._stopped:
            return
        self._connection = None
        if self._asked_at is not None:
            self._asked_at = None
            self._answered(NO_ANSWER)


class Fleet:
    """The clients of one way of reading, and what they have counted together."""

    def __init__(
        self,
        site: Site,
        updates: Updates,
        count: int,
        interval: float | None,
        conditional: bool = False,
        addresses: int = 0,
    ) -> None:
        """`interval` in seconds, None for streams. `addresses`: how many client addresses a proxy is shown."""
        self.site = site
        self.updates = updates
        self.interval = interval or 0.0
        self.conditional = conditional
        self.addresses = addresses
        self.tally = Tally()
        self.staleness = Staleness()
        # Every subscriber gets the same bytes: decoding them once leaves the machine, and the next socket's turn, to
        # what is measured.
        self.decoded: dict[bytes, tuple[list[int], str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        kind = Subscriber if interval is None else Poller
        self.clients: list[Client] = [kind(self, number) for number in range(count)]

    def headers_of(self, number: int) -> dict[str, str]:
        """The address that the proxy is to take this client's requests for."""
        return {"X-Client-Address": str(number % self.addresses)} if self.addresses else {}

    def start(self, over: float) -> None:
        """Start the clients, spread evenly over so many seconds: for pollers, these are their phases for good."""
        for number, client in enumerate(self.clients):
            client.start(over * number / len(self.clients))

    def cut(self) -> None:
        for client in self.clients:
            client.cut()

    def stop(self) -> None:
        for client in self.clients:
            client.stop()

    def remember(self, piece: bytes, numbers: list[int], cursor: str) -> None:
        """What a piece that holds whole frames says, for the others who get it too."""
        if len(self.decoded) >= DECODED:
            del self.decoded[next(iter(self.decoded))]
        self.decoded[piece] = numbers, cursor

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
