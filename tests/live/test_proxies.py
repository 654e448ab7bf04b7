"""docs/deploy.md, run as it is written: each proxy, HTTP/2 without one, a WSGI site, a deploy."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
import trustme
from django.core.management import call_command

from tests.chaos.clients import CHANNEL, HEARTBEAT, Client, PollClient, StreamClient, run_all
from tests.chaos.run import Account
from tests.live.http2 import Http2
from tests.live.proxies import NGINX, Caddy, Documented, Haproxy, Nginx, block, change
from tests.live.servers import GUNICORN, ROOT, Server, Stream, serve

ACCESS_LOG = "%(r)s for %({x-forwarded-for}i)s by %({x-forwarded-proto}i)s to %({host}i)s"
SHORT = 2  # seconds of silence that a proxy allows here, where the document says 60
PROXIES: dict[str, tuple[type[Documented], dict[str, str]]] = {
    "nginx": (Nginx, {"proxy_read_timeout 60s": f"proxy_read_timeout {SHORT}s"}),
    "haproxy": (
        Haproxy,
        {"timeout client 60s": f"timeout client {SHORT}s", "timeout server 60s": f"timeout server {SHORT}s"},
    ),
    "caddy": (Caddy, {}),  # waits for ever
}


@contextmanager
def running(proxy: Documented) -> Iterator[Documented]:
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.remove()


@pytest.fixture(scope="module")
def server(static_root: Path) -> Iterator[Server]:
    log = ("--access-logfile", "-", "--access-logformat", ACCESS_LOG)
    with serve("asgi", static_root, *log, HEARTBEAT=0.5) as server:
        yield server


@pytest.fixture(scope="module")
def proxies(server: Server) -> Iterator[dict[str, Documented]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(kind(server.port, changes=changes)))
            for name, (kind, changes) in PROXIES.items()
        }


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, Documented]) -> Documented:
    return proxies[request.param]


def test_twenty_streams_share_one_http_2_connection_and_each_is_told_at_once(proxy: Documented, server: Server) -> None:
    with Http2(proxy.port, proxy.authority) as client:
        streams = [client.get(f"/events/?channel=all&channel=c{n}") for n in range(20)]
        for stream in streams:
            assert stream.next().type == "hello"
        event_id = server.publish("all", "everybody")
        assert [stream.next("message").id for stream in streams] == [event_id] * 20
        own = [server.publish(f"c{n}", n) for n in range(20)]
        assert [stream.next("message").id for stream in streams] == own


def test_heartbeats_keep_streams_open_through_silences_that_no_proxy_stands(proxies: dict[str, Documented]) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Http2(proxy.port, proxy.authority)) for proxy in proxies.values()]
        streams = [client.get("/events/?channel=quiet") for client in clients]
        for stream in streams:
            stream.next("hello")
            assert [stream.next().type for _ in range(8)] == ["heartbeat"] * 8


def test_polls_reuse_the_connections_between_proxy_and_server(proxy: Documented) -> None:
    with Http2(proxy.port, proxy.authority) as client:
        ports = {client.get("/events/test/connection/").json()["port"] for _ in range(20)}
    assert len(ports) < 5


def test_the_server_is_told_who_asks_and_how_and_not_what_the_client_claims(proxy: Documented, server: Server) -> None:
    with Http2(proxy.port, proxy.authority) as client:
        claims = {"x_forwarded_for": "192.0.2.1", "x_forwarded_proto": "http"}
        name = type(proxy).__name__
        for path in (f"/events/?channel={name}", f"/events/poll/?channel={name}", f"/?{name}"):
            assert client.get(path, **claims).status == 200
            while f"GET {path} HTTP/1.1 for 127.0.0.1 by https to 127.0.0.1" not in server.log():
                assert f"GET {path} HTTP/1.1 for 192.0.2.1" not in server.log()


def test_a_client_that_leaves_its_stream_gives_the_place_up(proxy: Documented, server: Server) -> None:
    with Http2(proxy.port, proxy.authority) as client:
        before = server.state()["streams"]
        streams = [client.get("/events/?channel=left") for _ in range(2)]
        for stream in streams:
            stream.next("hello")
        streams[0].leave()
        while server.state()["streams"] > before + 1:
            pass
        event_id = server.publish("left", "to whom?")
        assert streams[1].next("message").id == event_id


def test_the_probe_finds_nothing_wrong(proxies: dict[str, Documented], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(proxies["nginx"].authority))

    def probe(proxy: Documented) -> str:
        out = StringIO()
        call_command("probe", f"{proxy.url}/events/", patience=1, stdout=out, stderr=out)
        return out.getvalue()

    with ThreadPoolExecutor() as pool:
        for report in pool.map(probe, proxies.values()):  # mostly they wait
            assert "PROBLEM" not in report


MISTAKES = {
    # HTTP/1.0 as well: with HTTP/1.1 nginx would pass each chunk on although it buffers.
    "proxy_buffering": {
        "proxy_buffering off": "proxy_buffering on",
        "proxy_http_version 1.1": "proxy_http_version 1.0",
    },
    "gzip": {"gzip off;": "gzip on; gzip_proxied any; gzip_types *; gzip_min_length 0;"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_headers_save_streams_from_what_nginx_has_left_on(mistake: str, server: Server) -> None:
    with (
        running(Nginx(server.port, changes=MISTAKES[mistake])) as proxy,
        Http2(proxy.port, proxy.authority) as client,
    ):
        stream = client.get("/events/?channel=a", accept_encoding="gzip")
        stream.next("hello")
        event_id = server.publish("a", 1)
        assert stream.next("message").id == event_id


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Nginx, {"client_header_timeout 10s": "client_header_timeout 1s"}),
        (Haproxy, {"timeout http-request 10s": "timeout http-request 1s"}),
    ],
)
def test_a_client_whose_request_never_ends_is_let_go(
    kind: type[Documented], changes: dict[str, str], server: Server
) -> None:
    with running(kind(server.port, changes=changes)) as proxy:
        tls = ssl.create_default_context(cafile=str(proxy.authority))
        raw = socket.create_connection(("127.0.0.1", proxy.port), 30)
        with tls.wrap_socket(raw, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /events/?channel=loris HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            while client.recv(1000):
                pass
        assert "loris" not in server.log()


def test_nginx_limits_what_one_address_asks_and_opens(server: Server) -> None:
    changes = {"rate=10r/s": "rate=1r/m", "rate=20r/s": "rate=1r/m"}
    with (
        running(Nginx(server.port, changes=changes)) as proxy,
        Http2(proxy.port, proxy.authority) as client,
    ):
        polls = [client.get("/events/poll/") for _ in range(102)]
        assert [poll.status for poll in polls] == [200] * 101 + [429]
        streams = [client.get("/events/?channel=limits") for _ in range(52)]
        assert [stream.status for stream in streams] == [200] * 51 + [429]
        assert client.get("/").status == 200


def test_nginx_limits_how_many_streams_one_address_holds(server: Server) -> None:
    with (
        running(Nginx(server.port, changes={"streams_open 200": "streams_open 5"})) as proxy,
        Http2(proxy.port, proxy.authority) as client,
    ):
        streams = [client.get("/events/?channel=limits") for _ in range(6)]
        assert [stream.status for stream in streams] == [200] * 5 + [429]
        streams[0].leave()
        assert [client.get("/events/?channel=limits").status for _ in range(2)] == [200, 429]


def test_nginx_asks_the_other_server_again_but_never_to_do_something_twice(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    with ExitStack() as stack:
        dying = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def take_requests_and_break_off() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = dying.accept()
                    with connection:
                        heard.append(connection.recv(65_536).split()[0])

        thread = Thread(target=take_requests_and_break_off)
        thread.start()
        stack.callback(thread.join)
        stack.callback(dying.shutdown, socket.SHUT_RDWR)
        nginx = stack.enter_context(running(Nginx(dying.getsockname()[1], server.port)))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(nginx.authority))
        polls = [requests.get(f"{nginx.url}/events/poll/", timeout=10).status_code for _ in range(4)]
        posts = [requests.post(f"{nginx.url}/events/publish/", timeout=10).status_code for _ in range(4)]
    assert polls == [200] * 4
    assert set(heard) == {b"GET", b"POST"}
    assert posts.count(502) == heard.count(b"POST")
    assert posts.count(403) == 4 - heard.count(b"POST")


def test_nginx_sends_browsers_to_https(server: Server) -> None:
    nginx = Nginx(server.port)
    with running(nginx):
        answer = requests.get(f"http://127.0.0.1:{nginx.http_port}/events/?a=b", allow_redirects=False, timeout=10)
        assert (answer.status_code, answer.headers["Location"]) == (301, "https://example.org/events/?a=b")


def documented(line: str) -> list[str]:
    """The arguments of a line that starts gunicorn, but for where it listens."""
    program, *arguments = shlex.split(line)
    assert Path(program).name == "gunicorn"
    at = arguments.index("--bind") if "--bind" in arguments else len(arguments)
    return [argument for argument in arguments[:at] + arguments[at + 2 :] if argument != "--no-control-socket"]


@pytest.fixture
def over_http_2(static_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Http2]]:
    """gunicorn as the document starts it for HTTP/2 without a proxy, and a client."""
    authority, pem = tmp_path / "authority.pem", str(tmp_path / "certificate.pem")
    own = trustme.CA()
    own.cert_pem.write_to_path(str(authority))
    own.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    line = block("sh", "--http-protocols").splitlines()[1]
    arguments = documented(change(line, {"fullchain.pem": pem, "privkey.pem": pem}))
    server = Server("asgi", static_root, {"HEARTBEAT": 0.5, "RETRY": 1000}, arguments, command=GUNICORN)
    try:
        server.start()
        with Http2(server.port, authority) as client:
            yield server, client
    finally:
        server.stop()


def test_gunicorn_serves_many_streams_on_one_http_2_connection(over_http_2: tuple[Server, Http2]) -> None:
    server, client = over_http_2
    streams = [client.get("/events/?channel=a") for _ in range(20)]
    for stream in streams:
        assert stream.next().type == "hello"
        assert stream.next().type == "heartbeat"
    event_id = server.publish("a", 1)
    assert [stream.next("message").id for stream in streams] == [event_id] * 20
    assert client.get("/events/poll/?channel=a&since=" + event_id).json()["events"] == []
    with Stream(server) as plain:
        plain.next("hello")


def test_a_stream_of_an_http_2_connection_ends_without_the_others(over_http_2: tuple[Server, Http2]) -> None:
    server, client = over_http_2
    streams = [client.get("/events/?channel=a") for _ in range(3)]
    for stream in streams:
        stream.next("hello")
    streams[1].leave()
    while server.state()["streams"] > 2:
        pass
    event_id = server.publish("a", 1)
    assert [streams[n].next("message").id for n in (0, 2)] == [event_id] * 2


def test_a_stop_ends_each_stream_of_an_http_2_connection_in_good_order(over_http_2: tuple[Server, Http2]) -> None:
    server, client = over_http_2
    streams = [client.get("/events/?channel=a") for _ in range(20)]
    for stream in streams:
        stream.next("hello")
    assert server.process
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        stream.read_to_end()
    assert [stream.reset for stream in streams] == [None] * 20
    assert len({stream.decoder.retry for stream in streams}) > 10
    client.read_to_end()
    assert client.is_going_away
    assert server.process.wait(20) == 0


@pytest.fixture
def shared(static_root: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of processes that share a database, with `ada` on the staff."""
    environment = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "tests.live.settings",
        "DJANGO_SECRET_KEY": "for tests only",
        "DJANGO_SUPERUSER_PASSWORD": "a password",
        "TEST_STATIC_ROOT": str(static_root),
        "TEST_EVENTS": json.dumps({"BROKER": "db:", "HEARTBEAT": HEARTBEAT, "RETRY": 200, "SPREAD": 500}),
    }
    for arguments in ("migrate --verbosity 0", "createsuperuser --noinput --username ada --email ada@example.org"):
        command = [sys.executable, "manage.py", *arguments.split()]
        subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
    return environment


def test_a_wsgi_site_stays_as_it_is_and_the_process_beside_it_knows_its_users(
    shared: dict[str, str], static_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = block("sh", "gunicorn mysite.wsgi").replace("mysite", "sse_demo").splitlines()
    as_it_is, beside = (documented(line.replace("gunicorn.events.py", "gunicorn.conf.py")) for line in lines)
    nothing = tmp_path / "nothing.py"
    nothing.touch()  # the site does not read our gunicorn.conf.py
    site = Server("wsgi", static_root, {}, [*as_it_is, "--config", str(nothing)], shared, command=GUNICORN)
    streams = Server("asgi", static_root, {}, beside, shared, command=GUNICORN)
    upstream = change(block("nginx", "upstream site"), {"127.0.0.1:9000": f"127.0.0.1:{site.port}"})
    (documented_upstream,) = re.findall(r"^upstream site .*?^}\n", NGINX, re.DOTALL | re.MULTILINE)
    nginx = Nginx(streams.port, changes={documented_upstream: upstream})
    with ExitStack() as stack:
        for server in (site, streams):
            stack.callback(server.stop)
            server.start()
        stack.enter_context(running(nginx))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(nginx.authority))
        browser = stack.enter_context(requests.Session())
        browser.headers["Origin"] = "https://127.0.0.1"  # as nginx is at 443 elsewhere

        def post(path: str, **more: Any) -> requests.Response:
            return browser.post(nginx.url + path, timeout=10, **more)

        def publish(**headers: str) -> requests.Response:
            return post("/events/publish/", json={"channel": "news", "data": "by hand"}, headers=headers)

        stream = stack.enter_context(Stream(nginx.url, channel="news"))
        stream.next("hello")
        assert (site.state()["streams"], streams.state()["streams"]) == (0, 1)

        browser.get(f"{nginx.url}/admin/login/", timeout=10)
        token = {"X-CSRFToken": browser.cookies["csrftoken"]}
        assert publish(**token).status_code == 403
        login = {"username": "ada", "password": shared["DJANGO_SUPERUSER_PASSWORD"], "next": "/test/process/"}
        assert post("/admin/login/", data=login, headers=token).json()["pid"] == site.state()["pid"]
        assert publish().status_code == 403
        token = {"X-CSRFToken": browser.cookies["csrftoken"]}
        event_id = publish(**token).json()["id"]
        assert stream.next("message").id == event_id

        post("/test/transaction/?rollback", json={"channel": "news", "data": "taken back"})
        post("/test/transaction/", json={"channel": "news", "data": "committed"})
        assert stream.next("message").data == '"committed"'


UNIT = ROOT / "docs" / "sse-demo@.service"


def unit(setting: str) -> str:
    (value,) = re.findall(rf"^{setting}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def test_systemd_finds_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    here = tmp_path / "sse-demo@8000.service"
    here.write_text(change(UNIT.read_text(), {unit("ExecStart").split()[0]: sys.executable}))
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_unit_says_when_it_is_ready_reloads_and_stops_in_its_time(
    static_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        environment = dict(line.split("=", 1) for line in block("ini").splitlines())
        environment["DATABASE_URL"] = f"sqlite:///{tmp_path / 'db.sqlite3'}"
        server = Server("unit", static_root, {}, documented(unit("ExecStart")), environment, command=GUNICORN)
        try:
            server.start()
            assert b"READY=1" in manager.recv(1000)
            assert server.process
            before = server.state()["pid"]
            reload = unit("ExecReload").replace("$MAINPID", str(server.process.pid))
            subprocess.run(shlex.split(reload), check=True)
            while server.state()["pid"] == before:
                pass
            assert unit("KillMode") == "mixed"  # SIGTERM for this process alone
            server.process.terminate()
            assert server.process.wait(int(unit("TimeoutStopSec"))) == 0
        finally:
            server.stop()


def test_one_process_after_the_other_is_replaced_and_nobody_loses_an_event(
    shared: dict[str, str], static_root: Path
) -> None:
    command = documented(unit("ExecStart"))
    servers = {port: Server("unit", static_root, {}, command, shared, command=GUNICORN) for port in ("8000", "8001")}
    nginx = Nginx(servers["8000"].port, servers["8001"].port)

    def follow(line: str) -> None:
        program, *arguments = shlex.split(line)
        if program == "systemctl":
            assert arguments[0] == "restart"
            server = servers[arguments[1].removeprefix("sse-demo@")]
            server.stop()
            server.start()
        else:
            port = servers["8000"].port
            here = change(line, {"127.0.0.1:8000": f"127.0.0.1:{port}", "example.org": "127.0.0.1"})
            subprocess.run(shlex.split(here), check=True, timeout=60)

    with ExitStack() as stack:
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
        stack.enter_context(running(nginx))
        tls = ssl.create_default_context(cafile=str(nginx.authority))
        cursor = servers["8000"].poll().json()["cursor"]
        clients: list[Client] = [
            *(StreamClient(f"stream {n}", nginx.port, cursor, tls) for n in range(20)),
            *(PollClient(f"poll {n}", nginx.port, cursor, tls) for n in range(6)),
        ]
        publisher = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.publisher", f"{CHANNEL}=50"],
            cwd=ROOT,
            env=os.environ | shared,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stack.callback(publisher.wait)
        stack.callback(publisher.kill)

        async def deploy() -> dict[str, int]:
            reading = asyncio.create_task(run_all(clients))

            async def everybody_has(count: int) -> None:
                while any(client.count < count for client in clients):  # noqa: ASYNC110  no simpler
                    await asyncio.sleep(0.05)

            await everybody_has(1)
            for line in block("sh", "systemctl restart").splitlines():
                await asyncio.to_thread(follow, line)
                await everybody_has(max(client.count for client in clients) + 1)
            output, _ = await asyncio.to_thread(publisher.communicate)
            published: dict[str, int] = json.loads(output)
            await everybody_has(published[CHANNEL])
            reading.cancel()
            await reading
            return published

        published = asyncio.run(deploy())
        accounts = [Account.of(client, published) for client in clients]
        assert [account for account in accounts if not account.faultless or account.gaps] == []
        assert {client.name: client.refusals for client in clients if client.refusals} == {}
        assert all(client.connections > 1 for client in clients)
