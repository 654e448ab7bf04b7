"""This process's broker and hub: opened on first use, anew in a forked child, drained and closed."""

import math
import os
import threading
import time
from contextlib import suppress

from django.core import mail

from .brokers import Broker, Unavailable, open_broker
from .conf import get_config
from .hub import Hub

_STARTS_APART = 1.0  # seconds in which a hub that could not start is not tried again: each try may hold a thread
_PATIENCE = 1.0  # seconds that a page waits for its cursor; without one it still works

_broker: Broker | None = None
_hub: Hub | None = None
_failure = (-math.inf, "")  # when starting failed, by the monotonic clock, and why
_starting = threading.RLock()
_start: tuple[threading.Thread, float] | None = None  # who starts the hub for a page, and until when pages wait


def get_broker() -> Broker:
    """This process's broker, opened on first use: all that publishing needs. A forked child gets its own.

    In Django's test environment a log of `db:` is kept in memory. A TestCase never commits, so no other connection
    would see its events; in-memory SQLite would be locked by it, and PostgreSQL not drop a database that is followed.
    """
    global _broker
    if not _broker:
        with _starting:
            if not _broker:
                config = get_config()
                history = (config.HISTORY, config.HISTORY_SECONDS, config.HISTORY_BYTES)
                _broker = open_broker(config.BROKER, *history)
                if config.BROKER.startswith("db:") and _is_testing():
                    database, _broker = _broker.database, open_broker("memory:", *history)
                    _broker.database = database
    return _broker


def get_hub() -> Hub:
    """This process's hub, started on first use. A forked child gets its own.

    Raises Unavailable while the broker cannot be reached; a later use tries again.
    """
    global _hub, _failure
    if not _hub:
        with _starting:
            if not _hub:
                failed, failure = _failure
                if time.monotonic() < failed + _STARTS_APART:
                    raise Unavailable(failure)
                try:
                    _hub = Hub(get_broker(), get_config().HISTORY, get_config().HISTORY_BYTES)
                except Unavailable as error:
                    _failure = (time.monotonic(), str(error))
                    raise
    return _hub


def current_cursor() -> str | None:
    """The cursor of this moment: a feed that begins there gets everything that is published from now on.

    Take it before reading what a page shows. None while the broker cannot be reached; it waits a second at most, and
    only while this process has no hub yet.
    """
    get_broker()  # which does not connect: wrong settings are raised here
    if not _hub:
        _start_hub()
    return str(_hub.log.head) if _hub else None


def _start_hub() -> None:
    """Start the hub in a thread of its own: a broker that does not answer holds it for longer than a page waits."""
    global _start
    if not _start or not _start[0].is_alive():
        _start = threading.Thread(target=_try_to_start, name="events-start", daemon=True), time.monotonic() + _PATIENCE
        _start[0].start()
    thread, until = _start
    thread.join(max(0.0, until - time.monotonic()))


def _try_to_start() -> None:
    with suppress(Unavailable):  # streams and polls, which cannot do without, tell
        get_hub()


def _is_testing() -> bool:
    """Whether Django's setup_test_environment() has run."""
    return hasattr(mail, "outbox")


def drain_hub() -> None:
    """End every stream of this process."""
    if _hub:
        _hub.drain()


def is_draining() -> bool:
    return bool(_hub and _hub.draining)


def close_hub() -> None:
    """Close this process's hub and broker; the next use starts others."""
    global _hub, _broker, _failure
    with _starting:
        if closing := _hub or _broker:
            closing.close()
        _hub, _broker, _failure = None, None, (-math.inf, "")


def _forget() -> None:
    # The parent's threads and connections are not here; its locks may be, held for ever.
    global _hub, _broker, _starting
    _hub, _broker, _starting = None, None, threading.RLock()


os.register_at_fork(after_in_child=_forget)
