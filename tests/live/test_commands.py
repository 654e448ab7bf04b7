"""The commands of the documents that a shell runs, as they stand there."""

import json
import os
import shlex
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
def make(target: str, directory: Path) -> Iterator[str]:
    """The page, as `make` brings it up, with a database of its own."""
    port = free_port()
    log = directory / "log"
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            # What is installed already need not be asked about again.
            ["make", "--old-file", ".venv/run.stamp", target, f"PORT={port}", f"BIN={Path(sys.executable).parent}"],
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


def check_page(url: str) -> None:
    page = requests.get(url, timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    with Stream(url) as stream:
        stream.next("hello")
        assert stream.next("message")


def test_make_runs_the_page(tmp_path: Path) -> None:
    with make("run", tmp_path) as url:
        check_page(url)


def test_make_serves_the_page_as_in_production(tmp_path: Path) -> None:
    with make("serve", tmp_path) as url:
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
