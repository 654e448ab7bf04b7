"""The demonstration page, in a real browser, against real servers."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright, expect

from tests.browser import broken, chromium
from tests.browser.broken import BLANK, Proxy
from tests.browser.conftest import ARGUMENTS, EVERYWHERE, IN_FIREFOX_TOO, FeedPage, complaints
from tests.live.servers import ROOT, Server, serve

# What the browser itself says of a request that failed; every other complaint is a fault of the page.
FAILED_REQUEST = re.compile("Failed to load resource|Firefox can.t establish a connection")


def lane(page: Page, name: str) -> Locator:
    return page.locator(f'[data-lane="{name}"]')


def state(page: Page, name: str) -> Locator:
    return lane(page, name).locator('[data-show="state"]')


def wait_for_ticks(page: Page, name: str, ticks: int) -> None:
    """Waits until the time that a lane shows has changed so many times."""
    page.evaluate(
        """([lane, ticks]) => new Promise((resolve) => {
          const time = document.querySelector(`[data-lane="${lane}"] time`);
          let shown = time.textContent;
          new MutationObserver((_, observer) => {
            if (time.textContent === shown) return;
            shown = time.textContent;
            ticks -= 1;
            if (ticks === 0) resolve(observer.disconnect());
          }).observe(time, { childList: true });
        })""",
        [name, ticks],
    )


def ask_often(page: Page) -> None:
    """Polls at the shortest interval, so that a test need not wait long."""
    page.evaluate(
        """() => {
          const slider = document.querySelector("input[type=range]");
          slider.value = "0.5";
          slider.dispatchEvent(new InputEvent("input", { bubbles: true }));
        }"""
    )


def test_both_lanes_show_the_time_of_the_server_as_it_passes(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask_often(page)
    for name in ("stream", "poll"):
        wait_for_ticks(page, name, 2)
        shown = lane(page, name).locator("time").get_attribute("datetime") or ""
        now = requests.get(f"{server.url}/events/poll/", timeout=5).json()["server_time"]
        assert shown[:16] in (now[:16], shown[:16])
        assert shown <= now
    expect(state(page, "stream")).to_have_text("Streaming")
    expect(state(page, "poll")).to_have_text("Polling")


@IN_FIREFOX_TOO
def test_both_lanes_are_measured(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask_often(page)
    for name in ("stream", "poll"):
        wait_for_ticks(page, name, 2)
        for figure in ("now", "median", "worst", "updates", "requests", "bytes"):
            expect(lane(page, name).locator(f'[data-show="{figure}"]')).to_have_text(re.compile(r"\d"))
    expect(lane(page, "stream").locator('[data-show="requests"]')).to_have_text("1")
    expect(page.locator('[data-show="stream-asked"]')).to_have_text("once")


@EVERYWHERE
def test_the_page_causes_no_complaint_in_the_console(page: Page, server: Server) -> None:
    with complaints(page) as heard:
        page.goto(server.url)
        ask_often(page)
        wait_for_ticks(page, "stream", 2)
        wait_for_ticks(page, "poll", 2)
        page.reload()
        wait_for_ticks(page, "stream", 1)
    assert heard == []


def test_the_page_forbids_what_it_does_not_need(page: Page, server: Server) -> None:
    response = page.goto(server.url)
    assert response
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@IN_FIREFOX_TOO
def test_a_broken_stream_falls_back_and_returns_when_it_is_mended(page: Page, server: Server) -> None:
    with complaints(page) as heard:
        page.goto(server.url)
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Streaming")
        switch = page.get_by_role("switch", name="Break the stream")
        switch.check()
        expect(state(page, "stream")).to_have_text("Polling")
        expect(page.get_by_role("status").filter(has_text="the server refused the stream")).to_be_visible()
        expect(page.get_by_text("Next attempt in")).to_be_visible()
        wait_for_ticks(page, "stream", 2)
        switch.uncheck()
        expect(state(page, "stream")).to_have_text("Streaming")
        expect(page.locator('[data-show="log"] b')).to_have_text(
            [
                "streaming",
                "polling",
                "you",
                "polling",
                "connecting",
                "you",
                "streaming",
                "connecting",
                "leader",
                "connecting",
            ]
        )
    assert [complaint for complaint in heard if not FAILED_REQUEST.search(complaint)] == []


def test_the_stream_is_broken_for_one_visitor_only(browser: Browser, page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_role("switch").check()
    expect(state(page, "stream")).to_have_text("Polling")
    page.reload()
    expect(page.get_by_role("switch")).to_be_checked()
    other = browser.new_page()
    other.goto(server.url)
    expect(other.get_by_role("switch")).not_to_be_checked()
    expect(state(other, "stream")).to_have_text("Streaming")
    other.close()


def test_the_page_outlives_a_server_that_dies_and_comes_back(page: Page, static_root: Path) -> None:
    with serve("runserver", static_root) as server:
        page.goto(server.url)
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Streaming")
        server.stop(signal.SIGKILL)
        expect(state(page, "stream")).to_have_text("No answer", timeout=15_000)
        expect(lane(page, "poll").locator('[data-show="reason"]')).to_contain_text("could not be reached")
        server.start()
        expect(state(page, "stream")).to_have_text("Streaming", timeout=60_000)
        wait_for_ticks(page, "stream", 1)
        wait_for_ticks(page, "poll", 1)
        page.close()


def test_where_no_stream_can_be_served_the_page_works_by_polling(page: Page, static_root: Path) -> None:
    with serve("sync", static_root) as server:
        page.goto(server.url)
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Polling")
        wait_for_ticks(page, "stream", 2)
        page.close()


def test_the_smallest_client_works(page: Page, front: Proxy, server: Server) -> None:
    page.goto(server.url)
    client = page.locator("pre code").last.inner_text()
    assert len(client.splitlines()) == 3
    page.goto(front.url + BLANK)
    page.set_content("<output></output>")
    page.add_script_tag(content=client)
    expect(page.locator("output")).to_have_text(re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000\+00:00$"))


def test_the_smallest_client_polls_where_no_stream_can_be_had_with_one_name_changed(
    page: Page, front: Proxy, server: Server
) -> None:
    page.goto(server.url)
    section = page.locator("section", has=page.get_by_role("heading", name="The smallest client"))
    client, line = (section.locator(place).first.inner_text() for place in ("pre code", "p code"))
    front.break_stream(broken.refuses)
    page.goto(front.url + BLANK)
    page.set_content("<output></output>")
    page.add_script_tag(content=f"{line};{client.replace('EventSource', 'FeedSource')}", type="module")
    expect(page.locator("output")).to_have_text(re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"))
    assert front.asked(broken.POLL)


# A view, polled and live


def status_lane(page: Page, name: str) -> Locator:
    return page.locator(f'[data-status-lane="{name}"]')


def test_one_view_is_polled_in_one_lane_and_live_in_the_other_while_somebody_looks(
    page: Page, front: Proxy, server: Server
) -> None:
    url = "/api/status/"
    page.goto(front.url)
    expect(state(page, "stream")).to_have_text("Streaming")
    assert front.asked(url) == 0
    page.get_by_role("heading", name="The view that you poll already, live").scroll_into_view_if_needed()
    for name in ("poll", "stream"):
        expect(status_lane(page, name).locator("output")).to_have_text(re.compile(r"\d\D\d\d.*\d\D\d\d.*\d\D\d\d"))
    expect(status_lane(page, "poll").locator('[data-show="status-asked"]')).to_have_text("3 times", timeout=15_000)
    expect(status_lane(page, "stream").locator('[data-show="status-asked"]')).to_have_text("once")
    assert front.asked(url) == 1 + 3
    page.get_by_role("heading", level=1).scroll_into_view_if_needed()
    page.wait_for_function(
        "() => new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(() => seen(true))))"
    )
    asked = front.asked(url)
    wait_for_ticks(page, "stream", 4)
    assert front.asked(url) == asked


def test_the_two_lines_that_differ_are_those_that_run(page: Page, server: Server) -> None:
    page.goto(server.url)
    block = page.locator(".difference")
    view, script = ((ROOT / name).read_text() for name in ("sse_demo/status.py", "static/js/status.js"))
    decorator, streamed = block.locator("ins").all_inner_texts()
    [polled] = block.locator("del").all_inner_texts()
    assert f"\n{decorator}\ndef status(" in view
    assert f"\n    {polled}\n    {streamed}\n" in script


def test_where_to_begin_leads_from_ones_own_log_to_ones_own_decorator(page: Page, server: Server) -> None:
    page.goto(server.url)
    section = page.locator("section", has=page.get_by_role("heading", name="Where do I begin?"))
    log, decorator, line = section.locator("pre code").all_inner_texts()
    assert log.startswith("python manage.py polls ")
    assert decorator == "@live(every=2)"
    assert line in (ROOT / "README.md").read_text()


@pytest.fixture
def context_without_scripts(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(java_script_enabled=False)
    yield context
    context.close()


def test_without_scripts_the_page_tells_the_time_and_how_to_watch(
    context_without_scripts: BrowserContext, server: Server
) -> None:
    page = context_without_scripts.new_page()
    page.goto(server.url)
    expect(page.get_by_text(f"curl -N {server.url}/events/")).to_be_visible()
    expect(lane(page, "stream").locator("time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
    expect(page.get_by_role("switch")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_nothing_is_wider_than_the_screen(page: Page, server: Server, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(server.url)
    ask_often(page)
    page.get_by_role("switch").check()
    expect(page.get_by_text("Next attempt in")).to_be_visible()
    wait_for_ticks(page, "stream", 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_every_control(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider", name="Ask every")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator('[data-show="interval"]')).to_have_text("4.5\u00a0s")
    page.keyboard.press("Tab")
    expect(page.get_by_role("switch")).to_be_focused()
    page.keyboard.press("Space")
    expect(state(page, "stream")).to_have_text("Polling")


def test_a_page_in_the_back_forward_cache_holds_no_stream_and_misses_nothing(
    playwright: Playwright, front: Proxy, server: Server
) -> None:
    browser = playwright.chromium.launch(
        executable_path=chromium.find(), args=ARGUMENTS, ignore_default_args=["--disable-back-forward-cache"]
    )
    page = browser.new_page()
    page.goto(front.url + BLANK)
    feed = FeedPage(page)
    feed.open(channels=["cached"])
    feed.wait_for_state("streaming")
    page.evaluate("addEventListener('pageshow', ({ persisted }) => (told.persisted = persisted))")
    server.publish("cached", "before")
    feed.wait_for_events(1)
    page.goto(f"{front.url}{BLANK}?elsewhere")
    server.publish("cached", "meanwhile")
    page.evaluate("history.back()")
    page.wait_for_url(front.url + BLANK, wait_until="commit")  # what comes from the cache has loaded before
    feed.wait_for_state("streaming")
    server.publish("cached", "after")
    feed.wait_for_events(3)
    assert feed.told["persisted"] is True
    assert feed.data == ["before", "meanwhile", "after"]
    assert feed.told["states"] == ["connecting", "streaming", "closed", "connecting", "streaming"]
    browser.close()


def test_a_server_that_is_gone_is_no_answer_and_both_lanes_count_the_same_ticks(page: Page, static_root: Path) -> None:
    with serve("asgi", static_root) as gone:
        page.goto(gone.url)
        ask_often(page)
        wait_for_ticks(page, "stream", 2)
        wait_for_ticks(page, "poll", 2)
    for name in ("stream", "poll"):
        expect(state(page, name)).to_have_text("No answer", timeout=30_000)
    counted = page.locator('[data-show="stream-ticks"]')
    before = int(counted.text_content() or "")
    expect(counted).not_to_have_text(str(before), timeout=10_000)  # they go on, though nothing comes
    page.wait_for_function(
        "([one, other]) => document.querySelector(one).textContent === document.querySelector(other).textContent",
        arg=['[data-show="stream-ticks"]', '[data-show="poll-ticks"]'],
    )
