"""What the clients are to see: updates, each made at a known time, and how far each client has come with them."""

import asyncio
import contextlib
import json
import math
import secrets
import time
from array import array
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

from events.wire import Event
from sse_demo.compare.http import Connection, Site, Wire

SIZE = 100  # bytes of data in an update: an order's state, a price, a position


class PublishFailed(Exception):
    """The site did not take an update; the text says what it answered."""


class Updates(Protocol):
    """Updates are numbered from 0. Times are those of this process's monotonic clock, in seconds."""

    made: list[float]  # when each update came into the world

    @property
    def channel(self) -> str: ...

    @property
    def durable(self) -> bool:
        """Whether a poll can tell which updates there were, and so whether any was lost."""
        ...

    def of_stream(self, event: Event) -> int | None:
        """The number of the update that this event is."""
        ...

    def of_poll(self, answer: dict[str, Any]) -> list[int]:
        """The numbers of the updates that this answer tells of."""
        ...

    async def run(self, rate: float) -> None:
        """Make `rate` updates a second, evenly, until cancelled."""
        ...


class Published:
    """Updates that we publish through the site's own contract, over one connection, so in order.

    An update is made when it is due. If the site takes it late, everyone sees it late, and that counts.
    """

    durable = True

    def __init__(self, site: Site, token: str) -> None:
        self.made: list[float] = []
        self.failed = 0
        self.channel = f"compare-{secrets.token_hex(4)}"
        self._site = site
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._turn = asyncio.Lock()

    def of_stream(self, event: Event) -> int | None:
        return self._number(event.data)

    def of_poll(self, answer: dict[str, Any]) -> list[int]:
        numbers = (self._number(event["data"]) for event in answer["events"])
        return [number for number in numbers if number is not None]

    def _number(self, data: str) -> int | None:
        try:
            return int(json.loads(data)["update"])
        except (ValueError, TypeError, KeyError):
            return None

    async def run(self, rate: float) -> None:
        start = time.monotonic()
        posting: set[asyncio.Task[None]] = set()
        try:
            for number in range(1 << 62):
                await asyncio.sleep(start + number / rate - time.monotonic())
                # Made here and now, not when the task has its turn: whoever asks for the last update means this one.
                task = asyncio.create_task(self._send(self._make(start + number / rate)))
                posting.add(task)
                task.add_done_callback(posting.discard)
                task.add_done_callback(self._note)
        finally:
            if posting:
                await asyncio.wait(posting, timeout=10)

    async def publish(self) -> None:
        """Publish the next update now. Raises PublishFailed, and OSError."""
        await self._send(self._make(time.monotonic()))

    def _make(self, at: float) -> int:
        self.made.append(at)
        return len(self.made) - 1

    async def _send(self, number: int) -> None:
        data = {"update": number, "at": f"{time.time():.3f}"}
        data["text"] = "x" * (SIZE - len(json.dumps(data, separators=(",", ":"))) - len(',"text":""'))
        body = json.dumps({"channel": self.channel, "data": data}).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        async with self._turn:  # one at a time, so that they arrive in order
            if self._connection is None or self._connection.transport is None:
                self._connection = Connection(self._head, self._ignore, self._end, self._lost)
                await self._site.connect(self._connection, Wire())
            self._answer = self._loop.create_future()
            self._connection.write(self._site.request("publish/", headers, "POST", body))
            status = await self._answer
        if status != 201:
            raise PublishFailed(f"{self._site.path}publish/ answers {status or 'nothing'} to an update.")

    def _note(self, task: "asyncio.Task[None]") -> None:
        """An update that the site did not take is missing everywhere, and every client will say so."""
        if not task.cancelled() and task.exception():
            self.failed += 1

    def close(self) -> None:
        if self._connection:
            self._connection.abort()

    def _head(self, status: int, _: object) -> None:
        self._status = status

    def _ignore(self, _: bytes) -> None:
        pass

    def _end(self) -> None:
        self._resolve(self._status)

    def _lost(self, _: Connection) -> None:
        self._resolve(0)

    def _resolve(self, status: int) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(status)


class Clock:
    """The ticks of the demonstration's clock, for a site where we may not publish: one a second, with no id.

    A poll tells the server's time, so it shows the tick of that second; earlier ones it never shows.
    """

    durable = False
    channel = "clock"

    def __init__(self, offset: float) -> None:
        """`offset`: the server's time (seconds since the epoch) less this process's monotonic time."""
        self._offset = offset
        self._first = math.floor(time.monotonic() + offset)
        self.made: list[float] = []

    def of_stream(self, event: Event) -> int | None:
        return self._number(event.data)

    def of_poll(self, answer: dict[str, Any]) -> list[int]:
        number = self._number(answer["server_time"])
        return [] if number is None else [number]

    @staticmethod
    def epoch(text: str) -> float:
        """Seconds since the epoch. Raises ValueError for what is no time in ISO 8601."""
        return datetime.fromisoformat(text).timestamp()

    def _number(self, text: str) -> int | None:
        try:
            number = math.floor(self.epoch(text)) - self._first
        except ValueError:
            return None
        while len(self.made) <= number:
            self.made.append(self._first + len(self.made) - self._offset)
        return number if number >= 0 else None

    async def run(self, rate: float) -> None:
        """The server makes them."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()


class Screen:
    """What one user sees: the newest update so far. It counts what came, and how stale each update was when shown."""

    __slots__ = ("_seen", "_updates", "doubled", "first", "newest", "shown", "staleness")

    def __init__(self, updates: Updates, staleness: "Staleness") -> None:
        self._updates = updates
        self.staleness = staleness
        self.first = len(updates.made)  # the updates before it are not for this user
        self.newest = self.first - 1
        self.shown = 0
        self.doubled = 0
        self._seen = 0  # a bit for each update

    def show(self, numbers: Iterable[int], now: float) -> None:
        """Updates have arrived together; the newest of them is what the user sees."""
        newest = self.newest
        for number in numbers:
            bit = 1 << number
            if self._seen & bit:
                self.doubled += 1
            self._seen |= bit
            newest = max(newest, number)
        if newest > self.newest:
            self.staleness.add(self._updates.made, self.newest + 1, newest, now)
            self.newest = newest
            self.shown += 1

    def lost(self, total: int) -> int:
        """How many of the first `total` updates never came."""
        mine = ((1 << total) - 1) >> self.first << self.first
        return (mine & ~self._seen).bit_count()


class Staleness:
    """Of every update and user: seconds from when it was made until it, or a later one, was shown.

    Updates that are made within the window count, however late they are shown, and whether a user ever saw them or
    was shown a later one instead: an update is stale until something at least as new is on the screen. So a server
    that stalls is charged for every update of the stall, and not for one late answer (coordinated omission).
    """

    def __init__(self) -> None:
        self.values = array("d")
        self.shown = 0  # updates of the window that a user saw themselves
        self._from = math.inf
        self._until = math.inf

    def begin(self, at: float) -> None:
        self._from = at

    def end(self, at: float) -> None:
        self._until = at

    def add(self, made: list[float], first: int, last: int, now: float) -> None:
        for number in range(first, last + 1):
            if self._from <= made[number] < self._until:
                self.values.append(now - made[number])
                self.shown += number == last

    def give_up(self, screens: Iterable[Screen], made: list[float], now: float) -> None:
        """Charge what was never shown with the time that it has been missing so far."""
        for screen in screens:
            for number in range(screen.newest + 1, len(made)):
                if self._from <= made[number] < self._until:
                    self.values.append(now - made[number])
