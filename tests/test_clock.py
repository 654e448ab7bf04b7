import threading
from datetime import datetime

from events.wire import Event
from sse_demo.clock import clock, tick


def test_a_tick_is_iso_8601_with_milliseconds_and_offset() -> None:
    assert tick(1795331005).data == "2026-11-22T07:03:25.000+00:00"
    assert tick(1795331005).id is None


def test_the_clock_ticks_each_second_until_it_is_stopped() -> None:
    stop = threading.Event()
    ticks: list[Event] = []

    def show(event: Event) -> None:
        ticks.append(event)
        if len(ticks) == 3:
            stop.set()

    clock(show, stop)
    times = [datetime.fromisoformat(event.data).timestamp() for event in ticks]
    assert times == [times[0], times[0] + 1, times[0] + 2]
