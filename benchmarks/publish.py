"""How fast one process publishes, by broker, beside the bare thing that each broker is built on.

Every row publishes the same events of 1 KB one at a time, in rounds that take turns, so that whatever else the
machine does meets all of them; its figure is the median of its rounds. "publish()" is called as a project calls
it, in a process of its own. SQLite and PostgreSQL have each event on the disk before they answer; Valkey has it
there within a second (appendfsync everysec).
"""

import argparse
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.live.servers import ROOT
from tests.services import PostgreSQL, Valkey

TEXT = "x" * 1_000
TABLE = "CREATE TABLE bare (id {}, channel varchar(100), type varchar(64), data text, created timestamp)"
INSERT = "INSERT INTO bare (channel, type, data, created) VALUES ({0}, {0}, {0}, CURRENT_TIMESTAMP)"

Round = Callable[[int], float]
"""Publishes so many events, and returns the seconds it took."""


def timed(publish: Callable[[], object]) -> Round:
    def one_round(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            publish()
        return time.perf_counter() - began

    return one_round


@contextmanager
def bare_sqlite(directory: Path) -> Iterator[Round]:
    connection = sqlite3.connect(directory / "bare.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(TABLE.format("integer primary key"))
    yield timed(lambda: connection.execute(INSERT.format("?"), ("bench", "message", TEXT)))
    connection.close()


@contextmanager
def bare_postgresql(server: PostgreSQL) -> Iterator[Round]:
    with psycopg.connect(server.new_database(), autocommit=True) as connection:
        connection.execute(TABLE.format("bigserial primary key").encode())
        insert = INSERT.format("%s").encode()
        yield timed(lambda: connection.execute(insert, ("bench", "message", TEXT)))


@contextmanager
def bare_valkey(server: Valkey) -> Iterator[Round]:
    fields = {"channel": "bench", "type": "message", "data": TEXT}
    with server.client() as client:
        yield timed(lambda: client.xadd("bare", fields, maxlen=10_000, approximate=True))


@contextmanager
def publishing(broker: str, database: str) -> Iterator[Round]:
    """`publish()` in a process that has this broker and this database."""
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "sse_demo.settings",
        "DJANGO_SECRET_KEY": "for a benchmark only",
        "DATABASE_URL": database,
        "EVENTS_BROKER": broker,
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity=0"], cwd=ROOT, env=environment, check=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.publish", "--serve"],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    orders, answers = process.stdin, process.stdout
    assert orders
    assert answers

    def one_round(count: int) -> float:
        orders.write(f"{count}\n")
        orders.flush()
        return float(answers.readline())

    try:
        yield one_round
    finally:
        process.communicate()


def serve() -> None:
    """In the process that publishes: a count on each line of standard input, the seconds on each line of output."""
    import django

    django.setup()

    from events import publish

    one_round = timed(lambda: publish("bench", TEXT))
    one_round(20)
    for line in sys.stdin:
        print(one_round(int(line)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000, help="for each row (default: 10,000)")
    parser.add_argument("--rounds", type=int, default=5, help="that they are published in (default: 5)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sse-demo-")))
        postgresql, valkey = PostgreSQL(), Valkey()
        for server in (postgresql, valkey):
            stack.callback(server.remove)
            server.start()
        unused = f"sqlite:///{directory / 'unused.sqlite3'}"
        rows = {
            "SQLite: bare INSERT": bare_sqlite(directory),
            "SQLite: publish(), db:": publishing("db:", f"sqlite:///{directory / 'events.sqlite3'}"),
            "PostgreSQL: bare INSERT": bare_postgresql(postgresql),
            "PostgreSQL: publish(), db:": publishing("db:", postgresql.new_database()),
            "Valkey: bare XADD": bare_valkey(valkey),
            "Valkey: publish(), redis://": publishing(valkey.url, unused),
            "publish(), memory:": publishing("memory:", unused),
        }
        rounds = {name: stack.enter_context(row) for name, row in rows.items()}
        count = options.events // options.rounds
        speeds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, one_round in rounds.items():
                speeds[name].append(count / one_round(count))

    print(
        f"{options.events:,} events of 1 KB from one process in {options.rounds} rounds; "
        f"Python {platform.python_version()}, {os.cpu_count()} cores ({_processor()})\n"
    )
    print(f"{'':30}{'events/s, median':>18}{'slowest':>10}{'fastest':>10}")
    for name, values in speeds.items():
        print(f"{name:30}{statistics.median(values):18,.0f}{min(values):10,.0f}{max(values):10,.0f}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
