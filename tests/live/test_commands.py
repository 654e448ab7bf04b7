"""The commands of the documents that a shell runs, as they stand there."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from events.wire import Decoder
from tests.live.servers import ROOT, Server, Stream, free_port, serve, wait_for
from tests.test_documents import DOCUMENTS, Document


@contextmanager
def running(directory: Path, *command: str) -> Iterator[str]:
    """The page, as this command brings it up at {port}, with a database of its own and no settings."""
    port = free_port()
    log = directory / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=ROOT,
            env=environment | {"DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# What is installed already need not be asked about again.
MAKE = ("make", "--old-file", ".venv/run.stamp", f"BIN={Path(sys.executable).parent}", "PORT={port}")


def check_page(url: str) -> None:
    page = requests.get(url, timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    with Stream(url) as stream:
        stream.next("hello")
        assert stream.next("message")


def test_make_runs_the_page(tmp_path: Path) -> None:
    with running(tmp_path, *MAKE, "run") as url:
        check_page(url)


def test_a_fresh_clone_runs_and_a_visitor_publishes_a_note(tmp_path: Path) -> None:
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    subprocess.run([sys.executable, "manage.py", "migrate"], cwd=ROOT, env=environment | database, check=True)
    with (
        running(tmp_path, sys.executable, "manage.py", "runserver", "--noreload", "{port}") as url,
        Stream(url, channel="notes") as stream,
        requests.Session() as visitor,
    ):
        stream.next("hello")
        form = visitor.get(url, timeout=10).text
        [token] = re.findall('name="csrfmiddlewaretoken" value="([^"]+)"', form)
        note = {"channel": "notes", "data": {"text": "hello"}}
        published = visitor.post(f"{url}/events/publish/", json=note, headers={"X-CSRFToken": token}, timeout=10)
        assert published.status_code == 201
        assert stream.next("message").id == published.json()["id"]


def test_make_help_lists_every_target() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [targets] = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = {line.split()[0] for line in said.splitlines()[1:]}
    assert set(targets.split()) <= listed


@pytest.mark.parametrize(
    ("arguments", "fetches"),
    [("tests/test_wire.py", False), ("-x tests/browser", True), ("-k wire", True), ("", True)],
)
def test_make_test_looks_for_a_browser_only_where_one_is_needed(arguments: str, fetches: bool) -> None:
    command = ["make", "-n", "--old-file", ".venv/dev.stamp", "test", f"ARGS={arguments}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("tests.browser.chromium" in done) == fetches


@pytest.mark.parametrize(
    ("interpreter", "advice"),
    [
        ("exit 1", "is older than Python 3.11"),
        # As Debian's does without python3-venv: it makes what cannot be used, and fails.
        (
            'case "$1" in -m) mkdir -p .venv/bin; touch .venv/bin/python; exit 1; esac',
            "apt-get install python3-venv",
        ),
    ],
)
def test_an_environment_that_cannot_be_made_is_not_kept(tmp_path: Path, interpreter: str, advice: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{interpreter}\n")
    python.chmod(0o755)
    failed = subprocess.run(["make", "run", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode != 0
    assert advice in failed.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_serves_the_page_as_in_production(tmp_path: Path) -> None:
    with running(tmp_path, *MAKE, "serve") as url:
        check_page(url)


@pytest.fixture(scope="module")
def server(static_root: Path) -> Iterator[Server]:
    with serve("asgi", static_root) as server:
        yield server


def test_curl_shows_the_stream_and_the_polls(server: Server) -> None:
    commands = [command for path in DOCUMENTS for command in Document(path).commands if "localhost:8000/" in command]
    cursor = server.publish("clock", 1)
    event_id = server.publish("clock", 2)
    polls = []
    for command in commands:
        here = command.replace("localhost:8000", f"127.0.0.1:{server.port}").replace("CURSOR", cursor)
        with subprocess.Popen(shlex.split(here), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as curl:
            assert curl.stdout
            if "-N" in command:
                decoder = Decoder()
                events = (event.type for line in curl.stdout for event in decoder.feed(line))
                assert [next(events), next(events)] == ["hello", "message"]
                curl.kill()
            else:
                polls.append(json.load(curl.stdout))
    assert [poll["cursor"] for poll in polls] == [event_id] * len(polls)
    assert [event["id"] for event in polls[-1]["events"]] == [event_id]
