import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from events import publish, revoke
from events.fanout import FanOut
from events.metrics import counters
from events.process import get_hub
from events.streams import EventStream, heartbeat, reset
from events.wire import Event


def test_a_pass_that_fails_ends_its_streams_so_that_none_misses_anything(caplog: pytest.LogCaptureFixture) -> None:
    cut = counters.cut

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        FanOut(loop).take(transport, EventStream(get_hub().subscribe(["a"], 10)), chunked=False, paused=False)
        get_hub().show(Event(None, "a", "a type that\ncannot be", "sent"))
        with theirs:
            return await loop.sock_recv(theirs, 1000)

    assert asyncio.run(scenario()) == b""
    assert counters.cut == cut + 1
    assert get_hub().streams == 0
    assert "A pass of the fan-out has failed" in caplog.text
    assert "streams=1 channels=a" in caplog.text


class LingeringTransport(asyncio.Transport):
    """As over TLS, where a connection that is closed is lost when the client has answered, up to 30 seconds later."""

    def __init__(self) -> None:
        super().__init__()
        self.written: asyncio.Queue[bytes] = asyncio.Queue()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None:
        self.written.put_nowait(bytes(data))

    def close(self) -> None: ...


def test_a_connection_that_lingers_takes_nothing_from_who_came_after_it(settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 0.1}

    async def scenario() -> None:
        fan_out = FanOut(asyncio.get_running_loop())
        before, after = LingeringTransport(), LingeringTransport()
        for transport, age in ((before, 0), (after, 3600)):
            stream = EventStream(get_hub().subscribe(["a"], 10))
            stream.expires = asyncio.get_running_loop().time() + age
            fan_out.take(transport, stream, chunked=False, paused=False)
        before.protocol.connection_lost(None)
        # Heartbeats come from where old age is looked for as well.
        assert await asyncio.wait_for(after.written.get(), 10) == heartbeat(get_hub().log.head)

    asyncio.run(scenario())


def test_who_may_read_no_more_gets_nothing_that_is_published_after_that() -> None:
    async def scenario() -> None:
        fan_out = FanOut(asyncio.get_running_loop())
        transports = {user: LingeringTransport() for user in ("7", "8")}
        for user, transport in transports.items():
            stream = EventStream(get_hub().subscribe(["a"], 10, user))
            fan_out.take(transport, stream, chunked=False, paused=False)
        revoke(7)
        publish("a", "secret")
        written = {user: await asyncio.wait_for(transport.written.get(), 10) for user, transport in transports.items()}
        assert written["7"].startswith(b"retry: ")
        assert b"secret" in written["8"]
        assert transports["7"].written.empty()

    asyncio.run(scenario())


def test_streams_that_are_ahead_of_this_process_are_waited_for_at_rest() -> None:
    async def scenario() -> None:
        fan_out = FanOut(asyncio.get_running_loop())
        theirs = get_hub().log.head.next(time.time() + 3600)
        transports = [LingeringTransport() for _ in range(100)]
        for transport in transports:
            stream = EventStream(get_hub().subscribe(["a"], 100))
            stream.subscription.cursor = theirs
            fan_out.take(transport, stream, chunked=False, paused=False)
        get_hub().show(Event(None, "a", "message", "tick"))
        for transport in transports:
            assert b"tick" in await asyncio.wait_for(transport.written.get(), 10)
        assert fan_out.passes < 10
        get_hub().deliver([Event(str(theirs), "a", "message", '"theirs already"')])
        get_hub().deliver([Event(str(theirs.next(0)), "a", "message", '"news"')])
        for transport in transports:
            written = await asyncio.wait_for(transport.written.get(), 10)
            assert b"news" in written
            assert b"theirs" not in written

    asyncio.run(scenario())


def test_what_happened_while_nobody_was_there_is_for_nobody() -> None:
    async def scenario() -> None:
        fan_out = FanOut(asyncio.get_running_loop())
        before, after = LingeringTransport(), LingeringTransport()
        fan_out.take(before, EventStream(get_hub().subscribe(["a"], 10)), chunked=False, paused=False)
        publish("a", "old")
        before.protocol.connection_lost(None)  # before the loop got to it
        await asyncio.sleep(0)
        fan_out.take(after, EventStream(get_hub().subscribe(["a"], 10)), chunked=False, paused=False)
        publish("a", "new")
        written = await asyncio.wait_for(after.written.get(), 10)
        assert b"new" in written
        assert b"old" not in written

    asyncio.run(scenario())


def test_a_stream_is_told_of_its_channels_in_one_order() -> None:
    async def scenario() -> None:
        fan_out = FanOut(asyncio.get_running_loop())
        transports = {channels: LingeringTransport() for channels in (("a",), ("b",), ("a", "b"), ("b", "c"), ("c",))}
        for channels, transport in transports.items():
            fan_out.take(transport, EventStream(get_hub().subscribe(channels, 10)), chunked=False, paused=False)
        for number in range(6):
            publish("ab"[number % 2], number)
        for channels, expected in ((("a",), b"024"), (("b",), b"135"), (("a", "b"), b"012345"), (("b", "c"), b"135")):
            written = await asyncio.wait_for(transports[channels].written.get(), 10)
            assert bytes(line[6] for line in written.splitlines() if line.startswith(b"data: ")) == expected
        assert transports["c",].written.empty()

    asyncio.run(scenario())


def test_who_has_missed_what_nobody_keeps_is_told_though_nothing_has_followed() -> None:
    async def scenario() -> None:
        hub = get_hub()
        fan_out = FanOut(asyncio.get_running_loop())
        transport = LingeringTransport()
        start = hub.log.head
        lost = [start.next(time.time() + seconds) for seconds in (10, 20)]
        broker_log = hub.broker._log  # type: ignore[attr-defined]
        fan_out.take(transport, EventStream(hub.subscribe(["a"], 10)), chunked=False, paused=False)
        broker_log.append(Event(str(lost[0]), "a", "message", "1"))
        broker_log.append(Event(str(lost[1]), "b", "message", "2"))
        broker_log.forget("a", lost[0])
        hub.forget({"a": lost[0]})
        assert await asyncio.wait_for(transport.written.get(), 10) == reset(lost[0])
        passes = fan_out.passes
        await asyncio.sleep(0.05)
        assert transport.written.empty()
        assert fan_out.passes == passes
        assert fan_out.behind == set()
        hub.deliver([Event(str(lost[1]), "b", "message", "2")])
        publish("a", "next")
        assert b"next" in await asyncio.wait_for(transport.written.get(), 10)

    asyncio.run(scenario())


def test_a_stream_that_has_caught_up_while_others_fall_behind_is_told_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()

        async def answer_later(read: Callable[[], bytes]) -> bytes:
            await answered
            return read()

        hub = get_hub()
        fan_out = FanOut(loop)
        start = hub.log.head
        publish("a", "missed")
        hub.restart(hub.log.head)
        transports = [LingeringTransport() for _ in range(2000)]  # so many that a pass goes on for some turns
        streams = [EventStream(hub.subscribe(["a"], 2000)) for _ in transports]
        streams[-1].subscription.cursor = start
        for transport, stream in zip(transports, streams, strict=True):
            fan_out.take(transport, stream, chunked=False, paused=False)
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", answer_later)
            await asyncio.sleep(0.01)  # the last one is asking
            publish("a", "next")
            hub.restart(hub.log.head)
            for _ in range(2):
                await asyncio.sleep(0)
            assert fan_out.passes == 1  # and it goes on
            answered.set_result(None)
            for _ in range(10):
                await asyncio.sleep(0)
        for transport in transports[:-1]:
            assert b"next" in await asyncio.wait_for(transport.written.get(), 10)
        written = b""
        while not transports[-1].written.empty():
            written += transports[-1].written.get_nowait()
        assert (written.count(b"missed"), written.count(b"next")) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("drains", [False, True])
def test_a_heartbeat_tells_no_stream_more_than_it_was_told_while_others_fall_behind(
    settings: Settings, drains: bool
) -> None:
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 2.0}

    async def scenario() -> None:
        hub = get_hub()
        fan_out = FanOut(asyncio.get_running_loop())
        transports = [LingeringTransport() for _ in range(2000)]
        for transport in transports:
            fan_out.take(transport, EventStream(hub.subscribe(["a"], 2000)), chunked=False, paused=False)
        publish("a", "next")
        if drains:
            hub.drain()
        else:
            hub.restart(hub.log.head)
        for _ in range(2):
            await asyncio.sleep(0)
        assert fan_out.passes == 1  # and it goes on
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "monotonic", lambda now=time.monotonic: now() + 3)
            fan_out._tick()
        for transport in transports:
            written = await asyncio.wait_for(transport.written.get(), 10)
            assert b"heartbeat" not in written

    asyncio.run(scenario())
