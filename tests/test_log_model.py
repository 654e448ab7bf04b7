"""Brokers and hubs against a model: a reader gets every event of its channels once and in order, or a justified gap."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from events.brokers import Broker, Reader, open_broker
from events.hub import Hub
from events.log import Cursor, Gap
from events.subscription import Subscription
from events.wire import Event
from tests.brokers import PATIENCE, OpenLog

HISTORY = 3
BYTES = 12_000  # of a log in memory: about five long events, and more of the short ones than the history holds
CHANNELS = ("a", "b", "c", "d")
SIZES = (1, 2_000)  # of an event's data


class Model:
    """What was published, and what of it a reader must get."""

    def __init__(self, bytes_kept: float) -> None:
        self.published: list[Event] = []
        self._bytes_kept = bytes_kept  # of the log that all processes share

    def owed(self, cursor: Cursor, channels: Collection[str]) -> list[Event]:
        return [event for event in self.published if event.channel in channels and cursor_of(event) > cursor]

    def may_be_gone(self, owed: Sequence[Event]) -> bool:
        """Whether the oldest of these events need not be kept any more."""
        counts = Counter(event.channel for event in owed)
        if not owed or max(counts.values()) > HISTORY:
            return bool(owed)
        since = self.published[self.published.index(owed[0]) :]
        return sum(len(event.data) + 500 for event in since) + 2_000 * len(CHANNELS) > self._bytes_kept


class Lagging:
    """A broker whose hub is told what happened when the test says so, or that it lags too far behind."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.database = broker.database
        self.append, self.append_on_commit = broker.append, broker.append_on_commit
        self.after, self.check_following, self.close = broker.after, broker.check_following, broker.close
        self._told: deque[Event] = deque()
        self._changed = threading.Condition()
        self._reader: Reader | None = None
        self._newest = Cursor(0, 0)

    def follow(self, reader: Reader, backlog: int) -> tuple[Cursor, list[Event]]:
        self._reader = reader
        start, events = self._broker.follow(Reader(self._deliver, self._restart, self._forget), backlog)
        with self._changed:
            self._newest = max(self._newest, start, *map(cursor_of, events))
        return start, events

    def wait_for(self, cursor: Cursor) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._newest >= cursor, PATIENCE)

    def tell(self, count: int) -> None:
        """Deliver so many of the events that the hub has not been told."""
        assert self._reader
        with self._changed:
            events = [self._told.popleft() for _ in range(min(count, len(self._told)))]
        if events:
            self._reader.deliver(events)

    def lose(self) -> None:
        """Deliver none of them, ever."""
        assert self._reader
        with self._changed:
            self._told.clear()
            newest = self._newest
        self._reader.restart(newest)

    def lose_of(self, channel: str) -> None:
        """Deliver none of one channel, but for the newest of all."""
        assert self._reader
        with self._changed:
            lost = [event for event in self._told if event.channel == channel and event is not self._told[-1]]
            self._told = deque(event for event in self._told if event not in lost)
        if lost:
            self._reader.forget({channel: cursor_of(lost[-1])})

    def _deliver(self, events: Sequence[Event]) -> None:
        with self._changed:
            self._told += events
            self._newest = max(self._newest, *map(cursor_of, events))
            self._changed.notify_all()

    def _restart(self, cursor: Cursor) -> None:
        assert self._reader
        with self._changed:
            self._told.clear()
            self._reader.restart(cursor)
            self._newest = max(self._newest, cursor)
            self._changed.notify_all()

    def _forget(self, floors: Mapping[str, Cursor]) -> None:
        assert self._reader
        self._reader.forget(floors)


@dataclass(eq=False)
class Process:
    broker: Lagging
    hub: Hub


@dataclass(eq=False)
class Client:
    """Somebody who reads some channels: by stream while there is a subscription, or else by poll."""

    channels: frozenset[str]
    cursor: Cursor
    last_event: Cursor
    subscription: Subscription | None = None
    process: Process | None = None

    def leave(self) -> None:
        if self.subscription:
            self.subscription.close()
        self.subscription = self.process = None


class Logs(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self, open_broker: Callable[[], Broker], processes: int, bytes_kept: float, prefix: str) -> None:
        super().__init__()
        self._open_broker = open_broker
        self._count = processes
        self._prefix = prefix
        self._model = Model(bytes_kept)
        self._processes: list[Process] = []
        self._clients: list[Client] = []

    @initialize()
    def start(self) -> None:
        self._processes = [self._start() for _ in range(self._count)]

    def _start(self) -> Process:
        broker = Lagging(self._open_broker())
        return Process(broker, Hub(broker, HISTORY, BYTES))

    def _process(self, index: int) -> Process:
        return self._processes[index % len(self._processes)]

    # What happens to the log and the processes

    @rule(
        process=st.integers(0, 2),
        channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=6),
        size=st.sampled_from(SIZES),
    )
    def publish(self, process: int, channels: list[str], size: int) -> None:
        number = len(self._model.published)
        events = [
            Event(None, self._prefix + channel, "message", f"{number + n}".ljust(size, "."))
            for n, channel in enumerate(channels)
        ]
        contents = [(event.channel, event.type, event.data) for event in events]
        for event_id, content in zip(self._process(process).broker.append(events), contents, strict=True):
            event = Event(event_id, *content)
            assert not self._model.published or cursor_of(event) > cursor_of(self._model.published[-1])
            self._model.published.append(event)
        for each in self._processes:
            each.broker.wait_for(cursor_of(self._model.published[-1]))

    @rule(process=st.integers(0, 2), count=st.integers(1, 20))
    def tell(self, process: int, count: int) -> None:
        self._process(process).broker.tell(count)

    @rule(process=st.integers(0, 2))
    def lose(self, process: int) -> None:
        self._process(process).broker.lose()

    @rule(process=st.integers(0, 2), channel=st.sampled_from(CHANNELS))
    def lose_of_one_channel(self, process: int, channel: str) -> None:
        self._process(process).broker.lose_of(self._prefix + channel)

    @rule(process=st.integers(0, 2), exactly=st.booleans())
    def restart(self, process: int, exactly: bool) -> None:
        """Its clients come back with the id of their last event, or with that of a heartbeat after it."""
        old = self._process(process)
        for client in self._clients:
            if client.process is old:
                client.leave()
                client.cursor = client.cursor if exactly else client.last_event
        old.hub.close()
        self._processes[self._processes.index(old)] = self._start()

    # What readers do

    @rule(target=clients, process=st.integers(0, 2), channels=st.sets(st.sampled_from(CHANNELS), min_size=1))
    def arrive(self, process: int, channels: Iterable[str]) -> Client:
        cursor = self._process(process).hub.log.head
        client = Client(frozenset(self._prefix + channel for channel in channels), cursor, cursor)
        self._clients.append(client)
        return client

    @rule(client=clients, process=st.integers(0, 2))
    def connect(self, client: Client, process: int) -> None:
        client.leave()
        client.process = self._process(process)
        client.subscription = client.process.hub.subscribe(client.channels, 1_000)
        head = client.subscription.cursor
        try:
            client.subscription.resume(client.cursor)
        except Gap:
            self._take_gap(client, head)

    @precondition(lambda self: any(client.subscription for client in self._clients))
    @rule(client=clients)
    def read(self, client: Client) -> None:
        if client.subscription:
            self._read(client)

    @rule(client=clients, process=st.integers(0, 2), limit=st.integers(1, 5))
    def poll(self, client: Client, process: int, limit: int) -> None:
        client.leave()
        hub = self._process(process).hub
        try:
            events, cursor = hub.since(client.cursor, client.channels, limit)
        except Gap:
            self._take_gap(client, max(client.cursor, hub.log.head))
        else:
            assert len(events) <= limit
            self._take(client, events, cursor)

    def _read(self, client: Client) -> bool:
        """Read once from a stream. True when something happened."""
        assert client.subscription
        assert client.process
        head = client.process.hub.log.head
        try:
            events = client.subscription.read()
        except Gap:
            self._take_gap(client, client.subscription.cursor)
            return True
        self._take(client, events, client.subscription.cursor)
        if not events:
            assert [event for event in self._owed(client) if cursor_of(event) <= head] == []
        return bool(events)

    def _owed(self, client: Client) -> list[Event]:
        return self._model.owed(client.cursor, client.channels)

    def _take(self, client: Client, events: list[Event], cursor: Cursor) -> None:
        owed = self._owed(client)
        assert events == owed[: len(events)]
        client.cursor = cursor
        client.last_event = cursor_of(events[-1]) if events else client.last_event
        # The cursor says exactly that: what was read is behind it, and all else before it.
        assert self._owed(client) == owed[len(events) :]

    def _take_gap(self, client: Client, cursor: Cursor) -> None:
        assert self._model.may_be_gone(self._owed(client)), "a gap where everything must have been kept"
        assert cursor >= client.cursor, "events again that were read before the gap"
        client.cursor = client.last_event = cursor

    def teardown(self) -> None:
        """Once every process has been told everything, every client has everything."""
        try:
            for process in self._processes:
                process.broker.tell(1_000_000)
            for n, client in enumerate(self._clients):
                self.connect(client, n)
                while self._read(client):
                    pass
                assert self._owed(client) == []
        finally:
            for process in self._processes:
                process.hub.close()


def cursor_of(event: Event) -> Cursor:
    return Cursor.parse(event.id or "")


LIMITS = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_process_with_its_log_in_memory_keeps_to_the_model() -> None:
    def machine() -> Logs:
        broker = open_broker("memory:", HISTORY, 86_400.0, BYTES)  # the log outlives a hub, as it does a reader
        return Logs(lambda: broker, 1, BYTES, "")

    run_state_machine_as_test(machine, settings=LIMITS)  # type: ignore[arg-type]  # any callable


def test_processes_of_one_log_keep_to_the_model(open_log: OpenLog) -> None:
    log = open_log("sqlite")
    examples = 0

    def machine() -> Logs:
        nonlocal examples
        examples += 1  # each in channels of its own, as all are in one database
        return Logs(lambda: log.open(HISTORY), 3, float("inf"), f"{examples}.")

    run_state_machine_as_test(machine, settings=LIMITS)  # type: ignore[arg-type]  # any callable
