"""docs/hypermedia.md to the letter, in a fresh project, with the released packages of htmx, Turbo and Datastar."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser import broken, packages
from tests.browser.broken import Exchange, Failure, Proxy, proxy
from tests.live.servers import ROOT, free_port, wait_for

# What a project has beside the files of the document: its settings, and addresses for the document's pages.
SETTINGS = """
import os

INSTALLED_APPS += ["events", "shop"]
EVENTS = {"HEARTBEAT": 1, "RETRY": 200, "MAX_THREAD_STREAMS": int(os.environ.get("STREAMS", "40"))}
"""
URLS = """
from django.shortcuts import render
from django.urls import include

from shop.models import Order


def page(request, name, pk):
    return render(request, f"shop/{name}.html", {"order": Order.objects.get(pk=pk)})


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

    def start(self, **more: str) -> None:
        """Serve it, at the same address each time."""
        log = self.directory / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "runserver", "--noreload", str(self.port)],
                cwd=self.directory,
                env=environment() | more,
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
                env=environment() | {"DJANGO_SETTINGS_MODULE": "mysite.settings"},
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


def if_stream(failure: Failure) -> Failure:
    """A failure of streams alone: a live view has one address for both."""

    def fail(exchange: Exchange) -> None:
        if "text/event-stream" in exchange.headers.get("Accept", ""):
            failure(exchange)
        else:
            exchange.pass_on()

    return fail


def refuse_streams(front: Proxy, order: Order, failure: Failure = broken.refuses) -> list[str]:
    """Every stream of the document's pages fails from now on. Returns their addresses."""
    addresses = ["/events/", f"/orders/{order.pk}/status/", f"/orders/{order.pk}/status/turbo/"]
    for address in addresses:
        front.failures[address] = if_stream(failure)
    return addresses


def show(page: Page, front: Proxy, name: str, order: Order) -> None:
    page.goto(f"{front.url}/pages/{name}/{order.pk}/")




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
    expect(items).to_have_text(order.said, timeout=30_000)
    expect(shown).to_have_text("sent", timeout=30_000)
    order.set("there")
    order.announce(module, "there")
    expect(items).to_have_text(order.said)
    expect(shown).to_have_text("there")
