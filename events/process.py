"""This process's broker and hub: opened on first use, anew in a forked child, drained and closed."""

import math
import os
import threading
import time

from django.core import mail

from events.brokers import Broker, Unavailable, open_broker
from events.conf import get_config
from events.hub import Hub

_STARTS_APART = 1.0  # seconds in which a hub that could not start is not tried again: each try may hold a thread

_broker: Broker | None = None
_hub: Hub | None = None
_failure = (-math.inf, "")  # when starting failed, by the monotonic clock, and why
_starting = threading.RLock()


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
