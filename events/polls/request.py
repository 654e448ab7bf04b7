from typing import NamedTuple


class Request(NamedTuple):
    """A request, as a log or a browser has noted it."""

    time: float  # seconds since 1970; often whole ones
    address: str
    agent: str
    method: str
    target: str  # path and query
    status: int
    size: int  # bytes
    seconds: float | None = None  # that the answer took, where the log has it
    body: int | None = None  # hash of what was answered, where a HAR has it
