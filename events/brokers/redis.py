"""`redis://`, `rediss://` (TLS) and `unix://` keep the log in one stream of a Redis (from 6.2) or Valkey server.

The ids are the server's own. Whether a cursor can be resumed after depends on what the stream still holds, so it
never begins empty: its first entry, the sentinel, is written when the stream is, and carries no event. So a cursor
is good when it lies between the first entry and the newest id, both included. A stream that was lost and begun
again has a sentinel later than every cursor from before.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, transaction

from events.brokers import Reader, Unavailable
from events.brokers.follower import Follower
from events.log import Cursor, Gap
from events.wire import Event

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ImproperlyConfigured("This EVENTS['BROKER'] needs the package redis: pip install 'redis>=5'.") from error

_STREAM = "events"  # the key, unless the URL says ?stream=
_CONNECT_TIMEOUT = 2.0  # seconds; somebody waits for the answer to a request
_TIMEOUT = 5.0  # seconds for a command, likewise
_BLOCK = 5.0  # seconds until a silent connection is asked anew, which shows whether it is alive
_BATCH = 500  # entries in one reading
_TRIM_INTERVAL = 10.0  # seconds between two looks for what has become too old
_LARGEST = 2**64 - 1  # of either half of an id

# Later than every id that this server can have given out so far, even within this millisecond.
_BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 0 then
    local now = redis.call('TIME')
    local id = string.format('%.0f-0', now[1] * 1000 + math.floor(now[2] / 1000) + 1)
    redis.call('XADD', KEYS[1], id, 'begin', '')
end
"""


class RedisBroker:
    """The log in one stream, with one connection that follows it and a pool for everything else."""

    database = DEFAULT_DB_ALIAS

    def __init__(self, url: str, history: int, history_seconds: float) -> None:
        address, _, query = url.partition("?")
        options = dict(parse_qsl(query))
        self.stream = options.pop("stream", _STREAM)
        self._url = f"{address}?{urlencode(options)}"
        self._history = history
        self._history_seconds = history_seconds
        self._trim_at = 0.0
        self._trimming = threading.Lock()
        self._follower: Follower | None = None
        try:
            self._client: Any = redis.Redis(connection_pool=self._pool(_TIMEOUT))
        except ValueError as error:
            raise ImproperlyConfigured(f"EVENTS['BROKER'] cannot be used: {error}") from error

    def append(self, events: Sequence[Event]) -> list[str]:
        with reporting():
            ids = self._add(events)
            while None in ids:  # there was no stream, so nothing was added
                self._client.eval(_BEGIN, 1, self.stream)
                ids = self._add(events)
            self._trim()
            return ids

    def append_on_commit(self, events: Sequence[Event]) -> None:
        transaction.on_commit(partial(self.append, events), using=self.database)

    def after(self, cursor: Cursor, limit: int) -> list[Event]:
        if max(cursor) > _LARGEST:
            raise Gap
        with reporting(), self._client.pipeline(transaction=True) as pipe:
            pipe.xinfo_stream(self.stream)
            pipe.xrange(self.stream, min=f"({cursor}", count=limit)
            info, entries = pipe.execute(raise_on_error=False)
            check(info, cursor)
            if isinstance(entries, Exception):
                raise entries
        return to_events(entries)

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        follower = _Follower(self, reader, backlog)
        follower.begin()
        self._follower = follower
        return follower.start, follower.backlog

    def close(self) -> None:
        if self._follower:
            self._follower.close()
        self._client.close()
        self._client.connection_pool.disconnect()

    def following_client(self) -> Any:
        """A client on a connection of its own, which may be silent for long. Connects at once."""
        return redis.Redis(connection_pool=self._pool(_BLOCK + _TIMEOUT), single_connection_client=True)

    def _pool(self, timeout: float) -> Any:
        return redis.ConnectionPool.from_url(
            self._url,
            decode_responses=True,
            protocol=2,  # the replies have other shapes in 3
            socket_connect_timeout=_CONNECT_TIMEOUT,
            socket_timeout=timeout,
            # An XADD whose answer was lost may have been carried out: only the caller knows whether to repeat it.
            retry=Retry(NoBackoff(), 0),
        )

    def _add(self, events: Sequence[Event]) -> list[str]:
        """The ids; None for each when there is no stream."""
        with self._client.pipeline(transaction=len(events) > 1) as pipe:
            for event in events:
                fields = {"channel": event.channel, "type": event.type, "data": event.data}
                pipe.xadd(self.stream, fields, maxlen=self._history, approximate=True, nomkstream=True)
            return list(pipe.execute())

    def _trim(self) -> None:
        if time.monotonic() < self._trim_at or not self._trimming.acquire(blocking=False):
            return
        try:
            self._trim_at = time.monotonic() + _TRIM_INTERVAL
            too_old = int((time.time() - self._history_seconds) * 1000)
            with suppress(redis.RedisError):  # the events are published; later ones will see to the rest
                self._client.xtrim(self.stream, minid=max(0, too_old), approximate=True)
        finally:
            self._trimming.release()


class _Follower(Follower):
    def __init__(self, broker: RedisBroker, reader: Reader, wanted: int) -> None:
        super().__init__(reader, wanted)
        self._broker = broker
        self._disconnect: Callable[[], None] = lambda: None

    def interrupt(self) -> None:
        self._disconnect()

    def follow(self) -> None:
        with reporting():
            client = self._broker.following_client()
            self._disconnect = client.connection.disconnect
            try:
                place = self._check(client, self.place) if self.place else self._begin(client)
                self.began()
                while not self.closing:
                    self.place = place = self._read(client, place)
            finally:
                client.connection.disconnect()
                client.close()

    def _begin(self, client: Any) -> Cursor:
        with client.pipeline(transaction=True) as pipe:
            pipe.eval(_BEGIN, 1, self._broker.stream)
            pipe.xinfo_stream(self._broker.stream)
            pipe.xrevrange(self._broker.stream, count=self.wanted + 1)
            _, info, entries = pipe.execute()
        newest = Cursor.parse(info["last-generated-id"])
        entries.reverse()
        self.start = Cursor.parse(entries[0][0]) if entries else newest
        self.backlog = to_events(entries[1:])
        self.place = newest
        return newest

    def _check(self, client: Any, place: Cursor) -> Cursor:
        """After an interruption: whether the stream is the same, and still holds what we have not read."""
        client.eval(_BEGIN, 1, self._broker.stream)
        info = client.xinfo_stream(self._broker.stream)
        try:
            check(info, place)
        except Gap:
            place = Cursor.parse(info["last-generated-id"])
            self.reader.restart(place)
        return place

    def _read(self, client: Any, place: Cursor) -> Cursor:
        """Deliver what comes next, and return the place after it."""
        stream = self._broker.stream
        replies = client.xread({stream: str(place)}, count=_BATCH, block=int(_BLOCK * 1000))
        if not replies:
            return place
        [[_, entries]] = replies
        # In this order: if the stream reaches back to our place now, it did when the entries were read.
        first = client.xrange(stream, count=1)
        if not first or Cursor.parse(first[0][0]) > place:
            return self._check(client, place)
        self.reader.deliver(to_events(entries))
        return Cursor.parse(entries[-1][0])


def to_events(entries: Sequence[tuple[str, dict[str, str]]]) -> list[Event]:
    return [
        Event(at, fields["channel"], fields["type"], fields["data"], Cursor.parse(at).major / 1000)
        for at, fields in entries
    ]


def check(info: Any, cursor: Cursor) -> None:
    """Raises Gap unless XINFO STREAM says that everything after the cursor is there."""
    if isinstance(info, redis.ResponseError) and "no such key" in str(info):
        raise Gap
    if isinstance(info, Exception):
        raise info
    newest = info["last-generated-id"]
    oldest = info["first-entry"][0] if info["first-entry"] else newest
    if not Cursor.parse(oldest) <= cursor <= Cursor.parse(newest):
        raise Gap


@contextmanager
def reporting() -> Iterator[None]:
    """What the server or the way to it says, as Unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis cannot be used for events: {error}") from error
