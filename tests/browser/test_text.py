"""Text that is published as it is, in a real browser: by stream and by polls alike."""

import pytest
import requests
from playwright.sync_api import Page

from tests.browser import broken
from tests.browser.broken import BLANK, Proxy
from tests.browser.conftest import EVERYWHERE, QUICK
from tests.live.servers import Server

TEXTS = {
    "": "",
    " leading": " leading",
    "trailing\n": "trailing\n",
    "a\nb": "a\nb",
    "a\rb": "a\nb",
    "a\r\nb\r\n": "a\nb\n",
    "\n": "\n",
    "data: x": "data: x",
    ":comment": ":comment",
    "<b>&amp;</b>": "<b>&amp;</b>",
    "\ufeffa\u2028b\x85c": "\ufeffa\u2028b\x85c",
    "{": "{",
}


@EVERYWHERE
@pytest.mark.parametrize("way", ["EventSource", "FeedSource", "polls"])
def test_text_arrives_as_it_is(page: Page, front: Proxy, server: Server, way: str) -> None:
    channel = f"text-{way}"
    if way == "polls":
        front.failures["/events/"] = broken.refuses
    page.goto(front.url + BLANK)
    page.evaluate(
        """async ({ url, way, options }) => {
          const { FeedSource } = await import("/static/events/feed.js");
          window.told = [];
          window.source = way === "EventSource" ? new EventSource(url) : new FeedSource(url, options);
          source.onmessage = ({ data }) => told.push(data);
        }""",
        {"url": f"/events/?channel={channel}", "way": way, "options": QUICK},
    )
    page.wait_for_function("source.readyState === 1")
    for text in TEXTS:
        answer = requests.post(f"{server.url}/test/publish/", json={"channel": channel, "text": text}, timeout=10)
        answer.raise_for_status()
    page.wait_for_function("count => told.length >= count", arg=len(TEXTS))
    assert page.evaluate("told") == list(TEXTS.values())
