"""The formula of docs/scaling.md: what many users would need, from the costs of a few. It is linear."""

from dataclasses import dataclass

from ..conf import Config
from ..log import Cursor
from ..streams import heartbeat

STREAM_AGE = 0.9 * Config.MAX_STREAM_AGE  # seconds, on average, until a stream is opened anew
HEARTBEAT_BYTES = len(heartbeat(Cursor(10**12, 0))) + len("35\r\n\r\n")


@dataclass(frozen=True)
class Costs:
    """Of one server process on this machine: CPU seconds, bytes both ways, bytes of memory."""

    stream_cpu: float  # an update to a client
    stream_bytes: float
    stream_memory: float  # an open stream
    stream_connect: float  # opening it: CPU alone, the bytes are few
    empty_cpu: float  # a poll that finds nothing (304)
    empty_bytes: float
    poll_cpu: float  # a poll that finds something, without the events
    poll_bytes: float
    event_cpu: float  # each event in it
    event_bytes: float
    poll_memory: float  # a connection kept alive
    publish_cpu: float  # an update, once, before anyone reads it; the same both ways, so in neither of them


# Those that docs/scaling.md publishes: one machine's, another one has others.
PUBLISHED = Costs(
    stream_cpu=12e-6,
    stream_bytes=135,
    stream_memory=700,
    stream_connect=1.2e-3,
    empty_cpu=0.83e-3,
    empty_bytes=512,
    poll_cpu=0.85e-3,
    poll_bytes=603,
    event_cpu=1.4e-6,
    event_bytes=201,
    poll_memory=8_500,
    publish_cpu=1.7e-3,
)


@dataclass(frozen=True)
class Need:
    """What so many users need each second; memory all the time."""

    requests: float
    cores: float
    bytes: float
    memory: float


def streaming(costs: Costs, users: float, rate: float) -> Need:
    """`rate`: updates a second that each user is to see. Heartbeats fill the silence, and each stream is renewed."""
    beats = max(0.0, 1 / Config.HEARTBEAT - rate)
    return Need(
        requests=users / STREAM_AGE,
        cores=users * ((rate + beats) * costs.stream_cpu + costs.stream_connect / STREAM_AGE),
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
