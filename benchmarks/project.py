"""The demonstration project as it is deployed, which publishes in its own process, as the environment has it.

RATE        events a second, once the file GATE is there
CHANNELS    how many channels they go to, `u0` and so on, as benchmarks/load.c has it; 0: all of them go to `bench`
SHARED      one event in so many goes to `all` instead; 0: none
SIZE        bytes of data, if that is more than an event has anyway
BACKLOG     what is published once GATE is there and somebody reads `back`: 3 events for each of CHANNELS, among so many
            for others; the cursor before them is then in the file GATE.cursor
BENCH_BROKER, BENCH_HISTORY     as in EVENTS
"""

import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.peers import publish_at_rate
from events import publish
from events.sources import Show, Stop, source
from sse_demo.settings import *  # noqa: F403

ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.status"
EVENTS: dict[str, Any] = {  # type: ignore[no-redef]
    # In memory: this is about what becomes of an event when it is there. benchmarks/publish.py is about the brokers.
    "BROKER": os.environ.get("BENCH_BROKER", "memory:"),
    "HISTORY": int(os.environ.get("BENCH_HISTORY", 10_000)),
    "MAX_STREAMS": 20_000,
    "MAX_STREAM_AGE": 0,
}
STRIDE = 7919  # a prime: i * STRIDE % channels visits all of them, in what looks like chance
MISSED = 3


def channels() -> Iterator[str]:
    """Where one event after the other goes."""
    number, shared = int(os.environ.get("CHANNELS", 0)), int(os.environ.get("SHARED", 0))
    for i in count():
        if shared and i % shared == 0:
            yield "all"
        else:
            yield f"u{i * STRIDE % number}" if number else "bench"


@source("bench")
@source("u0")
def run(show: Show, stop: Stop) -> None:
    if not float(os.environ["RATE"]):
        return
    if not int(os.environ.get("CHANNELS", 0)) and not int(os.environ.get("SIZE", 0)):
        publish_at_rate(partial(publish, "bench"), stop.wait)
        return
    names, size = channels(), int(os.environ.get("SIZE", 0))
    publish_at_rate(lambda data: publish(next(names), data.ljust(size, "x")), stop.wait)


@source("back")
def fill(show: Show, stop: Stop) -> None:
    from events.process import get_hub

    gate, number, others = Path(os.environ["GATE"]), int(os.environ["CHANNELS"]), int(os.environ["BACKLOG"])
    while not gate.exists():
        if stop.wait(0.05):
            return
    cursor = str(get_hub().log.head)
    own = number * MISSED
    for i in range(own + others):
        # Evenly among the others, each client's first event before anybody's second one.
        mine = i * own // (own + others)
        if mine < (i + 1) * own // (own + others):
            client = mine * STRIDE % number
            publish(f"u{client}", f"t={client:015d}")
        else:
            publish(f"o{i % number}", f"t={i:015d}")
    written = gate.with_suffix(".writing")
    written.write_text(cursor)
    written.rename(f"{gate}.cursor")
