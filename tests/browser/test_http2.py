"""What HTTP/2 changes for a browser: more streams than the six connections that it opens to a site."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.live.proxies import Nginx
from tests.live.servers import Server

OPEN_STREAMS = """
(count) => Promise.all(Array.from({ length: count }, (_, n) => new Promise((resolve, reject) => {
  const source = new EventSource(`/events/?channel=all&channel=c${n}`);
  source.addEventListener("hello", () => resolve(source));
  source.onerror = reject;
}))).then((sources) => {
  window.heard = Promise.all(sources.map((source) => new Promise((resolve) => (source.onmessage = resolve))))
    .then((events) => events.map((event) => event.lastEventId));
})
"""
PROTOCOL = "performance.getEntriesByType('navigation')[0].nextHopProtocol"


@pytest.fixture
def secure_page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page of the server behind nginx as the documents have it."""
    nginx = Nginx(server.port)
    context = browser.new_context(ignore_https_errors=True)
    try:
        nginx.start()
        page = context.new_page()
        page.goto(f"{nginx.url}/events/poll/")
        yield page
    finally:
        context.close()
        nginx.remove()


def test_a_browser_holds_twenty_streams_over_http_2(secure_page: Page, server: Server) -> None:
    assert secure_page.evaluate(PROTOCOL) == "h2"
    secure_page.evaluate(OPEN_STREAMS, 20)
    event_id = server.publish("all", "everybody")
    assert secure_page.evaluate("heard") == [event_id] * 20
