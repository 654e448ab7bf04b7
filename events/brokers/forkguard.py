"""Keeps a fork from happening while a thread of ours is within SQLite.

SQLite has locks of its own for the whole process. A child that is forked while another thread holds one of them finds
it held for ever, and hangs when it opens a database.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 1.0  # seconds that a fork waits: a thread may wait for another process's lock for longer


class ForkGuard:
    """Threads say when they are within; a fork waits until none is, and they wait until it is over."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._begin)

    @contextmanager
    def within(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        self.step_in(getattr(self._thread, "depth", 0) + 1)

    def leave(self) -> None:
        if (depth := getattr(self._thread, "depth", 0)) > 1:
            self._thread.depth = depth - 1
        else:  # in a child that was forked from within it is 0
            self.step_out()

    def step_out(self) -> int:
        """Be out, however often this thread has entered; returns how often, for `step_in`."""
        depth: int = getattr(self._thread, "depth", 0)
        if depth:
            self._thread.depth = 0
            with self._changed:
                self._inside -= 1
                if self._is_forking:
                    self._changed.notify_all()
        return depth

    def step_in(self, depth: int) -> None:
        if depth and not getattr(self._thread, "depth", 0):
            with self._changed:
                while self._is_forking:
                    self._changed.wait()
                self._inside += 1
        self._thread.depth = depth

    def _begin(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._thread = threading.local()
        self._inside = 0
        self._is_forking = False

    def _before(self) -> None:
        own = 1 if getattr(self._thread, "depth", 0) else 0
        with self._changed:
            self._is_forking = True
            self._changed.wait_for(lambda: self._inside <= own, _PATIENCE)

    def _after(self) -> None:
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()


guard = ForkGuard()
