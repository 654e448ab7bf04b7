import asyncio
import json
import threading

import pytest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient, Client

from events.metrics import counters
from events.process import get_hub
from events.wire import Event
from sse_demo import stats
from sse_demo.cpu_time import cpu_time

# As a stream ends, Django looks after the connections to the database.
pytestmark = pytest.mark.django_db


def test_the_stats_are_shown_while_somebody_listens_and_stop_when_nobody_does(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "INTERVAL", 0.01)
    response = client.get("/events/?channel=stats")
    frames = iter(response)
    next(frames)
    totals = json.loads(next(frames).decode().split("data: ")[1])
    assert totals["streams"] == 1
    assert totals["memory"] > 1_000_000
    assert totals["process_seconds"] > 0
    response.close()
    for thread in threading.enumerate():
        if thread.name == "source-stats":
            thread.join(10)
            assert not thread.is_alive()


def test_what_a_stream_delivers_is_counted_with_its_time(client: Client) -> None:
    before = counters.deliveries, counters.stream_seconds
    response = client.get("/events/?channel=counted")
    frames = iter(response)
    next(frames)
    for number in range(3):
        get_hub().show(Event(None, "counted", "message", f"{number}" * 10_000))
        next(frames)
    get_hub().show(Event(None, "counted", "message", "the time counts once the server asks for more"))
    next(frames)
    response.close()
    assert counters.deliveries == before[0] + 4
    assert counters.stream_seconds > before[1]


def test_polls_are_counted(client: Client) -> None:
    before = counters.polls
    client.get("/events/poll/")
    client.get("/events/poll/", {"channel": "other"})
    assert counters.polls == before + 2


def test_an_answer_tells_what_processor_time_it_took(client: Client) -> None:
    assert told(client.get("/events/poll/")) > 0


def test_an_answer_tells_it_in_an_event_loop_as_well(async_client: AsyncClient) -> None:
    assert told(asyncio.run(async_client.get("/events/poll/"))) > 0


def told(response: HttpResponseBase) -> float:
    return float(response.headers["Server-Timing"].removeprefix("cpu;dur="))


def test_an_answer_that_shared_the_process_with_another_tells_nothing() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(request: HttpRequest) -> HttpResponse:
        entered.set()
        assert leave.wait(10)
        return HttpResponse()

    answers: list[HttpResponseBase] = []
    thread = threading.Thread(target=lambda: answers.append(cpu_time(slow)(HttpRequest())))
    thread.start()
    assert entered.wait(10)
    answers.append(cpu_time(lambda request: HttpResponse())(HttpRequest()))
    leave.set()
    thread.join()
    assert [answer.has_header("Server-Timing") for answer in answers] == [False, False]
