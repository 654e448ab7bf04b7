"""What the users see: how far each has come with the updates, and how stale they are when they are shown."""

import math
from array import array
from collections.abc import Iterable

from sse_demo.compare.updates import Updates


class Screen:
    """What one user sees: the newest update so far. It counts what came, and how stale each update was when shown."""

    __slots__ = ("_seen", "_updates", "doubled", "first", "newest", "staleness")

    def __init__(self, updates: Updates, staleness: "Staleness") -> None:
        self._updates = updates
        self.staleness = staleness
        self.first = len(updates.made)  # the updates before it are not for this user
        self.newest = self.first - 1
        self.doubled = 0
        self._seen = 0  # a bit for each update

    def show(self, numbers: Iterable[int], now: float) -> None:
        """Updates have arrived together; the newest of them is what the user sees."""
        newest = self.newest
        for number in numbers:
            bit = 1 << number
            if self._seen & bit:
                self.doubled += 1
            self._seen |= bit
            newest = max(newest, number)
        if newest > self.newest:
            self.staleness.add(self._updates.made, self.newest + 1, newest, now)
            self.newest = newest

    def lost(self, total: int) -> int:
        """How many of the first `total` updates never came."""
        mine = ((1 << total) - 1) >> self.first << self.first
        return (mine & ~self._seen).bit_count()


class Staleness:
    """Of every update and user: seconds from when it was made until it, or a later one, was shown.

    Updates that are made within the window count, however late they are shown, and whether a user ever saw them or
    was shown a later one instead: an update is stale until something at least as new is on the screen. So a server
    that stalls is charged for every update of the stall, and not for one late answer (coordinated omission).
    """

    def __init__(self) -> None:
        self.values = array("d")
        self.shown = 0  # updates of the window that a user saw themselves
        self._from = math.inf
        self._until = math.inf

    def begin(self, at: float) -> None:
        self._from = at

    def end(self, at: float) -> None:
        self._until = at

    def add(self, made: list[float], first: int, last: int, now: float) -> None:
        for number in range(first, last + 1):
            if self._from <= made[number] < self._until:
                self.values.append(now - made[number])
                self.shown += number == last

    def give_up(self, screens: Iterable[Screen], made: list[float], now: float) -> None:
        """Charge what was never shown with the time that it has been missing so far."""
        for screen in screens:
            for number in range(screen.newest + 1, len(made)):
                if self._from <= made[number] < self._until:
                    self.values.append(now - made[number])
