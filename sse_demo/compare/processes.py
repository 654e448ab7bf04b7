"""What all servers that are started here have in common: a free port, and an end with us."""

import ctypes
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def free_port() -> int:
    """Of 127.0.0.1; free until somebody takes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """To run in a new child: the kernel ends it when we are killed and cannot. Only Linux knows such a thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
