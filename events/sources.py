"""Sources: what makes a channel's ephemeral events, in each process, for as long as someone listens there.

@source("clock")
def clock(show: Show, stop: Stop) -> None:
    while not stop.wait(1.0):
        show(Event(None, "clock", "message", ...))
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from .journal import tell
from .wire import Event


class Stop:
    """As threading.Event, but it may be set in the very thread that waits: by the garbage collector, ending a stream.

    SimpleQueue.put is one of the few things that are reentrant.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._queue.put(None)

    def wait(self, timeout: float) -> bool:
        """Block until it is set (True), or for `timeout` seconds (False)."""
        try:
            self._queue.get(timeout=max(0.0, timeout))
        except Empty:
            return False
        self._queue.put(None)  # for the next one who asks
        return True


Show = Callable[[Event], None]
Source = Callable[[Show, Stop], None]

_registered: dict[str, Source] = {}


def source(channel: str) -> Callable[[Source], Source]:
    """Register the decorated function as the source of a channel. It runs in a thread of its own until `stop`."""

    def register(function: Source) -> Source:
        _registered[channel] = function
        return function

    return register


def has_source(channel: str) -> bool:
    return channel in _registered


class Sources:
    """Counts who listens to what, and starts and stops the sources by it. The hub's lock guards it."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._listeners: Counter[str] = Counter()
        self._stops: dict[str, Stop] = {}

    def add_listener(self, channels: Iterable[str]) -> None:
        """Raises RuntimeError, and counts nobody, when the machine has no thread left for a source."""
        for channel in channels:
            if channel in _registered and channel not in self._stops:
                stop = Stop()
                threading.Thread(
                    target=_run, args=(channel, self._show, stop), name=f"source-{channel}", daemon=True
                ).start()
                self._stops[channel] = stop
        self._listeners.update(channels)

    def remove_listener(self, channels: Iterable[str]) -> None:
        self._listeners.subtract(channels)
        for channel in channels:
            if not self._listeners[channel]:
                del self._listeners[channel]
                if stop := self._stops.pop(channel, None):
                    stop.set()


def _run(channel: str, show: Show, stop: Stop) -> None:
    try:
        _registered[channel](show, stop)
    except Exception as error:  # noqa: BLE001  nobody else would tell
        tell(logging.ERROR, "A source has failed", error, channel=channel)
