"""A page that got its feed from `{% events_feed %}`, in a real browser, under a strict Content-Security-Policy."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.broken import BLANK, Proxy
from tests.browser.conftest import EVERYWHERE, complaints
from tests.live.servers import Server


def test_what_is_published_between_the_page_and_its_feed_arrives_once(page: Page, server: Server) -> None:
    published: list[str] = []

    def publish_first(route: Route) -> None:
        published.append(server.publish("shop", "between"))
        route.continue_()

    server.publish("shop", "before")
    page.route(re.compile(r"/events/page\.[^/]*js$"), publish_first)
    with complaints(page) as heard:
        page.goto(f"{server.url}/test/orders/?channel=shop")
        expect(page.locator("li")).to_have_text(['"between"'])
        server.publish("shop", "after")
        expect(page.locator("li")).to_have_text(['"between"', '"after"'])
    assert len(published) == 1
    assert heard == []


@EVERYWHERE
def test_a_page_under_a_strict_policy_is_live_without_a_complaint(page: Page, server: Server) -> None:
    with complaints(page) as heard:
        page.goto(f"{server.url}/test/orders/?channel=strict")
        page.wait_for_function("document.querySelector('[data-events]').feed?.state === 'streaming'")
        server.publish("strict", "ordered")
        page.wait_for_function("document.querySelector('li')?.textContent === '\"ordered\"'")
    assert heard == []


def test_an_element_has_one_feed_and_is_not_asked_for_another(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/test/orders/?channel=one")
    page.wait_for_function("document.querySelector('[data-events]').feed?.state === 'streaming'")
    assert page.evaluate(
        """async () => {
          const element = document.querySelector("[data-events]");
          const { feedOf } = await import("/static/events/page.js");  // by its plain name: another module
          return feedOf(element) === element.feed && feedOf(element).cursor !== null;
        }"""
    )


# What the feed of an element is, or why there is none.
DESCRIBE = """async ([attributes, options]) => {
  const { feedOf } = await import("/static/events/page.js");
  const element = document.createElement("main");
  Object.assign(element.dataset, attributes);
  try {
    const { interval, cursor, role } = feedOf(element, options);
    return { interval, cursor, role };
  } catch (error) {
    return String(error);
  }
}"""


@pytest.mark.parametrize(
    ("attributes", "options", "expected"),
    [
        ({"channels": "a b:1"}, {}, {"interval": 5000, "role": "alone"}),
        ({"channels": "a", "cursor": "5-1", "interval": "700"}, {}, {"cursor": "5-1", "interval": 700}),
        ({"channels": "a", "interval": "700"}, {"interval": 900}, {"interval": 900, "cursor": None}),
        ({"channels": "a", "share": "true"}, {}, {"role": "joining"}),
    ],
)
def test_any_element_may_describe_a_feed(
    page: Page, front: Proxy, attributes: dict[str, str], options: dict[str, Any], expected: dict[str, Any]
) -> None:
    page.goto(front.url + BLANK)
    told = page.evaluate(DESCRIBE, [attributes, options])
    assert expected.items() <= told.items()


@pytest.mark.parametrize(
    ("attributes", "why"), [({}, "data-channels"), ({"channels": "a", "interval": "soon"}, "interval")]
)
def test_an_element_that_describes_none_is_an_error(
    page: Page, front: Proxy, attributes: dict[str, str], why: str
) -> None:
    page.goto(front.url + BLANK)
    told = page.evaluate(DESCRIBE, [attributes])
    assert told.startswith("TypeError: ")
    assert why in told
