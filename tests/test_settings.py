"""What the demonstration's settings make of an environment, in a process that has no other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.servers import ROOT


def manage(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
    )


def test_the_commands_work_in_a_fresh_clone(tmp_path: Path) -> None:
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'fresh.sqlite3'}"}
    for command in ("check", "migrate"):
        done = manage(command, **database)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("environment", "missing"), [({}, "DJANGO_SECRET_KEY"), ({"DJANGO_SECRET_KEY": "x"}, "DJANGO_ALLOWED_HOSTS")]
)
def test_production_refuses_in_two_lines_what_would_make_every_request_fail(
    environment: dict[str, str], missing: str
) -> None:
    command = [sys.executable, "-m", "gunicorn", "sse_demo.asgi", "--bind", "127.0.0.1:0", "--no-control-socket"]
    path = {"PATH": os.environ["PATH"]}
    refused = subprocess.run(
        command, cwd=ROOT, env=path | environment, capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in refused.stderr.splitlines() if "[CRITICAL]" in line]
    assert refused.returncode != 0
    assert len(said) == 2
    assert f"{missing} is not set" in said[0]
    assert "Traceback" not in refused.stderr


def test_any_other_server_is_told_what_to_set() -> None:
    refused = manage("check", DJANGO_DEBUG="0")
    assert refused.returncode != 0
    assert "Set DJANGO_SECRET_KEY to a long random string, or DJANGO_DEBUG=1" in refused.stderr


def test_the_database_is_the_one_that_the_environment_names(tmp_path: Path) -> None:
    database = tmp_path / "elsewhere.sqlite3"
    done = manage("migrate", DJANGO_DEBUG="1", DATABASE_URL=f"sqlite:///{database}")
    assert done.returncode == 0, done.stderr
    assert database.exists()


def test_a_site_that_is_served_by_https_answers_nothing_else_but_those_who_watch_it() -> None:
    code = (
        "from django.test import Client; ask = Client(headers={'host': 'example.org'}).get;"
        "print(ask('/events/poll/')['Location'], ask('/events/health/').status_code);"
        "print(ask('/events/poll/', secure=True)['Strict-Transport-Security'])"
    )
    environment = {"DJANGO_SECRET_KEY": "for tests only", "DJANGO_ALLOWED_HOSTS": "example.org"}
    done = manage("shell", "-c", code, DJANGO_HTTPS="1", EVENTS_BROKER="memory:", **environment)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-2:] == ["https://example.org/events/poll/ 200", "max-age=86400"]
