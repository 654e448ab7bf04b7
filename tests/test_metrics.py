import subprocess
import sys

import pytest
from django.test import Client
from prometheus_client import REGISTRY
from pytest_django.fixtures import Settings

from events.metrics import DELAYS, Counters, counters
from events.process import get_hub
from events.prometheus import EventsCollector
from events.wire import Event
from tests.live.servers import ROOT

# As a stream ends, Django looks after the connections to the database.
pytestmark = pytest.mark.django_db


def test_without_a_token_there_are_no_metrics(client: Client, settings: Settings) -> None:
    response = client.get("/events/metrics/", headers={"Authorization": "Bearer "})
    assert response.status_code == 404
    assert "METRICS_TOKEN" in response.json()["error"]


def test_a_delay_is_counted_for_each_stream_in_the_bucket_that_it_fits() -> None:
    own = Counters()
    own.observe([100.0, None, 99.999, 90.0, 101.0], 100.0 + DELAYS[0] / 2, streams=10)
    assert list(own.delays) == [20, 10, *[0] * (len(DELAYS) - 2), 10]
    assert own.delay_seconds == pytest.approx(10 * (0.0005 + 0.0015 + 10.0005))


def test_live_events_have_a_delay_and_those_that_were_missed_have_none(client: Client) -> None:
    def count() -> float:
        return sum(counters.delays)

    broker, before = get_hub().broker, str(get_hub().log.head)
    broker.append([Event(None, "delayed", "message", "1")])
    response = client.get("/events/", {"channel": "delayed", "last_event_id": before})
    frames = iter(response)
    next(frames)
    observed = count()
    assert b"data: 1" in next(frames)
    assert count() == observed
    broker.append([Event(None, "delayed", "message", "2")])
    assert b"data: 2" in next(frames)
    response.close()
    assert count() == observed + 1


def test_a_refusal_and_a_gap_are_counted(client: Client, settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "memory:", "MAX_THREAD_STREAMS": 0}
    refused, gaps = counters.refused, counters.gaps
    assert client.get("/events/").status_code == 503
    client.get("/events/poll/", {"since": "1-1"})
    assert (counters.refused, counters.gaps) == (refused + 1, gaps + 1)


def test_a_site_adds_them_to_its_own_metrics() -> None:
    collector = EventsCollector()
    REGISTRY.register(collector)
    try:
        assert REGISTRY.get_sample_value("events_polls_total", {"status": "304"}) is not None
    finally:
        REGISTRY.unregister(collector)


def test_without_memory_to_share_each_process_counts_for_itself_and_says_so() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "from events.metrics import counters; counters.share(); counters.polls += 1; print(counters.total().polls)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"
    assert "Each process counts for itself, as there is no memory to share: reason=" in done.stderr
