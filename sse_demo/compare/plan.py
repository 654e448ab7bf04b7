"""What is to be measured, checked before anything starts."""

import os
import resource
import ssl
from dataclasses import dataclass

from sse_demo.compare.arms import Load
from sse_demo.compare.http import Site
from sse_demo.compare.results import SSE, Arm

MAX_CLIENTS = 10_000  # one server process takes no more streams (EVENTS["MAX_STREAMS"])
SPARE_FILES = 500  # for everything but the clients, connections that nginx keeps included


class BadPlan(Exception):
    """This cannot be measured; the text says why and what can."""


@dataclass(frozen=True)
class Plan:
    """The options of the command. Raises BadPlan for what is out of range, contradictory, or not possible here."""

    clients: int
    updates_per_second: float = 1.0
    duration: float = 15.0  # seconds
    intervals: tuple[float, ...] = (1.0, 5.0)  # in order, each once
    together: bool = False
    url: str = ""
    token: str = ""
    proxy: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= MAX_CLIENTS:
            raise BadPlan(f"--clients takes 1 to {MAX_CLIENTS:,}, not {self.clients:,}.")
        if not 0.01 <= self.updates_per_second <= 1_000:
            raise BadPlan(f"--updates-per-second takes 0.01 to 1,000, not {self.updates_per_second:g}.")
        if not 1 <= self.duration <= 3_600:
            raise BadPlan(f"--duration takes 1 to 3,600 seconds, not {self.duration:g}.")
        if self.duration * self.updates_per_second < 1:
            raise BadPlan(
                f"Nothing would happen: {self.updates_per_second:g} updates a second for {self.duration:g} s are less "
                f"than one. Choose a longer --duration."
            )
        if not self.intervals or not all(0.1 <= interval <= 3_600 for interval in self.intervals):
            raise BadPlan("--intervals takes one or more of 0.1 to 3,600 seconds.")
        if self.url and self.proxy:
            raise BadPlan("--proxy puts nginx in front of a server of our own; it does not go with --url.")
        _require_files(self.clients * (2 if self.proxy else 1) + SPARE_FILES)

    @property
    def load(self) -> Load:
        return Load(self.clients, self.updates_per_second, self.duration, self.together)

    @property
    def arms(self) -> list[Arm]:
        """In the order of measuring. A conditional poll does not see the clock, whose ticks are in no log."""
        conditional = (False,) if self.url and not self.token else (False, True)
        return [SSE, *(Arm.poll(interval, kind) for interval in self.intervals for kind in conditional)]

    def resolve(self) -> Site:
        """The site of --url. Raises BadPlan."""
        try:
            return Site.resolve(self.url)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise BadPlan(f"--url {self.url}: {error}") from None


def _require_files(needed: int) -> None:
    """Every client is an open file here, and again in the server, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BadPlan(
            f"This needs {needed:,} open files, and the limit is {hard:,}: raise it (ulimit -Hn {needed}) or choose "
            f"fewer --clients."
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
