import json
import logging
import threading

import pytest

from events.journal import Trouble, tell
from events.process import get_hub
from events.sources import Show, Stop, source
from events.wire import Event


def test_a_line_is_text_and_pairs_that_a_log_system_can_read(caplog: pytest.LogCaptureFixture) -> None:
    tell(logging.WARNING, "It happened", streams=3, reason='a "quoted"\nreason', channels="a,b", nothing="")
    [record] = caplog.records
    assert record.name == "events"
    assert record.getMessage() == ('It happened: streams=3 reason="a \\"quoted\\"\\nreason" channels=a,b nothing=""')
    assert json.dumps(vars(record)["context"])


def test_a_trouble_that_hits_thousands_is_one_line_and_then_their_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble("It is broken", counted="hits")
    for _ in range(1000):
        trouble.hit(reason="this")
    monkeypatch.setattr("events.journal._PAUSE", 0)
    trouble._next = 0.0  # a minute later
    trouble.hit(reason="that")
    assert [record.getMessage() for record in caplog.records] == [
        "It is broken: hits=1 reason=this",
        "It is broken: hits=1000 reason=that",
    ]


def test_a_source_that_raises_is_told_of_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    raised = threading.Event()

    @source("broken")
    def broken(show: Show, stop: Stop) -> None:
        show(Event(None, "broken", "message", "1"))
        raised.set()
        raise RuntimeError("a bug")

    subscription = get_hub().subscribe(["broken"], 1)
    assert raised.wait(10)
    for thread in threading.enumerate():
        if thread.name == "source-broken":
            thread.join(10)
    subscription.close()
    assert "A source has failed: channel=broken" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
