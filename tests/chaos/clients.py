"""Clients that must see every event of their channels once and in order, each as simple as a client can be."""

import asyncio
import json
import random
import socket
import ssl
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from urllib.parse import urlencode

from events.wire import Decoder, Event
from tests.standard import EventSource

CHANNEL = "chaos"
HEARTBEAT = 2.0  # seconds, in the settings of the site
_SILENCE = 2.5 * HEARTBEAT  # a connection that says less is dead
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
# What a broken connection raises, and what half an answer does: the client comes back.
_BROKEN = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


class Client:
    """One reader of some channels and what it has seen. `longest` is the longest time without an event, in seconds."""

    def __init__(
        self,
        name: str,
        port: int,
        cursor: str,
        tls: ssl.SSLContext | None = None,
        channels: Sequence[str] = (CHANNEL,),
    ) -> None:
        self.name = name
        self.port = port
        self.cursor = cursor
        self.tls = tls
        self.channels = channels
        self.connections = 0
        self.refusals: list[int] = []  # statuses other than 200
        self.numbers: defaultdict[str, list[int]] = defaultdict(list)  # by channel
        self.count = 0  # of all these numbers
        self.gaps: list[dict[str, int]] = []  # for each gap told, how many numbers of each channel were before it
        self.longest = 0.0
        self._query = urlencode([("channel", channel) for channel in channels])
        self._last = 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._busy_until = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether this client has a cursor, and so is owed every event from now on."""
        return bool(self.cursor)

    async def run(self) -> None:
        """Until cancelled."""
        raise NotImplementedError

    def take(self, data: str) -> None:
        now = time.monotonic()
        if self._last:
            self.longest = max(self.longest, now - self._last)
        self._last = now
        channel, number = json.loads(data)
        self.numbers[channel].append(number)
        self.count += 1

    def take_gap(self) -> None:
        self.gaps.append({channel: len(self.numbers[channel]) for channel in self.channels})

    def reset_connection(self) -> None:
        if self._writer:
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()

    def stop_reading(self, seconds: float) -> None:
        self._busy_until = time.monotonic() + seconds

    async def get(self, path: str, headers: str = "") -> tuple[int, AsyncIterator[bytes]]:
        """The status and the body of an answer. Raises OSError and TimeoutError."""
        self.connections += 1
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # one who stops reading is soon felt
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            name = "localhost" if self.tls else None
            reader, self._writer = await asyncio.open_connection(
                sock=sock, limit=65_536, ssl=self.tls, server_hostname=name
            )
        except BaseException:
            sock.close()
            raise
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
        async with asyncio.timeout(_SILENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split()[1])
        if status != 200:
            self.refusals.append(status)
        chunked = b"transfer-encoding: chunked" in head
        return status, self._chunks(reader) if chunked else self._rest(reader)

    async def _rest(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            async with asyncio.timeout(_SILENCE):
                piece = await reader.read(65_536)
            if not piece:
                return
            yield piece

    async def _chunks(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            async with asyncio.timeout(_SILENCE):
                size = int(await reader.readline() or b"0", 16)
                if not size:
                    return
                piece = await reader.readexactly(size + 2)
            yield piece[:-2]
            if (busy := self._busy_until - time.monotonic()) > 0:
                await asyncio.sleep(busy)

    def hang_up(self) -> None:
        if self._writer:
            self._writer.transport.abort()  # at once, as nobody waits for TLS to take its leave
            self._writer = None


class StreamClient(Client):
    """Holds a stream open, and opens it again after the last id when it ends."""

    async def run(self) -> None:
        while True:
            retry = await self.stream()
            await asyncio.sleep(random.uniform(0.5, 1) * retry / 1000)

    async def stream(self) -> int:
        """Read one stream until it ends. Returns the milliseconds to wait before the next one."""
        retry = 1000
        try:
            retry = await self._read_stream()
        except _BROKEN:
            pass  # the client comes back, whatever it was
        finally:
            self.hang_up()
        return retry

    async def _read_stream(self) -> int:
        status, body = await self.get(f"/events/?{self._query}", f"Last-Event-ID: {self.cursor}\r\n")
        decoder = Decoder(self.cursor)
        if status == 200:
            async for piece in body:
                for event in decoder.feed(piece):
                    self._on(event, decoder.last_event_id)
        return decoder.retry or 1000

    def _on(self, event: Event, last_event_id: str) -> None:
        self.cursor = last_event_id
        if event.type == "message":
            self.take(event.data)
        elif event.type == "reset":
            self.take_gap()
            self.cursor = json.loads(event.data)["cursor"]


class PollClient(Client):
    """Asks every second for what came after its cursor."""

    async def run(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def poll(self) -> None:
        """Ask until there is no more."""
        try:
            while await self._poll():
                self.hang_up()
        except _BROKEN:
            pass  # it asks again anyway
        finally:
            self.hang_up()

    async def _poll(self) -> bool:
        status, body = await self.get(f"/events/poll/?{self._query}&since={self.cursor}")
        text = b"".join([piece async for piece in body])
        if status != 200:
            return False
        answer = json.loads(text)
        if answer["gap"]:
            self.take_gap()
        for event in answer["events"]:
            self.take(event["data"])
        self.cursor = answer["cursor"]
        return "more" in answer


class ChangingClient(StreamClient, PollClient):
    """Changes between stream and poll at random moments, with one cursor for both."""

    async def run(self) -> None:
        while True:
            if random.random() < 0.5:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0.1, 8)):
                        await self.stream()
            else:
                for _ in range(random.randint(1, 4)):
                    await self.poll()
                    await asyncio.sleep(random.uniform(0.1, 1))
            await asyncio.sleep(random.uniform(0, 0.5))


class StandardClient(Client):
    """Knows of the stream what the standard says, and no more. Its connections are cut at random moments.

    It begins without a cursor, and may be cut before its first event, between two, and within one.
    """

    def __init__(
        self, name: str, port: int, tls: ssl.SSLContext | None = None, channels: Sequence[str] = (CHANNEL,)
    ) -> None:
        super().__init__(name, port, "", tls, channels)

    async def run(self) -> None:
        source = EventSource()
        while True:
            try:
                async with asyncio.timeout(random.choice([0.02, 0.2, 2, 6, 20]) * random.uniform(0.5, 1)):
                    await self._read_stream(source, random.choice([0, 1, 300, 5_000, 1_000_000]))
            except _BROKEN:  # also when it is time to cut
                pass
            finally:
                self.hang_up()
            await asyncio.sleep(random.uniform(0, 1))

    async def _read_stream(self, source: EventSource, most: int) -> None:
        """Read at most so many bytes."""
        source.connect()
        headers = f"Last-Event-ID: {source.last_event_id}\r\n" if source.last_event_id else ""
        status, body = await self.get(f"/events/?{self._query}", headers)
        if status != 200:
            return
        async for piece in body:
            for kind, data in source.feed(piece[:most]):
                if kind == "message":
                    self.take(data)
                elif kind == "reset":
                    self.take_gap()
            self.cursor = source.last_event_id
            most -= len(piece)
            if most <= 0:
                return


async def run_all(clients: Iterable[Client]) -> None:
    """Until cancelled."""
    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
