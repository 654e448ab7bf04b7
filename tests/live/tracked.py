"""The project with Sentry, which reports to the test: each report is a datagram to the socket at $TEST_REPORTS."""

import json
import os
import socket

import sentry_sdk
from django.http import HttpRequest
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from tests.live.settings import *  # noqa: F403
from tests.live.settings import EVENTS


class Reports(Transport):
    """Hands on of each report what the tests look at."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(os.environ["TEST_REPORTS"])

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type in ("event", "transaction") and item.payload.json:
                report = {"type": item.type, "message": None, "tags": {}, "transaction": ""} | item.payload.json
                url = report.get("request", {}).get("query_string", "")
                kept = {key: report[key] for key in ("type", "message", "tags", "transaction")}
                self._socket.send(json.dumps(kept | {"query": url}).encode())


def may_read(request: HttpRequest, channel: str) -> bool:
    """A rule that tags the reports of its visitor, if there is a name for it, and makes one."""
    if name := request.headers.get("X-Visitor"):
        sentry_sdk.set_tag("visitor", name)
    sentry_sdk.capture_message(f"{channel} is asked for")
    return True


if "TEST_REPORTS" in os.environ:
    sentry_sdk.init(
        dsn="http://key@127.0.0.1/1",
        transport=Reports(),
        integrations=[DjangoIntegration()],
        traces_sample_rate=1.0,
    )

EVENTS = EVENTS | {"AUTHORIZE": "tests.live.tracked.may_read"}
