"""gunicorn's worker for streams: `worker_class = "events.worker.EventWorker"`.

gunicorn's own `asgi` worker, and five things that it does not do: it hands the connections of streams over to the
fan-out, listens with the backlog that is configured, stops as soon as it is told to, and ends all streams then; and
it closes the connections of clients that neither finish their request nor take their answer.
"""

import asyncio
import gc
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import gunicorn
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

try:
    from gunicorn.arbiter import Arbiter
    from gunicorn.asgi.lifespan import LifespanManager, LifespanStartupFailed
    from gunicorn.asgi.parser import CallbackRequest
    from gunicorn.asgi.protocol import ASGIProtocol
    from gunicorn.config import Config
    from gunicorn.workers.gasgi import ASGIWorker
except ImportError:
    raise ImportError(
        f"EventWorker needs gunicorn 27 or newer, and this is {gunicorn.__version__}: pip install 'gunicorn>=27'"
    ) from None

from .asgi import TAKEOVER
from .conf import get_config
from .fanout import FanOut
from .metrics import counters
from .process import drain_hub
from .streams import EventStream

_LOOK = 1.0  # seconds between two signs of life to the arbiter
_PATIENCE = 30.0  # seconds, where gunicorn's `timeout` is 0: its default
_SLOWEST = 500  # bytes a second that a body has to come with; slower is no upload
_HANDSHAKE = 0.05  # seconds in which those who have connected become connections, before the worker counts them
_FIRST = 1.0  # seconds in which the first request of a connection has to begin, once the worker stops


class EventWorker(ASGIWorker):  # type: ignore[misc]  # untyped
    """Serves an ASGI application; streams of an `events.asgi.EventStreamHandler` cost a transport and a set entry."""

    fan_out: FanOut

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._stopping = asyncio.Event()
        self.connections: set[_Connection] = set()
        super().__init__(*args, **kwargs)

    @classmethod
    def check_config(cls, cfg: Config, log: Any) -> None:
        """Warn of settings that do nothing here, as gunicorn's own workers do; prepare for the workers' counting."""
        super().check_config(cfg, log)
        counters.share()
        if cfg.settings["worker_connections"].get() != cfg.settings["worker_connections"].default:
            log.warning("EventWorker does not limit connections; EVENTS['MAX_STREAMS'] limits the streams.")

    # gunicorn's code sets `alive` to False wherever it wants the worker to stop, and looks at it once a second.
    @property
    def alive(self) -> bool:
        return not self._stopping.is_set()

    @alive.setter
    def alive(self, alive: bool) -> None:
        if not alive:
            self._stopping.set()

    async def _serve(self) -> None:
        self.fan_out = FanOut(self.loop)
        # What is loaded by now stays: not to be walked through again for each crowd of new streams. And streams and the
        # log stay for long, with few cycles among them: a full collection of 10,000 streams would hold all for 0.1 s.
        gc.freeze()
        gc.set_threshold(10_000, 3, 200)
        await self._start_application()
        self._warn()
        ssl = self._get_ssl_context()
        for sock in self.sockets:
            # asyncio accepts as many at a time as it is told here, before anything else has its turn; gunicorn has
            # set the backlog of the socket itself, and listening again would take that back.
            server = await self.loop.create_server(lambda: _Connection(self), sock=sock.sock, ssl=ssl, backlog=100)
            sock.sock.listen(self.cfg.backlog)
            self.servers.append(server)
            self.log.info("EventWorker listening on %s", sock)
        while self.alive and self.ppid == os.getppid():
            self.notify()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK)
        await self._shutdown()

    async def _start_application(self) -> None:
        if self.cfg.asgi_lifespan == "off":
            return
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as error:
            self.lifespan = None
            if self.cfg.asgi_lifespan == "on" or isinstance(error, LifespanStartupFailed):
                self.log.error("ASGI lifespan startup failed: %s", error)
                raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from error

    def _warn(self) -> None:
        # The first worker, for all; gunicorn's own process knows the application's settings no sooner.
        if self.age == 1 < self.cfg.workers and settings.configured:
            with suppress(ImproperlyConfigured):  # which each request will say
                if get_config().BROKER == "memory:":
                    self.log.warning(
                        "EVENTS['BROKER'] is 'memory:', which each of the %d workers has for itself: their clients "
                        "will not see each other's events. Use 'db:' or 'redis://…', or one worker.",
                        self.cfg.workers,
                    )

    async def _shutdown(self) -> None:
        # Whoever has connected is answered. asyncio would drop without a word those that it has accepted and not begun
        # to serve; and gunicorn would not wait for those whose TLS has not begun.
        for server in self.servers:
            for sock in server.sockets:
                self.loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_HANDSHAKE)
        drain_hub()
        for connection in list(self.connections):
            connection.close_if_idle()
        await super()._shutdown()


class _Connection(ASGIProtocol):  # type: ignore[misc]  # untyped
    """gunicorn's protocol for one connection, until a stream takes it, and with an end to what never comes.

    In seconds, of gunicorn's settings: `timeout` for the first head, `keepalive` for each later one (gunicorn sees to
    that itself), `timeout` and one more for each 500 bytes for a body, and `timeout` in which an answer that waits
    for its reader does not get shorter. A connection without a request is closed without a word, one without a body
    after 408.
    """

    _arrival: asyncio.TimerHandle | None = None
    _departure: asyncio.TimerHandle | None = None
    _due = 0.0  # by the loop's clock, when what is expected has to have come

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        _cancel(self._arrival)
        _cancel(self._departure)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_departure(math.inf)

    def resume_writing(self) -> None:
        _cancel(self._departure)
        super().resume_writing()

    @property
    def _patience(self) -> float:
        return self.cfg.timeout or _PATIENCE

    def _on_headers_complete(self) -> bool:
        skips_body: bool = super()._on_headers_complete()
        _cancel(self._arrival)
        if self._current_request.content_length or self._current_request.chunked:
            self._expect()
        return skips_body

    def _on_body(self, chunk: bytes) -> None:
        self._due += len(chunk) / _SLOWEST
        super()._on_body(chunk)

    def _on_message_complete(self) -> None:
        _cancel(self._arrival)
        super()._on_message_complete()

    def _expect(self) -> None:
        self._due = self.worker.loop.time() + self._patience
        self._arrival = self.worker.loop.call_at(self._due, self._look_at_arrival)

    def _look_at_arrival(self) -> None:
        loop = self.worker.loop
        if self._reading_paused:  # it is not the client that keeps us waiting
            self._due = loop.time() + self._patience
        if loop.time() < self._due:
            self._arrival = loop.call_at(self._due, self._look_at_arrival)
        elif self._current_request:
            self._body_receiver._body_wait_expired = True  # as gunicorn says it when nothing at all comes
            self._body_receiver._wake_waiter()
        elif not self.reader:  # else it speaks HTTP/2 or uWSGI's protocol, which gunicorn limits by other means
            self._keepalive_timeout()

    def _look_at_departure(self, before: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._departure = self.worker.loop.call_later(self._patience, self._look_at_departure, left)
        else:
            self.transport.abort()

    def _send_error_response(self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()) -> None:
        # gunicorn blames the application, which was told of a disconnect and so had nothing to answer.
        if status == 500 and self._body_receiver and self._body_receiver._body_wait_expired:
            status, message = 408, "The body of the request did not come in time."
        super()._send_error_response(status, message, extra_headers)

    def close_if_idle(self) -> None:
        """Close a connection that is kept alive for a request that may never come; a new one's is on its way."""
        if self._awaiting_request and self.req_count > 1:
            self._close_transport()
        elif self._awaiting_request:
            self.worker.loop.call_later(_FIRST, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self._awaiting_request:
            self._close_transport()

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if isinstance(request, CallbackRequest):  # not HTTP/2, and not uWSGI's protocol
            scope.setdefault("extensions", {})[TAKEOVER] = self._hand_over
        return scope

    def _hand_over(self, stream: EventStream) -> None:
        """Give the connection to the fan-out, as to a WebSocket; gunicorn sees one that is closed."""
        transport = self.transport
        if self._closed or transport.is_closing():
            return
        chunked = self._current_request.version >= (1, 1)
        self._task = None  # it ends by itself now, and needs no timer that would see to it and keep all of this
        self.connection_lost(None)
        self.worker.fan_out.take(transport, stream, chunked=chunked, paused=self._flow_control.write_paused)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
