import asyncio
import gc
import os
import threading
import time
from collections.abc import Collection

import pytest
from pytest_django.fixtures import Settings

from events import process, publish, revoke, sources
from events.hub import REVOKED, Hub, revocation
from events.limits import Full
from events.log import Cursor, Gap
from events.process import get_hub
from events.sources import Show, Stop
from events.subscription import Subscription
from events.wire import Event
from tests.brokers import OpenLog


def subscribe(*channels: str) -> Subscription:
    return get_hub().subscribe(channels, limit=100)


def data(subscription: Subscription) -> list[str]:
    return [event.data for event in subscription.read()]


def tick(text: str, channel: str = "clock", type: str = "message") -> None:
    get_hub().show(Event(None, channel, type, text))


def test_a_subscription_reads_what_is_published_in_its_channels() -> None:
    reader = subscribe("a", "b")
    publish("a", 1)
    publish("c", 2)
    publish("b", 3)
    assert data(reader) == ["1", "3"]
    assert data(reader) == []


def test_a_subscription_begins_at_the_head() -> None:
    publish("a", 1)
    reader = subscribe("a")
    publish("a", 2)
    assert data(reader) == ["2"]


def test_a_reader_that_fell_off_the_log_is_told_once_and_goes_on(settings: Settings) -> None:
    settings.EVENTS = {"HISTORY": 3, "BROKER": "memory:"}
    reader = subscribe("a")
    for number in range(5):
        publish("a", number)
    with pytest.raises(Gap):
        reader.read()
    publish("a", "next")
    assert data(reader) == ['"next"']


def test_of_ephemeral_events_a_slow_reader_sees_the_newest_of_each_type() -> None:
    reader = subscribe("clock")
    for number in range(100):
        tick(str(number))
    tick("load", type="stats")
    assert data(reader) == ["99", "load"]
    assert data(reader) == []


def test_ephemeral_events_are_for_the_readers_of_their_channel() -> None:
    reader = subscribe("clock")
    tick("elsewhere", channel="weather")
    assert data(reader) == []


def test_ephemeral_events_before_a_subscription_are_not_for_it() -> None:
    tick("old")
    assert data(subscribe("clock")) == []


def test_an_ephemeral_event_does_not_move_the_cursor() -> None:
    reader = subscribe("clock")
    cursor = reader.cursor
    tick("now")
    assert data(reader) == ["now"]
    assert reader.cursor == cursor


def test_a_waiting_thread_wakes_for_its_channel() -> None:
    reader = subscribe("a")
    reader.wait(0)  # the first wait enlists
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(reader.wait(30)))
    thread.start()
    publish("a", 1)
    thread.join(30)
    assert woken == [True]


def test_a_wait_ends_after_its_timeout() -> None:
    reader = subscribe("a")
    assert reader.wait(0)
    publish("b", 1)
    assert not reader.wait(0.01)


def test_what_happens_before_the_first_wait_is_not_missed() -> None:
    reader = subscribe("a")
    assert data(reader) == []
    publish("a", 1)
    assert reader.wait(30)
    assert data(reader) == ["1"]


def test_waiting_coroutines_wake_for_a_publish_in_another_thread() -> None:
    async def main() -> list[list[str]]:
        readers = [subscribe("a", "b") for _ in range(50)]

        async def next_events(reader: Subscription) -> list[str]:
            while not (events := data(reader)):
                await reader.wait_async(30)
            return events

        waiting = [asyncio.create_task(next_events(reader)) for reader in readers]
        await asyncio.sleep(0)  # each has begun to wait
        await asyncio.to_thread(publish, "b", 1)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [["1"]] * 50


def test_a_delivery_crosses_into_a_loop_once_however_many_wait_there() -> None:
    async def main() -> int:
        readers = [subscribe("a") for _ in range(20)]
        for reader in readers:
            await reader.wait_async(0)
        waiting = [asyncio.create_task(reader.wait_async(30)) for reader in readers]
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        crossings = 0
        cross = loop.call_soon_threadsafe

        def count(*args: object, **kwargs: object) -> asyncio.Handle:
            nonlocal crossings
            crossings += 1
            return cross(*args, **kwargs)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        for number in range(10):
            publish("a", number)  # all before the loop gets to run
        await asyncio.gather(*waiting)
        return crossings

    assert asyncio.run(main()) == 1


def test_a_coroutine_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    async def main() -> None:
        reader = subscribe("a")
        await reader.wait_async(0)
        task = asyncio.create_task(reader.wait_async(30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        publish("a", 1)
        assert data(reader) == ["1"]

    asyncio.run(main())


def test_a_loop_that_is_gone_does_not_keep_others_from_being_woken() -> None:
    abandoned = subscribe("a")
    asyncio.run(abandoned.wait_async(0))
    reader = subscribe("a")
    reader.wait(0)
    publish("a", 1)
    assert reader.wait(30)


def test_no_more_subscriptions_than_the_limit_until_one_is_closed() -> None:
    first = get_hub().subscribe(["a"], limit=1)
    with pytest.raises(Full):
        get_hub().subscribe(["a"], limit=1)
    first.close()
    first.close()
    get_hub().subscribe(["a"], limit=1)
    assert get_hub().streams == 1


def test_a_subscription_may_be_closed_where_the_lock_is_held() -> None:
    reader = subscribe("a")
    with get_hub().lock:  # as when the garbage collector ends a stream in the middle of a delivery
        reader.close()
    assert get_hub().streams == 0


def test_the_garbage_collector_may_stop_a_source_within_its_own_thread() -> None:
    stop = Stop()
    stopped = threading.Event()

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            stop.set()

    def wait() -> None:
        gc.set_threshold(1)
        while not stop.wait(0.001):
            Cycle()
        stopped.set()

    threshold = gc.get_threshold()
    try:
        threading.Thread(target=wait, daemon=True).start()
        assert stopped.wait(30)
    finally:
        gc.set_threshold(*threshold)


def test_a_source_that_gets_no_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    @sources.source("busy")
    def busy(show: Show, stop: Stop) -> None:
        stop.wait(30)

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            subscribe("busy")
    assert get_hub().streams == 0
    subscribe("busy").close()


def test_a_source_runs_only_while_someone_listens() -> None:
    running = threading.Event()
    stopped = threading.Event()

    @sources.source("temperature")
    def temperature(show: Show, stop: Stop) -> None:
        running.set()
        show(Event(None, "temperature", "message", "21"))
        stop.wait(30)
        stopped.set()

    other = subscribe("a")
    assert not running.is_set()
    first, second = subscribe("temperature"), subscribe("temperature")
    assert running.wait(30)
    first.close()
    assert not stopped.is_set()
    second.close()
    assert stopped.wait(30)
    other.close()


def test_a_forked_child_gets_a_hub_of_its_own() -> None:
    parents = get_hub()
    publish("a", 1)
    read_end, write_end = os.pipe()
    with parents.lock, process._starting:  # as if another thread held them during the fork
        pid = os.fork()
        if pid == 0:
            try:
                publish("a", 2)
                own = get_hub()
                os.write(write_end, b"%d" % (own is not parents and len(own.log.since(own.log.floor, {"a"}))))
            finally:
                os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    with os.fdopen(read_end) as answer:
        assert answer.read() == "1"


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_a_young_process_reads_what_it_lacks_once_for_all(open_log: OpenLog, kind: str) -> None:
    log = open_log(kind)
    publisher = log.open()
    ids = publisher.append([Event(None, "a", "message", str(number)) for number in range(400)])
    publisher.append([Event(None, "elsewhere", "message", str(number)) for number in range(1100)])
    broker = log.open()
    young = Hub(broker, 1000)
    assert young.log.floor > Cursor.parse(ids[-1])  # it began with a part of them
    subscription = young.subscribe(["a"], 10)
    subscription.resume(Cursor.parse(ids[10]))
    broker.after = no_more  # type: ignore[method-assign]
    events = []
    while piece := subscription.read():
        events += piece
    assert [event.id for event in events] == ids[11:]
    for _ in range(2):
        polled, cursor = young.since(Cursor.parse(ids[10]), ["a"], 100)
        assert ([event.id for event in polled], str(cursor)) == (ids[11:111], ids[110])
    young.close()


def no_more(cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
    raise AssertionError("The broker was asked again.")


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_what_memory_cannot_hold_is_read_from_the_broker_page_by_page(open_log: OpenLog, kind: str) -> None:
    log = open_log(kind)
    ids = log.open().append([Event(None, "a", "message", str(number)) for number in range(1600)])
    young = Hub(log.open(), 100)
    subscription = young.subscribe(["a"], 10)
    subscription.resume(Cursor.parse(ids[10]))
    events = []
    while piece := subscription.read():
        events += piece
    assert [event.id for event in events] == ids[11:]
    polled, cursor = young.since(Cursor.parse(ids[10]), ["a"], 100)
    assert ([event.id for event in polled], str(cursor)) == (ids[11:111], ids[110])
    young.close()


def test_ephemeral_events_of_ever_new_channels_push_out_the_oldest() -> None:
    reader = subscribe("a1", "a1999")
    for number in range(2000):
        tick(str(number), channel=f"a{number}")
    assert data(reader) == ["1999"]
    assert len(get_hub().latest) == 1000


def test_what_follows_a_revocation_that_is_still_on_its_way_is_not_read_before_it() -> None:
    hub = get_hub()
    reader = hub.subscribe(["a"], 10, user="7")
    start = hub.log.head
    missed, revoked, secret = (
        Event(str(Cursor(start.major + 1, number)), channel, "message", text)
        for number, (channel, text) in enumerate(
            [("a", "missed"), (REVOKED, revocation("7", None).data), ("a", "secret")]
        )
    )
    hub.restart(Cursor.parse(missed.id or ""))  # as if this process had lagged
    reader.ending = "left"
    for event in (missed, revoked, secret):
        hub.broker._log.append(event)  # type: ignore[attr-defined]
    assert data(reader) == ["missed"]
    assert data(reader) == []
    hub.deliver([revoked, secret])
    assert reader.is_revoked
    assert data(reader) == []


def test_a_coroutine_that_waits_is_woken_at_once_when_its_user_is_revoked_in_another_thread() -> None:
    async def main() -> float:
        reader = get_hub().subscribe(["a"], 10, user="7")
        await reader.wait_async(0)
        waiting = asyncio.create_task(reader.wait_async(5))
        await asyncio.sleep(0)
        began = time.monotonic()
        threading.Timer(0.1, revoke, [7]).start()
        assert await waiting
        return time.monotonic() - began

    assert asyncio.run(main()) < 3


def test_a_coroutine_need_not_wait_for_what_happened_while_it_did_something_else() -> None:
    async def main() -> None:
        reader = subscribe("a")
        await reader.wait_async(0)
        assert data(reader) == []
        await asyncio.to_thread(publish, "a", 1)  # as while a thread asks the broker for it
        await asyncio.sleep(0.01)
        assert await reader.wait_async(0.1)
        assert data(reader) == ["1"]
        assert not await reader.wait_async(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("bad", ["", "{}", "[]", '{"user": 7, "channel": null}', '{"user": "7", "channel": 1}'])
def test_a_revocation_that_says_nothing_keeps_no_event_from_its_readers(bad: str) -> None:
    hub = get_hub()
    reader = hub.subscribe(["a"], 10, user="7")
    reader.wait(0)
    at = hub.log.head
    ids = [str(Cursor(at.major + 1, number)) for number in range(2)]
    hub.deliver([Event(ids[0], REVOKED, "message", bad), Event(ids[1], "a", "message", "1")])
    assert reader.wait(30)
    assert data(reader) == ["1"]
    assert not reader.is_revoked
    assert not hub.subscribe(["a"], 10, user="7", authorized=at).is_revoked
