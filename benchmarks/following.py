"""How many events a process can follow, and what each costs it, when nobody reads them there: by broker.

The follower has the first core to itself; the publisher and the broker's server have the second one. What it costs
to follow a silent log is subtracted. For the most that it can follow the follower is stopped while events are
published, so that it is the only one who has to do anything when it goes on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services import PostgreSQL, Service, Valkey

ROOT = Path(__file__).resolve().parent.parent
RATE = 200  # events a second, one by one, or all of a second at once
MOST = 20_000  # events that wait for the follower when it goes on
BURST = 500  # of these, published at once
TEXT = "x" * 100


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have used. In /proc they are ticks of 10 ms, counted by chance."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) has it


@dataclass
class Log:
    name: str
    broker: str  # {url}: of the service
    service: Callable[[], Service] | None = None


LOGS = [
    Log("db: on SQLite", "db:"),
    Log("db: on PostgreSQL", "db:", PostgreSQL),
    Log("redis://", "{url}", Valkey),
]


class Process:
    """A process of this project that obeys its standard input, a line of JSON for each order and each answer."""

    def __init__(self, role: str, environment: dict[str, str], core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.following", role],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.pid = self._process.pid
        self.answer()

    def order(self, *what: object) -> Any:
        self.tell(*what)
        return self.answer()

    def tell(self, *what: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def cpu(self) -> float:
        """Seconds used so far."""
        return cpu_of(self.pid)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._process.communicate()


@contextmanager
def _processes(log: Log, cores: tuple[int, int]) -> Iterator[tuple[Process, Process]]:
    """The follower and the publisher."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[1]})  # and that of the service, which inherits it
    service = log.service() if log.service else None
    running: list[Process] = []
    try:
        with tempfile.TemporaryDirectory(prefix="sse-demo-") as directory:
            database, url = f"sqlite:///{Path(directory) / 'events.sqlite3'}", ""
            if service:
                service.start()
                database = service.new_database() if isinstance(service, PostgreSQL) else database
                url = service.url if isinstance(service, Valkey) else ""
            environment = os.environ | {
                "DJANGO_SETTINGS_MODULE": "benchmarks.project",
                "DJANGO_SECRET_KEY": "benchmark",
                "DATABASE_URL": database,
                "BENCH_BROKER": log.broker.format(url=url),
                "BENCH_HISTORY": str(10 * MOST),
                "RATE": "0",
            }
            migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
            subprocess.run(migrate, cwd=ROOT, env=environment, check=True)
            running.append(Process("publish", environment, cores[1]))
            running.append(Process("follow", environment, cores[0]))
            try:
                yield running[1], running[0]
            finally:
                for process in running:
                    process.stop()
    finally:
        if service:
            service.remove()
        os.sched_setaffinity(0, mine)


def following(log: Log, cores: tuple[int, int], seconds: float) -> dict[str, float]:
    """What one process can follow of this log; `cores`: the follower's, and that of the others."""
    with _processes(log, cores) as (follower, publisher):
        follower.order("until", publisher.order("publish", 0, 1, 20))
        time.sleep(1)
        used, began = follower.cpu(), time.monotonic()
        time.sleep(max(5.0, seconds))
        silent = (follower.cpu() - used) / (time.monotonic() - began)
        result = {"% of a core, silent": 100 * silent}
        for kind, burst in (("one by one", 1), ("in bursts", RATE)):
            count = RATE * max(1, round(seconds))
            used, began = follower.cpu(), time.monotonic()
            last = publisher.order("publish", RATE, burst, count)
            follower.order("until", last)
            net = follower.cpu() - used - silent * (time.monotonic() - began)
            result[f"µs/event, {RATE}/s {kind}"] = 1e6 * net / count
        os.kill(follower.pid, signal.SIGSTOP)
        last = publisher.order("publish", 0, BURST, MOST)
        used, began = follower.cpu(), time.monotonic()
        follower.tell("until", last)
        os.kill(follower.pid, signal.SIGCONT)
        follower.answer()
        result["events/s at most"] = MOST / (time.monotonic() - began)
        result["µs/event then"] = 1e6 * (follower.cpu() - used) / MOST
    return result


def _publish(rate: float, burst: int, count: int) -> str:
    """Publish so many, `burst` of them at once; rate 0: as fast as it goes. Returns the last one's id."""
    from events import publish
    from events.process import get_broker
    from events.publishing import new_event

    began, last = time.monotonic(), ""
    for number in range(0, count, burst):
        if rate:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        if burst == 1:
            last = publish(f"u{number}", TEXT) or ""
        else:
            last = get_broker().append([new_event(f"u{number + i}", TEXT) for i in range(burst)])[-1]
    if rate and burst > 1:
        time.sleep(max(0.0, began + count / rate - time.monotonic()))  # the last second is as long as the others
    return last


def _follow_until(last: str) -> bool:
    from events.log import Cursor
    from events.process import get_hub

    while get_hub().log.head < Cursor.parse(last):
        time.sleep(0.01)  # seldom enough to cost nothing
    return True


def main() -> None:
    import django

    django.setup()
    from events.process import get_hub

    if sys.argv[1] == "follow":
        get_hub()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(_publish(*arguments) if what == "publish" else _follow_until(*arguments)), flush=True)


if __name__ == "__main__":
    main()
