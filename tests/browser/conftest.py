import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, Playwright, sync_playwright

from tests.browser import chromium, webkit
from tests.browser.broken import BLANK, Proxy, proxy
from tests.live.servers import Server, serve

ARGUMENTS = [
    "--no-sandbox",  # which a container's root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Keeps what a feed has told, for a test to look at.
OPEN_FEED = """
async ({ options, types }) => {
  const { openFeed } = await import("/static/events/feed.js");
  window.told = { events: [], states: [], reasons: [], resets: 0 };
  window.feed = openFeed({ stream: "/events/", poll: "/events/poll/", ...options });
  for (const type of types) {
    feed.addEventListener(type, ({ data, lastEventId }) => told.events.push({ type, data, id: lastEventId }));
  }
  feed.addEventListener("reset", () => (told.resets += 1));
  feed.addEventListener("state", ({ detail }) => {
    told.states.push(detail.state);
    told.reasons.push(detail.reason);
  });
}
"""

# What is essential runs in all browsers. In WebKit a page has the methods of `webkit.Page` alone.
EVERYWHERE = pytest.mark.parametrize("browser", ["chromium", "firefox", "webkit"], indirect=True)
IN_FIREFOX_TOO = pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)


def everywhere(names: str, essential: list[Any], others: list[Any]) -> pytest.MarkDecorator:
    """Parametrizes a test by these names: in all browsers with what is essential, in Chromium with the others too."""
    values = [("chromium", *value) for value in [*essential, *others]]
    values += [(browser, *value) for browser in ("firefox", "webkit") for value in essential]
    return pytest.mark.parametrize(f"browser, {names}", values, indirect=["browser"])


# So that a test need not wait long for what takes seconds in use.
QUICK = {"interval": 100, "retry": {"base": 200, "max": 400}}


# Playwright's synchronous API keeps an event loop running: for this package only, as other tests bring their own.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browsers(playwright: Playwright) -> Iterator[Callable[[str], Browser]]:
    """Each browser by its name, started when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def start(name: str) -> Browser:
            if name == "webkit":
                return cast("Browser", stack.enter_context(webkit.launch()))
            if name == "firefox":  # Debian's, by WebDriver BiDi
                browser = playwright.firefox.launch(channel="moz-firefox", executable_path=shutil.which("firefox-esr"))
            else:
                browser = playwright.chromium.launch(executable_path=chromium.find(), args=ARGUMENTS)
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture
def browser(request: pytest.FixtureRequest, browsers: Callable[[str], Browser]) -> Browser:
    """Chromium, or the one of IN_FIREFOX_TOO and EVERYWHERE whose turn it is."""
    return browsers(getattr(request, "param", "chromium"))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(scope="package")
def server(static_root: Path) -> Iterator[Server]:
    with serve("uvicorn", static_root, HEARTBEAT=1, HISTORY=100_000) as server:
        yield server


@pytest.fixture
def front(server: Server) -> Iterator[Proxy]:
    """The proxy that a test can break."""
    with proxy(server.port) as front:
        yield front


@dataclass
class FeedPage:
    """An empty page with one feed on it."""

    page: Page

    def open(self, *types: str, **options: Any) -> None:
        self.page.evaluate(OPEN_FEED, {"options": QUICK | options, "types": types or ("message",)})

    def wait_for_state(self, state: str) -> None:
        self.page.wait_for_function("state => feed.state === state", arg=state)

    def wait_for_role(self, role: str) -> None:
        self.page.wait_for_function("role => feed.role === role", arg=role)

    def wait_for_reason(self, words: str) -> None:
        self.page.wait_for_function("words => told.reasons.some((reason) => reason.includes(words))", arg=words)

    def wait_for_events(self, count: int) -> None:
        self.page.wait_for_function("count => told.events.length >= count", arg=count)

    @cached_property
    def session(self) -> CDPSession:
        """The browser's own controls of this tab."""
        return self.page.context.new_cdp_session(self.page)

    @property
    def data(self) -> list[Any]:
        """What was delivered, in order, without the clock's ticks."""
        return [json.loads(event["data"]) for event in self.told["events"] if event["id"]]

    @property
    def told(self) -> Any:
        return self.page.evaluate("told")

    @property
    def cursor(self) -> Any:
        return self.page.evaluate("feed.cursor")


@pytest.fixture
def feed(page: Page, front: Proxy) -> FeedPage:
    page.goto(front.url + BLANK)
    return FeedPage(page)


def numbers(feed: FeedPage) -> list[int]:
    return [int(event["data"]) for event in feed.told["events"] if event["data"].isdigit()]


@contextmanager
def publishing(server: Server, channel: str) -> Iterator[list[int]]:
    """Publishes a numbered series as fast as it can, until the block ends; yields what was published."""
    numbers: list[int] = []
    enough = threading.Event()

    def publish() -> None:
        while not enough.is_set():
            server.publish(channel, len(numbers), type="odd" if len(numbers) % 2 else "message")
            numbers.append(len(numbers))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield numbers
    finally:
        enough.set()
        thread.join()


@contextmanager
def complaints(page: Page | webkit.Page) -> Iterator[list[str]]:
    """What the browser's console would show in red, violations of the Content-Security-Policy among it."""
    if isinstance(page, webkit.Page):
        with page.complaints() as heard:
            yield heard
        return
    heard = []
    page.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    yield heard
