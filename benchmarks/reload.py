"""1,000 clients of a gunicorn with three workers and the broker db:, told to reload while events are published."""

import asyncio
import time
from collections.abc import AsyncIterator

from tests.chaos.clients import StreamClient
from tests.chaos.run import account
from tests.chaos.site import Site

CLIENTS = 1000
RATE = 10.0  # events a second
BEFORE, AFTER = 3.0, 12.0  # seconds of publishing around the reload; clients return within RETRY + SPREAD = 7


class Returning(StreamClient):
    """Notes when it was answered, and how."""

    answers: list[tuple[float, int]]

    async def get(self, path: str, headers: str = "") -> tuple[int, AsyncIterator[bytes]]:
        try:
            status, body = await super().get(path, headers)
        except (OSError, EOFError):
            self.answers.append((time.monotonic(), 0))
            raise
        self.answers.append((time.monotonic(), status))
        return status, body


async def _reload() -> dict[str, float]:
    with Site("db:") as site:
        cursor = site.first_cursor()
        clients = [Returning(f"stream {n}", site.server.port, cursor) for n in range(CLIENTS)]
        for client in clients:
            client.answers = []
        told = 0.0

        async def happen() -> None:
            nonlocal told
            while not all(client.answers for client in clients):  # noqa: ASYNC110  no simpler
                await asyncio.sleep(0.1)
            await asyncio.sleep(BEFORE)
            told = time.monotonic()
            site.reload()
            await asyncio.sleep(AFTER)

        accounts = await account(site, clients, RATE, happen)
    back = sorted(at - told for client in clients for at, status in client.answers if at > told and status == 200)
    failures = sum(status != 200 for client in clients for at, status in client.answers if at > told)
    return {
        "back": sum(any(at > told and status == 200 for at, status in client.answers) for client in clients),
        "first back s": back[0],
        "median back s": back[len(back) // 2],
        "last back s": back[-1],
        "refused or 5xx": failures,
        "lost": sum(each.lost for each in accounts),
        "doubled": sum(each.doubled for each in accounts),
    }


def reload() -> dict[str, float]:
    return asyncio.run(_reload())
