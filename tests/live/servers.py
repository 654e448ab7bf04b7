"""Real servers for tests: started on a free port of 127.0.0.1, and stopped by their process id."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from events.wire import Decoder, Event

ROOT = Path(__file__).resolve().parent.parent.parent

GUNICORN = ["-m", "gunicorn", "--no-control-socket", "--bind", "{address}"]
COMMANDS = {
    "runserver": ["manage.py", "runserver", "--noreload", "{address}"],
    "sync": [*GUNICORN, "sse_demo.wsgi", "-k", "sync"],
    "gthread": [*GUNICORN, "sse_demo.wsgi", "-k", "gthread", "--threads", "4"],
    "waitress": ["-m", "waitress", "--listen={address}", "sse_demo.wsgi:application"],
    "asgi": [*GUNICORN, "sse_demo.asgi"],
    "stock-asgi": [*GUNICORN, "sse_demo.asgi", "-k", "asgi"],
    "uvicorn": ["-m", "uvicorn", "sse_demo.asgi:application", "--host", "{host}", "--port", "{port}"],
    "hypercorn": ["-m", "hypercorn", "sse_demo.asgi:application", "--bind", "{address}"],
    "daphne": ["-m", "daphne", "sse_demo.asgi:application", "--bind", "{host}", "--port", "{port}"],
    "granian": [
        "-m",
        "granian",
        "sse_demo.asgi:application",
        "--interface",
        "asgi",
        "--host",
        "{host}",
        "--port",
        "{port}",
    ],
}
PORTABLE = ("stock-asgi", "uvicorn", "hypercorn", "daphne", "granian")
STREAMING = ("runserver", "gthread", "waitress", "asgi", *PORTABLE)


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """Of those that the system gives to no connection and tests beside these do not take, one where nobody listens."""
    while True:
        port = 10_000 + 2_000 * (_WORKER % 10) + secrets.randbelow(2_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once the process answers at this URL. Raises RuntimeError, with what it printed, when it does not."""
    deadline = time.monotonic() + 60
    while True:
        try:
            requests.get(url, timeout=5)
            return
        except requests.ConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"No server at {url}:\n{log.read_text(errors='replace')}") from None
            time.sleep(0.05)  # nothing tells when a server listens but trying


@dataclass
class Server:
    """A server of one kind, with settings.EVENTS changed as given. It can be stopped and started again."""

    kind: str
    static_root: Path
    events: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    command: list[str] | None = None  # in place of the kind's
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"{'https' if '--certfile' in self.arguments else 'http'}://127.0.0.1:{self.port}"

    @property
    def _log_file(self) -> Path:
        return self.static_root.parent / f"server-{self.port}.log"

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.live.settings",
            "DJANGO_SECRET_KEY": "for tests only",
            "TEST_STATIC_ROOT": str(self.static_root),
            "TEST_EVENTS": json.dumps(self.events),
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }

    def manage(self, *arguments: str) -> None:
        """Run a command of manage.py with the settings of this server."""
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env=self._environment, check=True)

    def start(self) -> None:
        values = {"address": f"127.0.0.1:{self.port}", "host": "127.0.0.1", "port": str(self.port)}
        command = [part.format(**values) for part in self.command or COMMANDS[self.kind]]
        with self._log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command, *self.arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(f"{self.url}/test/process/", self.process, self._log_file)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Signal the server's own process, and end whatever of it is left after that."""
        if not self.process:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):  # its workers, were it killed before it could stop them
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None

    def log(self) -> str:
        """What it has printed."""
        return self._log_file.read_text(errors="replace")

    def publish(self, channel: str, data: Any, **more: Any) -> str:
        answer = requests.post(f"{self.url}/test/publish/", json={"channel": channel, "data": data, **more}, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def poll(self, **parameters: Any) -> requests.Response:
        return requests.get(f"{self.url}/events/poll/", params=parameters, timeout=10)

    def state(self) -> dict[str, int]:
        """The process that answers: pid, streams and threads."""
        return dict(requests.get(f"{self.url}/test/process/", timeout=10).json())


@contextmanager
def serve(
    kind: str, static_root: Path, *arguments: str, command: list[str] | None = None, **events: Any
) -> Iterator[Server]:
    server = Server(kind, static_root, events, list(arguments), command=command)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Stream:
    """A client of an event stream: `requests` for the bytes, the project's decoder for the events."""

    def __init__(self, server: Server | str, headers: dict[str, str] | None = None, **parameters: Any) -> None:
        url = server if isinstance(server, str) else server.url
        self.response = requests.get(f"{url}/events/", params=parameters, headers=headers, stream=True, timeout=30)
        self.decoder = Decoder()
        self._events = self._read()

    def _read(self) -> Iterator[Event]:
        # Not iter_content: without chunked coding it waits for the whole body, and a stream has no end.
        while chunk := self.response.raw.read1():
            yield from self.decoder.feed(chunk)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()

    def next(self, type: str | None = None) -> Event:
        """The next event, or the next one of a type. Raises StopIteration when the stream has ended."""
        return next(event for event in self._events if type in (None, event.type))
