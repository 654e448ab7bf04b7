"""HTTP/1.1 for load clients: what a client needs, at a cost that leaves the machine to the server (RFC 9112)."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

HEAD_LIMIT = 65_536  # bytes; no honest head is longer
PATIENCE = 30.0  # seconds for an answer, as feed.js has it: without a limit one lost answer would end the polling


class BadResponse(Exception):
    """The answer is not HTTP/1.1 as a client could understand it."""


@dataclass
class Wire:
    """Bytes that went through the sockets of all clients: heads, bodies, chunk lines, and TLS where there is TLS."""

    sent: int = 0
    received: int = 0


class CountingSocket(socket.socket):
    """Counts at the system call, so below TLS: what it counts is what the kernel puts into TCP segments."""

    wire: Wire

    def send(self, data: Any, *args: Any) -> int:
        sent = super().send(data, *args)
        self.wire.sent += sent
        return sent

    def sendmsg(self, *args: Any) -> int:
        sent = super().sendmsg(*args)
        self.wire.sent += sent
        return sent

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self.wire.received += len(data)
        return data

    def recv_into(self, *args: Any) -> int:
        received = super().recv_into(*args)
        self.wire.received += received
        return received


@dataclass(frozen=True)
class Site:
    """Where the application answers. `path` leads to the events: `/events/`."""

    scheme: str
    host: str
    port: int
    path: str
    address: tuple[Any, ...]  # resolved once: a thousand clients are not to ask the resolver
    family: int
    context: ssl.SSLContext | None

    @classmethod
    def resolve(cls, url: str) -> "Site":
        """Raises ValueError for what is no http or https URL, OSError for a host that has no address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL such as https://example.com/events/")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0]
        context = ssl.create_default_context() if parts.scheme == "https" else None
        return cls(parts.scheme, parts.hostname, port, parts.path or "/", address, family, context)

    @property
    def authority(self) -> str:
        usual = {"http": 80, "https": 443}[self.scheme]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == usual else f"{host}:{self.port}"

    def request(self, target: str, headers: Mapping[str, str], method: str = "GET", body: bytes = b"") -> bytes:
        """A request's bytes. `target` is what follows the path of the site."""
        lines = [f"{method} {self.path}{target} HTTP/1.1", f"Host: {self.authority}", "User-Agent: compare"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    async def connect(self, protocol: "Connection", wire: Wire) -> None:
        """Connect the protocol. Raises OSError."""
        sock = CountingSocket(self.family, socket.SOCK_STREAM)
        sock.wire = wire
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, self.address)
            await loop.create_connection(
                lambda: protocol,
                sock=sock,
                ssl=self.context,
                server_hostname=self.host if self.context else None,
            )
        except BaseException:
            sock.close()
            raise


class Connection(asyncio.Protocol):
    """One connection, and the answers on it as they come: `head`, then `body` in pieces, then `end`."""

    def __init__(
        self,
        head: Callable[[int, Mapping[str, str]], None],
        body: Callable[[bytes], None],
        end: Callable[[], None],
        lost: Callable[["Connection"], None],
    ) -> None:
        self._head, self._body, self._end, self._lost = head, body, end, lost
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._read: Callable[[], bool] = self._read_head
        self._left = 0
        self._kept = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  what create_connection makes
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._read == self._read_until_close:
            self._end()
        self._lost(self)

    def write(self, data: bytes) -> None:
        if self.transport:
            self.transport.write(data)

    def abort(self) -> None:
        """Close at once. `lost` is called, later."""
        if self.transport:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        try:
            while self._buffer and self._read():
                pass
        except BadResponse:
            self.abort()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadResponse
            return False
        status_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        try:
            status = int(status_line.split(" ", 2)[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", -1))
        except (IndexError, ValueError):
            raise BadResponse from None
        if status < 200:
            return True
        self._kept = headers.get("connection", "").lower() != "close" and status_line.startswith("HTTP/1.1")
        self._head(status, headers)
        if status in (204, 304):
            self._finish()
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._read = self._read_chunk_size
        elif length < 0:
            self._read = self._read_until_close
        elif length == 0:
            self._finish()
        else:
            self._left, self._read = length, self._read_length
        return True

    def _read_length(self) -> bool:
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(piece)
        self._body(piece)
        if not self._left:
            self._finish()
        return True

    def _read_until_close(self) -> bool:
        piece, self._buffer = self._buffer, b""
        self._body(piece)
        return False

    def _read_chunk_size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        try:
            size = int(self._buffer[:end].partition(b";")[0], 16)
        except ValueError:
            raise BadResponse from None
        self._buffer = self._buffer[end + 2 :]
        self._left, self._read = (size, self._read_chunk) if size else (0, self._read_trailer)
        return True

    def _read_chunk(self) -> bool:
        if len(self._buffer) < self._left + 2:
            return False
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left + 2 :]
        self._read = self._read_chunk_size
        self._body(piece)
        return True

    def _read_trailer(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        if not line:
            self._finish()
        return True

    def _finish(self) -> None:
        self._read = self._read_head
        self._end()
        if not self._kept:
            self.abort()


@dataclass
class Answer:
    """What came back; status 0 when the connection was closed before anything did."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Conversation:
    """One request after another, on a connection that is kept for as long as the server keeps it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._connection: Connection | None = None
        self._answer = Answer()
        self._answered = asyncio.Event()
        self._enough = b""

    async def ask(
        self,
        target: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes = b"",
        enough: bytes = b"",
        patience: float = PATIENCE,
    ) -> Answer:
        """The answer, or what there is of it after `patience` seconds or once its body contains `enough`.

        Raises OSError when there is no connection, and TimeoutError, which is one, when there is no answer.
        """
        self._answer, self._enough = Answer(), enough
        self._answered.clear()
        if not (self._connection and self._connection.transport):
            self._connection = Connection(self._head, self._body, self._answered.set, self._lost)
            await asyncio.wait_for(self._site.connect(self._connection, Wire()), patience)
        self._connection.write(self._site.request(target, headers or {}, method, body))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), patience)
        if not self._answered.is_set():
            self.close()
            if not self._answer.status:
                raise TimeoutError(f"no answer within {patience:g} s")
        return self._answer

    def close(self) -> None:
        if self._connection:
            self._connection.abort()
            self._connection = None

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self._answer.status, self._answer.headers = status, headers

    def _lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._answered.set()

    def _body(self, piece: bytes) -> None:
        self._answer.body += piece
        if self._enough and self._enough in self._answer.body:
            self._answered.set()
