"""Servers to measure: real ones, each on a free port, with nothing of the project's own changed."""

import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from django.conf import settings

from sse_demo.compare.processes import START_TIMEOUT, free_port, run


@dataclass(frozen=True)
class Kind:
    """A way to serve the project with gunicorn. One process, so that costs do not depend on how work is shared."""

    name: str
    arguments: tuple[str, ...]


# The rest is the repository's own gunicorn.conf.py: the worker, and connections kept for longer than most intervals.
_COMMON = ("--workers", "1", "--no-control-socket")
ASGI = Kind("gunicorn sse_demo.asgi", ("sse_demo.asgi", *_COMMON))
GTHREAD = Kind(
    "gunicorn -k gthread sse_demo.wsgi",
    ("sse_demo.wsgi", "-k", "gthread", "--threads", "4", "--worker-connections", "20000", *_COMMON),
)


class Usage:
    """What a process and its descendants have used: CPU seconds since they began, bytes of memory now."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """User and system time, that of children which have ended included."""
        total = 0.0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                ended = process.cpu_times()
                total += _cpu_seconds(process) + ended.children_user + ended.children_system
        return total

    def memory(self) -> int:
        """What the processes have allocated; where that is known, without the files that others may share with them."""
        total = 0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                info = process.memory_info()
                total += info.rss - getattr(info, "shared", 0)
        return total


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The clock of clock_getcpuclockid(3): the sum of /proc's utime and stime, but in ns and not in ticks of 10 ms.
        with suppress(OSError):
            return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    token: str
    usage: Usage


@contextmanager
def run_server(kind: Kind, bind: str = "") -> Iterator[Server]:
    """Run the project until the context ends. `bind` as gunicorn takes it; a free port of 127.0.0.1 by default.

    Raises ServerFailed.
    """
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        token = secrets.token_urlsafe()
        bind = bind or f"127.0.0.1:{free_port()}"
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "sse_demo.settings",
            "DJANGO_DEBUG": "",
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(),
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "DATABASE_URL": f"sqlite:///{directory}/db.sqlite3",
            "EVENTS_BROKER": "memory:",  # one process: an event's way is the same, and nothing else is measured
            "EVENTS_PUBLISH_TOKEN": token,
        }
        arguments = [sys.executable, "-m", "gunicorn", *kind.arguments, "--bind", bind]
        with run(
            arguments, Path(directory, "log"), lambda: _answers(bind), cwd=settings.BASE_DIR, env=environment
        ) as process:
            yield Server(f"http://{bind}/events/", token, Usage(process.pid))


def _answers(bind: str) -> bool:
    """Whether a request is: the worker imports Django after the master has begun to listen."""
    with _connect(bind) as connection:
        connection.settimeout(START_TIMEOUT)
        connection.sendall(b"GET /events/poll/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def _connect(bind: str) -> socket.socket:
    if bind.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(bind.removeprefix("unix:"))
        return connection
    host, _, port = bind.partition(":")
    return socket.create_connection((host, int(port)), 5)
