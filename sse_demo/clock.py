"""The demonstration's source of events: the server's time, each second, on the second."""

import math
import time
from datetime import UTC, datetime

from events.sources import Show, Stop, source
from events.wire import Event


@source("clock")
def clock(show: Show, stop: Stop) -> None:
    """Each tick is computed from the wall clock itself, so that no delay adds up and a corrected clock is followed."""
    second = math.floor(time.time()) + 1
    while not stop.wait(second - time.time()):
        now = time.time()
        if now >= second:  # a wait may end a little early
            show(tick(math.floor(now)))
            second = math.floor(now) + 1
        elif second - now > 1:  # the clock was set back
            second = math.floor(now) + 1


def tick(second: int) -> Event:
    """The event of one second since the epoch."""
    return Event(None, "clock", "message", datetime.fromtimestamp(second, UTC).isoformat(timespec="milliseconds"))
