"""gunicorn's worker for streams: `worker_class = "events.worker.EventWorker"`.

gunicorn's own `asgi` worker, and four things that it does not do: it hands the connections of streams over to the
fan-out, listens with the backlog that is configured, stops as soon as it is told to, and ends all streams then.
"""

import asyncio
import gc
import os
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager, LifespanStartupFailed
from gunicorn.asgi.parser import CallbackRequest
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn.workers.gasgi import ASGIWorker

from events.asgi import TAKEOVER
from events.conf import get_config
from events.fanout import FanOut
from events.hub import drain_hub
from events.metrics import counters
from events.streams import EventStream

_LOOK = 1.0  # seconds between two signs of life to the arbiter


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
        gc.freeze()  # what is loaded by now stays: not to be walked through again for each crowd of new streams
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
        for server in self.servers:
            server.close()
        drain_hub()
        for connection in list(self.connections):
            connection.close_if_idle()
        await super()._shutdown()


class _Connection(ASGIProtocol):  # type: ignore[misc]  # untyped
    """gunicorn's protocol for one connection, until a stream takes it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def close_if_idle(self) -> None:
        """Close a connection that is kept alive for a request that may never come."""
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
