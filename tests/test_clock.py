import time
from datetime import datetime

from events.sources import Stop
from events.wire import Event
from sse_demo.clock import clock, tick


def test_a_tick_is_iso_8601_with_milliseconds_and_offset() -> None:
    assert tick(1795331005).data == "2026-11-22T07:03:25.000+00:00"
    assert tick(1795331005).id is None


def test_the_clock_ticks_each_second_until_it_is_stopped() -> None:
    stop = Stop()
    ticks: list[float] = []
    delays: list[float] = []

    def show(event: Event) -> None:
        ticks.append(datetime.fromisoformat(event.data).timestamp())
        delays.append(time.time() - ticks[-1])
        if len(ticks) == 3:
            stop.set()

    clock(show, stop)
    assert ticks == [ticks[0], ticks[0] + 1, ticks[0] + 2]
    assert 0 <= min(delays) < 0.5, "on the second, and not somewhere in it"
