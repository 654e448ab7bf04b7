"""FeedSource, in a real browser: an EventSource that falls back to polls of the same URL."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import broken
from tests.browser.broken import BLANK, Exchange, Failure, Proxy, proxy
from tests.browser.conftest import EVERYWHERE, QUICK, everywhere, publishing
from tests.live.servers import Server, serve

OPEN = """
async ({ url, options, types, name }) => {
  const { FeedSource } = await import("/static/events/feed.js");
  const Source = name === "EventSource" ? EventSource : FeedSource;
  window.told = [];
  window.source = new Source(url, options);
  const tell = ({ type, data, lastEventId }) =>
    told.push(data === undefined ? { type, state: source.readyState } : { type, data, id: lastEventId });
  source.onopen = source.onmessage = source.onerror = tell;
  for (const type of types) source.addEventListener(type, tell);
}
"""


@dataclass
class SourcePage:
    """An empty page with one source on it."""

    page: Page

    def open(self, url: str, *types: str, name: str = "FeedSource", **options: Any) -> None:
        arguments = {"url": url, "options": QUICK | options, "types": types, "name": name}
        self.page.evaluate(OPEN, arguments)

    def wait_for(self, data: Any) -> None:
        """Until a message has this as its data."""
        self.page.wait_for_function("text => told.some(({ data }) => data === text)", arg=json.dumps(data))

    def wait_until(self, expression: str) -> None:
        self.page.wait_for_function(expression)

    @property
    def told(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.page.evaluate("told")
        return told

    @property
    def messages(self) -> list[Any]:
        return [json.loads(event["data"]) for event in self.told if event["type"] == "message"]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.told if event["type"] != "message"]


@dataclass
class State:
    """What the live view of the test server answers."""

    directory: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def url(self) -> str:
        return f"/test/state/{self.name}/"

    def set(self, value: Any, status: int = 200, type: str = "application/json") -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        new = self.directory / f"{self.name}.new"
        new.write_text(json.dumps({"text": text, "status": status, "type": type}))
        new.rename(self.directory / f"{self.name}.state")


@pytest.fixture
def source(page: Page, front: Proxy) -> SourcePage:
    page.goto(front.url + BLANK)
    return SourcePage(page)


@pytest.fixture
def state(static_root: Path) -> Iterator[State]:
    state = State(static_root.parent)
    state.set(0)
    yield state
    (static_root.parent / f"{state.name}.state").unlink()


def for_streams(failure: Failure) -> Failure:
    """A failure of the stream alone, where a poll has the same URL."""

    def fail(exchange: Exchange) -> None:
        if "text/event-stream" in exchange.headers.get("Accept", ""):
            failure(exchange)
        else:
            exchange.pass_on()

    return fail


class Recorder:
    """Passes polls on, refuses streams, and keeps what the polls were asked and answered."""

    def __init__(self) -> None:
        self.polls: list[tuple[str | None, int]] = []

    def __call__(self, exchange: Exchange) -> None:
        if "text/event-stream" in exchange.headers.get("Accept", ""):
            return broken.refuses(exchange)
        respond = exchange.send_response
        tag = exchange.headers.get("If-None-Match")

        def record(status: int, message: str | None = None) -> None:
            self.polls.append((tag, status))
            respond(status, message)

        exchange.send_response = record  # type: ignore[assignment, method-assign]
        return exchange.pass_on()


# The interface


@EVERYWHERE
@pytest.mark.parametrize("name", ["EventSource", "FeedSource"])
def test_the_interface_is_that_of_an_event_source(source: SourcePage, state: State, name: str) -> None:
    source.open(state.url, name=name, withCredentials=True)
    found = source.page.evaluate(
        """() => {
          const Class = source.constructor;
          source.close();
          const handler = () => {};
          source.onmessage = handler;
          const kept = source.onmessage === handler;
          source.onmessage = "none";
          const errors = [() => new Class(), () => new Class("http://["), () => Class("/")].map((make) => {
            try { make(); } catch (error) { return error.name; }
          });
          return {
            constants: [Class, source].map(({ CONNECTING, OPEN, CLOSED }) => [CONNECTING, OPEN, CLOSED]),
            url: source.url === new URL(source.url).href && new URL(source.url).pathname,
            of: new Class(new URL("/x", location)).url === location.origin + "/x",
            withCredentials: [source.withCredentials, new Class("/x").withCredentials],
            readyState: [new Class("/x").readyState, source.readyState],
            target: source instanceof EventTarget,
            handlers: [kept, source.onmessage, typeof source.onerror, typeof source.onopen],
            errors,
            none: [new Class("/x").onopen],
          };
        }"""
    )
    assert found == {
        "constants": [[0, 1, 2], [0, 1, 2]],
        "url": state.url,
        "of": True,
        "withCredentials": [True, False],
        "readyState": [0, 2],
        "target": True,
        "handlers": [True, None, "function", "function"],
        "errors": ["TypeError", "SyntaxError", "TypeError"],
        "none": [None],
    }


@pytest.mark.parametrize("name", ["EventSource", "FeedSource"])
def test_a_handler_has_its_turn_where_it_was_first_set(source: SourcePage, name: str) -> None:
    source.open("/x", name=name)
    order = source.page.evaluate(
        """() => {
          const order = [];
          source.onopen = () => order.push("never");
          source.addEventListener("open", { handleEvent: (event) => order.push(event.target === source) });
          source.onopen = function () { order.push(this === source); };
          source.addEventListener("open", () => order.push("last"), { once: true });
          source.dispatchEvent(new Event("open"));
          source.onopen = null;
          source.dispatchEvent(new Event("open"));
          source.close();
          return order;
        }"""
    )
    assert order == [True, True, "last", True]


@EVERYWHERE
@pytest.mark.parametrize("name", ["EventSource", "FeedSource"])
def test_a_live_view_is_told_alike(source: SourcePage, state: State, name: str) -> None:
    source.open(state.url, "hello", name=name)
    source.wait_for(0)
    state.set({"open": 1})
    source.wait_for({"open": 1})
    assert source.kinds == ["open", "hello"]
    assert source.messages == [0, {"open": 1}]
    assert all(event["id"].startswith('"') for event in source.told if event["type"] == "message")
    assert source.page.evaluate("source.readyState") == 1


@EVERYWHERE
@pytest.mark.parametrize("name", ["EventSource", "FeedSource"])
def test_a_stream_of_events_is_told_alike(source: SourcePage, server: Server, name: str) -> None:
    channel = f"alike-{name}"
    source.open(f"/events/?channel={channel}", "odd", "heartbeat", name=name)
    source.wait_until("source.readyState === 1")
    ids = [server.publish(channel, 1), server.publish(channel, 2, type="odd")]
    source.wait_until("told.some(({ type }) => type === 'heartbeat')")
    told = [event for event in source.told if event["type"] not in ("open", "heartbeat")]
    assert told == [{"type": "message", "data": "1", "id": ids[0]}, {"type": "odd", "data": "2", "id": ids[1]}]


@EVERYWHERE
def test_a_plain_event_source_resumes_a_stream_that_is_cut(source: SourcePage, front: Proxy, server: Server) -> None:
    channel = "resumed"
    source.open(f"/events/?channel={channel}", "odd", name="EventSource")
    source.wait_until("source.readyState === 1")
    with publishing(server, channel) as published:
        for opened in (2, 3):
            events = len(source.told)
            source.wait_until(f"told.length > {events + 5}")
            front.cut()
            source.wait_until(f"told.filter(({{ type }}) => type === 'open').length === {opened}")
    source.wait_for(published[-1])
    assert [int(event["data"]) for event in source.told if event["type"] in ("message", "odd")] == published
    assert front.asked(broken.POLL) == 0


def test_the_three_lines_of_the_plainest_page(source: SourcePage, front: Proxy) -> None:
    source.open("/events/")
    source.wait_until("told.filter(({ type }) => type === 'message').length > 1")
    front.break_stream(broken.refuses)
    source.wait_until("told.filter(({ type }) => type === 'open').length > 1")
    source.wait_until("told.at(-1).type === 'message'")
    assert all("T" in event["data"] for event in source.told if event["type"] == "message")
    assert front.asked(broken.POLL)


def sends(events: bytes) -> Callable[[Exchange], None]:
    """An event stream of another server, which it ends after these."""

    def send(exchange: Exchange) -> None:
        exchange.begin(200, "text/event-stream")
        exchange.wfile.write(events)

    return send


def test_a_stream_of_another_server_is_told_as_it_comes(source: SourcePage, front: Proxy) -> None:
    front.failures["/plain/"] = sends(b"id: 1\ndata: one\n\ndata: two\n\n")
    source.open("/plain/")
    source.wait_until("told.filter(({ type }) => type === 'open').length > 1")
    first = [event for event in source.told if event["type"] == "message"][:2]
    assert first == [{"type": "message", "data": "one", "id": "1"}, {"type": "message", "data": "two", "id": "1"}]
    assert "error" in source.kinds


def test_what_another_server_calls_an_error_is_an_event_and_ends_nothing(source: SourcePage, front: Proxy) -> None:
    front.failures["/plain/"] = sends(b"data: one\n\nevent: error\ndata: no such order\n\ndata: two\n\n")
    source.open("/plain/")
    source.page.evaluate("source.addEventListener('error', (event) => (window.said ??= event.data))")
    source.wait_until("window.said")  # also where it is opened again, as it has been ended before we listened
    assert source.page.evaluate("said") == "no such order"
    source.wait_until("told.filter(({ data }) => data === 'two').length > 0")
    assert [event["data"] for event in source.told if event["type"] == "message"][:2] == ["one", "two"]


def test_a_closed_source_asks_and_tells_no_more(source: SourcePage, front: Proxy, state: State) -> None:
    source.open(state.url)
    source.wait_for(0)
    source.page.evaluate("source.close()")
    asked = front.asked(state.url)
    state.set(1)
    source.page.wait_for_timeout(500)
    assert (source.messages, front.asked(state.url)) == ([0], asked)
    assert source.kinds == ["open"]


# A live view's way back and forth


@everywhere(
    "failure",
    [(broken.refuses,), (broken.holds_back,)],
    [(broken.is_a_web_page,), (broken.says_nothing,), (broken.hangs_up,)],
)
def test_a_live_view_is_polled_while_its_stream_fails_and_nothing_is_told_twice(
    source: SourcePage, front: Proxy, state: State, failure: Failure
) -> None:
    front.failures[state.url] = for_streams(failure)
    source.open(state.url, helloTimeout=300)
    source.wait_for(0)
    state.set(1)
    source.wait_for(1)
    assert source.kinds == ["open"]
    del front.failures[state.url]
    asked = front.asked(state.url)
    state.set(2)
    source.wait_for(2)
    wait_for_quiet(source, front, state)
    state.set(3)
    source.wait_for(3)
    assert front.asked(state.url) > asked
    front.failures[state.url] = for_streams(failure)
    front.cut()
    source.wait_until("told.filter(({ type }) => type === 'open').length === 2")
    state.set(4)
    source.wait_for(4)
    assert source.messages == [0, 1, 2, 3, 4]
    assert source.kinds == ["open", "error", "open"]


def wait_for_quiet(source: SourcePage, front: Proxy, state: State) -> None:
    """Until the stream is back, and so nothing is asked any more."""
    for _ in range(50):
        before = front.asked(state.url)
        source.page.wait_for_timeout(700)
        if front.asked(state.url) == before:
            return
    raise AssertionError("it still polls")


def test_a_poll_of_what_has_not_changed_is_answered_304(source: SourcePage, front: Proxy, state: State) -> None:
    front.failures[state.url] = recorder = Recorder()
    source.open(state.url)
    source.wait_for(0)
    while len(recorder.polls) < 4:
        source.page.wait_for_timeout(50)
    state.set(1)
    source.wait_for(1)
    [first, *others] = recorder.polls
    assert first == (None, 200)
    assert [status for _, status in others].count(200) == 1
    assert all(tag for tag, _ in others)
    assert source.messages == [0, 1]


def test_a_view_without_the_decorator_is_polled(source: SourcePage, front: Proxy) -> None:
    source.open("/test/process/")
    source.wait_until("told.some(({ type }) => type === 'message')")
    assert "pid" in source.messages[0]


def test_a_live_view_of_html_is_told_as_it_is(source: SourcePage, front: Proxy, state: State) -> None:
    state.set("<b>1</b>\r\n<i>2</i>", type="text/html")
    front.failures[state.url] = for_streams(broken.refuses)
    source.open(state.url)
    source.wait_until("told.length === 2")
    del front.failures[state.url]
    wait_for_quiet(source, front, state)
    assert [event.get("data") for event in source.told] == [None, "<b>1</b>\r\n<i>2</i>"]


@EVERYWHERE
def test_a_restart_of_the_server_loses_nothing_and_tells_nothing_twice(
    page: Page, static_root: Path, state: State
) -> None:
    with serve("uvicorn", static_root, HEARTBEAT=1) as server, proxy(server.port) as front:
        page.goto(front.url + BLANK)
        source = SourcePage(page)
        source.open(state.url)
        source.wait_for(0)
        server.stop()
        source.wait_until("told.at(-1).type === 'error' && source.readyState === 0")
        state.set(1)
        server.start()
        source.wait_for(1)
        state.set(2)
        source.wait_for(2)
        assert source.messages == [0, 1, 2]


# Refusals


@pytest.mark.parametrize(
    ("status", "text", "type"),
    [
        *((status, '{"error": "no"}', "application/json") for status in (401, 403, 404)),
        *((status, "<p>No.</p>", "text/html") for status in (401, 403, 404)),
        *((status, "", "raised") for status in (403, 404)),
    ],
)
def test_a_refusal_by_the_live_view_closes(
    source: SourcePage, front: Proxy, state: State, status: int, text: str, type: str
) -> None:
    source.open(state.url)
    source.wait_for(0)
    state.set(text, status, type)
    source.wait_until("source.readyState === 2")
    assert source.told[-1] == {"type": "error", "state": 2}
    asked = front.asked(state.url)
    source.page.wait_for_timeout(500)
    assert front.asked(state.url) == asked
    assert source.messages == [0]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_page_of_a_proxy_is_no_refusal(source: SourcePage, front: Proxy, state: State, status: int) -> None:
    front.failures[state.url] = broken.has_lost_its_server(status, "text/html", b"<p>Who are you?</p>")
    source.open(state.url)
    source.wait_until("told.some(({ type }) => type === 'error')")
    assert all(event == {"type": "error", "state": 0} for event in source.told)  # one for each attempt
    front.failures[state.url] = broken.is_a_web_page
    source.page.wait_for_timeout(500)
    assert source.messages == []
    del front.failures[state.url]
    source.wait_for(0)


def test_a_redirect_to_the_page_where_one_signs_in_closes(source: SourcePage, front: Proxy, state: State) -> None:
    def asks_to_sign_in(exchange: Exchange) -> None:
        exchange.answer(302, "text/html", b"", {"Location": f"{BLANK}?next={state.url}"})

    front.failures[state.url] = asks_to_sign_in
    source.open(state.url)
    source.wait_until("source.readyState === 2")
    assert (source.kinds, source.messages) == (["error"], [])


# The app's own stream


@everywhere("failure", [(broken.refuses,)], [(broken.hangs_up,), (broken.holds_back,)])
def test_an_event_arrives_once_across_a_change_of_transport(
    source: SourcePage, front: Proxy, server: Server, failure: Failure
) -> None:
    channel = f"source-{failure.__name__}"
    source.open(f"/events/?channel={channel}", "odd", "hello", helloTimeout=300, interval=20)
    source.wait_until("told.some(({ type }) => type === 'hello')")
    with publishing(server, channel) as published:
        for _ in range(3):
            errors = source.kinds.count("error")
            front.break_stream(failure)
            source.wait_until(f"told.filter(({{ type }}) => type === 'error').length > {errors}")
            source.wait_until("source.readyState === 1")
            polls = front.asked(broken.POLL)
            while front.asked(broken.POLL) < polls + 3:
                source.page.wait_for_timeout(20)
            greetings = source.kinds.count("hello")
            front.mend_stream()
            source.wait_until(f"told.filter(({{ type }}) => type === 'hello').length > {greetings}")
    source.wait_for(published[-1])
    assert [int(event["data"]) for event in source.told if event["type"] in ("message", "odd")] == published


@pytest.mark.parametrize("failure", [broken.refuses, broken.hangs_up, broken.is_a_web_page, broken.says_nothing])
def test_a_stream_that_never_opened_is_known_by_its_polls(
    source: SourcePage, front: Proxy, server: Server, failure: Failure
) -> None:
    channel = f"never-{failure.__name__}"
    front.failures[broken.STREAM] = failure
    source.open(f"/events/?channel={channel}", helloTimeout=300)
    source.wait_until("source.readyState === 1")
    server.publish(channel, "by poll")
    source.wait_for("by poll")
    front.mend_stream()
    asked = front.asked(broken.STREAM)
    while front.asked(broken.STREAM) == asked:
        source.page.wait_for_timeout(50)
    server.publish(channel, "by stream")
    source.wait_for("by stream")
    assert source.messages == ["by poll", "by stream"]


def test_a_browser_without_event_streams_learns_by_the_type_of_an_answer(
    source: SourcePage, server: Server, state: State
) -> None:
    source.page.evaluate("delete window.EventSource")
    source.open("/events/?channel=no-streams")
    source.wait_until("source.readyState === 1")
    server.publish("no-streams", "polled")
    source.wait_for("polled")
    source.open(state.url)
    source.wait_for(0)


def test_missed_events_are_a_reset_whichever_way_it_is_found_out(
    source: SourcePage, front: Proxy, server: Server
) -> None:
    source.open("/events/?channel=gap", "reset")
    source.wait_until("source.readyState === 1")
    front.failures[broken.POLL] = broken.has_lost_its_server(
        200, "application/json", b'{"cursor": "1-0", "gap": true, "events": [], "server_time": ""}'
    )
    front.break_stream(broken.refuses)
    source.wait_until("told.some(({ type }) => type === 'reset')")
    reset = next(event for event in source.told if event["type"] == "reset")
    assert reset == {"type": "reset", "data": '{"cursor":"1-0"}', "id": "1-0"}


def test_drain_is_told_and_obeyed(source: SourcePage, front: Proxy) -> None:
    front.failures[broken.STREAM] = broken.drains_for_an_hour
    source.open("/events/?channel=drain", "drain")
    source.wait_until("told.some(({ type }) => type === 'drain')")
    source.wait_until("source.readyState === 1")
    assert front.asked(broken.STREAM) == 1
    assert front.asked(broken.POLL) >= 1


def test_a_silent_stream_is_replaced(source: SourcePage, front: Proxy, state: State) -> None:
    front.failures[state.url] = for_streams(broken.falls_silent)
    source.open(state.url)
    source.wait_until("source.readyState === 1")
    source.wait_until("told.some(({ type }) => type === 'error')")
    state.set(1)
    source.wait_for(1)


def test_a_page_that_is_left_holds_no_stream_and_goes_on_when_it_is_shown(
    source: SourcePage, server: Server, state: State
) -> None:
    source.open(state.url)
    source.wait_for(0)
    source.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    assert source.page.evaluate("source.readyState") == 0
    state.set(1)
    source.page.wait_for_timeout(300)
    assert source.messages == [0]
    source.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    source.wait_for(1)
    assert source.kinds == ["open", "open"]
