"""The demonstration project as it is deployed, with channels `rate-100` and `rate-1000` on which much happens."""

import threading
from functools import partial
from typing import Any

from benchmarks.source import RATES, publish_at
from events import publish
from events.sources import Show, source
from sse_demo.settings import *  # noqa: F403

ALLOWED_HOSTS = ["127.0.0.1"]
EVENTS: dict[str, Any] = {"BROKER": "memory:", "MAX_STREAMS": 20_000, "MAX_STREAM_AGE": 0}


def _register(rate: int) -> None:
    channel = f"rate-{rate}"

    @source(channel)
    def run(show: Show, stop: threading.Event) -> None:
        publish_at(rate, partial(publish, channel), stop)


for rate in RATES:
    _register(rate)
