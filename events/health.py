"""Whether readers are served now, for load balancers: found out by one thread, at most once a second.

They are when the broker answers, and what is published reaches this process.
"""

import logging
import math
import threading
import time

from django.db import connections

from .brokers import Unavailable
from .journal import tell
from .log import Gap
from .process import get_hub

_APART = 1.0  # seconds between two questions
_PATIENCE = 0.8  # seconds; Kubernetes gives a probe one, unless it is told otherwise


class _Health:
    """The last answer, and the thread that gets the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.Thread()
        self._asked = -math.inf
        self._trouble = ""

    def check(self) -> None:
        """Raises Unavailable when the broker cannot be reached, or does not answer in time."""
        with self._lock:
            if not self._thread.is_alive() and time.monotonic() >= self._asked + _APART:
                self._asked = time.monotonic()
                self._thread = threading.Thread(target=self._ask, name="events-health", daemon=True)
                self._thread.start()
            thread = self._thread
        # A broker that is silent holds this one thread, and for longer than now the first who ask.
        thread.join(max(0.0, self._asked + _PATIENCE - time.monotonic()))
        if thread.is_alive():
            raise Unavailable(f"No answer within {_PATIENCE:g} seconds.")
        if self._trouble:
            raise Unavailable(self._trouble)

    def _ask(self) -> None:
        try:
            hub = get_hub()
            hub.broker.after(hub.log.head, (), 1)
            hub.broker.check_following()
            self._trouble = ""
        except Gap:
            self._trouble = "The log has another history, which this process has not noticed yet."
        except Unavailable as unavailable:
            self._trouble = str(unavailable)
        except Exception as error:  # noqa: BLE001  whatever it is, this process can serve no events
            self._trouble = f"{type(error).__name__}: {error}"
            tell(logging.ERROR, "The broker cannot be asked", error)
        finally:
            connections.close_all()  # of this thread, which ends


_health = _Health()


def check_health() -> None:
    """Ask the broker, or take the answer of less than a second ago. Raises Unavailable."""
    _health.check()
