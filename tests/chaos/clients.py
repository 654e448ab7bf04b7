"""Clients that must see every event once and in order: by stream and by poll, as simple as a client can be."""

import asyncio
import json
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from events.wire import Decoder, Event

CHANNEL = "chaos"
HEARTBEAT = 2.0  # seconds, in the settings of the site
_SILENCE = 2.5 * HEARTBEAT  # a connection that says less is dead
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Client:
    """One reader and what it has seen. `longest` is the longest time without an event, in seconds."""

    def __init__(self, name: str, port: int, cursor: str, tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.port = port
        self.cursor = cursor
        self.tls = tls
        self.connections = 0
        self.refusals: list[int] = []  # statuses other than 200
        self.gaps = 0
        self.numbers: list[int] = []
        self.longest = 0.0
        self._last = 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._busy_until = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        raise NotImplementedError

    def take(self, data: str) -> None:
        now = time.monotonic()
        if self._last:
            self.longest = max(self.longest, now - self._last)
        self._last = now
        self.numbers.append(json.loads(data))

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
            retry = 1000
            try:
                retry = await self._read_stream()
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                pass  # whatever it was, the answer is to come back
            finally:
                self.hang_up()
            await asyncio.sleep(random.uniform(0.5, 1) * retry / 1000)

    async def _read_stream(self) -> int:
        status, body = await self.get(f"/events/?channel={CHANNEL}", f"Last-Event-ID: {self.cursor}\r\n")
        decoder = Decoder(self.cursor)
        if status == 200:
            async for piece in body:
                for event in decoder.feed(piece):
                    self._on(event, decoder.last_event_id)
        return decoder.retry or 1000

    def _on(self, event: Event, last_event_id: str) -> None:
        if event.type == "message":
            self.take(event.data)
            self.cursor = last_event_id
        elif event.type == "reset":
            self.gaps += 1
            self.cursor = json.loads(event.data)["cursor"]


class PollClient(Client):
    """Asks every second for what came after its cursor."""

    async def run(self) -> None:
        while True:
            try:
                await self._poll()
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                pass  # it asks again anyway
            finally:
                self.hang_up()
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def _poll(self) -> None:
        status, body = await self.get(f"/events/poll/?channel={CHANNEL}&since={self.cursor}")
        text = b"".join([piece async for piece in body])
        if status == 200:
            answer = json.loads(text)
            self.gaps += answer["gap"]
            for event in answer["events"]:
                self.take(event["data"])
            self.cursor = answer["cursor"]


async def run_all(clients: Iterable[Client]) -> None:
    """Until cancelled."""
    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
