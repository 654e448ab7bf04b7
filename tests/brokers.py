"""Every kind of log on its real server, for tests that promise the same of all of them."""

import os
import queue
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
from django.core.management import call_command
from django.db import connections
from pytest_django.plugin import DjangoDbBlocker

from events.brokers import Broker, Reader, open_broker
from events.log import Cursor
from events.models import ChannelFloor, LogState, StoredEvent
from events.wire import Event
from sse_demo.settings import SQLITE_OPTIONS
from tests.live.servers import ROOT, Server
from tests.services import Valkey

PATIENCE = 30  # seconds that a test waits for what it was promised


@dataclass
class Log:
    """One log, empty at first, and the ways to it: a URL for EVENTS_BROKER and the environment of a process.

    Transactions in the database `alias` are those that its events may wait for.
    """

    url: str
    environment: dict[str, str] = field(default_factory=dict)
    alias: str = "default"
    lose_history: Callable[[], object] | None = None
    brokers: list[Broker] = field(default_factory=list)

    def open(self, history: int = 10_000, history_seconds: float = 86_400.0) -> Broker:
        """A broker on this log, as another process would have it."""
        broker = open_broker(self.url, history, history_seconds)
        broker.database = self.alias
        self.brokers.append(broker)
        return broker

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()

    def process(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """A Python process of the project that uses this log."""
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "sse_demo.settings",
            "DJANGO_SECRET_KEY": "for tests only",
            "EVENTS_BROKER": self.broker,
            **self.environment,
        }
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def server(self, static_root: Path, *arguments: str, kind: str = "asgi", **events: Any) -> Server:
        """The project behind a server, with this log."""
        return Server(kind, static_root, {"BROKER": self.broker, **events}, list(arguments), self.environment)

    @property
    def broker(self) -> str:
        """EVENTS_BROKER in a process where our database is the default one."""
        return "db:" if self.url.startswith("db:") else self.url


class Recorder:
    """Follows a broker and keeps what it is told, in order."""

    def __init__(self, broker: Broker, backlog: int = 0) -> None:
        self._told: queue.Queue[Event | Cursor] = queue.Queue()
        self.forgotten: dict[str, Cursor] = {}
        self.begin, self.backlog = broker.follow(Reader(self._deliver, self._told.put, self.forgotten.update), backlog)

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            self._told.put(event)

    def next(self) -> Event | Cursor:
        """The next event, or the cursor of a restart."""
        return self._told.get(timeout=PATIENCE)

    def events(self, count: int) -> list[Event]:
        told = [self.next() for _ in range(count)]
        assert all(isinstance(one, Event) for one in told), told
        return [one for one in told if isinstance(one, Event)]

    def nothing_more(self) -> bool:
        return self._told.empty()


OpenLog = Callable[[str], Log]


@pytest.fixture
def open_log(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[OpenLog]:
    """Makes a log of a kind: memory, sqlite, postgresql or valkey."""
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())

        def make(kind: str) -> Log:
            url = f"sqlite:///{tmp_path / 'events.sqlite3'}"
            if kind == "postgresql":
                url = request.getfixturevalue("postgresql_server").new_database()
            alias = stack.enter_context(_database(url))
            match kind:
                case "memory":
                    log = Log("memory:", alias=alias)
                case "valkey":
                    log = stack.enter_context(_valkey_log(request.getfixturevalue("valkey_server"), alias))
                case _:
                    call_command("migrate", "events", database=alias, verbosity=0)
                    log = Log(f"db:{alias}", {"DATABASE_URL": url}, alias, lambda: _empty(alias))
            stack.callback(log.close)
            return log

        yield make


@contextmanager
def _valkey_log(server: Valkey, alias: str) -> Iterator[Log]:
    stream = f"test-{uuid.uuid4()}"
    with server.client() as client:

        def lose_history() -> None:
            if keys := client.keys(f"{{{stream}}}*"):
                client.delete(*keys)

        yield Log(f"{server.url}?stream={stream}", alias=alias, lose_history=lose_history)
        lose_history()


@contextmanager
def _database(url: str) -> Iterator[str]:
    """A database of the project under an alias of its own."""
    alias = f"test_{uuid.uuid4().hex}"
    connections.databases[alias] = {**connections.databases["default"], **_as_in_the_project(url)}
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.databases[alias]


def _empty(alias: str) -> None:
    StoredEvent.objects.using(alias).all().delete()
    ChannelFloor.objects.using(alias).all().delete()
    LogState.objects.using(alias).all().delete()


def _as_in_the_project(url: str) -> dict[str, Any]:
    database: dict[str, Any] = {**dj_database_url.parse(url)}
    database["OPTIONS"] = SQLITE_OPTIONS if url.startswith("sqlite:") else {}
    return database
