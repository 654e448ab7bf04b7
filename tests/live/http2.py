"""A client of HTTP/2: many exchanges on one connection, each left as a browser leaves it."""

import json
import socket
import ssl
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from events.wire import Decoder, Event


class Http2:
    """One connection, with TLS, to a port of 127.0.0.1 that speaks HTTP/2."""

    def __init__(self, port: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.set_alpn_protocols(["h2"])
        self._socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), 30), server_hostname="127.0.0.1"
        )
        assert self._socket.selected_alpn_protocol() == "h2"
        self._h2 = h2.connection.H2Connection(H2Configuration(header_encoding="utf-8"))
        self._exchanges: dict[int, Exchange] = {}
        self.is_going_away = False
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.ENABLE_PUSH: 0})
        self.send()

    def __enter__(self) -> "Http2":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str, **headers: str) -> "Exchange":
        """Ask, without waiting for the answer."""
        pseudo = {":method": "GET", ":scheme": "https", ":authority": "127.0.0.1", ":path": path}
        exchange = Exchange(self, self._h2.get_next_available_stream_id())
        self._exchanges[exchange.id] = exchange
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._h2.send_headers(exchange.id, list((pseudo | named).items()), end_stream=True)
        self.send()
        return exchange

    def leave(self, exchange: "Exchange") -> None:
        self._h2.reset_stream(exchange.id, ErrorCodes.CANCEL)
        self.send()

    def send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def read_to_end(self) -> None:
        """Returns when the server has closed the connection; closes it too, as TLS wants both to."""
        with suppress(EOFError):
            while True:
                self.receive()
        self._socket.close()

    def receive(self) -> None:
        """Take what comes next, for whichever exchange. Raises EOFError when the connection has ended."""
        data = self._socket.recv(65_536)
        if not data:
            raise EOFError
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                self.is_going_away = True
            elif exchange := self._exchanges.get(getattr(event, "stream_id", None) or 0):
                exchange.take(event)
            if isinstance(event, h2.events.DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        self.send()


class Exchange:
    """A request and what has come of its answer."""

    def __init__(self, connection: Http2, id: int) -> None:
        self.id = id
        self.decoder = Decoder()
        self.reset: int | None = None  # why it was cut off
        self._connection = connection
        self._headers: dict[str, str] = {}
        self._events: deque[Event] = deque()
        self._body = b""
        self._ended = False

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(headers=headers):
                self._headers = {str(name): str(value) for name, value in headers or ()}
            case h2.events.DataReceived(data=data):
                self._body += data or b""
                self._events += self.decoder.feed(data or b"")
            case h2.events.StreamEnded():
                self._ended = True
            case h2.events.StreamReset(error_code=code):
                self._ended, self.reset = True, code

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer, which is waited for."""
        while not self._headers:
            self._connection.receive()
        return self._headers

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    def read_to_end(self) -> None:
        while not self._ended:
            self._connection.receive()

    def json(self) -> Any:
        """The whole body."""
        self.read_to_end()
        return json.loads(self._body)

    def next(self, type: str | None = None) -> Event:
        """The next event, or the next one of a type. Raises StopIteration when the stream has ended."""
        while True:
            while self._events:
                event = self._events.popleft()
                if type in (None, event.type):
                    return event
            if self._ended:
                raise StopIteration
            self._connection.receive()

    def leave(self) -> None:
        self._connection.leave(self)
