"""What a client sees of an event stream: every byte's time of arrival. Plain HTTP/1.1 as http.client speaks it."""

import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from ..wire import Decoder, Event

CONNECT_TIMEOUT = 10.0  # seconds; a browser waits longer, a person does not
AS_A_BROWSER = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate", "Cache-Control": "no-cache"}


@dataclass(frozen=True)
class Target:
    """Where the stream is, and the headers (a cookie, say) that every request to it carries."""

    scheme: str
    host: str
    port: int
    path: str  # with the query
    headers: Mapping[str, str]

    @classmethod
    def parse(cls, url: str, headers: Mapping[str, str]) -> "Target":
        """Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL such as https://example.com/events/")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), path, headers)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def redirected(self, location: str) -> "Target":
        return Target.parse(urljoin(self.url, location), self.headers)

    def with_query(self, **parameters: str) -> "Target":
        """The same place with these query parameters in place of those of the same name."""
        path, _, query = self.path.partition("?")
        pairs = [(key, value) for key, value in parse_qsl(query) if key not in parameters]
        return replace(self, path=f"{path}?{urlencode([*pairs, *parameters.items()])}")

    def names(self, parameter: str) -> bool:
        """Whether the query has this parameter."""
        return any(key == parameter for key, _ in parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    def poll(self) -> "Target":
        path, _, query = self.path.partition("?")
        return replace(self, path=f"{path.rstrip('/')}/poll/" + (f"?{query}" if query else ""))

    def connect(self, timeout: float = CONNECT_TIMEOUT) -> http.client.HTTPConnection:
        """An open connection. Raises OSError (ssl.SSLError is one)."""
        connection = (
            http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=ssl.create_default_context())
            if self.scheme == "https"
            else http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        )
        connection.connect()
        return connection


@dataclass(frozen=True)
class Reach:
    """The way to the site, in seconds for each part of it."""

    address: str
    dns: float
    tcp: float
    tls: float | None
    tls_version: str
    offers_http_2: bool


def reach(target: Target) -> Reach:
    """Resolve, connect, shake hands. Raises OSError, as when the name is unknown or the certificate is not valid."""
    start = time.monotonic()
    socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    dns = time.monotonic() - start
    with socket.create_connection((target.host, target.port), CONNECT_TIMEOUT) as raw:
        tcp = time.monotonic() - start - dns
        address = str(raw.getpeername()[0])
        if target.scheme == "http":
            return Reach(address, dns, tcp, None, "", False)
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with context.wrap_socket(raw, server_hostname=target.host) as secure:
            tls = time.monotonic() - start - dns - tcp
            return Reach(address, dns, tcp, tls, str(secure.version()), secure.selected_alpn_protocol() == "h2")


class Watch(threading.Thread):
    """One stream, watched for `patience` seconds or until it ends. Times are seconds since the request was sent."""

    def __init__(self, target: Target, patience: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(daemon=True, name="watch")
        self.target = target
        self.status = 0
        self.http_version = 11
        self.headers: Mapping[str, str] = {}
        self.head_after: float | None = None
        self.reads: list[float] = []
        self.body = b""  # the first of it, as it came
        self.events: list[tuple[float, Event]] = []
        self.decoder = Decoder()
        self.ended_after: float | None = None
        self.ended_properly = False
        self.error = ""
        self.began_at = 0.0  # seconds since the epoch
        self._headers = {**AS_A_BROWSER, **target.headers, **(headers or {})}
        self._patience = patience
        self._begin = 0.0
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._stopped = False

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def hello(self) -> Event | None:
        """The contract's greeting, when the stream began with it."""
        return next((event for _, event in self.events[:1] if event.type == "hello"), None)

    def types(self) -> list[str]:
        return [event.type for _, event in self.events]

    def run(self) -> None:
        try:
            self._watch()
        except TimeoutError:
            pass  # the patience is over, and the stream is still there
        except (OSError, http.client.HTTPException, zlib.error) as error:
            if not self._stopped:
                self.error = str(error) or type(error).__name__
                self.ended_after = self._now()
        finally:
            self.stop()
            with self._changed:
                self._changed.notify_all()

    def _watch(self) -> None:
        connection = self.target.connect()
        self._socket = connection.sock
        self._begin, self.began_at = time.monotonic(), time.time()
        connection.sock.settimeout(self._patience)
        connection.request("GET", self.target.path, headers=self._headers)
        response = connection.getresponse()
        with self._changed:
            self.head_after = self._now()
            self.http_version = response.version
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            self.status = response.status
            self._changed.notify_all()
        decode = _decoding(self.headers.get("content-encoding", ""))
        while (left := self._patience - self._now()) > 0:
            self._socket.settimeout(left)
            chunk = response.read1(65_536)
            if not chunk:
                self.ended_properly = True
                self.ended_after = self._now()
                return
            with self._changed:
                self.reads.append(self._now())
                self.body = (self.body + chunk)[:2_000]
                self.events += [(self.reads[-1], event) for event in self.decoder.feed(decode(chunk))]
                self._changed.notify_all()

    def _now(self) -> float:
        return time.monotonic() - self._begin

    def wait_for(self, condition: Callable[["Watch"], object], timeout: float) -> bool:
        """Wait until the condition holds (True), or the stream has ended, or for `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: condition(self) or not self.is_alive() or self.is_over(), timeout)
            return bool(condition(self))

    def is_over(self) -> bool:
        return self.ended_after is not None

    def stop(self) -> None:
        """Close the connection. May be called from any thread, and again."""
        self._stopped = True
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


def _decoding(encoding: str) -> Callable[[bytes], bytes]:
    if encoding in ("gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress  # 32: told by the header
    return lambda chunk: chunk
