"""The formula of docs/scaling.md, with the costs that are published there. One machine's: another one has others."""

from dataclasses import dataclass

from ..conf import Config

C_STREAM = 12e-6  # CPU seconds: an update on a stream, to one user
B_STREAM = 135  # bytes
C_CONNECT = 1.2e-3  # CPU seconds: opening a stream
C_EMPTY = 0.83e-3  # CPU seconds: a poll that finds nothing
B_EMPTY = 512  # bytes
C_POLL = 0.85e-3  # CPU seconds: a poll that finds something
B_POLL = 603  # bytes
C_EVENT = 1.4e-6  # CPU seconds: each event in it
B_EVENT = 201  # bytes
B_HEARTBEAT = 53  # bytes
AGE = 0.9 * Config.MAX_STREAM_AGE  # seconds, on average, until a stream is opened anew


@dataclass(frozen=True)
class Need:
    """Each second."""

    requests: float
    cores: float
    bytes: float


def streaming(users: float, updates: float) -> Need:
    """`updates`: a second, to each of them."""
    heartbeats = max(0.0, 1 / Config.HEARTBEAT - updates)
    return Need(
        requests=users / AGE,
        cores=users * ((updates + heartbeats) * C_STREAM + C_CONNECT / AGE),
        bytes=users * (updates * B_STREAM + heartbeats * B_HEARTBEAT),
    )


def polling(users: float, updates: float, interval: float) -> Need:
    """`interval`: seconds from one poll to the next."""
    requests, n = users / interval, updates * interval
    f = min(1.0, n)
    return Need(
        requests=requests,
        cores=requests * ((1 - f) * C_EMPTY + f * C_POLL + n * C_EVENT),
        bytes=requests * ((1 - f) * B_EMPTY + f * B_POLL + n * B_EVENT),
    )
