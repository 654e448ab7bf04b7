"""One run: clients and publisher on a site, one fault after the other, and the account at the end."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, pairwise

from tests.chaos.clients import Client, PollClient, StreamClient, run_all
from tests.chaos.site import Site

SETTLING = 60.0  # seconds that clients have to catch up once nothing is published any more

Say = Callable[[str], None]


@dataclass(frozen=True)
class Account:
    """What one client saw of the events that were published."""

    name: str
    expected: int
    received: int
    lost: int
    doubled: int
    out_of_order: int
    longest: float  # seconds without an event
    connections: int
    gaps: int

    @classmethod
    def of(cls, client: Client, expected: int) -> "Account":
        seen = set(client.numbers)
        return cls(
            name=client.name,
            expected=expected,
            received=len(client.numbers),
            lost=len(set(range(1, expected + 1)) - seen),
            doubled=len(client.numbers) - len(seen),
            out_of_order=sum(later < earlier for earlier, later in pairwise(client.numbers)),
            longest=client.longest,
            connections=client.connections,
            gaps=client.gaps,
        )

    @property
    def faultless(self) -> bool:
        return self.lost == self.doubled == self.out_of_order == 0


async def run(
    broker: str, seconds: float, *, streams: int = 100, polls: int = 20, rate: float = 100.0, say: Say
) -> list[Account]:
    """Let it happen for so many seconds; `say` is told what happens."""
    with Site(broker) as site:
        cursor = site.first_cursor()
        clients: list[Client] = [
            *(StreamClient(f"stream {n}", site.nginx.port, cursor) for n in range(1, streams + 1)),
            *(PollClient(f"poll {n}", site.nginx.port, cursor) for n in range(1, polls + 1)),
        ]
        began = time.monotonic()

        def tell(text: str) -> None:
            say(f"{time.monotonic() - began:6.1f} s  {text}")

        async def happen() -> None:
            pause = min(10.0, seconds / 15)  # so that a short run has each of them too
            for name, fault in cycle(_faults(site, clients, min(10.0, seconds / 8))):
                await asyncio.sleep(pause)
                if time.monotonic() > began + seconds:
                    break
                tell(name)
                await fault()

        return await account(site, clients, rate, happen, tell)


async def account(
    site: Site,
    clients: Sequence[Client],
    rate: float,
    happen: Callable[[], Awaitable[None]],
    say: Say = lambda text: None,
) -> list[Account]:
    """Let it happen while events are published and the clients read; what each of them saw when all could catch up."""
    reading = asyncio.create_task(run_all(clients))
    publisher = site.python("-m", "tests.chaos.publisher", str(rate))
    try:
        await happen()
        output, _ = await asyncio.to_thread(publisher.communicate)
        expected = int(output)
        say(f"{expected:,} events published; waiting for every client")
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLING):
                while any(len(client.numbers) < expected for client in clients):  # noqa: ASYNC110  no simpler
                    await asyncio.sleep(0.2)
    finally:
        publisher.kill()
        publisher.wait()
        reading.cancel()
        await reading
    return [Account.of(client, expected) for client in clients]


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
