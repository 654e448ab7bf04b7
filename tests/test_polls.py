"""`manage.py polls`: what it finds, what it leaves alone, and what it says of input that is none."""

import gzip
import io
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.http import HttpRequest, JsonResponse
from django.test import override_settings
from django.urls import path
from django.views import View

from events.live import live
from events.polls.lines import parse_line
from events.polls.rhythm import find_rhythm

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
BEGAN = datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp()

Hit = tuple[float, str, str, str, int, int]  # time, address, user agent, target, status, bytes


def poller(
    address: str,
    target: str = "/status/",
    every: float = 2,
    polls: int = 60,
    start: float = 0,
    jitter: float = 0.02,
    agent: str = CHROME,
) -> Iterator[Hit]:
    """A timer; `jitter` is the share of the interval by which each of its waits may differ."""
    chance = random.Random(address + target + str(start))
    time = BEGAN + start + chance.uniform(0, every)
    for _ in range(polls):
        yield time, address, agent, target.replace("NOW", str(int(time * 1_000))), 200, 120
        time += every * (1 + chance.uniform(-jitter, jitter)) + chance.uniform(0, 0.05)


def visitor(address: str, pages: int = 12, agent: str = CHROME) -> Iterator[Hit]:
    """A person: pages at random times, some of them again and again, and what a page loads."""
    chance = random.Random(address)
    time = BEGAN + chance.uniform(0, 600)
    for _ in range(pages):
        target = chance.choice(["/", "/", "/cart/", f"/products/{chance.randint(1, 99)}/", "/search/?q=tea"])
        yield time, address, agent, target, 200, chance.randint(2_000, 20_000)
        for asset in ("/static/site.css", "/static/site.js", "/media/tea.webp"):
            yield time + chance.uniform(0.1, 0.4), address, agent, asset, 304, 0
        time += chance.expovariate(1 / 15)


def visitors(many: int = 60) -> list[Hit]:
    return [hit for i in range(many) for hit in visitor(f"198.51.100.{i}")]


def combined(hit: Hit, zone: timezone = UTC, more: str = "") -> str:
    time, address, agent, target, status, size = hit
    when = datetime.fromtimestamp(int(time), zone).strftime("%d/%b/%Y:%H:%M:%S %z")
    return f'{address} - - [{when}] "GET {target} HTTP/1.1" {status} {size} "-" "{agent}"{more}'


def text_of(hits: Sequence[Hit], line: Callable[[Hit], str] = combined) -> str:
    return "".join(f"{line(hit)}\n" for hit in sorted(hits))


def polls(*files: Path | str) -> dict[str, Any]:
    output = io.StringIO()
    call_command("polls", *map(str, files), "--json", stdout=output)
    return dict(json.loads(output.getvalue()))


def told(*files: Path | str) -> str:
    output = io.StringIO()
    call_command("polls", *map(str, files), stdout=output)
    text = output.getvalue()
    # A line to be copied is told as a whole.
    assert max(len(line) for line in text.splitlines() if "new FeedSource" not in line) <= 80, text
    return text


def refused(*files: Path | str) -> str:
    errors = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("polls", *map(str, files), stdout=io.StringIO(), stderr=errors)
    assert ended.value.code == 2
    return errors.getvalue()


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "access.log") -> Path:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


Log = Callable[..., Path]


def the_one(found: dict[str, Any]) -> dict[str, Any]:
    """The one endpoint that is polled."""
    assert [one["path"] for one in found["polled"]] == [found["polled"][0]["path"]]
    return dict(found["polled"][0])


# What it finds


def test_pollers_among_visitors_are_found_and_measured(log: Log) -> None:
    pollers = [hit for i in range(10) for hit in poller(f"203.0.113.{i}")]
    found = polls(log(text_of([*visitors(), *pollers])))
    one = the_one(found)
    assert (one["path"], one["method"], one["clients"], one["polls"]) == ("/status/", "GET", 10, 600)
    assert one["interval"] == pytest.approx(2, rel=0.05)
    assert one["share"] == pytest.approx(600 / found["requests"], rel=0.001)
    assert (one["same"], one["bytes"], one["errors"], one["seconds"]) == (590, 600 * 120, 0, None)
    assert one["busiest_minute"]["pages_open_at_once"] == pytest.approx(10, abs=1)
    assert one["busiest_minute"]["streaming"]["requests"] < one["busiest_minute"]["polling"]["requests"] / 100


@pytest.mark.parametrize("every", [1, 3, 10, 30, 60, 300])
def test_an_interval_is_told_as_it_is_in_the_page(log: Log, every: float) -> None:
    one = the_one(polls(log(text_of([*visitors(), *poller("203.0.113.1", every=every, polls=80)]))))
    assert one["interval"] == pytest.approx(every, rel=0.1)
    assert f"@live(every={every:g})" in one["code"]["server"]
    assert one["busiest_minute"]["pages_open_at_once"] == pytest.approx(1, abs=1)


def test_an_interval_under_a_second_is_told_where_the_log_has_milliseconds(log: Log) -> None:
    def line(hit: Hit) -> str:
        time, address, agent, target, status, size = hit
        names = ("msec", "remote_addr", "http_user_agent", "request", "status", "body_bytes_sent")
        return json.dumps(dict(zip(names, (time, address, agent, f"GET {target} HTTP/1.1", status, size), strict=True)))

    one = the_one(polls(log(text_of(list(poller("203.0.113.1", every=0.5)), line))))
    assert one["interval"] == pytest.approx(0.5, rel=0.1)


def test_jitter_of_a_third_is_a_timer_still(log: Log) -> None:
    one = the_one(polls(log(text_of([*visitors(), *poller("203.0.113.1", every=10, polls=90, jitter=0.33)]))))
    assert one["interval"] == pytest.approx(10, rel=0.1)


def test_cache_busters_and_cursors_are_one_endpoint(log: Log) -> None:
    one = the_one(polls(log(text_of(list(poller("203.0.113.1", "/status/?_=NOW"))))))
    assert (one["path"], one["parameters"], one["polls"]) == ("/status/", ["_"], 60)


def test_one_view_for_many_objects_is_one_endpoint(log: Log) -> None:
    one = the_one(polls(log(text_of([hit for i in range(9) for hit in poller(f"203.0.113.{i}", f"/jobs/{i}/state/")]))))
    assert (one["path"], one["clients"], one["polls"]) == ("/jobs/…/state/", 9, 540)


def test_a_tab_in_the_background_is_asked_for_at_its_interval(log: Log) -> None:
    """Browsers let timers of hidden tabs run once a minute."""
    hits = [
        *poller("203.0.113.1", polls=90),
        *poller("203.0.113.1", every=60, polls=15, start=190),
        *poller("203.0.113.1", polls=90, start=1_120),
    ]
    one = the_one(polls(log(text_of(hits))))
    assert one["interval"] == pytest.approx(2, rel=0.1)
    assert one["polls"] >= 180


def test_several_tabs_of_one_client_are_at_the_interval_of_each(log: Log) -> None:
    hits = [hit for i in range(3) for hit in poller("203.0.113.1", every=5, polls=100, start=i * 1.7, jitter=0.002)]
    one = the_one(polls(log(text_of(hits))))
    assert (one["clients"], one["polls"]) == (1, 300)
    assert one["interval"] == pytest.approx(5, rel=0.1)


def test_clients_behind_one_address_are_told_apart_by_their_browsers(log: Log) -> None:
    hits = [hit for i in range(8) for hit in poller("203.0.113.1", agent=f"{CHROME} Edg/{i}", start=i)]
    one = the_one(polls(log(text_of(hits))))
    assert one["clients"] == 8
    assert one["interval"] == pytest.approx(2, rel=0.05)


def test_a_crowd_behind_a_proxy_is_found_and_its_interval_is_not_guessed(log: Log) -> None:
    hits = [hit for i in range(80) for hit in poller("10.0.0.1", every=4, polls=200, start=i * 0.11, jitter=0.1)]
    file = log(text_of(hits))
    one = the_one(polls(file))
    assert (one["path"], one["interval"], one["polls"], one["bytes"]) == ("/status/", None, 16_000, 16_000 * 120)
    assert "$http_x_forwarded_for" in told(file)


@pytest.mark.parametrize(
    "more",
    [
        ' "203.0.113.{}"',
        ' "203.0.113.{}, 10.1.2.3"',
        ' "203.0.113.{}:4711"',
        ' "2001:db8::{}"',
        ' "[2001:db8::{}]:4711"',
        ' rt=0.004 ua="10.9.9.9:8000" xff="203.0.113.{}"',
    ],
)
def test_x_forwarded_for_tells_clients_apart(log: Log, more: str) -> None:
    lines = []
    for i in range(40):
        lines += [(hit, more.format(i)) for hit in poller("10.0.0.1", every=3, start=i * 0.1)]
    lines.sort()
    one = the_one(polls(log("".join(f"{combined(hit, more=field)}\n" for hit, field in lines))))
    assert one["clients"] == 40
    assert one["interval"] == pytest.approx(3, rel=0.05)


def test_ipv6_addresses_are_clients(log: Log) -> None:
    hits = [hit for i in range(6) for hit in poller(f"2001:db8::{i}")]
    assert the_one(polls(log(text_of(hits))))["clients"] == 6


def test_lines_in_no_order_are_told_as_the_same(log: Log) -> None:
    hits = [*visitors(), *(hit for i in range(6) for hit in poller(f"203.0.113.{i}"))]
    ordered = the_one(polls(log(text_of(hits))))
    random.Random(1).shuffle(hits)
    shuffled = the_one(polls(log("".join(f"{combined(hit)}\n" for hit in hits))))
    for figure in ("path", "clients", "polls", "busiest_minute"):
        assert shuffled[figure] == ordered[figure]
    assert shuffled["interval"] == pytest.approx(ordered["interval"], rel=0.05)


def test_rotated_logs_are_read_in_the_order_of_time(log: Log) -> None:
    lines = text_of([hit for i in range(5) for hit in poller(f"203.0.113.{i}", every=60, polls=600)]).splitlines(True)
    third = len(lines) // 3
    files = [
        log("".join(lines[2 * third :]), "access.log"),
        log("".join(lines[third : 2 * third]), "access.log.1"),
        log(gzip.compress("".join(lines[:third]).encode()), "access.log.2.gz"),
    ]
    one = the_one(polls(*files))
    assert (one["polls"], one["clients"]) == (3_000, 5)
    assert one["interval"] == pytest.approx(60, rel=0.05)


def test_time_zones_are_heeded(log: Log) -> None:
    hits = sorted(poller("203.0.113.1", every=20))
    zones = [timezone(timedelta(hours=hours)) for hours in (-8, 0, 5.5)]
    found = polls(log("".join(f"{combined(hit, zones[i % 3])}\n" for i, hit in enumerate(hits))))
    assert found["first"].startswith("2026-11-24T09:00")
    assert the_one(found)["interval"] == pytest.approx(20, rel=0.05)


def test_answers_that_were_304_are_the_same_as_before(log: Log) -> None:
    hits = [(t, a, u, p, 304 if i % 4 else 200, 0 if i % 4 else 500 + i) for i, (t, a, u, p, _, _) in
            enumerate(poller("203.0.113.1", polls=80))]  # fmt: skip
    assert the_one(polls(log(text_of(hits))))["same"] == 60


# What it leaves alone


def test_browsing_is_no_polling(log: Log) -> None:
    file = log(text_of(visitors(300)))
    assert polls(file)["polled"] == []
    assert "Nothing is polled." in told(file)


@pytest.mark.parametrize("seed", range(3))
def test_people_who_reload_one_page_all_day_do_not_poll(log: Log, seed: int) -> None:
    chance = random.Random(seed)
    hits = []
    for i in range(40):
        time = BEGAN
        for _ in range(80):
            time += chance.expovariate(1 / 30)
            hits.append((time, f"198.51.100.{i}", CHROME, "/", 200, 5_000))
    assert polls(log(text_of(hits)))["polled"] == []


@pytest.mark.parametrize(
    ("agent", "target", "what"),
    [
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "/", "crawlers"),
        ("FeedFetcher-Google; (+http://www.google.com/feedfetcher.html)", "/feed/", "crawlers"),
        ("kube-probe/1.31", "/", "health checks"),
        ("ELB-HealthChecker/2.0", "/status/", "health checks"),
        ("Prometheus/2.53.0", "/events/metrics/", "health checks"),
        ("curl/8.9.1", "/healthz", "health checks"),
        (CHROME, "/static/tile.png", "assets"),
        (CHROME, "/hls/live.m3u8", "assets"),
    ],
)
def test_crawlers_health_checks_and_assets_are_not_polls(log: Log, agent: str, target: str, what: str) -> None:
    hits = [*visitors(), *poller("203.0.113.1", target, agent=agent)]
    found = polls(log(text_of(hits)))
    assert found["polled"] == []
    assert found["left_out"][what] >= 60


# What it reads


@pytest.mark.parametrize(
    "line",
    [
        '203.0.113.9 - - [24/Nov/2026:09:00:00 +0000] "GET /a/?b=1 HTTP/1.1" 200 17',
        '203.0.113.9 - ann [24/Nov/2026:10:00:00 +0100] "GET /a/?b=1 HTTP/2.0" 200 17 "-" "curl/8 \\"x\\"" 0.5',
        'example.org:443 203.0.113.9 - - [24/Nov/2026:09:00:00 +0000] "GET /a/?b=1 HTTP/1.1" 200 17 "-" "-"',
        'Nov 24 09:00:00 www nginx: 203.0.113.9 - - [24/Nov/2026:09:00:00 +0000] "GET /a/?b=1 HTTP/1.1" 200 17 "" ""',
        'web-1  | 203.0.113.9:50123 - - [24/Nov/2026:09:00:00 +0000] "GET /a/?b=1 HTTP/1.1" 200 17 "-" "-"',
        '{"time_iso8601": "2026-11-24T09:00:00+00:00", "remote_addr": "203.0.113.9", "request": "GET /a/?b=1 HTTP/1.1",'
        ' "status": "200", "body_bytes_sent": "17"}',
        '{"msec": 1795510800.000, "remote_addr": "10.0.0.1", "http_x_forwarded_for": "203.0.113.9, 10.0.0.2",'
        ' "request_method": "GET", "request_uri": "/a/?b=1", "status": 200, "bytes_sent": 17}',
        '{"timestamp": "2026-11-24T09:00:00Z", "client_ip": "203.0.113.9", "method": "GET", "path": "/a/",'
        ' "query_string": "b=1", "status": 200, "response_length": 17}',
        '{"h": "203.0.113.9", "t": "[24/Nov/2026:09:00:00 +0000]", "r": "GET /a/?b=1 HTTP/1.1", "s": "200", "B": 17}',
        '{"ts": 1795510800.0, "request": {"remote_ip": "203.0.113.9", "method": "GET", "uri": "/a/?b=1", "headers":'
        ' {"User-Agent": ["x"]}}, "status": 200, "size": 17, "duration": 0.001}',
        '{"log": "203.0.113.9 - - [24/Nov/2026:09:00:00 +0000] \\"GET /a/?b=1 HTTP/1.1\\" 200 17 \\"-\\" \\"-\\"\\n",'
        ' "stream": "stdout", "time": "2026-11-24T09:00:00.1Z"}',
    ],
)
def test_the_usual_formats_are_one_request(line: str) -> None:
    request = parse_line(line)
    assert request is not None
    assert (request.address, request.method, request.target) == ("203.0.113.9", "GET", "/a/?b=1")
    assert (request.time, request.status, request.size) == (BEGAN, 200, 17)


def test_what_runserver_and_a_unix_socket_log_has_no_address() -> None:
    for line in (
        '[24/Nov/2026 09:00:00] "GET /a/ HTTP/1.1" 200 17',
        ' - - [24/Nov/2026:09:00:00 +0000] "GET /a/ HTTP/1.0" 200 17 "-" "-"',
    ):
        request = parse_line(line)
        assert request is not None
        assert (request.address, request.time, request.target) == ("", BEGAN, "/a/")


@pytest.mark.parametrize(
    ("more", "seconds"), [(" 0.012", 0.012), (' "0.012"', 0.012), (" rt=0.012 uct=0.001", 0.012), (' "2.35"', None)]
)
def test_the_time_of_an_answer_is_read_and_a_ratio_is_none(more: str, seconds: float | None) -> None:
    request = parse_line(combined((BEGAN, "203.0.113.9", CHROME, "/", 200, 1), more=more))
    assert request is not None
    assert request.seconds == seconds


def test_mixed_formats_are_read_line_by_line_and_what_is_none_is_told(log: Log) -> None:
    lines = []
    for i, hit in enumerate(poller("203.0.113.1", every=3)):
        record = {"msec": hit[0], "remote_addr": hit[1], "request": f"GET {hit[3]} HTTP/1.1", "status": 200}
        lines += [combined(hit), "Traceback (most recent call last):"] if i % 2 else [
            json.dumps(record | {"http_user_agent": CHROME})
        ]  # fmt: skip
    file = log("\n".join(lines))
    found = polls(file)
    assert (the_one(found)["polls"], the_one(found)["clients"], found["unreadable_lines"]) == (60, 1, 30)
    assert "30 lines of 90 could not be read; the first:\n    Traceback" in told(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings_of_other_systems_are_read(log: Log, encoding: str) -> None:
    text = text_of(list(poller("203.0.113.1", "/café/")))
    found = polls(log(text.encode(encoding)))
    assert (the_one(found)["polls"], found["unreadable_lines"]) == (60, 0)


def test_lines_that_end_in_crlf_and_blank_ones_are_lines(log: Log) -> None:
    found = polls(log(text_of(list(poller("203.0.113.1"))).replace("\n", "\r\n\r\n")))
    assert (the_one(found)["polls"], found["unreadable_lines"]) == (60, 0)


def test_standard_input_is_read(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with log(gzip.compress(text_of(list(poller("203.0.113.1"))).encode())).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert "standard input" in told("-")


# What is no log


def test_an_empty_file_is_told_as_empty(log: Log) -> None:
    for content in (b"", b"\n\n", gzip.compress(b"")):
        file = log(content)
        assert "empty: there is no request in it" in told(file)
        assert (polls(file)["requests"], polls(file)["first"], polls(file)["polled"]) == (0, None, [])


def test_a_file_that_is_not_there_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(tmp_path / "access.log")
    assert "Is a directory" in refused(tmp_path)
    with pytest.raises(CommandError, match="FILE"):
        call_command("polls")


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 5_000,
        b"\x28\xb5\x2f\xfd" + bytes(range(256)),
        b"date,path,count\n2026-11-24,/,3\n" * 20_000,
        b'{"time": "yesterday", "path": "/", "status": 200}\n',
        b"[]\n{}\n[1, 2]\nnull\n",
        b"{" * 100_000,
        b'{"a":' * 20_000,
        b"x" * 3_000_000,
        b"[" * 60_000 + b"\n" + b"\xff" * 60_000,
        b'INFO:     127.0.0.1:50000 - "GET / HTTP/1.1" 200 OK\n',
    ],
)
def test_what_is_of_no_known_format_is_refused_with_those_that_are(log: Log, content: bytes) -> None:
    message = refused(log(content))
    assert "has no request in it that can be read" in message
    assert "combined or common" in message
    assert all(character.isprintable() or character == "\n" for character in message)


def test_compressed_files_that_are_cut_or_damaged_are_told_up_to_there(log: Log) -> None:
    whole = gzip.compress(text_of([hit for i in range(9) for hit in poller(f"203.0.113.{i}")]).encode())
    for content in (whole[: len(whole) // 2], whole[:-4] + b"\0\0\0\0", whole + b"rest"):
        file = log(content)
        assert the_one(polls(file))["polls"] > 100
        assert "is cut off or damaged" in told(file)
    assert "cannot be read" in refused(log(whole[:5]))


def test_a_huge_line_among_others_is_skipped(log: Log) -> None:
    lines = text_of(list(poller("203.0.113.1")))
    found = polls(log(lines + "GET " * 500_000 + "\n" + lines.replace("203.0.113.1", "203.0.113.2")))
    assert (the_one(found)["polls"], found["unreadable_lines"]) == (120, 1)


def test_noise_from_the_network_is_a_request_for_nothing(log: Log) -> None:
    noise = '203.0.113.66 - - [24/Nov/2026:09:00:01 +0000] "\\x16\\x03\\x01\\x02" 400 157 "-" "-"\n'
    found = polls(log(text_of(list(poller("203.0.113.1"))) + noise * 30))
    assert (the_one(found)["polls"], found["requests"], found["unreadable_lines"]) == (60, 90, 0)


# A HAR


def har(entries: list[Any]) -> str:
    return json.dumps({"log": {"version": "1.2", "creator": {"name": "a browser"}, "pages": [], "entries": entries}})


def entry(second: float, url: str, body: str = "{}", **more: Any) -> dict[str, Any]:
    """With the fields that the specification asks for."""
    return {
        "startedDateTime": datetime.fromtimestamp(BEGAN + second, UTC).isoformat(timespec="milliseconds"),
        "time": 12.5,
        "request": {"method": "GET", "url": url, "headers": [{"name": "User-Agent", "value": CHROME}]},
        "response": {
            "status": 200,
            "headersSize": 150,
            "bodySize": len(body),
            "content": {"size": len(body), "mimeType": "application/json", "text": body},
        },
        "cache": {},
        "timings": {"send": 0, "wait": 12, "receive": 0.5},
        **more,
    }


def session(polls: int = 8) -> list[Any]:
    return [
        entry(0, "https://example.org/", "<p>"),
        entry(0.1, "https://example.org/logo", _resourceType="image"),
        *(entry(3 * i + 1, f"https://example.org/status/?_={i}", json.dumps(i // 4)) for i in range(polls)),
    ]


def test_a_har_is_read_with_bodies_compared(log: Log) -> None:
    found = polls(log(har(session()), "example.har"))
    one = the_one(found)
    assert (one["path"], one["polls"], one["same"], one["interval"]) == ("/status/", 8, 6, 3)
    assert (found["requests"], one["seconds"]) == (10, 0.1)


def test_what_another_host_answers_is_told_with_its_name(log: Log) -> None:
    entries = [*session(), *(entry(2 * i, "https://api.example.net/v1/state") for i in range(20))]
    found = polls(log(har(entries)))
    assert [one["path"] for one in found["polled"]] == ["https://api.example.net/v1/state", "/status/"]
    assert "Another host" in found["polled"][0]["code"]["hints"][0]


def test_a_har_that_is_cut_or_has_odd_entries_is_told_up_to_there(log: Log) -> None:
    text = har(session(20))
    file = log(text[: len(text) * 3 // 4])
    assert the_one(polls(file))["polls"] > 10
    assert "is cut off or damaged" in told(file)
    odd = [None, 7, {}, {"request": {"url": "https://example.org/"}}, entry(1, "data:,x"), entry(1, "https://[")]
    found = polls(log(har([*session(), *odd])))
    assert (the_one(found)["polls"], found["unreadable_lines"]) == (8, 5)


def test_a_har_without_entries_is_empty_and_one_without_a_list_of_them_is_cut(log: Log) -> None:
    assert "empty" in told(log(har([])))
    assert polls(log('{"log": {"version": "1.2"}}'))["cut_off"]


# The code to write


def status(request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


class Status(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({})


urlpatterns = [
    path("status/", status),
    path("jobs/<int:pk>/", Status.as_view()),
    path("live/", live(every=2)(status)),
]


@override_settings(ROOT_URLCONF="tests.test_polls")
@pytest.mark.parametrize(
    ("target", "place", "lines"),
    [
        ("/status/", "status", ["@live(every=2)"]),
        ("/jobs/7/", "Status", ['@method_decorator(live(every=2), name="dispatch")']),
        ("/live/", "status", []),
        ("/elsewhere/", "", ["@live(every=2)"]),
    ],
)
def test_the_line_to_write_stands_above_the_view_of_this_project(
    log: Log, target: str, place: str, lines: list[str]
) -> None:
    file = log(text_of(list(poller("203.0.113.1", target))))
    code = the_one(polls(file))["code"]
    assert code["server"][-1:] == lines
    assert code["page"] == [f'new FeedSource("{target}")']
    assert ("tests/test_polls.py" in code["view"], code["view"].endswith(place)) == (bool(place), True)
    assert ("live view already" in str(code["hints"])) == (target == "/live/")
    assert all(line in told(file) for line in lines)


def test_a_long_path_leaves_the_table_its_80_columns(log: Log) -> None:
    target = "/very-long-name" * 12 + "/"
    assert " … " in told(log(text_of([hit for i in range(3) for hit in poller(f"203.0.113.{i}", target)])))


# The judgement of times


@pytest.mark.parametrize("seed", range(30))
def test_random_times_have_no_rhythm(seed: int) -> None:
    chance = random.Random(seed)
    times, time = [], 0.0
    for _ in range(60):
        time += chance.expovariate(1 / 8)
        times.append(float(int(time)))
    assert find_rhythm(times) is None
