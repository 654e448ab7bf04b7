"""The thread in which a broker follows its log."""

import logging
import random
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from ..journal import tell
from ..log import Cursor
from ..metrics import counters
from ..wire import Event
from . import Reader, Unavailable

_PATIENCE = 5.0  # seconds; someone waits for the answer to a request
_SILENT = 5.0  # seconds; a follower looks at its log each second, also when nothing happens
_FIRST_PAUSE = 0.1  # seconds; a server that was only restarted is back soon
_LONGEST_PAUSE = 5.0  # seconds; nobody waits much longer than the outage itself


class Follower(ABC):
    """One reader's way through a log, in a thread of its own: runs `follow` again and again until closed.

    A broker's `follow` connects, at the first time sets `start` and `backlog`, calls `began`, and reads for ever from
    `place` on. It returns when `closing` is set; it raises Unavailable when the log cannot be reached, and is run
    again after a pause: random, so that many processes do not come back at the same moment, and on average twice as
    long each time. Progress ends that: an event delivered, or all read that there is. To connect alone is none, as
    what fails just after it would be tried again without a pause.
    """

    start: Cursor

    def __init__(self, reader: Reader, wanted: int) -> None:
        """`wanted`: how many of the newest events the backlog should hold."""
        self.reader = replace(reader, deliver=self._deliver_events)
        self._reader_deliver = reader.deliver
        self.wanted = wanted
        self.backlog: list[Event] = []  # all that came after `start`
        self.place: Cursor | None = None  # of the last event delivered
        self._begun: Future[None] = Future()
        self._failures = 0
        self._lost = 0.0  # when, by the monotonic clock
        self._progressed_at = time.monotonic()
        self._closing = threading.Event()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="events-follower", daemon=True)

    @abstractmethod
    def follow(self) -> None: ...

    def interrupt(self) -> None:
        """End what `follow` waits for, from another thread, if that is not `wait`."""
        return

    def begin(self) -> None:
        """Start the thread; returns once it follows. Raises Unavailable when the log cannot be reached."""
        self._thread.start()
        try:
            self._begun.result(_PATIENCE)
        except TimeoutError:
            self._closing.set()  # it ends by itself, whenever its connection does
            raise Unavailable(f"No answer within {_PATIENCE:g} seconds.") from None
        except Unavailable:
            self.close()
            raise

    def began(self) -> None:
        """For `follow` to say that the log was reached."""
        if not self._begun.done():
            self._begun.set_result(None)

    def check(self) -> None:
        """Raises Unavailable when it does not follow just now: it tries to reach the log, or waits for its answer."""
        silent = time.monotonic() - self._progressed_at
        if self._failures or silent > _SILENT:
            raise Unavailable(f"Nothing has been heard of the log for {silent:.0f} seconds; see the lines before.")

    def progressed(self) -> None:
        """For `follow` to say that it has read all that there is. Waiting and delivering say so by themselves."""
        self._progressed_at = time.monotonic()
        if self._failures:
            seconds = f"{time.monotonic() - self._lost:.1f}"
            tell(logging.WARNING, "The broker is reached again", seconds=seconds, attempts=self._failures)
            counters.lost = 0
            counters.reconnects += 1
        self._failures = 0

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def wait(self, timeout: float, connection: int | None = None) -> None:
        """For `follow`, when it has read all that there is: sleep for `timeout` seconds, or until `poke`, or until this
        file descriptor has news.
        """
        self.progressed()
        self._sleep(timeout, connection)

    def _sleep(self, timeout: float, connection: int | None = None) -> None:
        if connection is not None:
            self._selector.register(connection, selectors.EVENT_READ)
        try:
            ready = self._selector.select(timeout)
        finally:
            if connection is not None:
                self._selector.unregister(connection)
        if any(key.fileobj is self._alarm for key, _ in ready):
            with suppress(BlockingIOError):
                while self._alarm.recv(1024):
                    pass

    def poke(self) -> None:
        """Wake the thread: there is news."""
        with suppress(OSError):  # it is awake already, or closed
            self._bell.send(b"!")

    def close(self) -> None:
        """End the thread. Returns when it has ended."""
        self._closing.set()
        while self._thread.is_alive():  # it may have been just about to wait
            self.poke()
            self.interrupt()
            self._thread.join(0.1)
        self._selector.close()
        self._alarm.close()
        self._bell.close()

    def _deliver_events(self, events: Sequence[Event]) -> None:
        self._reader_deliver(events)
        self.progressed()

    def _run(self) -> None:
        while not self.closing:
            try:
                self.follow()
            except Exception as error:  # noqa: BLE001  a process whose follower has died would be silent for ever
                if self._closing.is_set():
                    return
                if not self._begun.done():
                    self._begun.set_exception(
                        error if isinstance(error, Unavailable) else Unavailable(f"{type(error).__name__}: {error}")
                    )
                    return
                if not self._failures:
                    self._lost = time.monotonic()
                    counters.lost = 1
                    bug = None if isinstance(error, Unavailable) else error
                    tell(logging.WARNING, "Cannot reach the broker; retrying", bug, reason=error)
                self._failures += 1
                self._sleep(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10))))  # noqa: S311
