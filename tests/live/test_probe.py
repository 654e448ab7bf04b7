"""`probe` against real nginx in front of a real server: wrong in each way that matters, and right."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from sse_demo.compare.nginx import run_nginx
from tests.live.servers import Server, Stream, free_port, serve

PATIENCE = 3.0  # seconds: past the heartbeat at 2 s, which is past the read timeout of 1 s
PASS = "proxy_pass http://127.0.0.1:{port}; proxy_set_header Connection '';"
PROXY = PASS + " proxy_http_version 1.1;"
RIGHT = f"location / {{{{ {PROXY} }}}}"


@dataclass(frozen=True)
class Wrong:
    """A configuration that breaks streaming, and what `probe` should say of it."""

    server: str  # lines of nginx's server block
    finding: str
    remedy: str  # a part of the line that puts it right
    http: str = ""
    righted: str = RIGHT  # the server block with that line applied


def location(lines: str, path: str = "/", proxy: str = PROXY) -> str:
    return f"location {path} {{{{ {proxy} {lines} }}}}"


WRONG = {
    # With HTTP/1.1 nginx passes each chunk on although it buffers; without chunks it waits for a full buffer.
    "buffering": Wrong(
        location("proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.0;", proxy=PASS),
        "Buffering: not one byte in 5 s, while a poll was answered in",
        "proxy_buffering off;",
        righted=location(
            "proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.0; proxy_buffering off;", proxy=PASS
        ),
    ),
    "HTTP/1.0 to the server, and buffering": Wrong(
        location("proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.0;", proxy=PASS),
        "Buffering: not one byte in 5 s, while a poll was answered in",
        "proxy_http_version 1.1;",
        righted=location("proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.1;", proxy=PASS),
    ),
    "gzip": Wrong(
        location("gzip on; gzip_min_length 0; gzip_types text/event-stream; proxy_hide_header Content-Encoding;"),
        "Compression: the stream is compressed (gzip)",
        "gzip off;",
        righted=location("gzip off; gzip_types text/event-stream; proxy_hide_header Content-Encoding;"),
    ),
    "short read timeout": Wrong(
        location("proxy_read_timeout 1s;"),
        "of silence, before the heartbeat at 2 s",
        "proxy_read_timeout 60s;",
        righted=location("proxy_read_timeout 60s;"),
    ),
    "connections closed after each answer": Wrong(
        location("chunked_transfer_encoding off;") + "keepalive_timeout 0;",
        "Keep-alive: 22 polls took 22 connections",
        "keepalive_timeout 75s;",
        righted=location("chunked_transfer_encoding off;") + "keepalive_timeout 75s;",
    ),
    "rate limit": Wrong(
        location("limit_req zone=few burst=5 nodelay; limit_req_status 429;"),
        "Rate limit: 429",
        "limit_req zone=ZONE burst=200 nodelay;",
        http="limit_req_zone $binary_remote_addr zone=few:1m rate=1r/s;",
        righted=location("limit_req zone=few burst=200 nodelay; limit_req_status 429;"),
    ),
    "connection limit": Wrong(
        location("limit_conn few 6;"),
        "Many streams: of 20 at once: ",
        "limit_conn ZONE 200;",
        http="limit_conn_zone $binary_remote_addr zone=few:1m;",
        righted=location("limit_conn few 200;"),
    ),
    "Last-Event-ID stripped": Wrong(
        location('proxy_set_header Last-Event-ID "";'),
        "Resume: the header Last-Event-ID does not reach the server",
        "proxy_set_header Last-Event-ID $http_last_event_id;",
        righted=location("proxy_set_header Last-Event-ID $http_last_event_id;"),
    ),
    "the polling fallback not passed on": Wrong(
        location("", "= /events/"),
        "Polling: http://127.0.0.1:",
        "not `location = /events/`",
        righted=location("", "/events/"),
    ),
    "polls cached": Wrong(
        RIGHT
        + location("proxy_cache kept; proxy_ignore_headers Cache-Control; proxy_cache_valid 10s;", "/events/poll/"),
        "Caching: 22 polls were all answered with the server's time",
        "proxy_cache off;",
        http="proxy_cache_path cache keys_zone=kept:1m;",
        righted=RIGHT + location("proxy_cache off; proxy_ignore_headers Cache-Control;", "/events/poll/"),
    ),
    "Cache-Control replaced": Wrong(
        location("proxy_hide_header Cache-Control;"),
        "Headers: Cache-Control: none",
        'response["Cache-Control"] = "no-cache, no-transform"',
    ),
}
CORRECT = {
    "HTTP/1.1 to the server": RIGHT,
    "nginx's defaults of old: HTTP/1.0 to the server": "location / {{ proxy_pass http://127.0.0.1:{port};"
    " proxy_http_version 1.0; }}",
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
    text: str  # without line breaks, which depend on the width
    lines: str


def probe(url: str) -> Report:
    out, err = StringIO(), StringIO()
    status = 0
    try:
        call_command("probe", url, patience=PATIENCE, stdout=out, stderr=err)
    except SystemExit as end:
        status = int(end.code or 0)
    return Report(status, " ".join((out.getvalue() + err.getvalue()).split()), out.getvalue() + err.getvalue())


def probe_behind_nginx(behind: Server, lines: str, http: str = "") -> Report:
    port = free_port()
    with run_nginx(port, lines.format(port=behind.port), http):
        return probe(f"http://127.0.0.1:{port}/events/")


@pytest.fixture(scope="module")
def reports(server: Server) -> dict[str, Report]:
    """What `probe` says of every configuration. It mostly waits, so they wait together."""
    cases = {f"wrong: {name}": (wrong.server, wrong.http) for name, wrong in WRONG.items()}
    cases |= {f"righted: {name}": (wrong.righted, wrong.http) for name, wrong in WRONG.items()}
    cases |= {f"correct: {name}": (lines, "") for name, lines in CORRECT.items()}
    with ThreadPoolExecutor(12) as pool:
        return dict(zip(cases, pool.map(lambda case: probe_behind_nginx(server, *case), cases.values()), strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_nginx_is_found_and_its_remedy_named(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"wrong: {name}"]
    assert WRONG[name].finding in report.text, report.lines
    assert WRONG[name].remedy in report.lines
    assert "by way of nginx" in report.lines
    assert report.status == 1


@pytest.mark.parametrize("name", WRONG)
def test_each_remedy_makes_the_site_healthy(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"righted: {name}"]
    assert (report.status, "PROBLEM" in report.lines) == (0, False), report.lines


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_nginx_raises_no_alarm(name: str, reports: dict[str, Report]) -> None:
    report = reports[f"correct: {name}"]
    assert (report.status, "PROBLEM" in report.lines) == (0, False), report.lines
    assert "Events: " in report.lines


def test_a_server_without_threads_for_streams_is_told_from_a_proxy(static_root: Path) -> None:
    with serve("gthread", static_root, HEARTBEAT=0.5) as threads:
        report = probe(f"{threads.url}/events/")
    assert "the failures were answered by the server itself" in report.text, report.lines
    assert "gunicorn sse_demo.asgi" in report.lines
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
