import threading
from collections.abc import Collection

import pytest
from django.test import Client

from events.brokers import Unavailable
from events.health import _Health
from events.log import Cursor
from events.process import drain_hub, get_hub
from events.wire import Event


def test_a_process_that_can_reach_its_broker_is_healthy(client: Client) -> None:
    response = client.get("/events/health/")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response.headers["Cache-Control"] == "no-store"


def test_a_process_that_is_stopping_is_not(client: Client) -> None:
    get_hub()
    drain_hub()
    response = client.get("/events/health/")
    assert response.status_code == 503
    assert response.json()["error"] == "This process is stopping."


def test_the_broker_is_asked_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def after(cursor: Cursor, channels: Collection[str], limit: int) -> list[Event]:
        asked.append(cursor)
        return []

    monkeypatch.setattr(get_hub().broker, "after", after)
    health = _Health()
    for _ in range(100):
        health.check()
    assert len(asked) == 1
    health._asked -= 1  # a second later
    health.check()
    assert len(asked) == 2


def test_a_broker_that_is_silent_holds_one_thread_and_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(get_hub().broker, "after", lambda *_: release.wait(60))
    health = _Health()
    for _ in range(20):
        with pytest.raises(Unavailable, match=r"No answer within 0\.8 seconds"):
            health.check()
        health._asked -= 1  # a second later
    assert [thread.name for thread in threading.enumerate()].count("events-health") == 1
    release.set()
    health._thread.join()
    health.check()
