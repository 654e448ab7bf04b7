"""Summaries: from what was counted to what a reader wants to know. Plain data, ready for JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTILES = 200  # points of a distribution that a chart gets; more cannot be seen


@dataclass(frozen=True)
class Arm:
    """One way of reading. `interval` in seconds, None for a stream; `conditional`: with ETag and If-None-Match."""

    name: str
    interval: float | None = None
    conditional: bool = False

    @classmethod
    def poll(cls, interval: float, conditional: bool = False) -> "Arm":
        return cls(f"poll {interval:g} s" + (" + ETag" if conditional else ""), interval, conditional)

    @property
    def streams(self) -> bool:
        return self.interval is None


SSE = Arm("SSE")


@dataclass(frozen=True)
class Spread:
    """A distribution's marks, in seconds."""

    median: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None when there is nothing to tell of. Values need not be sorted."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(*(_rank(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)))


def quantiles(values: Sequence[float]) -> list[float]:
    """The distribution in at most QUANTILES + 1 points, from the least to the greatest."""
    ordered = sorted(values)
    return [round(_rank(ordered, point / QUANTILES), 6) for point in range(QUANTILES + 1)] if ordered else []


def _rank(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was measured, never one in between."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Result:
    """One arm, measured. Counts and costs are those of the steady window of `seconds`, unless they say otherwise."""

    arm: Arm
    server: str
    clients: int
    seconds: float
    updates: int  # made within the window
    requests: int
    found: int  # updates in the answers to polls
    skipped: int  # polls that were due while an answer was still out
    statuses: dict[str, int]  # of every answer from the first connection to the last; "none": refused or cut
    sent: int  # bytes, by the clients
    received: int  # bytes, by the clients
    sent_in_all: int  # bytes, from the first connection to the last, as a packet capture would have them
    received_in_all: int
    cpu: float | None  # seconds, user and system, the server's process tree; None when it is not ours
    publish_cpu: float  # how much of it publishing takes, by what it takes where nobody reads
    connect_cpu: float | None  # seconds, while all clients connected
    memory_before: int | None  # bytes, before the first client
    memory: int | None  # bytes, with all of them
    staleness: Spread | None  # of each update and client, shown or not
    quantiles: list[float] = field(repr=False)
    shown: int  # updates that users saw themselves, before a later one took their place
    lost: int | None  # over the whole arm; None where updates cannot be told apart by those who poll
    refused: int  # updates that the site did not take, and so nobody got
    doubled: int
    connect: Spread | None
    reconnect: Spread | None  # all at once, as after an outage
    client_cpu: float  # share of one core that all clients together took
    interrupted: bool = False

    @property
    def client_updates(self) -> int:
        """Updates that were to reach clients: each update counts once for each client."""
        return self.updates * self.clients

    @property
    def client_updates_per_cpu(self) -> float | None:
        """For a second of CPU, all that the server does included."""
        return self.client_updates / self.cpu if self.cpu else None

    @property
    def reading_cpu(self) -> float | None:
        """Seconds, without what publishing takes, which is the same however it is read."""
        return max(0.0, self.cpu - self.publish_cpu) if self.cpu is not None else None

    @property
    def client_updates_per_reading_cpu(self) -> float | None:
        return self.client_updates / self.reading_cpu if self.reading_cpu else None

    @property
    def bytes_per_client_update(self) -> float:
        return (self.sent + self.received) / max(1, self.client_updates)

    @property
    def cpu_per_update(self) -> float:
        """Seconds, for as many clients as there are."""
        return (self.cpu or 0.0) / max(1, self.updates)

    @property
    def cpu_per_request(self) -> float | None:
        """Seconds, for reading alone."""
        return self.reading_cpu / self.requests if self.reading_cpu is not None and self.requests else None

    @property
    def bytes_per_request(self) -> float:
        return (self.sent + self.received) / max(1, self.requests)

    @property
    def memory_per_client(self) -> float | None:
        if self.memory is None or self.memory_before is None or not self.clients:
            return None
        return max(0, self.memory - self.memory_before) / self.clients

    @property
    def never_shown(self) -> int:
        return self.client_updates - self.shown

    @property
    def answers(self) -> int:
        """Those that should have come included."""
        return sum(self.statuses.values())

    @property
    def failures(self) -> int:
        """Answers that were none: refused, cut, or an error's status."""
        return sum(n for status, n in self.statuses.items() if status not in ("200", "304"))
