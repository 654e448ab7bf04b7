"""docs/recipes, done to the letter: one project made of all the files that stand there, and what each page promises."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml
from playwright.sync_api import Browser, BrowserContext, expect

from tests.live.servers import ROOT, Stream, free_port, wait_for
from tests.services import Valkey

RECIPES = ROOT / "docs" / "recipes"

SETTINGS = """
INSTALLED_APPS += ["events", "shop"]
ALLOWED_HOSTS = ["*"]
STATIC_ROOT = BASE_DIR / "staticfiles"
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
import os
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL")
"""

URLS = """
from django.shortcuts import render
from django.urls import include
from django.views.generic import TemplateView
from shop.start import start_import
from shop.status import status
from shop.views import order

urlpatterns += [
    path("", TemplateView.as_view(template_name="shop/base.html")),
    path("start/", TemplateView.as_view(template_name="shop/start.html")),
    path("import/", start_import),
    path("orders/<int:pk>/", order),
    path("orders/<int:pk>/status/", status),
    path("events/", include("events.urls")),
]
"""

FORM = """<form method="post" action="/import/">{% csrf_token %}
<input name="states" value="new paid sent new paid sent"><button>Import</button></form>"""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def files() -> Iterator[tuple[str, str]]:
    """Each file in the recipes, and the rule in security.md that they build on: its path is in its first line."""
    for document in [ROOT / "docs" / "security.md", *sorted(RECIPES.glob("*.md"))]:
        for code in re.findall(r"^```\w+\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE):
            first = code.partition("\n")[0]
            if match := re.fullmatch(r"(?:#|//|\{#) ((?:shop|mysite)/[\w./]+)(?: #\})?", first):
                yield match[1], code


@dataclass
class Site:
    """The project of the recipes, in a directory."""

    directory: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shell(self, code: str) -> str:
        return self.run("manage.py", "shell", "--verbosity", "0", "-c", code)

    @contextmanager
    def start(self, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    @contextmanager
    def serve(self, *arguments: str) -> Iterator[str]:
        """A server on a free port: `{address}` in its arguments."""
        address = f"127.0.0.1:{free_port()}"
        with self.start(*[part.format(address=address) for part in arguments]) as process:
            wait_for(f"http://{address}/", process, self.directory / "log")
            yield f"http://{address}"

    def session(self, name: str) -> str:
        """Make a user who is logged in, and return the key of the session."""
        return self.shell(
            "from django.contrib.auth.models import User; from django.test import Client; "
            f"client = Client(); client.force_login(User.objects.create_user({name!r})); "
            "print(client.cookies['sessionid'].value)"
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: Valkey) -> Site:
    directory = tmp_path_factory.mktemp("site")
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["CELERY_BROKER_URL"] = valkey_server.url
    site = Site(directory, environment)
    site.run("-m", "django", "startproject", "mysite", ".")
    shutil.copytree(ROOT / "events", directory / "events", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gunicorn.conf.py", directory)
    for name, code in [
        *files(),
        ("shop/templates/shop/start.html", FORM),
        ("shop/__init__.py", ""),
        ("shop/templatetags/__init__.py", ""),
        ("mysite/__init__.py", "from mysite.celery import app as app"),
    ]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(code)
    [rule] = [code for code in blocks(RECIPES / "tokens.md", "python") if code.startswith("EVENTS")]
    [application] = [code for code in blocks_indented(ROOT / "docs" / "deploy.md") if "application =" in code]
    for name, code in {"settings": SETTINGS + rule, "urls": URLS, "asgi": application}.items():
        with (directory / "mysite" / f"{name}.py").open("a") as file:
            file.write(code)
    site.run("manage.py", "makemigrations", "shop", "--verbosity", "0")
    site.run("manage.py", "migrate", "--verbosity", "0")
    return site


def blocks_indented(path: Path) -> list[str]:
    return [re.sub(r"^ {4}", "", code, flags=re.M) for code in re.findall(r"\n\n((?: {4}.*\n|\n)+)", path.read_text())]


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with site.serve("manage.py", "runserver", "--noreload", "{address}") as url:
        yield url


@contextmanager
def visit(browser: Browser, url: str, session: str) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=url)
    context.set_default_timeout(60_000)
    context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    yield context
    context.close()


def make_order(site: Site, user: str) -> int:
    return int(
        site.shell(
            "from django.contrib.auth.models import User; "
            f"print(User.objects.get(username={user!r}).orders.create().pk)"
        )
    )


def save_order(site: Site, pk: int, state: str) -> None:
    site.shell(f"from shop.models import Order; o = Order.objects.get(pk={pk}); o.state = {state!r}; o.save()")


def test_a_page_shows_what_is_saved(site: Site, url: str, browser: Browser) -> None:
    session = site.session("ada")
    order = make_order(site, "ada")
    with visit(browser, url, session) as context:
        page = context.new_page()
        page.goto(f"/orders/{order}/")
        expect(page.locator("output")).to_have_text("new")
        save_order(site, order, "paid")  # by another process, and whenever the feed opens: the page has the cursor
        expect(page.locator("output")).to_have_text("paid", timeout=60_000)


def test_a_user_is_notified_and_nobody_else(site: Site, url: str, browser: Browser) -> None:
    first, second = site.session("first"), site.session("second")
    with visit(browser, url, first) as theirs, visit(browser, url, second) as others:
        pages = []
        for context in (theirs, others):
            page = context.new_page()
            with page.expect_response(lambda response: "/events/?" in response.url):
                page.goto("/")
            pages.append(page)
        for name in ("second", "first"):
            site.shell(
                "from django.contrib.auth.models import User; from shop.notifications import notify; "
                f"notify(User.objects.get(username={name!r}), '<i>for {name}</i>')"
            )
        for page, name in zip(pages, ("first", "second"), strict=True):
            expect(page.locator("#notifications li")).to_have_text([f"<i>for {name}</i>"], timeout=60_000)


def test_a_page_follows_a_task_of_celery(site: Site, url: str, browser: Browser) -> None:
    session = site.session("importer")
    with (
        visit(browser, url, session) as context,
        site.start("-m", "celery", "-A", "mysite", "worker", "--concurrency", "1", "--without-mingle"),
    ):
        page = context.new_page()
        page.goto("/start/")
        page.click("button")
        page.wait_for_function("document.querySelector('progress').value === 6")
    count = "from shop.models import Order; print(Order.objects.filter(user__username='importer').count())"
    assert site.shell(count) == "6"


def test_a_polled_view_is_streamed_and_still_polled(site: Site, url: str, browser: Browser) -> None:
    session = site.session("watcher")
    order = make_order(site, "watcher")
    before, after = blocks(RECIPES / "replace-polling.md", "js")
    with visit(browser, url, session) as context:
        page = context.new_page()
        page.goto("/")
        page.evaluate("window.show = (data) => (window.shown = data)")
        page.add_script_tag(content=after.replace("/orders/7/", f"/orders/{order}/"))
        page.wait_for_function("window.shown?.state === 'new'")
        save_order(site, order, "sent")
        page.wait_for_function("window.shown?.state === 'sent'")
        page.evaluate("source.close(); window.shown = null")
        page.add_script_tag(content=before.replace("/orders/7/", f"/orders/{order}/"))
        page.wait_for_function("window.shown?.state === 'sent'")


def test_the_tests_in_the_recipe_pass(site: Site) -> None:
    [command] = [code for code in blocks_indented(RECIPES / "testing.md") if "manage.py test" in code]
    site.run(*shlex.split(command)[1:])


def test_a_token_reads_its_own_channel_alone(site: Site, url: str) -> None:
    token = site.shell("from shop.tokens import make_token; print(make_token('order:7'))")
    [command] = [shlex.split(code) for code in blocks(RECIPES / "tokens.md", "sh")]
    [header] = [part for part in command if part.startswith("Authorization")]
    assert "channel=order:7" in command[-1]
    name, value = header.replace("$TOKEN", token).split(": ", 1)
    for channel, headers, status in [
        ("order:7", {name: value}, 200),
        ("order:8", {name: value}, 403),
        ("order:7", {name: value + "x"}, 403),
        ("order:7", {}, 403),
        ("news", {}, 200),
    ]:
        answer = requests.get(f"{url}/events/poll/", {"channel": channel}, headers=headers, timeout=30)
        assert answer.status_code == status, (channel, headers, answer.text)


def test_the_image_starts_and_is_healthy(site: Site) -> None:
    [dockerfile] = blocks(RECIPES / "docker.md", "dockerfile")
    [cmd] = re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)
    program, *arguments = json.loads(cmd)
    compose = compose_file()
    python, *check = compose["services"]["web"]["healthcheck"]["test"][1:]
    assert (program, python) == ("gunicorn", "python")
    address = arguments[arguments.index("--bind") + 1]
    [collect] = re.findall(r"python (manage.py collectstatic .*)$", dockerfile, re.MULTILINE)
    site.run(*collect.split())
    with site.serve("-m", "gunicorn", *[part.replace(address, "{address}") for part in arguments]) as url:
        site.run(*[part.replace("http://127.0.0.1:8000", url) for part in check])
        with Stream(url, channel="news") as stream:
            stream.next("hello")


def compose_file() -> dict[str, Any]:
    [text] = [code for code in blocks(RECIPES / "docker.md", "yaml") if "services:" in code]
    return dict(yaml.safe_load(text))


def test_compose_accepts_its_file(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps(compose_file()))
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    checked = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout


def test_kubernetes_accepts_its_manifests() -> None:
    manifests = list(yaml.safe_load_all("".join(blocks(RECIPES / "kubernetes.md", "yaml"))))
    assert [manifest["kind"] for manifest in manifests] == ["Deployment", "Service"]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_container_is_given_the_time_that_gunicorn_takes_to_stop() -> None:
    configuration: dict[str, Any] = {}
    exec((ROOT / "gunicorn.conf.py").read_text(), configuration)
    grace = configuration["graceful_timeout"]
    assert int(compose_file()["services"]["web"]["stop_grace_period"].removesuffix("s")) > grace
    pod = next(yaml.safe_load_all(blocks(RECIPES / "kubernetes.md", "yaml")[0]))["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + grace
