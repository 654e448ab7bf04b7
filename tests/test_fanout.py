import asyncio
import socket

import pytest

from events.fanout import FanOut
from events.hub import get_hub
from events.metrics import counters
from events.streams import EventStream
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
