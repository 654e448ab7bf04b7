"""feed.js with `share: true`: many tabs, one stream, whatever happens to the tab that holds it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Error, Page, Playwright

from tests.browser import broken, chromium
from tests.browser.broken import BLANK, Proxy, proxy
from tests.browser.conftest import ARGUMENTS, IN_FIREFOX_TOO, FeedPage, numbers, publishing
from tests.live.servers import Server, serve

# Over HTTP/1.1, as the servers here speak it, a browser opens six connections to a site.
MANY = 12


@pytest.fixture
def open_tabs(context: BrowserContext, front: Proxy) -> Callable[..., list[FeedPage]]:
    def open_tabs(count: int, *types: str, **options: object) -> list[FeedPage]:
        """That many more tabs with a shared feed; the first one of all is its leader."""
        tabs = []
        for _ in range(count):
            tab = FeedPage(context.new_page())
            tab.page.goto(front.url + BLANK)
            tab.open(*types, **{"share": True} | options)
            tab.wait_for_role("follower" if len(context.pages) > 1 else "leader")
            tab.wait_for_state("streaming")
            tabs.append(tab)
        return tabs

    return open_tabs


def wait_for_leader(tabs: list[FeedPage]) -> FeedPage:
    """The tab that leads, once one of these does and streams."""
    while not (leaders := [tab for tab in tabs if tab.page.evaluate("feed.role") == "leader"]):
        tabs[0].page.wait_for_timeout(50)  # across tabs there is nothing to await
    leaders[0].wait_for_state("streaming")
    return leaders[0]


def wait_for_number(tab: FeedPage, number: int) -> None:
    tab.page.wait_for_function("last => told.events.some(({ data }) => data === last)", arg=str(number))


@IN_FIREFOX_TOO
def test_many_tabs_are_live_on_one_connection(
    open_tabs: Callable[..., list[FeedPage]], front: Proxy, server: Server
) -> None:
    tabs = open_tabs(MANY, channels=["clock", "many"])
    server.publish("many", 1)
    for tab in tabs:
        wait_for_number(tab, 1)
        tab.wait_for_events(3)  # the clock's ticks as well
        assert tab.page.evaluate("feed.tabs()") == MANY
    assert (front.asked(broken.STREAM), front.asked(broken.POLL)) == (1, 0)
    assert [tab.page.evaluate("feed.role") for tab in tabs].count("leader") == 1


def close(tab: FeedPage) -> None:
    tab.page.close()


def crash(tab: FeedPage) -> None:
    """Kills the process that runs the tab."""
    with suppress(Error):  # which says that it has crashed
        tab.page.goto("chrome://crash")


def freeze(tab: FeedPage) -> None:
    """Stops the tab's scripts where they are, as a browser does with a tab in the background; it keeps its locks."""
    tab.session.send("Debugger.enable")
    tab.session.send("Debugger.pause")


@pytest.mark.parametrize(
    ("browser", "end"),
    [("chromium", close), ("chromium", crash), ("chromium", freeze), ("firefox", close), ("webkit", close)],
    indirect=["browser"],
)
def test_when_the_leader_is_gone_another_tab_takes_over_and_nothing_is_lost_or_doubled(
    open_tabs: Callable[..., list[FeedPage]], server: Server, end: Callable[[FeedPage], None]
) -> None:
    channel = f"heir-{end.__name__}"
    leader, *others = open_tabs(4, "message", "odd", channels=[channel])
    with publishing(server, channel) as published:
        for tab in others:
            tab.wait_for_events(5)
        end(leader)
        heir = wait_for_leader(others)
        for tab in others:
            tab.wait_for_events(len(tab.told["events"]) + 5)
    for tab in others:
        wait_for_number(tab, published[-1])
        assert numbers(tab) == published
        assert tab.told["resets"] == 0
    assert [tab.page.evaluate("feed.role") for tab in others if tab is not heir] == ["follower"] * 2


def test_a_leader_that_thaws_steps_down_and_has_lost_nothing(
    open_tabs: Callable[..., list[FeedPage]], server: Server
) -> None:
    frozen, *others = open_tabs(3, "message", "odd", channels=["thaw"])
    with publishing(server, "thaw") as published:
        frozen.wait_for_events(5)
        freeze(frozen)
        wait_for_leader(others)
        for tab in others:
            tab.wait_for_events(len(tab.told["events"]) + 5)
        frozen.session.send("Debugger.resume")
        frozen.wait_for_role("follower")
        frozen.wait_for_events(len(frozen.told["events"]) + 5)
    for tab in (frozen, *others):
        wait_for_number(tab, published[-1])
        assert numbers(tab) == published
    assert frozen.page.evaluate("feed.tabs()") == 3


def test_what_only_a_follower_listens_to_survives_the_leader(
    open_tabs: Callable[..., list[FeedPage]], server: Server
) -> None:
    (leader,) = open_tabs(1, channels=["types"])
    (follower,) = open_tabs(1, "rare", channels=["types"])
    (heir,) = open_tabs(1, channels=["types"])
    server.publish("types", 1, type="rare")
    follower.wait_for_events(1)
    leader.page.close()
    server.publish("types", 2, type="rare")
    server.publish("types", 3, type="rare")
    follower.wait_for_events(3)
    assert follower.data == [1, 2, 3]
    assert heir.data == []


def test_where_no_stream_can_be_had_one_tab_polls_for_all(
    open_tabs: Callable[..., list[FeedPage]], front: Proxy, server: Server
) -> None:
    tabs = open_tabs(3, channels=["one-polls"], interval=60_000, retry={"base": 86_400_000, "max": 86_400_000})
    front.break_stream(broken.refuses)
    tabs[1].page.evaluate("feed.reconnect()")
    for tab in tabs:
        tab.wait_for_state("polling")
    asked = front.asked(broken.POLL)
    server.publish("one-polls", 1)
    tabs[0].page.evaluate("feed.interval = 20")
    for tab in tabs:
        tab.wait_for_events(1)
        assert tab.data == [1]
    assert asked <= 2
    front.mend_stream()
    tabs[2].page.evaluate("feed.reconnect()")
    for tab in tabs:
        tab.wait_for_state("streaming")


def test_a_gap_is_told_to_every_tab(context: BrowserContext, static_root: Path) -> None:
    with serve("uvicorn", static_root, HISTORY=3, HEARTBEAT=1) as server, proxy(server.port) as front:
        tabs = []
        for _ in range(2):
            tab = FeedPage(context.new_page())
            tab.page.goto(front.url + BLANK)
            tab.open(channels=["gap"], share=True)
            tab.wait_for_state("streaming")
            tabs.append(tab)
        front.failures[broken.POLL] = broken.is_out_of_order
        front.break_stream(broken.refuses)
        tabs[0].wait_for_reason("500")
        for number in range(5):
            server.publish("gap", number)
        front.mend_stream()
        for tab in tabs:
            tab.page.wait_for_function("told.resets > 0")
            tab.wait_for_state("streaming")
        server.publish("gap", 5)
        for tab in tabs:
            tab.wait_for_events(1)
            assert (tab.data, tab.told["resets"]) == ([5], 1)
        context.close()


@pytest.mark.parametrize("missing", ["Navigator.prototype, 'locks'", "window, 'BroadcastChannel'"])
def test_a_browser_that_cannot_share_opens_a_stream_for_each_tab(
    context: BrowserContext, front: Proxy, server: Server, missing: str
) -> None:
    for number in (1, 2):
        tab = FeedPage(context.new_page())
        tab.page.goto(front.url + BLANK)
        tab.page.evaluate(f"Reflect.deleteProperty({missing})")
        tab.open(share=True, channels=["unshared"])
        tab.wait_for_state("streaming")
        server.publish("unshared", number)
        tab.wait_for_events(1)
        assert tab.page.evaluate("feed.role") == "alone"
    assert front.asked(broken.STREAM) == 2


DENIED = "new DOMException('denied', 'SecurityError')"


@pytest.mark.parametrize(
    "denial",
    [
        f"LockManager.prototype.request = () => Promise.reject({DENIED})",
        f"LockManager.prototype.request = () => {{ throw {DENIED} }}",
        f"window.BroadcastChannel = class {{ constructor() {{ throw {DENIED} }} }}",
        f"Object.defineProperty(navigator, 'locks', {{ get() {{ throw {DENIED} }} }})",
    ],
)
def test_a_browser_that_denies_what_sharing_takes_opens_a_stream_for_each_tab(
    context: BrowserContext, front: Proxy, server: Server, denial: str
) -> None:
    tabs = []
    for _ in range(2):
        tab = FeedPage(context.new_page())
        tab.page.goto(front.url + BLANK)
        tab.page.evaluate(f"() => {{ {denial} }}")
        tab.open(share=True, channels=["denied-share"])
        tab.wait_for_state("streaming")
        tabs.append(tab)
    server.publish("denied-share", 1)
    for tab in tabs:
        tab.wait_for_events(1)
        assert (tab.data, tab.page.evaluate("feed.role"), tab.page.evaluate("feed.tabs()")) == ([1], "alone", 1)
        tab.page.evaluate("feed.close()")
        assert tab.page.evaluate("feed.state") == "closed"
    assert front.asked(broken.STREAM) == 2


def test_every_tabs_cursor_stays_fresh_while_nothing_happens_in_the_feeds_own_channels(
    open_tabs: Callable[..., list[FeedPage]], server: Server, front: Proxy
) -> None:
    tabs = open_tabs(3, channels=["fresh-share"])
    elsewhere = server.publish("elsewhere", 1)
    for tab in tabs:
        tab.page.wait_for_function("cursor => feed.cursor === cursor", arg=elsewhere)
    tabs += open_tabs(1, channels=["fresh-share"], cursor=elsewhere)
    tabs.pop(0).page.close()
    wait_for_leader(tabs)
    server.publish("fresh-share", 2)
    for tab in tabs:
        tab.wait_for_events(1)
        assert tab.data == [2]


def test_a_tab_back_from_the_cache_catches_up_and_then_follows(
    playwright: Playwright, front: Proxy, server: Server
) -> None:
    browser = playwright.chromium.launch(
        executable_path=chromium.find(), args=ARGUMENTS, ignore_default_args=["--disable-back-forward-cache"]
    )
    context = browser.new_context()
    tabs = []
    for _ in range(2):
        tab = FeedPage(context.new_page())
        tab.page.goto(front.url + BLANK)
        tab.open(channels=["cached-share"], share=True)
        tab.wait_for_state("streaming")
        tabs.append(tab)
    away, stays = tabs
    away.page.evaluate("addEventListener('pageshow', ({ persisted }) => (told.persisted = persisted))")
    server.publish("cached-share", 1)
    away.wait_for_events(1)
    away.page.goto(f"{front.url}{BLANK}?elsewhere")
    stays.wait_for_role("leader")
    server.publish("cached-share", 2)
    stays.wait_for_events(2)
    away.page.evaluate("history.back()")
    away.page.wait_for_url(front.url + BLANK, wait_until="commit")
    away.wait_for_role("follower")
    server.publish("cached-share", 3)
    for tab in tabs:
        tab.wait_for_events(3)
        assert tab.data == [1, 2, 3]
    assert away.told["persisted"] is True
    browser.close()


def test_a_feed_begins_after_the_cursor_that_it_is_given(page: Page, front: Proxy, server: Server) -> None:
    cursor = server.publish("given", 1)
    server.publish("given", 2)
    page.goto(front.url + BLANK)
    feed = FeedPage(page)
    feed.open(channels=["given"], cursor=cursor)
    feed.wait_for_events(1)
    assert feed.data == [2]
