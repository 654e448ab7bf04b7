"""What README tells a reader to do in a project of their own, done to the letter in a fresh one."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.live.servers import ROOT, Stream, free_port, wait_for

SECTION = "Use it in your project"


def blocks(heading: str) -> dict[str, str]:
    """The code in a section of README, by its language and its number in the section."""
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    return {f"{language}{number}": code for number, (language, code) in enumerate(found)}


@dataclass
class Project:
    """A fresh project in a directory, with the app as one of the two ways in README brings it there."""

    directory: Path
    python: str
    app: str  # the name under which it is imported

    def adapt(self, code: str) -> str:
        """README's code, with the app's name in this project; paths and the setting keep theirs."""
        return re.sub(r"\bevents(?=[\".]| import)", self.app, code)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.directory,
            env=without_settings(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runserver(self) -> AbstractContextManager[str]:
        return self.serve("manage.py", "runserver", "--noreload")

    @contextmanager
    def serve(self, *command: str) -> Iterator[str]:
        """Run a server by a command whose last argument is its address. Yields its URL."""
        url = f"http://127.0.0.1:{free_port()}"
        log = self.directory / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.python, *command, url.removeprefix("http://")],
                cwd=self.directory,
                env=without_settings(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait()

    def publish(self) -> str:
        """Publishes with the command in README, and returns the id that it prints."""
        program, *arguments = shlex.split(blocks(SECTION)["sh5"])
        assert program == "python"
        return self.run(*arguments).strip()


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}


def install(directory: Path) -> str:
    """Install the app as a package where there is nothing but Django. Returns the interpreter there."""
    source = directory / "source"  # a copy, as building leaves its traces
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "staticfiles"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    python = str(directory / "venv" / "bin" / "python")
    [packages] = (directory / "venv").glob("lib/python*/site-packages")
    for name in ("django", "asgiref", "sqlparse"):  # the versions that are tested here
        distribution = importlib.metadata.distribution(name)
        for path in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            (packages / path).symlink_to(Path(str(distribution.locate_file(path))))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(source))
    [wheel] = directory.glob("*.whl")
    pip("--python", python, "install", "--no-index", str(wheel))
    return python


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


@pytest.fixture(scope="module", params=["copied", "renamed", "installed"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory = tmp_path_factory.mktemp("project")
    if request.param == "installed":
        project = Project(directory, install(tmp_path_factory.mktemp("installed")), "live_events")
    else:
        project = Project(directory, sys.executable, "realtime" if request.param == "renamed" else "events")
        shutil.copytree(ROOT / "events", directory / project.app)
    project.run("-m", "django", "startproject", "mysite", ".")
    if request.param == "renamed":
        add_calendar(project)
    code = {name: project.adapt(block) for name, block in blocks(SECTION).items()}
    with (directory / "mysite" / "settings.py").open("a") as settings:
        settings.write(code["python0"])
    guide = (ROOT / "docs" / "reference" / "javascript.md").read_text().split("```html\n")[1].split("```")[0]
    for name, html in {"news": code["html4"], "orders": guide}.items():
        (directory / f"{name}.html").write_text(f"<!doctype html><title>{name}</title><body>{html}</body>")
    with (directory / "mysite" / "urls.py").open("a") as urls:
        urls.write("from django.urls import include, re_path\n" + code["python1"])
        urls.write("from django.views.static import serve\n")
        urls.write(
            f"urlpatterns += [re_path(r'^(?P<path>\\w+[.]html)$', serve, {{'document_root': {str(directory)!r}}})]\n"
        )
    project.run("manage.py", "migrate", "--verbosity", "0")
    return project


def add_calendar(project: Project) -> None:
    """What a site has whose own app is called `events`: models, URLs, template tags, static files."""
    project.run("manage.py", "startapp", "events")
    for name, text in CALENDAR.items():
        path = project.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
    project.run("manage.py", "makemigrations", "--verbosity", "0", "events")


CALENDAR = {
    "mysite/settings.py": 'INSTALLED_APPS += ["events"]\nALLOWED_HOSTS = ["127.0.0.1"]\n',
    "mysite/urls.py": (
        "from django.urls import include\n"
        'urlpatterns += [path("calendar/", include("events.urls")), path("own/", include("site_views"))]\n'
    ),
    "events/models.py": "class Event(models.Model):\n    title = models.CharField(max_length=100)\n",
    "events/urls.py": (
        "from django.http import HttpResponse\nfrom django.urls import path\n"
        'app_name = "events"\nurlpatterns = [path("", lambda request: HttpResponse("the calendar"), name="stream")]\n'
    ),
    "events/static/events/calendar.css": "",
    "site_views.py": """
from django.http import HttpResponse, JsonResponse
from django.template import engines
from django.urls import path
from realtime import live

from events.models import Event


@live(every=0.1)
def count(request):
    return JsonResponse({"count": Event.objects.count()})


def page(request):
    template = engines["django"].from_string('{% load events %}{% events_feed "news" %}')
    return HttpResponse(template.render({}, request))


urlpatterns = [path("count/", count), path("page/", page)]
""",
    "events/tests.py": """
from django.test import TestCase
from events.models import Event
from realtime import publish
from realtime.testing import published


class Published(TestCase):
    def test_it_is(self):
        with published("news") as found:
            Event.objects.create(title="party")
            publish("news", {"title": "party"})
        assert [event.data for event in found] == ['{"title":"party"}'], found
""",
    "serve.py": """
import os
from realtime.asgi import get_event_stream_application

os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
application = get_event_stream_application()
""",
}


installed = pytest.mark.parametrize("project", ["installed"], indirect=True)
beside_a_calendar = pytest.mark.parametrize("project", ["renamed"], indirect=True)


@beside_a_calendar
class TestBesideAnAppCalledEvents:
    def test_nothing_is_mixed_up(self, project: Project) -> None:
        project.run("manage.py", "makemigrations", "--check")
        told = project.run("manage.py", "check")
        assert "no issues" in told
        tables = project.run("-c", TABLES).split()
        assert {"events_event", "realtime_storedevent"} <= set(tables)
        assert "events_storedevent" not in tables

    def test_its_own_tests_say_what_was_published(self, project: Project) -> None:
        project.run("manage.py", "test", "events")

    def test_pages_find_its_urls_and_not_the_calendars(self, project: Project) -> None:
        with project.runserver() as url:
            assert requests.get(f"{url}/calendar/", timeout=10).text == "the calendar"
            page = requests.get(f"{url}/own/page/", timeout=10).text
        assert 'data-stream="/events/"' in page
        assert 'data-poll="/events/poll/"' in page

    def test_gunicorn_streams_with_its_worker(self, project: Project) -> None:
        configuration = (ROOT / "gunicorn.conf.py").read_text()
        assert 'APP = "events"' in configuration
        (project.directory / "gunicorn.conf.py").write_text(configuration.replace('APP = "events"', 'APP = "realtime"'))
        with project.serve("-m", "gunicorn", "--no-control-socket", "serve", "--bind") as url:
            with Stream(url, STREAM, "/own/count/") as counted, Stream(url, channel="news") as stream:
                stream.next("hello")
                assert counted.next("message").data == '{"count": 0}'
                project.run("manage.py", "shell", "-c", "from events.models import Event; Event.objects.create()")
                assert counted.next("message").data == '{"count": 1}'
                event_id = project.publish()
                assert stream.next("message").id == event_id
            poll = requests.get(f"{url}/events/poll/?channel=news", timeout=10)
            assert poll.json()["cursor"] == event_id


STREAM = {"Accept": "text/event-stream"}

TABLES = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.db import connection
print(*connection.introspection.table_names())
"""


def test_a_fresh_project_has_its_first_event_by_following_the_readme(project: Project) -> None:
    with project.runserver() as url, Stream(url, channel="news") as stream:
        stream.next("hello")
        event_id = project.publish()
        event = stream.next("message")
        assert (event.id, event.data) == (event_id, '{"text":"hello"}')


@installed
def test_the_first_event_is_seen_in_a_browser(project: Project, browser: Browser) -> None:
    with project.runserver() as url, closing(browser.new_page()) as page:
        with page.expect_response(lambda response: "/events/?" in response.url):
            page.goto(f"{url}/news.html")
        project.publish()
        expect(page.locator("body")).to_contain_text('{"text":"hello"}')
        with page.expect_response(lambda response: "/events/?" in response.url):
            page.goto(f"{url}/orders.html")
        project.run("manage.py", "publish", "orders", "shipped")
        expect(page.locator("output")).to_have_text('"shipped"')


@installed
def test_the_package_is_the_whole_app_and_nothing_else(project: Project) -> None:
    [installed] = Path(project.python).parent.parent.glob("lib/python*/site-packages")
    assert files_in(installed / project.app) == files_in(ROOT / "events")
    assert not [path for path in installed.iterdir() if path.name in ("tests", "sse_demo", "benchmarks")]


def files_in(package: Path) -> set[str]:
    files = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {str(path) for path in files if "__pycache__" not in path.parts}


def test_the_section_keeps_its_promise_to_be_short() -> None:
    section = (ROOT / "README.md").read_text().split("## Use it in your project\n")[1].split("\nInside a")[0]
    install, polled, published = section.split("\n### ")
    for part, lines in ((install, 12), (polled, 40), (published, 15)):
        assert sum(bool(line) for line in part.splitlines()) < lines
