"""Settings of other people's sites, each in a process of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.live.servers import ROOT


def run(directory: Path, settings: str, *commands: tuple[str, ...]) -> str:
    """What the last of these commands of manage.py prints, with these settings on top of the demonstration's."""
    (directory / "own_settings.py").write_text("from sse_demo.settings import *\n" + textwrap.dedent(settings))
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "own_settings",
        "DJANGO_DEBUG": "1",
        "PYTHONPATH": f"{directory}:{ROOT}",
        "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}",
    }
    for command in commands:
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    return done.stdout


PUBLISH = """
import json
from django.db import connections
from django.test import Client
client = Client(headers={"host": "localhost", "authorization": "Bearer secret"})
cursor = client.get("/events/poll/?channel=orders").json()["cursor"]
answer = client.post("/events/publish/", '{"channel": "orders", "data": 7}', content_type="application/json")
events = []
while not events:  # the follower hears of it in a moment
    events = client.get("/events/poll/", {"channel": "orders", "since": cursor}).json()["events"]
tables = {alias: "events_storedevent" in connections[alias].introspection.table_names() for alias in connections}
print(json.dumps({"answer": answer.json(), "events": events, "tables": tables}))
from events.process import close_hub
close_hub()
"""


def test_the_log_is_in_the_database_that_a_router_names_whose_requests_may_be_atomic(tmp_path: Path) -> None:
    settings = """
        DATABASES["log"] = {**DATABASES["default"], "NAME": f"{DATABASES['default']['NAME']}.log"}
        DATABASES["log"]["ATOMIC_REQUESTS"] = True
        EVENTS["PUBLISH_TOKEN"] = "secret"
        ROOT_URLCONF = "own_settings"

        class Router:
            def db_for_read(self, model, **hints):
                return "log" if model._meta.app_label == "events" else None

            db_for_write = db_for_read

            def allow_migrate(self, db, app_label, **hints):
                return (db == "log") == (app_label == "events")

        DATABASE_ROUTERS = [Router()]

        from django.urls import include, path
        urlpatterns = [path("events/", include("events.urls"))]
    """
    migrated = (("migrate", "--verbosity", "0"), ("migrate", "--verbosity", "0", "--database", "log"))
    seen = json.loads(run(tmp_path, settings, *migrated, ("shell", "-v", "0", "-c", PUBLISH)))
    assert seen["tables"] == {"default": False, "log": True}
    assert [(event["id"], event["data"]) for event in seen["events"]] == [(seen["answer"]["id"], "7")]


NAMELESS = """
from django.test import Client
for path in ("/events/", "/events/poll/"):
    answer = Client(headers={"host": "localhost"}).get(path)
    print(answer.status_code, answer.json()["error"])
"""


def test_a_project_without_the_clock_says_that_a_channel_has_to_be_named(tmp_path: Path) -> None:
    settings = """
        INSTALLED_APPS.remove("sse_demo")
        MIDDLEWARE = []
        ROOT_URLCONF = "own_settings"

        from django.urls import include, path
        urlpatterns = [path("events/", include("events.urls"))]
    """
    told = run(tmp_path, settings, ("shell", "-v", "0", "-c", NAMELESS))
    assert told.splitlines() == ["400 Name what to read: ?channel=orders, or ?channel=orders&channel=news."] * 2


STATIC = """
from django.test import Client
from sse_demo.asgi import application
page = Client(headers={"host": "localhost"}).get("/")
print(page["Content-Security-Policy"])
print("https://static.example.org/files/js/page" in page.content.decode())
print(application.url_is_canonical("/files/x"), sorted(application.files)[0].startswith("/files/"))
"""


def test_static_files_may_be_of_another_origin(tmp_path: Path) -> None:
    settings = f"""
        STATIC_URL = "https://static.example.org/files/"
        STATIC_ROOT = {str(tmp_path / "static")!r}
        DEBUG = False
        ALLOWED_HOSTS = ["localhost"]
        STORAGES["staticfiles"]["BACKEND"] = "sse_demo.static.HashedStaticFilesStorage"
    """
    policy, page, served = run(
        tmp_path, settings, ("migrate", "--verbosity", "0"), ("shell", "-v", "0", "-c", STATIC)
    ).splitlines()
    assert "script-src 'self' https://static.example.org;" in policy
    assert page == "True"
    assert served == "True True"
