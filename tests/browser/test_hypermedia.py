"""docs/hypermedia.md to the letter, in a fresh project, with the released packages of htmx, Turbo and Datastar."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser import broken, packages
from tests.browser.broken import Exchange, Proxy, proxy
from tests.live.servers import ROOT, free_port, wait_for

# What a project has beside the files of the document: its settings, and addresses for the document's pages.
SETTINGS = """
import os

INSTALLED_APPS += ["events", "shop"]
EVENTS = {
    "HEARTBEAT": 1,
    "RETRY": 200,
    "MAX_THREAD_STREAMS": int(os.environ.get("STREAMS", "40")),
    "HISTORY": int(os.environ.get("HISTORY", "1000")),
}
"""
URLS = """
from django.shortcuts import render
from django.urls import include

from shop.models import Order


def page(request, name, pk):
    response = render(request, f"shop/{name}.html", {"order": Order.objects.get(pk=pk)})
    evaluates = " 'unsafe-eval'" if name.startswith("datastar") else ""
    response["Content-Security-Policy"] = f"default-src 'none'; connect-src 'self'; script-src 'self'{evaluates}"
    return response


urlpatterns += [
    path("", include("shop.urls")),
    path("events/", include("events.urls")),
    path("pages/<name>/<int:pk>/", page),
]
"""
# Does what it is told, line by line, as a view, a task or a command of the project would.
CONSOLE = """
import sys
import django

django.setup()
from shop import datastar, turbo, views
from shop.models import Order

for line in sys.stdin:
    print(eval(line), flush=True)
"""

NAME = re.compile(r"^(?:# |// |\{# )(shop/\S+)")


@dataclass
class Project:
    """A fresh project with the files of the document, served by runserver."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    console: "subprocess.Popen[str] | None" = None
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.directory / "events").symlink_to(ROOT / "events")
        self.manage("startproject", "mysite", ".", program="django")
        for name, code in files().items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        (self.directory / "shop" / "__init__.py").touch()
        packages.copy_to(self.directory / "shop" / "static")
        for name, code in {"settings.py": SETTINGS, "urls.py": URLS}.items():
            with (self.directory / "mysite" / name).open("a") as file:
                file.write(code)
        self.manage("makemigrations", "--verbosity", "0", "shop")
        self.manage("migrate", "--verbosity", "0")

    def manage(self, *arguments: str, program: str = "manage") -> None:
        subprocess.run([sys.executable, "-m", program, *arguments], cwd=self.directory, env=environment(), check=True)

    def start(self) -> None:
        """Serve it, at the same address each time."""
        log = self.directory / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "runserver", "--noreload", str(self.port)],
                cwd=self.directory,
                env=environment() | self.settings,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(f"http://127.0.0.1:{self.port}/events/health/", self.process, log)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def tell(self, line: str) -> str:
        """What Python says of this expression, in a process of its own of the project."""
        if not self.console:
            self.console = subprocess.Popen(
                [sys.executable, "-c", CONSOLE],
                cwd=self.directory,
                env=environment() | self.settings | {"DJANGO_SETTINGS_MODULE": "mysite.settings"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.console.stdin
        assert self.console.stdout
        self.console.stdin.write(line + "\n")
        self.console.stdin.flush()
        return self.console.stdout.readline().strip()

    def close(self) -> None:
        self.stop()
        if self.console:
            self.console.kill()
            self.console.communicate()
        self.console = None

    @contextmanager
    def stopped(self, **settings: str) -> Iterator[None]:
        """Without a server, and with other settings for the one that the block starts."""
        self.close()
        self.settings = settings
        try:
            yield
        finally:
            self.close()
            self.settings = {}
            self.start()


@dataclass
class Order:
    """An order of the project, which a page shows, and what is told of it."""

    project: Project
    pk: int
    said: list[str] = field(default_factory=list)

    def set(self, status: str) -> None:
        assert self.project.tell(f"Order.objects.filter(pk={self.pk}).update(status={status!r})") == "1"

    def announce(self, module: str, status: str) -> None:
        self.said.append(f"Order {self.pk} is {status}")
        self._announce(module, status)

    def announce_to_all(self, status: str) -> None:
        self.said.append(f"Order {self.pk} is {status}")
        for module in ("views", "turbo", "datastar"):
            self._announce(module, status)

    def _announce(self, module: str, status: str) -> None:
        assert self.project.tell(f"{module}.announce(Order({self.pk}, {status!r}))") == "None"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}


def files() -> dict[str, str]:
    """The code of the document, by the path in its first line."""
    found = re.findall(r"^```\w+\n(.*?)^```$", (ROOT / "docs" / "hypermedia.md").read_text(), re.DOTALL | re.MULTILINE)
    named = {match[1]: code for code in found if (match := NAME.match(code))}
    assert len(named) == len(found), "a block without the name of its file, or two with one"
    return named


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("shop"))
    project.start()
    yield project
    project.close()


@pytest.fixture
def order(project: Project) -> Order:
    return Order(project, int(project.tell("Order.objects.create(status='new').pk")))


@pytest.fixture
def front(project: Project) -> Iterator[Proxy]:
    with proxy(project.port) as front:
        yield front


def refuse_stream(exchange: Exchange) -> None:
    """Polls go through: a live view has one address for both."""
    if "text/event-stream" in exchange.headers.get("Accept", ""):
        broken.refuses(exchange)
    else:
        exchange.pass_on()


def refuse_streams(front: Proxy, order: Order) -> list[str]:
    """Every stream of the document's pages is refused from now on. Returns their addresses."""
    addresses = ["/events/", f"/orders/{order.pk}/status/", f"/orders/{order.pk}/status/turbo/"]
    for address in addresses:
        front.failures[address] = refuse_stream
    return addresses


def show(page: Page, front: Proxy, name: str, order: Order) -> None:
    page.goto(f"{front.url}/pages/{name}/{order.pk}/")


PATIENCE = 30_000  # ms; a poll each 5 s, and a client that waits longer after each failure


@contextmanager
def opened(browser: Browser, front: Proxy, order: Order, names: Iterable[str]) -> Iterator[list[Page]]:
    """These pages side by side, each with connections of its own, of which a browser opens six to a site."""
    with ExitStack() as stack:
        pages = []
        for name in names:
            context = browser.new_context()
            stack.callback(context.close)
            pages.append(context.new_page())
            show(pages[-1], front, name, order)
        yield pages


def expect_all(pages: list[Page], order: Order, status: str) -> None:
    for page in pages:
        expect(page.locator("p")).to_have_text(status, timeout=PATIENCE)
        expect(page.locator("li")).to_have_text(order.said, timeout=PATIENCE)


# By the page: which module of the document publishes for it.
OWN = {"htmx2": "views", "htmx4": "views", "turbo": "turbo", "datastar": "datastar"}
FEED = {"htmx2": "views", "htmx4_feed": "views", "turbo_feed": "turbo", "datastar_feed": "views"}


@pytest.mark.parametrize(("name", "module"), [*OWN.items(), *list(FEED.items())[1:]])
def test_a_live_view_and_what_is_published_are_shown_once_and_in_order_over_a_restart(
    page: Page, front: Proxy, project: Project, order: Order, name: str, module: str
) -> None:
    shown, items = page.locator("p"), page.locator("li")
    show(page, front, name, order)
    expect(shown).to_have_text("new")
    order.set("paid")
    expect(shown).to_have_text("paid")
    order.announce(module, "paid")
    order.announce(module, "packed <&>")
    expect(items).to_have_text(order.said)
    project.stop()
    order.set("sent")
    order.announce(module, "sent")
    order.announce(module, "on its way")
    project.start()
    expect(items).to_have_text(order.said, timeout=PATIENCE)
    expect(shown).to_have_text("sent", timeout=PATIENCE)
    order.set("there")
    order.announce(module, "there")
    expect(items).to_have_text(order.said)
    expect(shown).to_have_text("there")


def test_without_its_script_the_page_for_htmx_2_has_an_event_source(page: Page, front: Proxy, order: Order) -> None:
    page.route("**/shop/htmx2.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    show(page, front, "htmx2", order)
    expect(page.locator("p")).to_have_text("new")
    order.announce("views", "paid")
    expect(page.locator("li")).to_have_text(order.said)


def test_pages_with_a_feed_source_poll_while_streams_are_refused_and_miss_nothing(
    browser: Browser, front: Proxy, order: Order
) -> None:
    addresses = refuse_streams(front, order)
    with opened(browser, front, order, FEED) as pages:
        order.announce_to_all("paid")  # after the cursors of the pages, before their first polls
        expect_all(pages, order, "new")
        order.set("packed")
        order.announce_to_all("packed")
        expect_all(pages, order, "packed")
        for address in addresses:
            del front.failures[address]
        order.set("sent")
        order.announce_to_all("sent")
        expect_all(pages, order, "sent")


def test_pages_with_a_feed_source_are_loaded_afresh_when_events_are_gone(
    browser: Browser, front: Proxy, project: Project, order: Order
) -> None:
    with opened(browser, front, order, FEED) as pages:
        order.announce_to_all("new")
        expect_all(pages, order, "new")
        with project.stopped(HISTORY="2"):
            for number in range(5):
                order.announce_to_all(f"lost {number}")
            order.said.clear()
            project.start()
            expect_all(pages, order, "new")
            order.announce_to_all("found")
            expect_all(pages, order, "new")


@pytest.mark.parametrize("name", ["turbo", "turbo_feed"])
def test_a_visit_by_turbo_ends_what_the_page_before_it_read(
    page: Page, front: Proxy, project: Project, order: Order, name: str
) -> None:
    show(page, front, name, order)
    expect(page.locator("p")).to_have_text("new")
    other = Order(project, int(project.tell("Order.objects.create(status='other').pk")))
    page.evaluate("url => Turbo.visit(url)", f"/pages/{name}/{other.pk}/")
    expect(page.locator("p")).to_have_text("other")
    order.set("seen by nobody")
    other.announce("turbo", "paid")
    other.announce("turbo", "sent")
    expect(page.locator("li")).to_have_text(other.said)
    other.set("shown")
    expect(page.locator("p")).to_have_text("shown")


@pytest.mark.parametrize("name", ["htmx2", "datastar"])
def test_these_ask_again_for_a_stream_that_was_refused(page: Page, front: Proxy, order: Order, name: str) -> None:
    page.route("**/shop/htmx2.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    addresses = refuse_streams(front, order)
    with page.expect_response(lambda response: response.status == 503):
        show(page, front, name, order)
    for address in addresses:
        del front.failures[address]
    expect(page.locator("p")).to_have_text("new", timeout=PATIENCE)


def test_htmx_4_shows_nothing_of_a_refusal(page: Page, front: Proxy, order: Order) -> None:
    refuse_streams(front, order)
    with page.expect_event("requestfinished", lambda request: urlsplit(request.url).path == "/events/"):
        show(page, front, "htmx4", order)
    page.wait_for_load_state("networkidle")
    assert page.locator("main").inner_text().strip() == ""


class TestAPageForHtmx4ThatPolls:
    def test_is_streamed_as_it_is(self, page: Page, front: Proxy, project: Project, order: Order) -> None:
        shown = page.locator("p")
        show(page, front, "htmx4_polls", order)
        expect(shown).to_have_text("new")
        order.set("paid")
        expect(shown).to_have_text("paid")
        project.stop()
        order.set("sent")
        project.start()
        expect(shown).to_have_text("sent", timeout=PATIENCE)
        asked = front.asked(f"/orders/{order.pk}/status/")
        for status in ("on its way", "there", "back"):
            order.set(status)
            expect(shown).to_have_text(status)
        assert front.asked(f"/orders/{order.pk}/status/") == asked

    def test_polls_while_the_server_has_no_room_for_its_stream(
        self, page: Page, front: Proxy, project: Project, order: Order
    ) -> None:
        shown, path = page.locator("p"), f"/orders/{order.pk}/status/"
        with project.stopped(STREAMS="1"):
            project.start()
            with requests.get(f"{front.url}/events/?channel=orders", stream=True, timeout=30) as other:
                assert next(other.iter_lines())
                show(page, front, "htmx4_polls", order)
                expect(shown).to_have_text("new")
                order.set("paid")
                expect(shown).to_have_text("paid")
                assert front.asked(path) > 1
                front.cut()
            with page.expect_response(lambda response: "event-stream" in response.headers["content-type"]):
                pass
            order.set("sent")
            expect(shown).to_have_text("sent")
