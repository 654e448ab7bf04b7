"""Live views through real servers: what is told, to whom, and what an open stream holds."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from events.wire import Event
from tests.live.servers import Server, Stream

ACCEPT = {"Accept": "text/event-stream"}
ASYNC = ("asgi", "uvicorn")
KINDS = ("runserver", "gthread", *ASYNC)
METRICS = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, static_root: Path, tmp_path_factory: Any) -> Iterator[Server]:
    yield from start(request.param, static_root, tmp_path_factory)


@pytest.fixture(scope="module", params=ASYNC)
def asgi_server(request: pytest.FixtureRequest, static_root: Path, tmp_path_factory: Any) -> Iterator[Server]:
    yield from start(request.param, static_root, tmp_path_factory)


def start(kind: str, static_root: Path, tmp_path_factory: Any) -> Iterator[Server]:
    database = tmp_path_factory.mktemp("live") / "live.sqlite3"
    # A thread learns that its client has left when it writes next; until then the tests after it need others.
    threads = ["--threads", "32"] if kind == "gthread" else []
    events = {"HEARTBEAT": 0.5, "METRICS_TOKEN": "secret", "RETRY": 100, "SPREAD": 0}
    server = Server(kind, static_root, events, threads, {"DATABASE_URL": f"sqlite:///{database}"})
    try:
        server.manage("migrate", "--verbosity=0")
        server.start()
        yield server
    finally:
        server.stop()


def listen(server: Server, name: str, visitor: requests.Session | None = None, **more: str) -> Stream:
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.cookies) if visitor else ""
    headers = ACCEPT | ({"Cookie": cookies} if cookies else {}) | {k.replace("_", "-"): v for k, v in more.items()}
    return Stream(server, headers, f"/test/live/{name}")


def get(server: Server, name: str, **parameters: Any) -> requests.Response:
    return requests.get(f"{server.url}/test/live/{name}", params=parameters, timeout=10)


def change(server: Server, value: str) -> None:
    get(server, "set/", value=value)


def answer(stream: Stream) -> Any:
    return json.loads(stream.next("message").data)


def visitor(server: Server, name: str) -> requests.Session:
    session = requests.Session()
    if name:
        session.get(f"{server.url}/test/live/enter/", params={"name": name}, timeout=10)
    return session


@pytest.mark.parametrize("name", ["status/", "async/"])
def test_the_url_that_was_polled_is_streamed(server: Server, name: str) -> None:
    change(server, "before")
    with listen(server, name) as stream:
        assert stream.next().type == "hello"
        assert answer(stream) == "before"
        change(server, "after")
        event = stream.next("message")
    polled = get(server, name)
    assert (event.data, event.id) == (polled.text, polled.headers["ETag"])
    headers = {"If-None-Match": polled.headers["ETag"]}
    assert requests.get(f"{server.url}/test/live/{name}", headers=headers, timeout=10).status_code == 304
    assert "Accept" in polled.headers["Vary"]
    with listen(server, name, Last_Event_ID=event.id or "") as again:
        assert again.next().type == "hello"
        assert again.next().type == "heartbeat"  # nothing new is told to who has it


def test_an_event_has_the_view_evaluated(server: Server) -> None:
    change(server, "one")
    with listen(server, "on/") as stream:
        assert answer(stream) == "one"
        change(server, "two")
        server.publish("live", "look")
        assert answer(stream) == "two"


def test_each_visitor_is_told_their_own_and_nothing_after_logging_out(server: Server) -> None:
    change(server, "secret 1")
    visitors = {name: visitor(server, name) for name in ("ada", "bob", "")}
    with ExitStack() as stack:
        streams = {name: stack.enter_context(listen(server, "me/", each)) for name, each in visitors.items()}
        for name, stream in streams.items():
            assert answer(stream) == {"user": name, "value": "secret 1" if name else ""}
        before = streams["ada"]
        visitors["ada"].get(f"{server.url}/test/live/leave/", timeout=10)
        change(server, "secret 2")
        assert answer(streams["bob"]) == {"user": "bob", "value": "secret 2"}
        events = until_the_end(before)
        assert events[-1].type == "drain"
        assert not any("secret 2" in event.data for event in events)
        # Another user in the same browser, whose new session is not the one of the stream that is open.
        with listen(server, "me/", visitors["bob"]) as other:
            assert answer(other)["user"] == "bob"
            visitors["bob"].get(f"{server.url}/test/live/enter/", params={"name": "eve"}, timeout=10)
            change(server, "secret 3")
            assert not any("secret 3" in event.data for event in until_the_end(other))
        with listen(server, "me/", visitors["bob"]) as eves:
            assert answer(eves) == {"user": "eve", "value": "secret 3"}
    assert get(server, "me/").json()["value"] == ""


def until_the_end(stream: Stream) -> list[Event]:
    events: list[Event] = []
    while not events or events[-1].type != "drain":
        events.append(stream.next())
    return events


def test_many_clients_share_one_evaluation_and_hold_no_thread(asgi_server: Server) -> None:
    change(asgi_server, "first")
    with ExitStack() as stack:
        streams = []
        for number in range(100):
            cookie = f"sessionid={number:032}; csrftoken={number:032}"
            stream = listen(asgi_server, "status/", User_Agent=f"Browser/{number}", Cookie=cookie)
            streams.append(stack.enter_context(stream))
        assert {answer(stream) for stream in streams} == {"first"}
        assert asgi_server.state()["threads"] < 50
        before = get(asgi_server, "counts/").json()["status"]
        change(asgi_server, "second")
        assert {answer(stream) for stream in streams} == {"second"}
        asked = get(asgi_server, "counts/").json()["status"] - before
    assert asked < 50  # one every 0.2 s, for all of them, for as long as it took to read
    while asgi_server.state()["streams"]:
        pass
    stopped = get(asgi_server, "counts/").json()["status"]
    with listen(asgi_server, "on/") as stream:
        stream.next("heartbeat")
    assert get(asgi_server, "counts/").json()["status"] == stopped  # nobody listens, and nothing is evaluated


def test_a_view_that_is_slower_than_its_interval_is_never_asked_twice_at_once(server: Server) -> None:
    with listen(server, "slow/?n=slow&seconds=0.3") as stream:
        numbers = [answer(stream) for _ in range(4)]
    assert numbers == sorted(set(numbers))
    assert get(server, "counts/").json()["at once"] == 1


def test_a_view_that_does_not_return_holds_up_no_other(asgi_server: Server) -> None:
    change(asgi_server, "before")
    with listen(asgi_server, "held/") as held, listen(asgi_server, "status/") as other:
        assert (answer(held), answer(other)) == ("before", "before")
        change(asgi_server, "hold")
        while not get(asgi_server, "counts/").json().get("held"):
            pass
        change(asgi_server, "after")
        while answer(other) != "after":
            pass
        get(asgi_server, "release/")
        while answer(held) != "after":
            pass


def test_a_view_that_exits_ends_no_thread_of_the_others(asgi_server: Server) -> None:
    change(asgi_server, "before")
    with listen(asgi_server, "exits/") as exits, listen(asgi_server, "status/") as other:
        assert (answer(exits), answer(other)) == (1, "before")
        assert answer(exits) == 8
        change(asgi_server, "after")
        assert answer(other) == "after"


def test_a_flood_of_events_has_a_view_evaluated_no_more_often_than_said(asgi_server: Server) -> None:
    change(asgi_server, "0")
    with listen(asgi_server, "on/") as stream:
        assert answer(stream) == "0"
        before = get(asgi_server, "counts/").json()["on"]
        began = time.monotonic()
        for _ in range(300):
            asgi_server.publish("live", "look")
        change(asgi_server, "last")
        asgi_server.publish("live", "look")
        assert answer(stream) == "last"
        asked = get(asgi_server, "counts/").json()["on"] - before
    assert asked <= (time.monotonic() - began) / 0.05 + 1


def test_with_too_many_views_all_are_evaluated_less_often_and_that_is_told(asgi_server: Server) -> None:
    with ExitStack() as stack:
        keys = [str(number) for number in range(24)]
        streams = [stack.enter_context(listen(asgi_server, f"slow/?n={key}&seconds=0.3")) for key in keys]
        for stream in streams:
            answer(stream)
        before = get(asgi_server, "counts/").json()
        for _ in range(3):
            answer(streams[-1])
        after = get(asgi_server, "counts/").json()
    asked = [after[f"slow {key}"] - before[f"slow {key}"] for key in keys]
    assert max(asked) - min(asked) <= 2, asked
    assert asgi_server.log().count("Live views are evaluated less often than they ask for") == 1
    metrics = requests.get(f"{asgi_server.url}/events/metrics/", headers=METRICS, timeout=10).text
    late = next(line for line in metrics.splitlines() if "live_evaluations_late" in line and not line.startswith("#"))
    assert float(late.split()[-1]) > 0


def test_streams_that_hold_a_thread_are_capped_and_the_next_client_polls_the_same_url(
    static_root: Path,
) -> None:
    server = Server("gthread", static_root, {"HEARTBEAT": 0.5})
    try:
        server.start()
        with ExitStack() as stack:
            for _ in range(3):  # of its four threads
                stack.enter_context(listen(server, "status/")).next("hello")
            refused = requests.get(f"{server.url}/test/live/status/", headers=ACCEPT, timeout=10)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
            assert get(server, "status/").status_code == 200
    finally:
        server.stop()
