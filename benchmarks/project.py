"""The demonstration project as it is deployed, with a channel `bench` on which RATE events happen each second."""

import os
import threading
from functools import partial

from events import publish
from events.sources import Show, source
from sse_demo.settings import *  # noqa: F403
from sse_demo.settings import EVENTS

ALLOWED_HOSTS = ["127.0.0.1"]
EVENTS = EVENTS | {"MAX_STREAMS": 20_000, "MAX_STREAM_AGE": 0}


@source("bench")
def run(show: Show, stop: threading.Event) -> None:
    from benchmarks.peers import publish_at_rate

    if float(os.environ["RATE"]):
        publish_at_rate(partial(publish, "bench"), stop)
