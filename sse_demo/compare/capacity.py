"""What many users would need, from the costs that a comparison has measured with a few; see docs/scaling.md."""

import math
from collections.abc import Sequence

from events.conf import Config
from events.polls.formula import Costs, Need, polling, streaming
from sse_demo.compare.results import SSE, Arm, Result

__all__ = ["Costs", "Need", "polling", "streaming"]  # the formula; here is what a comparison makes of it

USERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
RATES = {"each second": 1.0, "every 10 s": 0.1, "each minute": 1 / 60, "each hour": 1 / 3_600}
MONTH = 30 * 86_400  # seconds
HEARTBEAT_EVERY = Config.HEARTBEAT  # seconds of silence
LONGEST = 30 * 86_400.0  # seconds; who polls less often than monthly does not poll


def fit(stream: Result, empty: Result, finding: Result, crowded: Result) -> Costs:
    """The costs that these measurements show, publishing left out.

    `stream`: the arm that streams. `empty`: polls that found nothing. `finding` and `crowded`: polls that found a few
    events and many, which tells an answer's own cost from that of its events.
    """
    # What the answers brought, and not what was made meanwhile: a server that is behind brings less of it.
    found = [result.found / max(1, result.requests) for result in (finding, crowded)]
    poll_cpu, event_cpu = _line(found, [result.cpu_per_request or 0.0 for result in (finding, crowded)])
    poll_bytes, event_bytes = _line(found, [result.bytes_per_request for result in (finding, crowded)])
    return Costs(
        stream_cpu=(stream.reading_cpu or 0.0) / stream.client_updates,
        stream_bytes=stream.bytes_per_client_update,
        stream_memory=stream.memory_per_client or 0.0,
        stream_connect=(stream.connect_cpu or 0.0) / stream.clients,
        empty_cpu=empty.cpu_per_request or 0.0,
        empty_bytes=empty.bytes_per_request,
        poll_cpu=poll_cpu,
        poll_bytes=poll_bytes,
        event_cpu=event_cpu,
        event_bytes=event_bytes,
        poll_memory=empty.memory_per_client or 0.0,
        publish_cpu=stream.publish_cpu / stream.updates,
    )


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Through two points: y at 0, and the slope. Neither is negative, since nothing is paid back."""
    (x1, x2), (y1, y2) = xs, ys
    slope = min(max(0.0, (y2 - y1) / (x2 - x1)), y1 / x1) if x2 > x1 > 0 else 0.0
    return y1 - slope * x1, slope


def needs(costs: Costs, users: float, rate: float, intervals: Sequence[float]) -> list[tuple[str, Need]]:
    """The need of each way of reading, by its name."""
    polls = ((Arm.poll(interval).name, polling(costs, users, rate, interval)) for interval in intervals)
    return [(SSE.name, streaming(costs, users, rate)), *polls]


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
