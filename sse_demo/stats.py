"""The second source of events: what this process spends on its visitors, each second, while somebody looks."""

import json
import resource
import sys
import time
from pathlib import Path

from events.metrics import counters
from events.process import get_hub
from events.sources import Show, Stop, source
from events.wire import Event

INTERVAL = 1.0  # seconds


@source("stats")
def stats(show: Show, stop: Stop) -> None:
    """Totals, so that a reader who misses one loses nothing."""
    while not stop.wait(INTERVAL):
        show(Event(None, "stats", "stats", json.dumps(totals())))


def totals() -> dict[str, float]:
    """Of this process: what it has counted, its open streams, its processor seconds and its memory in bytes."""
    return {
        "polls": counters.polls,
        "deliveries": counters.deliveries,
        "stream_seconds": counters.stream_seconds,
        "streams": get_hub().streams,
        "process_seconds": time.process_time(),
        "memory": memory(),
    }


def memory() -> int:
    """Bytes in use; the most that there ever were, on a system that does not tell."""
    try:
        resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(resident) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
