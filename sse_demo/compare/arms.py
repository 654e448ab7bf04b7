"""One way of reading, measured: connect, settle, a steady window, wait for the stragglers, cut and come back."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sse_demo.compare.clients import Client, Fleet
from sse_demo.compare.http import Conversation, Site
from sse_demo.compare.results import Arm, Result, Spread, quantiles
from sse_demo.compare.servers import Usage
from sse_demo.compare.updates import Clock, Published, Updates

CONNECTS_A_SECOND = 250  # visitors come one by one, and connecting is not to be the load
SETTLE = (
    1.0  # seconds between the first update and the window, or an interval: then each poll finds what it usually does
)
PATIENCE = 5.0  # seconds, besides the interval, for what is late
LOOK = 0.05  # seconds between two looks at the clients

Progress = Callable[[str, float], None]  # what is going on, and how much of it is done (0 to 1)


@dataclass(frozen=True)
class Target:
    """What is measured. Without a token updates are not published: the site's own clock is read."""

    site: Site
    server: str
    token: str = ""
    usage: Usage | None = None
    publish_cpu: float = 0.0  # seconds that publishing an update takes there, as far as that is known


@dataclass(frozen=True)
class Load:
    """How much of it."""

    clients: int
    updates_per_second: float  # 0: nothing happens
    duration: float  # seconds, of the steady window
    together: bool = False  # pollers all at one moment, as after an outage, and not spread over the interval
    addresses: int = 0  # client addresses that a proxy is shown; 0: none
    outage: bool = True  # whether to cut all connections after the window


class Unusable(Exception):
    """The site does not speak the contract that is to be measured; the text says where it ended."""


async def measure(arm: Arm, load: Load, target: Target, progress: Progress) -> Result:
    """Measure one arm. Cancelled (Ctrl-C) once clients are connected, it returns what it has.

    Raises OSError, Unusable and PublishFailed when the site cannot be used.
    """
    updates = await _updates(target)
    fleet = Fleet(target.site, updates, load.clients, arm.interval, arm.conditional, load.addresses)
    run = _Run(arm, load, target, updates, fleet)
    publisher = None
    try:
        run.memory_before = target.usage.memory() if target.usage else None
        await run.connect(progress)
        if load.updates_per_second:
            publisher = asyncio.create_task(updates.run(load.updates_per_second))
        await asyncio.sleep(max(SETTLE, arm.interval or 0.0))
        await run.window(progress)
        await _end(publisher)
        await run.stragglers(progress)
        if load.outage:
            await run.come_back(progress)
    except asyncio.CancelledError:
        if not run.began:
            raise
        run.interrupted = True
    finally:
        await _end(publisher)
        run.close_window()
        fleet.stop()
        updates.close()
        await asyncio.sleep(0)  # the transports close
    return run.result()


async def _end(publisher: "asyncio.Task[None] | None") -> None:
    """No more updates; those that are made are sent."""
    if publisher and not publisher.done():
        publisher.cancel()
        with suppress(asyncio.CancelledError):
            await publisher


async def _updates(target: Target) -> Updates:
    if target.token:
        updates = Published(target.site, target.token)
        await updates.publish()  # so that a refusal is met before anything starts
        return updates
    return Clock(await _clock_offset(target.site))


async def _clock_offset(site: Site) -> float:
    """The server's time less our monotonic time, in seconds, by the quickest of some round trips."""
    best, offset = float("inf"), 0.0
    conversation = Conversation(site)
    for _ in range(8):
        asked = time.monotonic()
        answer = await conversation.ask("poll/?channel=clock")
        took = time.monotonic() - asked
        if answer.status != 200:
            raise Unusable(f"poll/ answers {answer.status}.")
        if took < best:
            best, offset = took, Clock.epoch(json.loads(answer.body)["server_time"]) - (asked + took / 2)
    conversation.close()
    return offset


@dataclass
class _Mark:
    """The counters at one moment."""

    at: float
    requests: int
    found: int
    skipped: int
    sent: int
    received: int
    server_cpu: float | None
    client_cpu: float


class _Run:
    """The phases of one arm, and what they leave behind."""

    def __init__(self, arm: Arm, load: Load, target: Target, updates: Updates, fleet: Fleet) -> None:
        self.arm, self.load, self.target, self.updates, self.fleet = arm, load, target, updates, fleet
        self.memory_before: int | None = None
        self.interrupted = False
        self._memory: int | None = None
        self._connect_cpu: float | None = None
        self._connect: Spread | None = None
        self._reconnect: Spread | None = None
        self._begin: _Mark | None = None
        self._end: _Mark | None = None

    @property
    def began(self) -> bool:
        return self._begin is not None

    async def connect(self, progress: Progress) -> None:
        if not self.fleet.clients:
            return
        cpu = self._server_cpu()
        over = self.load.clients / CONNECTS_A_SECOND
        if interval := self.arm.interval:  # whole ones, over which the phases are spread evenly
            over = interval * math.ceil(over / interval)
        self.fleet.start(0.0 if self.load.together else over)
        await self._until(lambda client: client.greeted_after is not None, over + PATIENCE, "connecting", progress)
        self._connect = self._greeted()
        if cpu is not None:
            self._connect_cpu = (self._server_cpu() or 0.0) - cpu

    async def window(self, progress: Progress) -> None:
        self._begin = self._mark()
        self.fleet.staleness.begin(self._begin.at)
        until = self._begin.at + self.load.duration
        while (left := until - time.monotonic()) > 0:
            progress("measuring", 1 - left / self.load.duration)
            await asyncio.sleep(min(left, 0.25))
        self.close_window()

    def close_window(self) -> None:
        if self._end or not self._begin:
            return
        self._end = self._mark()
        self.fleet.staleness.end(self._end.at)
        self._memory = self.target.usage.memory() if self.target.usage else None

    async def stragglers(self, progress: Progress) -> None:
        """What was made in the window may still be on its way."""
        last = len(self.updates.made) - 1
        await self._until(lambda client: client.screen.newest >= last, self.arm.interval or 0.0, "waiting", progress)

    async def come_back(self, progress: Progress) -> None:
        """All connections break at once; meanwhile something happens, which nobody may miss."""
        self.fleet.cut()
        if isinstance(self.updates, Published):
            await self.updates.publish()
        await self._until(lambda client: client.greeted_after is not None, 0.0, "reconnecting", progress)
        self._reconnect = self._greeted()
        await self.stragglers(progress)

    async def _until(self, done: Callable[[Client], bool], due: float, stage: str, progress: Progress) -> None:
        """Until it is so for every client, but no longer than PATIENCE after it is due."""
        deadline = time.monotonic() + due + PATIENCE
        while (ready := sum(map(done, self.fleet.clients))) < self.load.clients and time.monotonic() < deadline:
            progress(stage, ready / self.load.clients)
            await asyncio.sleep(LOOK)

    def _greeted(self) -> Spread | None:
        return Spread.of([client.greeted_after for client in self.fleet.clients if client.greeted_after is not None])

    def _server_cpu(self) -> float | None:
        return self.target.usage.cpu() if self.target.usage else None

    def _mark(self) -> _Mark:
        tally = self.fleet.tally
        return _Mark(
            at=time.monotonic(),
            requests=tally.requests,
            found=tally.found,
            skipped=tally.skipped,
            sent=tally.wire.sent,
            received=tally.wire.received,
            server_cpu=self._server_cpu(),
            client_cpu=time.process_time(),
        )

    def result(self) -> Result:
        begin, end = self._begin, self._end
        assert begin, "without a window there is nothing to ask for"  # noqa: S101
        assert end, "and close_window ends it on every way out"  # noqa: S101
        fleet, made = self.fleet, self.updates.made
        screens = [client.screen for client in fleet.clients]
        fleet.staleness.give_up(screens, made, time.monotonic())
        seconds = end.at - begin.at
        updates = sum(begin.at <= at < end.at for at in made)
        cpu = None if begin.server_cpu is None or end.server_cpu is None else end.server_cpu - begin.server_cpu
        lost = None if self.interrupted or not self.updates.durable else sum(s.lost(len(made)) for s in screens)
        return Result(
            arm=self.arm,
            server=self.target.server,
            clients=self.load.clients,
            seconds=seconds,
            updates=updates,
            requests=end.requests - begin.requests,
            found=end.found - begin.found,
            skipped=end.skipped - begin.skipped,
            statuses={str(status or "none"): n for status, n in sorted(fleet.tally.statuses.items())},
            sent=end.sent - begin.sent,
            received=end.received - begin.received,
            sent_in_all=fleet.tally.wire.sent,
            received_in_all=fleet.tally.wire.received,
            cpu=cpu,
            publish_cpu=updates * self.target.publish_cpu,
            connect_cpu=self._connect_cpu,
            memory_before=self.memory_before,
            memory=self._memory,
            staleness=Spread.of(fleet.staleness.values),
            quantiles=quantiles(fleet.staleness.values),
            shown=fleet.staleness.shown,
            lost=lost,
            refused=self.updates.refused,
            doubled=sum(screen.doubled for screen in screens) if self.updates.durable else 0,
            connect=self._connect,
            reconnect=self._reconnect,
            client_cpu=(end.client_cpu - begin.client_cpu) / seconds if seconds else 0.0,
            interrupted=self.interrupted,
        )
