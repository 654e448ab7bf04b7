"""`redis://`, `rediss://` (TLS) and `unix://` keep the log in a Redis (from 6.2) or Valkey server.

Its keys share one hash tag, so that one node of a cluster holds them all:

    {NAME}              a stream with the newest events of all channels. Processes follow it; its length covers one that
                        lags. The server gives out the ids here.
    {NAME}:log          a hash: which history this is (`run`, `floor`), and what it forgets by itself (`keep`, `gone`)
    {NAME}:c:CHANNEL    a stream with the history of one channel, which expires by itself. The field `prev` of an entry
                        is the id of the event before it, so the oldest entry tells what is no longer kept.

A script publishes: it writes to both streams in one step. Every script carries the history that it was made for, and
does nothing when the log has another one, or when its server runs anew (then it does not know the script). So each
process notices a history that may have gone back, at no cost, and runs the script `_BEGIN`, which decides.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS

from ..journal import Trouble, tell
from ..log import Cursor, Gap
from ..wire import Event
from . import Reader, Unavailable
from .committing import on_commit
from .follower import Follower

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import BusyLoadingError, MovedError, NoScriptError
    from redis.retry import Retry
except ImportError as error:
    raise ImproperlyConfigured("This EVENTS['BROKER'] needs the package redis: pip install 'redis>=5.3'.") from error

_NAME = "events"  # unless the URL says ?stream=
_CONNECT_TIMEOUT = 2.0  # seconds; somebody waits for the answer to a request
_TIMEOUT = 5.0  # seconds for a command, likewise
_BLOCK = 1.0  # seconds of silence until a follower asks whether the history is still the same
_BATCH = 500  # entries in one reading
_FOLLOWED = 10_000  # events kept for processes that lag: some seconds of a burst; more than a batch
_FOLLOWED_SECONDS = 60  # at least, however short the history: longer than a process pauses without noticing
_PAUSE = 10.0  # seconds between two readings that make a follower check whether it lags; below _FOLLOWED_SECONDS
_ATTEMPTS = 5  # to find a history that stays the same; two processes with different HISTORY_SECONDS may alternate
_LARGEST = 2**64 - 1  # of either half of an id
_REMEMBERED = 1_000  # entries known to be broken, so that each is counted once

_OPTIONS = {"stream", "db", "username", "password", "client_name", "max_connections", "socket_keepalive"}
_TLS_OPTIONS = {
    *("ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_password"),
    *("ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
}

# Ids are compared as text, as Lua's numbers hold 53 bits only.
_LESS = """
local function less(a, b)
    local a1, a2 = string.match(a, '^(%d+)-(%d+)$')
    local b1, b2 = string.match(b, '^(%d+)-(%d+)$')
    if a1 == b1 then a1, b1 = a2, b2 end
    if #a1 ~= #b1 then return #a1 < #b1 end
    return a1 < b1
end
local function later(a, b)
    if less(a, b) then return b end
    return a
end
local function at(milliseconds)
    return string.format('%.0f-0', math.max(0, milliseconds))
end
local function about_stream()
    local reply, info = redis.pcall('XINFO', 'STREAM', KEYS[1]), {}
    if reply.err then
        if string.find(reply.err, 'no such key', 1, true) then return nil end
        error(reply.err)
    end
    for n = 1, #reply, 2 do info[reply[n]] = reply[n + 1] end
    return info
end
local function clock()
    local now = redis.call('TIME')
    return now[1] * 1000 + math.floor(now[2] / 1000)
end
"""

# ARGV: 1 if this server has everything on disk that it acknowledged; the newest id known; HISTORY_SECONDS in ms.
#
# A new history begins unless the log is the one that this run of the server has had all the time, or had before it was
# restarted with everything on disk. Its floor is later than every id that anybody may have seen. The floor is an entry
# of the stream, too: a follower that reads it knows that the history before may have gone back. A server that was a
# replica in this run may lack what the one before it acknowledged.
# What HISTORY_SECONDS says has changed: a longer one cannot tell what the shorter one still lets expire.
_BEGIN = (
    _LESS
    + """
local log = KEYS[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local was_replica = not string.match(redis.call('INFO', 'replication'), 'master_replid2:0+%s')
local run_before, floor, on_disk, keep, gone = unpack(
    redis.call('HMGET', log, 'run', 'floor', 'on_disk', 'keep', 'gone'))
local info = about_stream()
local newest = info and info['last-generated-id']
local goes_on = newest and run_before and floor and on_disk and keep and gone
    and not less(newest, ARGV[2]) and not less(newest, floor)
    and (run_before == run or (on_disk == '1' and ARGV[1] == '1' and not was_replica))
if not goes_on then
    local function after(id)
        local ms, n = string.match(id, '^(%d+)-(%d+)$')
        return string.format('%s-%.0f', ms, n + 1)
    end
    floor = later(later(at(clock() + 1), after(newest or '0-0')), after(ARGV[2]))
    redis.call('XADD', KEYS[1], floor, 'begin', '')
    gone = floor
elseif tonumber(keep) < tonumber(ARGV[3]) then
    gone = newest
end
redis.call('HSET', log, 'run', run, 'floor', floor, 'on_disk', ARGV[1], 'keep', ARGV[3], 'gone', gone)
return {run, floor, goes_on and 1 or 0}
"""
)

# Precedes the scripts below: they do nothing, and return nil, when the log has another history than they know.
_SAME_HISTORY = (
    """
local run, floor, keep, gone = unpack(redis.call('HMGET', KEYS[2], 'run', 'floor', 'keep', 'gone'))
if run ~= '{run}' or floor ~= '{floor}' or keep ~= '{keep}' then return false end
keep = tonumber(keep)
"""
    + _LESS
)

# KEYS[3] and later: the stream of each event's channel. ARGV: HISTORY, then channel, type and data of each event.
_PUBLISH = f"""
local ids = {{}}
local ms
for n = 3, #KEYS do
    local key, channel, type, data = KEYS[n], ARGV[n * 3 - 7], ARGV[n * 3 - 6], ARGV[n * 3 - 5]
    local id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', {_FOLLOWED}, '*',
        'channel', channel, 'type', type, 'data', data)
    if not id then return false end
    ms = tonumber(string.match(id, '^%d+'))
    local last, prev = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1), id
    if last[1] then
        prev = last[1][1]
    elseif redis.call('EXISTS', key) == 0 then
        -- A stream that has expired held nothing later than this.
        prev = later(later(floor, gone), at(ms - 2 * keep + 1))
    end
    local function remember(prev)
        return redis.pcall('XADD', key, 'MAXLEN', '~', ARGV[1], id, 'prev', prev, 'type', type, 'data', data)
    end
    if remember(prev).err then
        -- It is no stream, or holds ids that are later: from another history. Nothing before this event is kept.
        redis.call('DEL', key)
        remember(id)
    end
    redis.call('XTRIM', key, 'MINID', at(ms - keep))
    redis.call('PEXPIREAT', key, string.format('%.0f', math.min(ms + 2 * keep, 9e15)))
    ids[#ids + 1] = id
end
redis.call('XTRIM', KEYS[1], 'MINID', '~', at(ms - math.max(keep, {_FOLLOWED_SECONDS * 1000})))
return ids
"""

# KEYS[3] and later: the streams of channels. ARGV: the cursor and the limit.
# Returns 'gap', or for each event its id, the number of its channel, and its entry's fields.
_AFTER = """
local info = about_stream()
if not info then return false end
local cursor, limit = ARGV[1], tonumber(ARGV[2])
local newest = info['last-generated-id']
if less(cursor, floor) or less(newest, cursor) then return 'gap' end
if cursor == newest then return {} end
local now = clock()
local events, until_id = {}, newest
for n = 3, #KEYS do
    local key = KEYS[n]
    local first = redis.call('XRANGE', key, at(now - keep), '+', 'COUNT', 1)[1]
    local missing
    if first then
        missing = first[1]
        for f = 1, #first[2], 2 do
            if first[2][f] == 'prev' and string.match(first[2][f + 1], '^%d+-%d+$') then missing = first[2][f + 1] end
        end
    elseif redis.call('EXISTS', key) == 0 then
        missing = later(gone, at(now - 2 * keep + 1))
    else
        local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
        missing = last and last[1] or newest
    end
    if less(cursor, missing) then return 'gap' end
    if first then
        local found = redis.call('XRANGE', key, '(' .. cursor, until_id, 'COUNT', limit)
        local is_first = #events == 0
        for _, entry in ipairs(found) do
            local ms, number = string.match(entry[1], '^(%d+)-(%d+)$')
            events[#events + 1] = {entry[1], n - 3, entry[2], ms = tonumber(ms), number = tonumber(number)}
        end
        if #found > 0 and not is_first then
            table.sort(events, function(a, b)
                if a.ms ~= b.ms then return a.ms < b.ms end
                return a.number < b.number
            end)
        end
        -- No more than the limit at any time, however many channels there are.
        while #events > limit do events[#events] = nil end
        if #events == limit then until_id = events[limit][1] end
    end
end
return events
"""

_STATE = """
local info = about_stream()
if not info then return false end
local newest = info['last-generated-id']
local oldest = info['first-entry']
return {newest, oldest and oldest[1] or newest, string.format('%.0f', clock())}
"""


class _Script:
    """A script of ours, with the history in its text that it was made for."""

    def __init__(self, text: str, run: str, floor: str, keep: int) -> None:
        before = _SAME_HISTORY.replace("{run}", run).replace("{floor}", floor).replace("{keep}", str(keep))
        self.text = before + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class _Scripts:
    """The scripts for one history."""

    def __init__(self, run: str, floor: str, keep: int) -> None:
        self.publish = _Script(_PUBLISH, run, floor, keep)
        self.after = _Script(_AFTER, run, floor, keep)
        self.state = _Script(_STATE, run, floor, keep)


class RedisBroker:
    """The log on a server, with one connection that follows it and a pool for everything else."""

    database = DEFAULT_DB_ALIAS

    def __init__(self, url: str, history: int, history_seconds: float) -> None:
        """Raises ImproperlyConfigured when the URL, or an option in it, cannot be used."""
        self._url, name = _parse(url)
        self.stream = f"{{{name}}}"
        self.keep = int(history_seconds * 1000)
        self._keys = [self.stream, f"{self.stream}:log"]
        self._history = history
        self._scripts: _Scripts | None = None
        self._known = Cursor(0, 0)  # the newest that this process has seen
        self._lock = threading.Lock()
        self._follower: Follower | None = None
        self._skipped: set[tuple[str, bytes]] = set()
        self._trouble = Trouble("Skipped entries in Redis that are not events of ours", "entries")
        self._pool = self.new_pool(_TIMEOUT)

    def append(self, events: Sequence[Event]) -> list[str]:
        if not events:
            return []
        arguments: list[Any] = [self._history]
        for event in events:
            arguments += (event.channel, event.type, event.data)
        ids = self._call(lambda scripts: scripts.publish, [event.channel for event in events], arguments)
        texts = [given.decode() for given in ids]
        self.saw(Cursor.parse(texts[-1]))
        return texts

    def append_on_commit(self, events: Sequence[Event]) -> None:
        def failed(error: Exception) -> None:
            tell(
                logging.ERROR,
                "Events of a committed transaction may be lost. Publish them again if their readers need them, "
                "or use the broker 'db:', which commits events with their transaction",
                None if isinstance(error, Unavailable) else error,
                events=len(events),
                channels=",".join(sorted({event.channel for event in events})),
                reason=error,
            )

        on_commit(lambda: self.append(events), failed, self.database)

    def after(self, cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
        if max(cursor) > _LARGEST:
            raise Gap
        names = list(dict.fromkeys(channels))
        found = self._call(lambda scripts: scripts.after, names, [str(cursor), limit])
        if found == b"gap":
            raise Gap
        events = []
        for at, number, fields in found:
            channel = names[number]
            if event := _event(at, [b"channel", channel.encode(), *fields[2:]]):
                events.append(event)
            else:
                self.skip(self._key(channel), at)
        return events

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        follower = _Follower(self, reader, backlog)
        follower.begin()
        self._follower = follower
        return follower.start, follower.backlog

    def check_following(self) -> None:
        if self._follower:
            self._follower.check()

    def close(self) -> None:
        if self._follower:
            self._follower.close()
        self._pool.disconnect()

    def new_pool(self, timeout: float) -> Any:
        return redis.ConnectionPool.from_url(
            self._url,
            protocol=2,  # the replies have other shapes in 3
            socket_connect_timeout=_CONNECT_TIMEOUT,
            socket_timeout=timeout,
            # A script whose answer was lost may have published: never repeat it.
            retry=Retry(NoBackoff(), 0),
        )

    def state(self, connection: Any) -> tuple[Cursor, Cursor, int]:
        """The newest id, the oldest entry to follow, and the server's time in ms; of a history that is good."""
        newest, oldest, now = self._run(connection, lambda scripts: scripts.state, [], [])
        return _cursor(newest), _cursor(oldest), int(now)

    def saw(self, cursor: Cursor) -> None:
        """A history whose newest event is earlier than this one has gone back."""
        with self._lock:
            self._known = max(self._known, cursor)

    def skip(self, key: str, id: bytes) -> None:
        """Tell and count an entry that is no event of ours, at the first time that it is met."""
        with self._lock:
            if (key, id) in self._skipped:
                return
            if len(self._skipped) >= _REMEMBERED:
                self._skipped.clear()
            self._skipped.add((key, id))
        self._trouble.hit(key=key, id=id.decode())

    def _key(self, channel: str) -> str:
        return f"{self.stream}:c:{channel}"

    def _call(self, script: Callable[[_Scripts], _Script], channels: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script on a connection of the pool; once more on a new one when it certainly did nothing."""
        with reporting():
            try:
                return self._try(script, channels, arguments)
            except _Refused:
                self._pool.disconnect(inuse_connections=False)
            try:
                return self._try(script, channels, arguments)
            except _Refused as refused:
                raise refused.error from None

    def _try(self, script: Callable[[_Scripts], _Script], channels: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            connection = self._pool.get_connection()
        except redis.ConnectionError as error:
            raise _Refused(error) from error
        try:
            return self._run(connection, script, channels, arguments)
        except BaseException as error:
            connection.disconnect()
            # Another server is the primary now, or this one still loads: it has not run the script.
            if isinstance(error, (MovedError, BusyLoadingError)) or (
                isinstance(error, redis.ResponseError) and _is_read_only(error)
            ):
                raise _Refused(error) from error
            raise
        finally:
            self._pool.release(connection)

    def _run(
        self,
        connection: Any,
        script: Callable[[_Scripts], _Script],
        channels: Sequence[str],
        arguments: Sequence[Any],
    ) -> Any:
        """What a script returns for the history as it is now. Begins one where there is none, or not a good one."""
        keys = self._keys + [self._key(channel) for channel in channels]
        if scripts := self._scripts:
            try:
                reply = ask(connection, "EVALSHA", script(scripts).sha, len(keys), *keys, *arguments)
            except NoScriptError:
                reply = None
            if reply is not None:
                return reply
        for _ in range(_ATTEMPTS):
            self._scripts = scripts = self._begin(connection)
            reply = ask(connection, "EVAL", script(scripts).text, len(keys), *keys, *arguments)
            if reply is not None:
                return reply
        raise Unavailable("The history in Redis is replaced again and again. Is HISTORY_SECONDS the same everywhere?")

    def _begin(self, connection: Any) -> _Scripts:
        known = self._known
        on_disk = int(_has_all_on_disk(connection))
        run, floor, goes_on = ask(connection, "EVAL", _BEGIN, 2, *self._keys, on_disk, str(known), self.keep)
        if not goes_on:
            tell(
                logging.WARNING if max(known) else logging.INFO,
                "A new history begins: readers with a cursor from before are told of a gap",
                stream=self.stream,
                floor=floor.decode(),
            )
        return _Scripts(run.decode(), floor.decode(), self.keep)


class _Refused(Exception):
    """The server was not reached, or has certainly done nothing."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _Follower(Follower):
    def __init__(self, broker: RedisBroker, reader: Reader, wanted: int) -> None:
        super().__init__(reader, wanted)
        self._broker = broker
        self._disconnect: Callable[[], None] = lambda: None
        self._read_at = 0.0  # by the monotonic clock

    def interrupt(self) -> None:
        self._disconnect()

    def follow(self) -> None:
        with reporting():
            pool = self._broker.new_pool(_BLOCK + _TIMEOUT)
            connection = pool.get_connection()
            self._disconnect = connection.disconnect
            try:
                if self.place is None:
                    self.place = self._begin(connection)
                else:
                    self.place = self._check_lag(connection, self.place)
                self._read_at = time.monotonic()
                self.began()
                while not self.closing:
                    self._read(connection, self.place)
            finally:
                pool.disconnect()

    def _begin(self, connection: Any) -> Cursor:
        newest, _, now = self._broker.state(connection)
        entries = ask(connection, "XREVRANGE", self._broker.stream, "+", "-", "COUNT", self.wanted + 1)
        entries.reverse()
        self.start = _cursor(entries[0][0]) if entries else newest
        for at, fields in entries[1:]:
            if _is_floor(fields) or _cursor(at).major < now - self._broker.keep:
                self.start = _cursor(at)
                self.backlog.clear()
            else:
                self.backlog += self._events([(at, fields)])
        place = _cursor(entries[-1][0]) if entries else newest
        self._broker.saw(place)
        return place

    def _check_lag(self, connection: Any, place: Cursor) -> Cursor:
        """The place to go on from. Restarts the reader when entries after `place` may have been trimmed.

        When the history has gone back, asking for its state begins another, whose floor will be read next.
        """
        newest, oldest, _ = self._broker.state(connection)
        if oldest > place:
            place = newest
            self._broker.saw(place)
            self.reader.restart(place)
        return place

    def _read(self, connection: Any, place: Cursor) -> None:
        """Deliver what comes next, and move on after it."""
        stream, block = self._broker.stream, int(_BLOCK * 1000)
        replies = ask(connection, "XREAD", "COUNT", _BATCH, "BLOCK", block, "STREAMS", stream, str(place))
        read_at, self._read_at = self._read_at, time.monotonic()
        if not replies:
            self._broker.state(connection)
            self.progressed()
            return
        [[_, entries]] = replies
        # Only a process that is more than a batch behind, or that was suspended, can have missed something. If the
        # stream reaches back to our place now, it did when the entries were read.
        if len(entries) == _BATCH or self._read_at - read_at > _PAUSE + _BLOCK:
            self.place = self._check_lag(connection, place)
            if self.place != place:
                return
        self._broker.saw(_cursor(entries[-1][0]))
        begin = 0
        for n, (at, fields) in enumerate(entries):
            if _is_floor(fields):
                self._deliver_entries(entries[begin:n])
                self.place = floor = _cursor(at)
                self.reader.restart(floor)
                begin = n + 1
        self._deliver_entries(entries[begin:])

    def _deliver_entries(self, entries: Sequence[Any]) -> None:
        if entries:
            if events := self._events(entries):
                self.reader.deliver(events)
            self.place = _cursor(entries[-1][0])

    def _events(self, entries: Sequence[Any]) -> list[Event]:
        events = []
        for at, fields in entries:
            if event := _event(at, fields):
                events.append(event)
            else:
                self._broker.skip(self._broker.stream, at)
        return events


def ask(connection: Any, *command: Any) -> Any:
    """The reply to one command, in bytes. Raises what the server answers with."""
    connection.send_command(*command)
    return connection.read_response(disable_decoding=True)


def _parse(url: str) -> tuple[str, str]:
    """The URL without `stream`, and the name that it gives. No message shows the URL: it may hold a password."""
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    accepted = _OPTIONS | _TLS_OPTIONS if address.startswith("rediss:") else _OPTIONS
    if refused := sorted(options.keys() - accepted):
        raise ImproperlyConfigured(
            f"EVENTS['BROKER'] cannot have the option {', '.join(refused)}; "
            f"its URL takes {', '.join(sorted(accepted))}."
        )
    name = options.pop("stream", _NAME)
    if not name or set(name) & set("{}"):
        raise ImproperlyConfigured("EVENTS['BROKER'] takes ?stream=NAME with a name without '{' and '}'.")
    url = f"{address}?{urlencode(options)}" if options else address
    try:
        # An option may have a value that only a connection refuses.
        redis.ConnectionPool.from_url(url).make_connection()
    except (ValueError, TypeError, redis.RedisError):
        raise ImproperlyConfigured(
            "EVENTS['BROKER'] is no URL that can be used, or an option in it has no such value. It takes "
            "redis://[[username]:password@]host[:port][/db], rediss://… and unix://[[username]:password@]/path[?db=0]; "
            "write special characters of a name or a password as %XX."
        ) from None
    return url, name


def _event(at: bytes, fields: Any) -> Event | None:
    """The event of an entry; None when it is not one of ours, or broken."""
    try:
        first, channel, second, kind, third, data = fields
        if first != b"channel" or second != b"type" or third != b"data":
            return None
        event = Event(at.decode(), channel.decode(), kind.decode(), data.decode(), int(at[: at.index(b"-")]) / 1000)
    except (ValueError, TypeError):
        return None
    # A control character would end the line of an event stream.
    return event if channel and kind and event.channel.isprintable() and event.type.isprintable() else None


def _cursor(id: bytes) -> Cursor:
    major, _, minor = id.partition(b"-")
    return Cursor(int(major), int(minor))


def _is_floor(fields: Any) -> bool:
    return bool(fields) and fields[0] == b"begin"


def _is_read_only(error: redis.ResponseError) -> bool:
    """Whether a replica was asked; the server wraps what a command within a script answers."""
    return isinstance(error, redis.ReadOnlyError) or "READONLY" in str(error)


def _has_all_on_disk(connection: Any) -> bool:
    """Whether the server says that it writes to disk before it acknowledges. Not every server lets us ask."""
    try:
        reply = ask(connection, "CONFIG", "GET", "append*")
    except BusyLoadingError:
        raise
    except redis.ResponseError:
        return False
    settings = dict(zip(reply[::2], reply[1::2], strict=True))
    return bool(settings.get(b"appendonly") == b"yes" and settings.get(b"appendfsync") == b"always")


@contextmanager
def reporting() -> Iterator[None]:
    """What the server or the way to it says, as Unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis cannot be used for events: {error}") from error
