"""What the clients are to see: updates, each made at a known time."""

import asyncio
import json
import math
import secrets
import time
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any

from events.wire import Event
from sse_demo.compare.http import Conversation, Site

SIZE = 100  # bytes of data in an update: an order's state, a price, a position


class PublishFailed(Exception):
    """The site did not take an update; the text says what it answered."""


class Updates(ABC):
    """Updates are numbered from 0. Times are those of this process's monotonic clock, in seconds."""

    channel: str
    durable: bool  # whether a poll can tell which updates there were, and so whether any was lost

    def __init__(self) -> None:
        self.made: list[float] = []  # when each update came into the world
        self.refused = 0  # how many of them the site did not take

    @abstractmethod
    def of_stream(self, event: Event) -> int | None:
        """The number of the update that this event is."""

    @abstractmethod
    def of_poll(self, answer: dict[str, Any]) -> list[int]:
        """The numbers of the updates that this answer tells of."""

    async def run(self, rate: float) -> None:
        """Make `rate` updates a second, evenly, until cancelled; unless the site makes them by itself."""
        await asyncio.Event().wait()

    def close(self) -> None:
        """Let go of connections."""
        return


class Published(Updates):
    """Updates that we publish through the site's own contract, over one connection, so in order.

    An update is made when it is due. If the site takes it late, everyone sees it late, and that counts.
    """

    durable = True

    def __init__(self, site: Site, token: str) -> None:
        super().__init__()
        self.channel = f"compare-{secrets.token_hex(4)}"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._conversation = Conversation(site)
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
                # In the middle of its turn, so that a window of whole turns begins and ends far from any update.
                due = start + (number + 0.5) / rate
                await asyncio.sleep(due - time.monotonic())
                # Made here and now, not when the task has its turn: whoever asks for the last update means this one.
                task = asyncio.create_task(self._send(self._make(due)))
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
        async with self._turn:  # one at a time, so that they arrive in order
            answer = await self._conversation.ask("publish/", self._headers, "POST", body)
        if answer.status != 201:
            raise PublishFailed(f"publish/ answers {answer.status or 'nothing'} to an update.")

    def _note(self, task: "asyncio.Task[None]") -> None:
        """An update that the site did not take is missing everywhere, which is not the readers' fault."""
        if not task.cancelled() and task.exception():
            self.refused += 1

    def close(self) -> None:
        self._conversation.close()


class Clock(Updates):
    """The ticks of the demonstration's clock, for a site where we may not publish: one a second, with no id.

    A poll tells the server's time, so it shows the tick of that second; earlier ones it never shows.
    """

    durable = False
    channel = "clock"

    def __init__(self, offset: float) -> None:
        """`offset`: the server's time (seconds since the epoch) less this process's monotonic time."""
        super().__init__()
        self._offset = offset
        self._first = math.floor(time.monotonic() + offset)

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
