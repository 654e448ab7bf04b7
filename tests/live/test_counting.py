"""What each kind of server counts of its streams; by the stats, which a visitor sees."""

import json
from pathlib import Path

import pytest

from tests.live.servers import Stream, serve


@pytest.mark.parametrize("kind", ["gthread", "asgi", "uvicorn"])
def test_deliveries_are_counted_with_their_processor_time(static_root: Path, kind: str) -> None:
    with serve(kind, static_root) as server, Stream(server, channel=["stats", "counted"]) as stream:
        stream.next("hello")
        before = json.loads(stream.next("stats").data)
        for number in range(20):
            server.publish("counted", number)
        while json.loads(stream.next("message").data) != 19:
            pass
        stream.next("stats")
        after = json.loads(stream.next("stats").data)
        # Published ones, and the stats themselves, the last of which is on its way as it is counted.
        assert after["deliveries"] - before["deliveries"] in (21, 22, 23)
        assert after["stream_seconds"] > before["stream_seconds"]
        assert after["streams"] == 1
