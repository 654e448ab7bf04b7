"""The HTTP contract through every server that the project names, each a real process."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.servers import COMMANDS, GUNICORN, PORTABLE, ROOT, STREAMING, Server, Stream, serve

ASGI = ("asgi", *PORTABLE)


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, static_root: Path) -> Iterator[Server]:
    with serve(request.param, static_root, HEARTBEAT=0.5, METRICS_TOKEN="secret") as running:
        yield running


@pytest.fixture(scope="module", params=STREAMING)
def streaming(request: pytest.FixtureRequest, static_root: Path) -> Iterator[Server]:
    # A thread learns that its client has left when it writes next; until then the tests after it need others.
    threads = ["--threads", "32"] if request.param == "gthread" else []
    command = ["-m", "waitress", "--threads=32", *COMMANDS["waitress"][2:]] if request.param == "waitress" else None
    with serve(request.param, static_root, *threads, command=command, HEARTBEAT=0.5) as running:
        yield running


def test_a_stream_says_hello_and_then_the_time(streaming: Server) -> None:
    with Stream(streaming) as stream:
        assert stream.next().type == "hello"
        assert stream.decoder.retry == 2000
        first, second = stream.next("message").data, stream.next("message").data
        assert first < second
        assert first.endswith(".000+00:00")


def test_a_published_event_arrives_on_the_stream_and_by_poll(streaming: Server) -> None:
    cursor = streaming.poll().json()["cursor"]
    with Stream(streaming, channel="orders") as stream:
        stream.next("hello")
        event_id = streaming.publish("orders", {"n": "é🎉\r\n"}, type="paid")
        event = stream.next("paid")
    assert (event.id, event.data) == (event_id, '{"n":"é🎉\\r\\n"}')
    polled = streaming.poll(channel="orders", since=cursor).json()["events"]
    assert polled == [{"id": event_id, "channel": "orders", "type": "paid", "data": event.data}]


def test_a_stream_resumes_where_it_was_cut(streaming: Server) -> None:
    with Stream(streaming, channel="orders") as stream:
        stream.next("hello")
        first = streaming.publish("orders", 1)
        assert stream.next("message").id == first
    missed = [streaming.publish("orders", number) for number in (2, 3)]
    with Stream(streaming, {"Last-Event-ID": first}, channel="orders") as stream:
        assert stream.next("hello").id == first
        assert [stream.next("message").id for _ in missed] == missed


def test_heartbeats_break_the_silence(streaming: Server) -> None:
    with Stream(streaming, channel="quiet") as stream:
        stream.next("hello")
        assert stream.next().type == "heartbeat"
        assert stream.next().type == "heartbeat"


def test_a_stream_that_the_client_has_left_ends(streaming: Server) -> None:
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(Stream(streaming, channel="left")).next("hello")
        assert streaming.state()["streams"] >= 2
    while streaming.state()["streams"]:
        pass  # at once under ASGI, after a heartbeat or two under WSGI


def test_head_is_answered_without_a_stream(server: Server) -> None:
    with requests.Session() as connection:
        response = connection.head(f"{server.url}/events/", timeout=10)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert "Content-Length" not in response.headers  # as of GET nobody can know it
        after = connection.get(f"{server.url}/events/poll/", timeout=10)  # would begin with what came after the head
        assert after.status_code == 200


def test_head_works_quietly_on_all_that_get_reads(server: Server) -> None:
    before = len(server.log())
    with requests.Session() as connection:
        for path in ("/events/", "/events/poll/", "/events/health/", "/events/metrics/"):
            url, token = server.url + path, {"Authorization": "Bearer secret"}
            # A sync worker has no streams, and HEAD says nothing of that.
            assert connection.head(url, headers=token, timeout=10).status_code == 200
    assert not re.search("warn|error|traceback|not allowed|unexpected", server.log()[before:], re.IGNORECASE)


def test_polling_works_and_answers_304_while_nothing_happens(server: Server) -> None:
    response = server.poll()
    assert response.json()["gap"] is False
    again = requests.get(response.url, headers={"If-None-Match": response.headers["ETag"]}, timeout=10)
    assert again.status_code == 304


def test_errors_are_json_and_tell_no_secrets(server: Server) -> None:
    for path in ("/events/?channel=a%20b", "/events/poll/?channel=%00"):
        response = requests.get(server.url + path, timeout=10)
        assert response.status_code == 400
        assert "is 1 to 100 letters" in response.json()["error"]
    assert "Traceback" not in server.log()


def test_the_page_has_its_css_and_its_modules_from_the_server_alone(server: Server) -> None:
    page = requests.get(f"{server.url}/", timeout=10)
    assert page.status_code == 200
    links = [part.split('"')[0] for part in page.text.split('="/static/')[1:]]
    assert any(link.endswith(".css") for link in links)
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert requests.get(f"{server.url}/static/{link}", timeout=10).status_code == 200, link


def test_a_sync_worker_refuses_every_stream_and_serves_polls(static_root: Path) -> None:
    with serve("sync", static_root) as server:
        refused = requests.get(f"{server.url}/events/", timeout=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert server.poll().status_code == 200


def test_runserver_without_threads_refuses_every_stream_and_serves_polls(static_root: Path) -> None:
    with serve("runserver", static_root, "--nothreading") as server:
        assert requests.get(f"{server.url}/events/", timeout=10).status_code == 503
        assert server.poll().status_code == 200


def test_a_thread_worker_that_is_told_to_stop_ends_its_streams(static_root: Path) -> None:
    with serve("gthread", static_root, HEARTBEAT=3600, SPREAD=3_600_000) as server:
        with Stream(server, channel="quiet") as stream:
            stream.next("hello")
            assert server.process
            server.process.terminate()
            assert stream.next().type == "drain"
            with pytest.raises(StopIteration):
                stream.next()
        assert stream.decoder.retry != 2000, "it was cut off, and not told when to come back"


FOUR_THREADS = {
    "gthread": COMMANDS["gthread"],
    "waitress": COMMANDS["waitress"],  # its default
    "cheroot": ["-m", "cheroot", "--bind", "{address}", "--threads", "4", "sse_demo.wsgi:application"],
    "uwsgi": [
        *("-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", str(Path(sys.executable).parent / "uwsgi")),
        *("--http-socket", "{address}", "--master", "--die-on-term", "--threads", "4"),
        *("--virtualenv", sys.prefix, "--module", "sse_demo.wsgi"),
    ],
}


@pytest.mark.parametrize("kind", FOUR_THREADS)
def test_behind_four_threads_twelve_who_want_streams_do_not_freeze_the_site(kind: str, static_root: Path) -> None:
    with serve(kind, static_root, command=FOUR_THREADS[kind], HEARTBEAT=0.2) as server:

        def ask(_: int) -> Stream:
            return Stream(server, channel="quiet")

        with ThreadPoolExecutor(12) as clients, ExitStack() as opened:
            streams = [opened.enter_context(stream) for stream in clients.map(ask, range(12))]
            responses = [stream.response for stream in streams]
            assert sorted(response.status_code for response in responses) == [200] * 3 + [503] * 9
            assert all(r.headers["Retry-After"] for r in responses if r.status_code == 503)
            assert server.poll().status_code == 200
            for stream in streams:
                if stream.response.status_code == 200:
                    assert [stream.next().type, stream.next().type] == ["hello", "heartbeat"]
        while server.state()["streams"]:
            pass  # each thread is free again after a heartbeat or two


@pytest.mark.parametrize("kind", ASGI)
def test_a_client_that_leaves_an_asgi_server_is_noticed_without_a_write(kind: str, static_root: Path) -> None:
    with serve(kind, static_root, HEARTBEAT=3600) as server:
        with Stream(server, channel="quiet") as stream:
            stream.next("hello")
        while server.state()["streams"]:
            pass  # nothing will be written for an hour


def test_streams_stop_at_the_setting_under_asgi(static_root: Path) -> None:
    with serve("asgi", static_root, MAX_STREAMS=2) as server, ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(Stream(server)).next("hello")
        assert requests.get(f"{server.url}/events/", timeout=10).status_code == 503
        assert server.poll().status_code == 200


GEVENT = [*GUNICORN, "-k", "gevent"]


def test_gevent_serves_streams_and_polls_as_greenlets(static_root: Path) -> None:
    with (
        serve("gevent", static_root, command=[*GEVENT, "sse_demo.wsgi"], HEARTBEAT=0.2) as server,
        ExitStack() as opened,
    ):
        streams = [opened.enter_context(Stream(server, channel="orders")) for _ in range(5)]
        for stream in streams:
            stream.next("hello")
        published = server.publish("orders", 1)
        assert {stream.next("message").id for stream in streams} == {published}
        assert server.poll().status_code == 200


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [(["sse_demo.wsgi", "--preload"], "Leave --preload out"), (["sse_demo.asgi"], "Leave the worker class out")],
)
def test_gevent_refuses_at_the_start_what_it_cannot_serve(
    static_root: Path, arguments: list[str], instead: str
) -> None:
    with pytest.raises(RuntimeError) as raised, serve("gevent", static_root, command=[*GEVENT, *arguments]):
        pass
    assert instead in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("environment", [{}, {"DJANGO_DEBUG": "1"}])
def test_static_files_are_served_without_a_step_of_their_own(tmp_path: Path, environment: dict[str, str]) -> None:
    server = Server("asgi", tmp_path / "static", {}, [], environment)
    try:
        server.start()
        page = requests.get(server.url, timeout=30)
        assert page.status_code == 200
        [module, *_] = re.findall(r'<script type="module" src="([^"]+)"', page.text)
        script = requests.get(f"{server.url}{module}", timeout=30)
        assert (script.status_code, script.headers["Content-Type"].partition(";")[0]) == (200, "text/javascript")
    finally:
        server.stop()


@pytest.mark.parametrize("worker", ["uvicorn_worker.UvicornWorker", "uvicorn.workers.UvicornWorker"])
def test_uvicorns_worker_streams_with_this_configuration(static_root: Path, worker: str) -> None:
    quiet = ["-W", "ignore::DeprecationWarning"]  # of uvicorn.workers, which uvicorn_worker follows
    with (
        serve("uvicorn", static_root, command=[*quiet, *GUNICORN, "-k", worker, "sse_demo.asgi"]) as server,
        Stream(server, channel="orders") as stream,
    ):
        stream.next("hello")
        published = server.publish("orders", 1)
        assert stream.next("message").id == published


@pytest.mark.parametrize(
    ("worker", "kind", "instead"),
    [
        ("gthread", "asgi", "Leave the worker class out; or keep it, and serve mysite.wsgi"),
        ("uvicorn_worker.UvicornWorker", "wsgi", "Serve mysite.asgi; or, if it has to be WSGI, add -k gthread"),
        ("events.worker.EventWorker", "wsgi", "Serve mysite.asgi; or, if it has to be WSGI, add -k gthread"),
    ],
)
def test_an_application_of_the_other_kind_is_refused_with_what_to_serve(
    tmp_path: Path, worker: str, kind: str, instead: str
) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", str(tmp_path)], check=True, env=OWN)
    refused = gunicorn(tmp_path, "-k", worker, f"mysite.{kind}", PYTHONPATH=str(ROOT))
    assert instead in refused
    assert "Traceback" not in refused
    assert "sse_demo" not in refused


@pytest.mark.parametrize(
    ("events", "trouble"),
    [
        ({"BROKER": "redis://127.0.0.1:1/0?stream="}, "stream"),
        ({"AUTHORIZE": "no.such.rule"}, "EVENTS['AUTHORIZE'] cannot be imported"),
        ({"HISTORI": 1}, "HISTORI"),
    ],
)
@pytest.mark.parametrize("kind", ["asgi", "gthread"])
def test_settings_that_fail_every_request_fail_the_start(
    static_root: Path, kind: str, events: dict[str, Any], trouble: str
) -> None:
    with pytest.raises(RuntimeError) as raised, serve(kind, static_root, **events):
        pass
    critical = [line for line in str(raised.value).splitlines() if "[CRITICAL]" in line]
    assert trouble in critical[0]
    assert len(critical) == 2
    assert "Traceback" not in str(raised.value)


def test_another_servers_start_fails_as_well(static_root: Path) -> None:
    with pytest.raises(RuntimeError, match="HISTORI"), serve("uvicorn", static_root, HISTORI=1):
        pass


@pytest.mark.parametrize("arguments", [["-c", str(ROOT / "gunicorn.conf.py")], ["-k", "events.worker.EventWorker"]])
def test_an_older_gunicorn_is_told_which_version_it_takes(tmp_path: Path, arguments: list[str]) -> None:
    """That of Debian 13, say. What counts is the version, and that it has no worker for ASGI."""
    old = tmp_path / "gunicorn"
    shutil.copytree(Path(find_spec("gunicorn").origin).parent, old)  # type: ignore[union-attr, arg-type]
    (old / "workers" / "gasgi.py").unlink()
    version = old / "__init__.py"
    version.write_text(re.sub(r"version_info = .*", "version_info = (23, 0, 0)", version.read_text()))
    refused = gunicorn(tmp_path, *arguments, "sse_demo.asgi", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "needs gunicorn 27 or newer, and this is 23.0.0: pip install 'gunicorn>=27'" in refused


OWN = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}


def gunicorn(directory: Path, *arguments: str, **environment: str) -> str:
    """What gunicorn says that does not start, with our configuration, in another directory."""
    shutil.copy(ROOT / "gunicorn.conf.py", directory)
    refused = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:0", *arguments],
        cwd=directory,
        env=OWN | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode != 0
    return refused.stderr
