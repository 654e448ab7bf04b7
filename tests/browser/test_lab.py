"""The lab below the lanes: what a visitor can do to the connection, and what it tells them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser import broken
from tests.browser.broken import Exchange, Proxy
from tests.browser.conftest import complaints
from tests.browser.test_page import FAILED_REQUEST, ask_often, lane, state, wait_for_ticks
from tests.live.servers import ROOT, Server

SCREENSHOTS = ROOT / "screenshots"


def log(page: Page) -> Locator:
    return page.locator('[data-show="log"]')


def figure(page: Page, name: str) -> Locator:
    return page.locator(f'[data-show="{name}"]')


# Break it


@pytest.mark.parametrize(
    ("button", "story"),
    [
        ("Cut the stream", "the server ended the stream, and said when to come back"),
        ("Refuse the stream", "the server refused the stream"),
        ("Swallow its bytes", "the stream says nothing; a proxy on the way may hold it back"),
        ("Restart the server", "the server refused the stream"),
        ("Go offline", "the server could not be reached"),
    ],
)
def test_each_failure_is_narrated_and_survived(page: Page, server: Server, button: str, story: str) -> None:
    with complaints(page) as heard:
        page.goto(server.url)
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Streaming")
        page.get_by_role("button", name=button).click()
        expect(page.get_by_role("button", name=button)).to_have_attribute("aria-pressed", "true")
        expect(log(page)).to_contain_text(story, timeout=15_000)
        page.get_by_role("button", name=button).click()
        expect(log(page)).to_contain_text(re.compile("all works again|the network is back"))
        expect(state(page, "stream")).to_have_text("Streaming", timeout=15_000)
        wait_for_ticks(page, "stream", 1)
        wait_for_ticks(page, "poll", 1)
    assert [complaint for complaint in heard if not FAILED_REQUEST.search(complaint)] == []


@pytest.mark.parametrize(
    ("button", "poll"), [("Restart the server", "a poll was answered 503"), ("Go offline", "could not be reached")]
)
def test_what_fails_both_lanes_is_over_by_itself(page: Page, server: Server, button: str, poll: str) -> None:
    page.goto(server.url)
    ask_often(page)
    expect(state(page, "stream")).to_have_text("Streaming")
    page.get_by_role("button", name=button).click()
    expect(lane(page, "poll").locator('[data-show="reason"]')).to_contain_text(poll)
    expect(page.get_by_role("button", name=button)).to_have_attribute("aria-pressed", "false", timeout=15_000)
    expect(state(page, "stream")).to_have_text("Streaming", timeout=15_000)


def test_the_switch_and_its_button_are_one(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_role("switch").check()
    expect(page.get_by_role("button", name="Refuse the stream")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Go offline").click()
    expect(page.get_by_role("switch")).not_to_be_checked()


# What it costs


def test_the_cost_of_both_lanes_is_measured_live(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask_often(page)
    for name in ("poll-each", "stream-each", "poll-total", "stream-total", "poll-update", "stream-update"):
        expect(figure(page, f"cost-{name}")).to_have_text(re.compile(r"\d\s(µs|ms|s)$"))
    for name in ("streams", "deliveries", "polls", "load", "memory"):
        expect(figure(page, f"cost-process-{name}")).to_have_text(re.compile(r"\d"))


def test_the_stats_do_not_count_as_what_the_stream_received(page: Page, server: Server) -> None:
    page.goto(server.url)
    wait_for_ticks(page, "stream", 3)
    received = page.evaluate(
        """() => performance.getEntriesByType("resource").some(({ name }) => name.includes("channel=stats"))"""
    )
    assert not received, "an open stream is no finished request"
    expect(lane(page, "stream").locator('[data-show="bytes"]')).to_have_text(re.compile(r"^\d{3}\sB$"))


def test_at_your_size_an_event_costs_what_it_costs_in_a_crowd(page: Page, server: Server) -> None:
    page.goto(server.url)
    cores = figure(page, "size-stream-cores")
    expect(cores).to_have_text(re.compile(r"\d"), timeout=30_000)
    expect(figure(page, "size-stream-cores-formula")).to_contain_text("as in the crowd of compare; in yours, ")
    polls = figure(page, "size-poll-every")
    stream, poll = (float((each.text_content() or "").replace(",", "")) for each in (cores, polls))
    assert stream < poll / 10  # 1 / 71, of the same updates


def test_at_your_size_multiplies_what_was_measured_and_shows_the_formula(page: Page, server: Server) -> None:
    page.goto(server.url)
    ask_often(page)
    expect(figure(page, "size-stream-cores")).to_have_text(re.compile(r"\d"))
    expect(figure(page, "size-poll-requests")).to_have_text("2,000")
    expect(figure(page, "size-poll-requests-formula")).to_have_text("10,000 ÷ 5 s")
    page.get_by_role("slider", name="Visitors").fill("6")
    page.get_by_role("slider", name="Polls, each").fill("10")
    expect(figure(page, "size-poll-requests")).to_have_text("100,000")
    expect(figure(page, "size-poll-requests-formula")).to_have_text("1,000,000 ÷ 10 s")
    expect(figure(page, "size-poll-updates")).to_have_text("10%")
    for row in ("cores", "traffic"):
        expect(figure(page, f"size-poll-{row}-formula")).to_contain_text("100,000/s ")
        expect(figure(page, f"size-stream-{row}-formula")).to_contain_text("1,000,000/s ")


# Publish


@pytest.fixture(scope="module")
def staff_server(static_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a member of staff: ann, whose password is ann."""
    database = tmp_path_factory.mktemp("staff") / "db.sqlite3"
    environment = {"DATABASE_URL": f"sqlite:///{database}", "DJANGO_SETTINGS_MODULE": "tests.live.settings"}
    manage = os.environ | environment | {"DJANGO_SECRET_KEY": "for tests only", "TEST_STATIC_ROOT": str(static_root)}
    manage |= {"DJANGO_SUPERUSER_PASSWORD": "ann"}
    for command in ("migrate --verbosity 0", "createsuperuser --noinput --username ann --email ann@example.com"):
        subprocess.run([sys.executable, "manage.py", *command.split()], cwd=ROOT, env=manage, check=True)
    server = Server("uvicorn", static_root, {"HEARTBEAT": 1}, [], environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_a_note_arrives_once_in_both_lanes_of_every_window_also_across_a_fallback(
    context: BrowserContext, staff_server: Server
) -> None:
    window = context.new_page()
    window.goto(f"{staff_server.url}/admin/login/?next=/")
    window.get_by_label("Username").fill("ann")
    window.get_by_label("Password").fill("ann")
    window.get_by_role("button", name="Log in").click()
    windows = [window, context.new_page()]
    windows[1].goto(staff_server.url)
    for page in windows:
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Streaming")
    publish(window, "first")
    arrives(windows, "first")
    window.get_by_role("button", name="Refuse the stream").click()
    for page in windows:
        expect(state(page, "stream")).to_have_text("Polling")
    publish(window, "second")
    arrives(windows, "second")
    window.get_by_role("button", name="Refuse the stream").click()
    expect(state(window, "stream")).to_have_text("Streaming")
    publish(window, "third")
    arrives(windows, "third")
    for page in windows:
        expect(page.locator(".arrivals q")).to_have_text(["third", "second", "first"])
        expect(page.locator(".arrivals")).not_to_contain_text("times")


def publish(page: Page, text: str) -> None:
    page.get_by_label("A note to all windows").fill(text)
    page.keyboard.press("Enter")


def arrives(windows: list[Page], text: str) -> None:
    for page in windows:
        for name in ("poll", "stream"):
            delay = page.locator(".arrivals li", has_text=text).locator(f'[data-lane-delay="{name}"]')
            expect(delay).to_have_text(re.compile(r"^(<\s)?[\d.]+\s(ms|s)$"))


def test_strangers_are_not_offered_to_publish(page: Page, staff_server: Server) -> None:
    page.goto(staff_server.url)
    expect(page.get_by_role("button", name="Publish")).to_have_count(0)
    expect(page.get_by_role("link", name="logged in")).to_be_visible()


def test_while_debugging_anybody_can_publish(page: Page, static_root: Path) -> None:
    server = Server("runserver", static_root, {}, [], {"DJANGO_DEBUG": "1"})
    try:
        server.start()
        page.goto(server.url)
        ask_often(page)
        expect(state(page, "stream")).to_have_text("Streaming")
        publish(page, "hello")
        arrives([page], "hello")
        page.context.clear_cookies()
        publish(page, "forged")
        expect(page.get_by_role("alert")).to_contain_text("CSRF")
        page.close()
    finally:
        server.stop()


# Many tabs


def test_a_second_tab_is_fed_by_the_first(context: BrowserContext, server: Server) -> None:
    first = context.new_page()
    first.goto(server.url)
    expect(figure(first, "tab-role")).to_have_text("holds the stream")
    with context.expect_page() as opened:
        first.get_by_role("link", name="open another").click()
    second = opened.value
    expect(figure(second, "tab-role")).to_have_text("is fed by another tab")
    expect(figure(first, "tab-count")).to_have_text("2 tabs")
    wait_for_ticks(second, "stream", 2)
    expect(figure(second, "stream-asked")).to_have_text("never")
    first.close()
    expect(figure(second, "tab-role")).to_have_text("holds the stream")
    expect(log(second)).to_contain_text("no other tab holds the stream")
    wait_for_ticks(second, "stream", 1)


# Details


def test_the_title_and_the_icon_show_the_state(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page).to_have_title(re.compile("^Streaming · "))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("favicon-streaming"))
    page.get_by_role("switch").check()
    expect(page).to_have_title(re.compile("^Polling · "))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("favicon-polling"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anybody_out(page: Page, staff_server: Server, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(staff_server.url)
    ask_often(page)
    page.get_by_role("button", name="Refuse the stream").click()
    expect(page.get_by_text("Next attempt in")).to_be_visible()
    wait_for_ticks(page, "poll", 2)
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_all_that_the_page_loads_is_under_60_kb(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(state(page, "stream")).to_have_text("Streaming")
    sizes: dict[str, int] = page.evaluate(
        """() => Object.fromEntries(
          [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
            .filter(({ initiatorType }) => initiatorType !== "fetch")
            .map(({ name, transferSize }) => [name, transferSize]))"""
    )
    assert len(sizes) > 10
    assert all(sizes.values()), "nothing came from a cache"
    assert sum(sizes.values()) < 60_000, sizes


def test_nothing_moves_while_one_reads(page: Page, server: Server) -> None:
    page.add_init_script(
        """
        window.moved = 0;
        new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => (moved += value)))
          .observe({ type: "layout-shift", buffered: true });
        """
    )
    page.set_viewport_size({"width": 1440, "height": 5000})
    page.goto(server.url)
    ask_often(page)
    wait_for_ticks(page, "stream", 3)
    page.get_by_role("button", name="Refuse the stream").click()
    expect(state(page, "stream")).to_have_text("Polling")
    wait_for_ticks(page, "stream", 2)
    assert page.evaluate("moved") < 0.01


def test_a_tab_that_is_open_for_ten_hours_does_not_grow(page: Page, front: Proxy, server: Server) -> None:
    """The hours go by as fast as the page takes them: 3,600 ticks for each, and now and then the stats."""

    def hour_after_hour(exchange: Exchange) -> None:
        with exchange.upstream() as response:
            exchange.begin(200, "text/event-stream")
            exchange.wfile.write(response.read1())
        for hour in range(10):
            day = f"2040-01-01T{hour:02}"
            for minute in range(60):
                ticks = [f"data: {day}:{minute:02}:{second:02}.000+00:00\n\n" for second in range(60)]
                exchange.wfile.write("".join([*ticks, STATS]).encode())
            exchange.wfile.flush()
        exchange.wait_until_the_client_leaves()

    front.failures[broken.STREAM] = hour_after_hour
    page.goto(front.url)
    shown = lane(page, "stream").locator("time")
    heap = []
    session = page.context.new_cdp_session(page)
    for hour in (2, 9):
        page.wait_for_function(
            "time => document.querySelector('[data-lane=stream] time').dateTime > time",
            arg=f"2040-01-01T{hour:02}:50:00",
        )
        session.send("HeapProfiler.collectGarbage")
        heap.append(session.send("Runtime.getHeapUsage")["usedSize"])
    expect(shown).to_have_text("09:59:59")
    assert heap[1] - heap[0] < 300_000, heap


STATS = (
    'event: stats\ndata: {"polls": 1, "deliveries": 2, "stream_seconds": 0.1, "streams": 1, '
    '"process_seconds": 1.5, "memory": 50000000}\n\n'
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_to_look_at_are_taken(page: Page, server: Server, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(server.url)
    ask_often(page)
    wait_for_ticks(page, "poll", 3)
    expect(figure(page, "cost-stream-each")).to_have_text(re.compile(r"\d"))
    SCREENSHOTS.mkdir(exist_ok=True)
    for width in (320, 768, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        wait_for_ticks(page, "stream", 1)
        picture = SCREENSHOTS / f"{width}-{scheme}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 50_000
