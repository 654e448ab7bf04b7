"""`probe` against real nginx in front of a real server: wrong in each way that matters, and right."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from sse_demo.compare.nginx import run_nginx
from tests.live.servers import ROOT, Server, Stream, free_port, serve

PATIENCE = 3.0  # seconds: past the heartbeat at 2 s, which is past the read timeout of 1 s


def location(lines: str, path: str = "/") -> str:
    """PORT is the server's."""
    return f"location {path} {{ proxy_pass http://127.0.0.1:PORT; proxy_set_header Connection ''; {lines} }}"


@dataclass(frozen=True)
class Wrong:
    """A configuration that breaks streaming, and what `probe` should say of it."""

    server: str  # nginx's server block
    finding: str
    http: str = ""


WRONG = {
    # With HTTP/1.1 nginx passes each chunk on although it buffers; without chunks it waits for a full buffer.
    "buffering": Wrong(
        location("proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.0;"),
        "Buffering: not one byte in 5 s, while a poll was answered in",
    ),
    "gzip": Wrong(
        location("gzip on; gzip_min_length 0; gzip_types text/event-stream; proxy_hide_header Content-Encoding;"),
        "Compression: the stream is compressed (gzip)",
    ),
    "short read timeout": Wrong(location("proxy_read_timeout 1s;"), "of silence, before the heartbeat at 2 s"),
    "connections closed after each answer": Wrong(
        location("chunked_transfer_encoding off; keepalive_timeout 0;"), "Keep-alive: 22 polls took 22 connections"
    ),
    "rate limit": Wrong(
        location("limit_req zone=few burst=5 nodelay; limit_req_status 429;"),
        "Rate limit: 429",
        http="limit_req_zone $binary_remote_addr zone=few:1m rate=1r/s;",
    ),
    "connection limit": Wrong(
        location("limit_conn few 6;"),
        "Many streams: of 20 at once: ",
        http="limit_conn_zone $binary_remote_addr zone=few:1m;",
    ),
    "Last-Event-ID stripped": Wrong(
        location('proxy_set_header Last-Event-ID "";'), "Resume: the header Last-Event-ID does not reach the server"
    ),
    "the polling fallback not passed on": Wrong(location("", "= /events/"), "Polling: http://127.0.0.1:"),
    "polls cached": Wrong(
        location("proxy_cache kept; proxy_ignore_headers Cache-Control; proxy_cache_valid 10s;"),
        "Caching: 22 polls were all answered with the server's time",
        http="proxy_cache_path cache keys_zone=kept:1m;",
    ),
    "Cache-Control replaced": Wrong(location("proxy_hide_header Cache-Control;"), "Headers: Cache-Control: none"),
}
CORRECT = {
    "HTTP/1.1 to the server": location("proxy_http_version 1.1;"),
    "nginx's defaults of old: HTTP/1.0 to the server": location("proxy_http_version 1.0;"),
    "buffering off": location("proxy_buffering off; proxy_read_timeout 1h;"),
    "gzip for everything else": location("gzip on; gzip_types text/css application/json;"),
}


@pytest.fixture(scope="module")
def server(static_root: Path) -> Iterator[Server]:
    with serve("asgi", static_root, HEARTBEAT=2) as running:
        yield running


@dataclass(frozen=True)
class Report:
    status: int  # what the command exits with
    lines: str

    @property
    def text(self) -> str:
        """Without line breaks, which depend on the width."""
        return " ".join(self.lines.split())


def probe(url: str) -> Report:
    out, err = StringIO(), StringIO()
    status = 0
    try:
        call_command("probe", url, patience=PATIENCE, stdout=out, stderr=err)
    except SystemExit as end:
        status = int(end.code or 0)
    return Report(status, out.getvalue() + err.getvalue())


def probe_behind_nginx(behind: Server, lines: str, http: str = "") -> Report:
    port = free_port()
    with run_nginx(port, lines.replace("PORT", str(behind.port)), http):
        return probe(f"http://127.0.0.1:{port}/events/")


def put_right(server: str, report: Report) -> str:
    """A location with the lines for nginx that were printed, each in the place of what it contradicts."""
    for line in re.findall(r"^ +nginx +(.*?) *(?:#.*)?$", report.lines, re.MULTILINE):
        if line.startswith("location"):
            server = re.sub(r"location .*? {", line, server)
            continue
        for directive in line.replace("ZONE", "few").rstrip(";").split("; "):
            name = re.escape(" ".join(directive.split()[: 2 if "_header" in directive else 1]))
            if directive.startswith("limit_") and not re.search(name, server):
                continue  # "whichever is there"
            server = re.sub(rf" {name} [^;]*;", "", server).replace(" }", f" {directive}; }}")
    return server


@pytest.fixture(scope="module")
def reports(server: Server) -> dict[str, Report]:
    """What `probe` says of every configuration. It mostly waits, so they wait together."""

    def wrong_and_righted(name: str) -> None:
        wrong = WRONG[name]
        found[f"wrong: {name}"] = probe_behind_nginx(server, wrong.server, wrong.http)
        righted = put_right(wrong.server, found[f"wrong: {name}"])
        found[f"righted: {name}"] = probe_behind_nginx(server, righted, wrong.http)

    def correct(name: str) -> None:
        found[f"correct: {name}"] = probe_behind_nginx(server, CORRECT[name])

    found: dict[str, Report] = {}
    with ThreadPoolExecutor(len(WRONG) + len(CORRECT)) as pool:
        for done in [
            *(pool.submit(wrong_and_righted, name) for name in WRONG),
            *(pool.submit(correct, name) for name in CORRECT),
        ]:
            done.result()
    return found


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_nginx_is_found(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"wrong: {name}"]
    assert WRONG[name].finding in report.text, report.lines
    assert "by way of nginx" in report.lines
    assert report.status == 1


@pytest.mark.parametrize("name", WRONG)
def test_the_lines_printed_put_it_right_to_the_letter(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"righted: {name}"]
    assert (report.status, "PROBLEM" in report.lines) == (0, False), report.lines


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_nginx_raises_no_alarm(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"correct: {name}"]
    assert (report.status, "PROBLEM" in report.lines) == (0, False), report.lines
    assert "Events: " in report.lines


def test_the_project_as_it_is_deployed_is_healthy(static_root: Path, tmp_path: Path) -> None:
    """As `make serve` has it: its own settings and gunicorn.conf.py, and the broker that is the default."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "sse_demo.settings",
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
        "DJANGO_SECRET_KEY": "for tests only",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
    }
    subprocess.run([sys.executable, "manage.py", "migrate"], cwd=ROOT, env=os.environ | environment, check=True)
    deployed = Server("asgi", static_root, environment=environment)
    try:
        deployed.start()
        report = probe_behind_nginx(deployed, location("proxy_http_version 1.1;"))
    finally:
        deployed.stop()
    assert (report.status, "PROBLEM" in report.lines) == (0, False), report.lines
    assert "the first heartbeat is due at 15 s" in report.text
    assert "Resume: a client that comes back goes on after its Last-Event-ID" in report.text


def test_a_server_without_threads_for_streams_is_told_from_a_proxy(static_root: Path) -> None:
    with serve("gthread", static_root, HEARTBEAT=0.5) as threads:
        report = probe(f"{threads.url}/events/")
    assert "the failures were answered by the server itself" in report.text, report.lines
    assert "gunicorn PROJECT.asgi" in report.lines
    assert report.status == 1


def test_what_cannot_be_probed_is_said_and_exits_with_2(server: Server) -> None:
    for url, words in [
        (f"http://127.0.0.1:{free_port()}/events/", "cannot be reached"),
        ("http://no-such-host.invalid/events/", "cannot be reached"),
        (f"{server.url}/", "answers text/html, which is no event stream"),
        (f"{server.url}/nothing/", "answers 404"),
        ("events", "is no URL such as https://example.com/events/"),
    ]:
        report = probe(url)
        assert report.status == 2, url
        assert words in report.lines
        assert "Traceback" not in report.lines


def test_probing_leaves_no_stream_open(server: Server) -> None:
    assert probe(f"{server.url}/events/").status == 0
    with Stream(server, channel="after") as stream:
        stream.next("hello")
        while server.state()["streams"] > 1:
            pass


def test_what_is_interrupted_is_told_of_the_time_that_was_watched(static_root: Path) -> None:
    with serve("asgi", static_root, HEARTBEAT=15) as server:
        command = [sys.executable, "manage.py", "probe", f"{server.url}/events/", "--connections", "2"]
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
        probing = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
        while server.state()["streams"] < 2:
            pass  # the stream, and the one on which nothing happens
        probing.send_signal(signal.SIGINT)
        said, _ = probing.communicate(timeout=30)
    assert probing.returncode == 1
    assert "not everything was looked at" in said
    assert "PROBLEM" not in said
    assert "35 s" not in said
    assert "Healthy" not in said
