"""Where the log of events lives. A broker is chosen by a URL: see `open_broker`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured
from django.db import router

from ..log import Cursor
from ..wire import Event


class Unavailable(Exception):
    """The log cannot be reached now. The text is for operators: it may name hosts and databases."""


@dataclass(frozen=True)
class Reader:
    """What a broker calls while it follows the log, from one thread at a time."""

    deliver: Callable[[Sequence[Event]], None]
    """Takes the next events, in order, each once."""

    restart: Callable[[Cursor], None]
    """Takes the cursor after which delivery goes on, when events in between may not have been delivered: this process
    lagged behind what is kept to follow, or the history is another one. `after` tells whom that concerns."""

    forget: Callable[[Mapping[str, Cursor]], None]
    """Takes channels, and for each the cursor up to which events of it may not have been delivered."""


class Broker(Protocol):
    """Puts events into one total order, keeps the newest of them, and tells every process about them.

    Ids increase in the order in which the events become visible: whoever has read one never finds an earlier one
    later. Every method may be called from any thread, and raises Unavailable when the log cannot be reached.
    """

    database: str
    """The alias of the database whose transactions `append_on_commit` speaks of."""

    def append(self, events: Sequence[Event]) -> list[str]:
        """Take events that have no id yet, in this order; returns their ids."""
        ...

    def append_on_commit(self, events: Sequence[Event]) -> None:
        """Take events that become visible when the transaction around the call commits, and never if it does not."""
        ...

    def after(self, cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
        """Up to `limit` events of these channels after the cursor, oldest first.

        Raises Gap when an event of these channels after the cursor is no longer kept, and for a cursor that is not of
        this history.
        """
        ...

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        """A cursor, and all events of all channels after it: up to `backlog`. The reader gets what follows.

        Once begun it does not end: when the log cannot be reached it tries again, ever more slowly, and goes on
        where it was.
        """
        ...

    def check_following(self) -> None:
        """Raises Unavailable when what is published now would not reach the reader that follows: for a health check."""
        ...

    def close(self) -> None:
        """Stop following and let go of connections. A closed broker is not used again."""
        ...


def open_broker(url: str, history: int, history_seconds: float, history_bytes: int = 2**26) -> Broker:
    """The broker for a URL. It keeps `history` events of each channel, and none for longer than `history_seconds`.

    `history_bytes` is for a broker in memory: what all channels together may take.
    Raises ImproperlyConfigured for a URL that none of them takes.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if not rest:
            from .memory import MemoryBroker

            return MemoryBroker(history, history_seconds, history_bytes)
        case "db":
            from ..models import StoredEvent
            from .database import DatabaseBroker

            return DatabaseBroker(rest or router.db_for_write(StoredEvent), history, history_seconds)
        case "redis" | "rediss" | "unix":
            from .redis import RedisBroker

            return RedisBroker(url, history, history_seconds)
        case _:
            raise ImproperlyConfigured(
                "EVENTS['BROKER'] takes 'memory:', 'db:', 'db:alias', 'redis://…', 'rediss://…' or 'unix://…', "
                f"not {url!r}."
            )
