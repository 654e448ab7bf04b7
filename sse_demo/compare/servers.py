"""Servers to measure: real ones, each on a free port, with nothing of the project's own changed."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from django.conf import settings

from sse_demo.compare.processes import end_with_parent, free_port

START_TIMEOUT = 30.0  # seconds; a busy machine needs several for Django's imports


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


class ServerFailed(Exception):
    """A server did not start; the text is what it printed."""


class Usage:
    """What a process and its descendants have used: CPU seconds since they began, bytes of memory now."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """User and system time."""
        return sum(_cpu_seconds(process) for process in self._tree())

    def memory(self) -> int:
        """Proportional set size: a page that several processes share counts once in all. RSS where there is no PSS."""
        total = 0
        for process in self._tree():
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        return total


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The clock of clock_getcpuclockid(3): the sum of /proc's utime and stime, but in ns and not in ticks of 10 ms.
        with suppress(OSError):
            return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass
class Server:
    """A running server."""

    kind: Kind
    url: str
    token: str
    usage: Usage
    process: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def run_server(kind: Kind, bind: str = "", **environment: str) -> Iterator[Server]:
    """Run the project until the context ends. `bind` as gunicorn takes it; a free port of 127.0.0.1 by default.

    Raises ServerFailed.
    """
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        log = Path(directory, "log")
        token = secrets.token_urlsafe()
        bind = bind or f"127.0.0.1:{free_port()}"
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "sse_demo.settings",
            "DJANGO_DEBUG": "",
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(),
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "DATABASE_URL": f"sqlite:///{directory}/db.sqlite3",
            "EVENTS_BROKER": "memory:",  # one process: an event's way is the same, and nothing else is measured
            "EVENTS_PUBLISH_TOKEN": token,
            **environment,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  our own arguments, with no shell between
                [sys.executable, "-m", "gunicorn", *kind.arguments, "--bind", bind],
                cwd=settings.BASE_DIR,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop the servers ourselves, once their numbers are read
                preexec_fn=end_with_parent,
            )
        try:
            _await(process, bind, log)
            yield Server(kind, f"http://{bind}/events/", token, Usage(process.pid), process, log)
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):  # workers that a killed master has left behind
        os.killpg(process.pid, signal.SIGKILL)


def _await(process: "subprocess.Popen[bytes]", bind: str, log: Path) -> None:
    """Until a request is answered: the worker imports Django after the master has begun to listen."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError), _connect(bind) as connection:
            connection.settimeout(START_TIMEOUT)
            connection.sendall(b"GET /events/poll/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if connection.recv(64).startswith(b"HTTP/1.1 200"):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"The server did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)  # nothing tells when it listens but trying


def _connect(bind: str) -> socket.socket:
    if bind.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(bind.removeprefix("unix:"))
        return connection
    host, _, port = bind.partition(":")
    return socket.create_connection((host, int(port)), 5)
