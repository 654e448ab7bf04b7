"""What every server here publishes: events that say when they were due, RATE a second, in the server's own process."""

import threading
import time
from collections.abc import Callable

RATES = (100, 1000)


def publish_at(rate: int, publish: Callable[[str], object], stop: threading.Event) -> None:
    """Publish until told to stop. Whoever is late publishes what was due in between, one by one, and is the later."""
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        while due <= time.monotonic():
            publish(f"t={int(due * 1e6):015d}")
            due += 1 / rate
