"""One run: clients and publisher on a site, one fault after the other, and the account at the end."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, pairwise

from tests.chaos.clients import CHANNEL, ChangingClient, Client, PollClient, StandardClient, StreamClient, run_all
from tests.chaos.site import Site

SETTLING = 60.0  # seconds that clients have to catch up once nothing is published any more
BEGINNING = 10.0  # seconds that clients have to get their first cursor, before anything is published

# Each channel's part of the rate of the busiest: at 500 events a second there, 0.1 to 100 in the others.
SHARES = {"chaos.rare": 0.0002, "chaos.quiet": 0.002, "chaos.steady": 0.02, "chaos.lively": 0.2, "chaos.busy": 1.0}
QUIET = ("chaos.rare", "chaos.quiet")
SLOWEST = 0.1  # events a second, however small the part: a short run has some of them too

Say = Callable[[str], None]


@dataclass(frozen=True)
class Account:
    """What one client saw of the events that were published."""

    name: str
    channels: str
    expected: int
    received: int
    lost: int
    doubled: int
    out_of_order: int
    gaps: int
    unjustified: int  # gaps after which nothing was missing
    longest: float  # seconds without an event
    connections: int

    @classmethod
    def of(cls, client: Client, published: Mapping[str, int]) -> "Account":
        lost = doubled = out_of_order = 0
        for channel in client.channels:
            numbers = client.numbers[channel]
            seen = set(numbers)
            lost += len(set(range(1, published[channel] + 1)) - seen)
            doubled += len(numbers) - len(seen)
            out_of_order += sum(later < earlier for earlier, later in pairwise(numbers))
        return cls(
            name=client.name,
            channels=" ".join(channel.removeprefix(f"{CHANNEL}.") for channel in client.channels),
            expected=expected(client, published),
            received=client.count,
            lost=lost,
            # An event of a channel that the client has not asked for is one too many as well.
            doubled=doubled + sum(len(client.numbers[channel]) for channel in client.numbers.keys() - client.channels),
            out_of_order=out_of_order,
            gaps=len(client.gaps),
            unjustified=sum(not _is_justified(client, gap, published) for gap in client.gaps),
            longest=client.longest,
            connections=client.connections,
        )

    @classmethod
    def sum(cls, accounts: "Sequence[Account]") -> "Account":
        return cls(
            name="all",
            channels="",
            expected=sum(account.expected for account in accounts),
            received=sum(account.received for account in accounts),
            lost=sum(account.lost for account in accounts),
            doubled=sum(account.doubled for account in accounts),
            out_of_order=sum(account.out_of_order for account in accounts),
            gaps=sum(account.gaps for account in accounts),
            unjustified=sum(account.unjustified for account in accounts),
            longest=max(account.longest for account in accounts),
            connections=sum(account.connections for account in accounts),
        )

    @property
    def faultless(self) -> bool:
        return self.lost == self.doubled == self.out_of_order == self.unjustified == 0


def expected(client: Client, published: Mapping[str, int]) -> int:
    """How many events this client must see."""
    return sum(published[channel] for channel in client.channels)


def _is_justified(client: Client, gap: Mapping[str, int], published: Mapping[str, int]) -> bool:
    """Whether some event of the client's channels never came, where it was told of a gap."""
    for channel, count in gap.items():
        numbers = client.numbers[channel]
        before = max(numbers[:count], default=0)
        after = numbers[count] if count < len(numbers) else published[channel] + 1
        if after > before + 1:
            return True
    return False


async def run(
    broker: str,
    seconds: float,
    *,
    streams: int = 100,
    polls: int = 20,
    changing: int = 20,
    standard: int = 20,
    rate: float = 500.0,
    say: Say,
) -> list[Account]:
    """Let it happen for so many seconds, with `rate` events a second in the busiest channel; `say` is told what."""
    # More than anybody is away for, and so little that the busiest channel fills it more than once.
    history = int(rate * max(60.0, seconds / 4))
    with Site(broker, HISTORY=history) as site:
        cursor, port = site.first_cursor(), site.nginx.port
        clients: list[Client] = [
            *(StreamClient(f"stream {n}", port, cursor, channels=some(n)) for n in range(1, streams + 1)),
            *(PollClient(f"poll {n}", port, cursor, channels=some(n)) for n in range(1, polls + 1)),
            *(ChangingClient(f"changing {n}", port, cursor, channels=some(n)) for n in range(1, changing + 1)),
            *(StandardClient(f"standard {n}", port, channels=some(n)) for n in range(1, standard + 1)),
        ]
        began = time.monotonic()

        def tell(text: str) -> None:
            say(f"{time.monotonic() - began:6.1f} s  {text}")

        async def happen() -> None:
            nonlocal began
            began = time.monotonic()
            pause = min(10.0, seconds / 15)  # so that a short run has each of them too
            for name, fault in cycle(_faults(site, clients, min(10.0, seconds / 8))):
                await asyncio.sleep(pause)
                if time.monotonic() > began + seconds:
                    break
                tell(name)
                await fault()

        rates = {channel: max(SLOWEST, rate * share) for channel, share in SHARES.items()}
        return await account(site, clients, rates, happen, tell)


def some(number: int) -> list[str]:
    """The channels of one client: one quiet channel alone for each fourth, and any of them for the rest."""
    if number % 4 == 0:
        return [QUIET[number // 4 % len(QUIET)]]
    chosen = random.sample(list(SHARES), random.randint(1, len(SHARES)))
    return [channel for channel in SHARES if channel in chosen]


async def account(
    site: Site,
    clients: Sequence[Client],
    rates: Mapping[str, float] | float,
    happen: Callable[[], Awaitable[None]],
    say: Say = lambda text: None,
) -> list[Account]:
    """Let it happen while events are published and the clients read; what each of them saw when all could catch up.

    `rates`: events a second in each channel, or in the one that a client reads when nothing else is said.
    """
    if not isinstance(rates, Mapping):
        rates = {CHANNEL: rates}
    reading = asyncio.create_task(run_all(clients))
    try:
        await _until(lambda: all(client.has_begun for client in clients), BEGINNING)
        arguments = [f"{channel}={rate}" for channel, rate in rates.items()]
        publisher = site.python("-m", "tests.chaos.publisher", *arguments)
        try:
            await happen()
            output, _ = await asyncio.to_thread(publisher.communicate)
        finally:
            publisher.kill()
            publisher.wait()
        published: dict[str, int] = json.loads(output)
        each = ", ".join(f"{count:,} in {channel}" for channel, count in published.items())
        say(f"{sum(published.values()):,} events published: {each}; waiting for every client")
        await _until(lambda: all(client.count >= expected(client, published) for client in clients), SETTLING)
    finally:
        reading.cancel()
        await reading
    return [Account.of(client, published) for client in clients]


async def _until(is_done: Callable[[], bool], seconds: float) -> None:
    """Returns when it is done, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not is_done():  # noqa: ASYNC110  no simpler
                await asyncio.sleep(0.2)


Fault = tuple[str, Callable[[], Awaitable[None]]]


def _faults(site: Site, clients: list[Client], frozen: float) -> list[Fault]:
    how_valkey_ends: Iterator[signal.Signals] = cycle([signal.SIGKILL, signal.SIGTERM])

    async def kill_worker() -> None:
        os.kill(site.worker(), signal.SIGKILL)

    async def reset_connections() -> None:
        for client in random.sample(clients, len(clients) // 2):
            client.reset_connection()

    async def stop_reading() -> None:
        for client in random.sample(clients, len(clients) // 5):
            client.stop_reading(frozen)

    async def reload() -> None:
        site.reload()

    async def restart_nginx() -> None:
        await asyncio.to_thread(site.nginx.restart)

    async def freeze_worker() -> None:
        worker = site.worker()
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(frozen)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)

    async def restart_valkey() -> None:
        assert site.valkey
        await asyncio.to_thread(site.valkey.restart, next(how_valkey_ends))

    async def freeze_valkey() -> None:
        assert site.valkey
        assert site.valkey.process
        site.valkey.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(frozen)
        site.valkey.process.send_signal(signal.SIGCONT)

    faults: list[Fault] = [
        ("kill -9 a worker", kill_worker),
        ("reset the connections of half the clients", reset_connections),
        (f"a fifth of the clients stop reading for {frozen:.0f} s", stop_reading),
        ("restart nginx", restart_nginx),
        (f"freeze a worker for {frozen:.0f} s (SIGSTOP)", freeze_worker),
        ("reload gunicorn (SIGHUP)", reload),
    ]
    if site.valkey:
        faults.insert(1, ("restart the Redis server (kill -9, then SIGTERM in turn)", restart_valkey))
        faults.insert(4, (f"freeze the Redis server for {frozen:.0f} s (SIGSTOP)", freeze_valkey))
    return faults
