"""`manage.py polls` on what the demonstration leaves behind: gunicorn's access log, and a HAR of Chromium."""

import io
import json
from pathlib import Path
from typing import Any

from django.core.management import call_command
from playwright.sync_api import Browser

from tests.browser.test_page import ask_often, wait_for_ticks
from tests.live.servers import serve


def polls(file: Path) -> dict[str, Any]:
    output = io.StringIO()
    call_command("polls", str(file), "--json", stdout=output)
    return dict(json.loads(output.getvalue()))


def test_the_lane_that_polls_is_found_in_the_log_and_in_the_har_and_nothing_else(
    browser: Browser, static_root: Path, tmp_path: Path
) -> None:
    log, har = tmp_path / "access.log", tmp_path / "page.har"
    with serve("asgi", static_root, "--access-logfile", str(log)) as server:
        context = browser.new_context(record_har_path=har)
        page = context.new_page()
        page.goto(server.url)
        ask_often(page)
        wait_for_ticks(page, "poll", 14)  # seconds of polls twice a second
        wait_for_ticks(page, "stream", 1)
        context.close()  # which saves the HAR
    for file in (log, har):
        found = polls(file)
        assert [one["path"] for one in found["polled"]] == ["/events/poll/"], found
        (one,) = found["polled"]
        assert one["polls"] >= 20
        assert one["clients"] == 1
        # Whole seconds, as gunicorn's log has them, cannot tell one timer of half a second from two of a second.
        assert 0.4 < one["interval"] < 1.1
        assert one["code"]["page"] == ['new EventSource("/events/")']
        assert found["unreadable_lines"] == 0
