"""Sources: what makes a channel's ephemeral events, in each process, for as long as someone listens there.

@source("clock")
def clock(show: Show, stop: threading.Event) -> None:
    while not stop.wait(1.0):
        show(Event(None, "clock", "message", ...))
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable

from events.wire import Event

Show = Callable[[Event], None]
Source = Callable[[Show, threading.Event], None]

_registered: dict[str, Source] = {}


def source(channel: str) -> Callable[[Source], Source]:
    """Register the decorated function as the source of a channel. It runs in a thread of its own until `stop`."""

    def register(function: Source) -> Source:
        _registered[channel] = function
        return function

    return register


class Sources:
    """Counts who listens to what, and starts and stops the sources by it. The hub's lock guards it."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._listeners: Counter[str] = Counter()
        self._stops: dict[str, threading.Event] = {}

    def add_listener(self, channels: Iterable[str]) -> None:
        self._listeners.update(channels)
        for channel in channels:
            if channel in _registered and channel not in self._stops:
                stop = self._stops[channel] = threading.Event()
                threading.Thread(
                    target=_registered[channel],
                    args=(self._show, stop),
                    name=f"source-{channel}",
                    daemon=True,
                ).start()

    def remove_listener(self, channels: Iterable[str]) -> None:
        self._listeners.subtract(channels)
        for channel in channels:
            if not self._listeners[channel]:
                del self._listeners[channel]
                if stop := self._stops.pop(channel, None):
                    stop.set()
