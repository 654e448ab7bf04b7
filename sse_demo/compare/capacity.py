"""What many users would need, from the costs of a few. The model is linear, and says so; see docs/scaling.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from events.conf import Config
from events.streams import HEARTBEAT
from sse_demo.compare.results import Result

USERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
RATES = {"each second": 1.0, "every 10 s": 0.1, "each minute": 1 / 60, "each hour": 1 / 3_600}
MONTH = 30 * 86_400  # seconds
HEARTBEAT_EVERY = Config.HEARTBEAT  # seconds of silence
HEARTBEAT_BYTES = len(HEARTBEAT) + len("1f\r\n\r\n")
LONGEST = 30 * 86_400.0  # seconds; who polls less often than monthly does not poll


@dataclass(frozen=True)
class Costs:
    """Of one server process on this machine: CPU seconds, bytes both ways, bytes of memory."""

    stream_cpu: float  # an update to a client
    stream_bytes: float
    stream_memory: float  # an open stream
    empty_cpu: float  # a poll that finds nothing (304)
    empty_bytes: float
    poll_cpu: float  # a poll that finds something, without the events
    poll_bytes: float
    event_cpu: float  # each event in it
    event_bytes: float
    poll_memory: float  # a connection kept alive
    publish_cpu: float  # an update, once, before anyone reads it; the same both ways, so in neither of them


@dataclass(frozen=True)
class Need:
    """What so many users need each second; memory all the time."""

    requests: float
    cores: float
    bytes: float
    memory: float

    @property
    def bytes_a_month(self) -> float:
        return self.bytes * MONTH


def fit(stream: Result, empty: Result, finding: Sequence[Result], alone: Mapping[str, Result]) -> Costs:
    """The costs that these measurements show.

    `stream`: the arm that streams. `empty`: polls that found nothing. `finding`: polls that found something, each time
    as many polls but more events in them, which tells an answer's own cost from that of its events. `alone`: by server,
    updates published with nobody to read them; what that takes is no cost of reading.
    """

    def publishing(server: str) -> float:
        return (alone[server].cpu or 0.0) / max(1, alone[server].updates)

    def reading(result: Result) -> float:
        return max(0.0, (result.cpu or 0.0) - result.updates * publishing(result.server))

    found = [result.client_updates / result.requests for result in finding]
    poll_cpu, event_cpu = _line(found, [reading(result) / result.requests for result in finding])
    poll_bytes, event_bytes = _line(found, [(result.sent + result.received) / result.requests for result in finding])
    return Costs(
        stream_cpu=reading(stream) / stream.client_updates,
        stream_bytes=stream.bytes_per_client_update,
        stream_memory=stream.memory_per_client or 0.0,
        empty_cpu=(empty.cpu or 0.0) / empty.requests,
        empty_bytes=(empty.sent + empty.received) / empty.requests,
        poll_cpu=poll_cpu,
        poll_bytes=poll_bytes,
        event_cpu=event_cpu,
        event_bytes=event_bytes,
        poll_memory=empty.memory_per_client or 0.0,
        publish_cpu=publishing(stream.server),
    )


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Least squares: y at 0, and the slope. Neither is negative, since nothing is paid back."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread > 1e-6 else 0.0
    slope = min(max(slope, 0.0), mean_y / mean_x)
    return mean_y - slope * mean_x, slope


def streaming(costs: Costs, users: float, rate: float) -> Need:
    """`rate`: updates a second that each user is to see. Heartbeats fill the silence, when there is any."""
    beats = max(0.0, 1 / HEARTBEAT_EVERY - rate)
    return Need(
        requests=0.0,
        cores=users * (rate + beats) * costs.stream_cpu,
        bytes=users * (rate * costs.stream_bytes + beats * HEARTBEAT_BYTES),
        memory=users * costs.stream_memory,
    )


def polling(costs: Costs, users: float, rate: float, interval: float) -> Need:
    """Every poll is paid for; one that finds something costs more, and so does each event in it."""
    requests = users / interval
    waiting = rate * interval  # events that a poll finds
    finds = min(1.0, waiting)  # the share of polls that find any
    return Need(
        requests=requests,
        cores=requests * ((1 - finds) * costs.empty_cpu + finds * costs.poll_cpu + waiting * costs.event_cpu),
        bytes=requests * ((1 - finds) * costs.empty_bytes + finds * costs.poll_bytes + waiting * costs.event_bytes),
        memory=users * costs.poll_memory,
    )


def crossover(costs: Costs, rate: float) -> float | None:
    """The polling interval, in seconds, from which polling costs less CPU than streaming. None: not within a month."""
    target = streaming(costs, 1, rate).cores
    if polling(costs, 1, rate, LONGEST).cores >= target:
        return None
    low, high = 0.01, LONGEST
    while high / low > 1.001:  # polling costs less the longer the interval is, so halving finds it
        middle = math.sqrt(low * high)
        low, high = (low, middle) if polling(costs, 1, rate, middle).cores < target else (middle, high)
    return high


def users_for(costs: Costs, rate: float, interval: float, cores: float) -> float:
    """How many users polling serves with so many cores."""
    return cores / polling(costs, 1, rate, interval).cores
