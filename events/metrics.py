"""What the processes of this server have done, counted where it happens.

A process counts in a row of numbers. The processes that one server forks have their rows in memory that they share, so
that whichever of them is asked can answer for all. A process that ends leaves its row to one that comes after it,
which goes on counting there: so no sum ever falls, and no number of replaced workers takes more than their rows.
"""

import fcntl
import logging
import mmap
import os
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

from .journal import tell

ENDINGS = ("left", "drained", "aged", "cut", "revoked")
"""Why a stream ends: its client left, this process stops, it had its time, its client read nothing, it may no more."""

# Seconds from publishing to the write: a pass of the fan-out, a look at SQLite, what a user notices, what is broken.
DELAYS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_ROWS = 512  # processes at a time; half a megabyte


class _Number:
    """An attribute of Counters that is kept in its row."""

    def __set_name__(self, owner: "type[Counters]", name: str) -> None:
        self._column = len(owner.columns)
        owner.columns.append(name)

    def __get__(self, counters: "Counters", owner: "type[Counters]") -> float:
        return counters.row[self._column]

    def __set__(self, counters: "Counters", value: float) -> None:
        counters.row[self._column] = value


class Counters:
    """Added to without a lock: that two threads may meet and one addition be lost is cheaper than waiting each time.

    What the hub counts is exact, as it has a lock of its own.
    """

    columns: list[str] = []  # noqa: RUF012  it is filled while the class is made

    # What there is now, of a process that lives.
    in_use = _Number()  # the row; it belongs to the last process that had it
    hubs = _Number()  # 1 for a process that follows the broker, or tries to
    lost = _Number()  # 1 while it cannot
    streams = _Number()
    slow = _Number()  # those among them, of a fan-out, that have not taken what was written

    # What there has been.
    opened = _Number()
    refused = _Number()  # for want of room
    left = _Number()
    drained = _Number()
    aged = _Number()
    cut = _Number()
    revoked = _Number()
    published = _Number()  # by these processes
    received = _Number()  # from the broker; one event for three processes is three
    deliveries = _Number()  # events written to streams; one event for ten streams is ten
    # Processor seconds of writing them: from reading the log until the server has taken the bytes.
    stream_seconds = _Number()
    gaps = _Number()  # told to a stream or a poll
    polls = _Number()  # answered
    unchanged = _Number()  # those with 304
    reconnects = _Number()  # to the broker
    evaluations = _Number()  # of live views
    evaluations_late = _Number()  # those among them that were late by more than their interval

    # Of the events whose time is known, delivered to streams that were open already.
    delay_seconds = _Number()  # summed up

    def __init__(self) -> None:
        self.row = _row()
        self._file: IO[bytes] | None = None
        self._rows: list[memoryview[float]] = []
        self._own: int | None = None

    @property
    def delays(self) -> "memoryview[float]":
        """How many were delivered within each of DELAYS, and above the one before it; the last took longer."""
        return self.row[_DELAYS:]

    def observe(self, times: Iterable[float | None], now: float, streams: int = 1) -> None:
        """Count events of these times as delivered to so many streams now. All in seconds since the epoch."""
        for time in times:
            if time is not None:
                delay = max(0.0, now - time)  # another machine's clock may be ahead
                self.row[_DELAYS + bisect_left(DELAYS, delay)] += streams
                self.delay_seconds += delay * streams

    def end(self, ending: str) -> None:
        """Count a stream's end, by one of ENDINGS."""
        setattr(self, ending, getattr(self, ending) + 1)

    def share(self) -> None:
        """Have the processes that this one forks count in memory that they share. May be called again.

        For a server's first process, which itself serves nobody.
        """
        if self._file:
            return
        width = len(self.row)
        try:
            file = _memory_file()
            file.truncate(_ROWS * width * 8)
            table = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        except OSError as error:
            tell(logging.WARNING, "Each process counts for itself, as there is no memory to share", reason=error)
            return
        self._file = file  # open as long as we are
        self._rows = [table[at * width : (at + 1) * width] for at in range(_ROWS)]
        os.register_at_fork(after_in_child=self._take_a_row)

    def total(self) -> "Counters":
        """The sum of all processes, as it is now."""
        total = Counters()
        for row in self._used_rows():
            for column, value in enumerate(row):
                total.row[column] += value
        return total

    def _take_a_row(self) -> None:
        """The first that no living process has: the lock on it goes when its process does, however that ends."""
        self.row, self._own = _row(), None
        for number, row in enumerate(self._rows):
            if self._lock(number):
                row[:_GAUGES] = array("d", [1.0] + [0.0] * (_GAUGES - 1))
                self.row, self._own = row, number
                return

    def _used_rows(self) -> "Iterator[memoryview[float]]":
        if self._own is None:
            yield self.row
        for number, row in enumerate(self._rows):
            if not row[0]:
                return  # they are taken in order
            # Not one's own: it would be unlocked.
            if number != self._own and self._lock(number):
                row[1:_GAUGES] = array("d", [0.0] * (_GAUGES - 1))
                self._unlock(number)
            yield row

    # Locks of fcntl, as they belong to a process and end with it; a child does not inherit them.
    def _lock(self, number: int) -> bool:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)  # type: ignore[arg-type]
            return True
        return False

    def _unlock(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)  # type: ignore[arg-type]


def _memory_file() -> IO[bytes]:
    """A file without a name: in memory where the system has that, so that none of its directories need be writable."""
    if hasattr(os, "memfd_create"):  # on Linux; a sandbox may refuse it
        with suppress(OSError):
            return os.fdopen(os.memfd_create("events-counters"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


_GAUGES = Counters.columns.index("opened")
_DELAYS = len(Counters.columns)  # where they begin in a row


def _row() -> "memoryview[float]":
    return memoryview(array("d", [0.0] * (_DELAYS + len(DELAYS) + 1)))


counters = Counters()
