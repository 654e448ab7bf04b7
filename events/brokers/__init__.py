"""Where the log of events lives. A broker is chosen by a URL: see `open_broker`."""

from collections.abc import Callable, Sequence
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured

from events.log import Cursor
from events.wire import Event

Deliver = Callable[[Sequence[Event]], None]


class Broker(Protocol):
    """Puts events into one total order, keeps the newest of them, and tells every process about them."""

    def append(self, events: Sequence[Event]) -> list[str]:
        """Take events that have no id yet, in this order; returns their ids."""
        ...

    def after(self, cursor: Cursor, limit: int) -> list[Event]:
        """Up to `limit` events after the cursor, oldest first. Raises Gap when some of them are no longer kept."""
        ...

    def follow(self, deliver: Deliver) -> Cursor:
        """From now on call `deliver` with events as they come, in order, each once. Returns the place before them."""
        ...

    def close(self) -> None:
        """Stop following and let go of connections. A closed broker is not used again."""
        ...


def open_broker(url: str, history: int) -> Broker:
    """The broker for a URL, keeping `history` events. Raises ImproperlyConfigured for a URL that none of them takes."""
    scheme = url.partition(":")[0]
    match scheme:
        case "memory":
            from events.brokers.memory import MemoryBroker

            return MemoryBroker(history)
        case _:
            raise ImproperlyConfigured(f"EVENTS['BROKER'] takes 'memory:', not {url!r}.")
