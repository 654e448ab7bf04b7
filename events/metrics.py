"""What this process has done since it began, counted where it happens."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Added to without a lock: that two threads may meet and one addition be lost is cheaper than waiting each time."""

    polls: int = 0  # answered
    deliveries: int = 0  # events written to streams; one event for ten streams is ten
    # Processor seconds of writing them: from reading the log until the server has taken the bytes.
    stream_seconds: float = 0.0


counters = Counters()
