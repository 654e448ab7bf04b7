"""The demonstration project as it is deployed, with a channel `bench` on which RATE events happen each second."""

import os
from functools import partial
from typing import Any

from benchmarks.peers import publish_at_rate
from events import publish
from events.sources import Show, Stop, source
from sse_demo.settings import *  # noqa: F403

ALLOWED_HOSTS = ["127.0.0.1"]
# In memory: this is about what becomes of an event when it is there. benchmarks/publish.py is about the brokers.
EVENTS: dict[str, Any] = {"BROKER": "memory:", "MAX_STREAMS": 20_000, "MAX_STREAM_AGE": 0}  # type: ignore[no-redef]


@source("bench")
def run(show: Show, stop: Stop) -> None:
    if float(os.environ["RATE"]):
        publish_at_rate(partial(publish, "bench"), stop.wait)
