"""feed.js, in a real browser, against a real server behind a proxy that can break it."""

import json
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page

from tests.browser import broken
from tests.browser.broken import Failure, Proxy, proxy
from tests.browser.conftest import EVERYWHERE, IN_FIREFOX_TOO, FeedPage, everywhere, numbers, publishing
from tests.live.servers import Server, serve


@EVERYWHERE
def test_a_stream_is_preferred_and_asks_once(feed: FeedPage, front: Proxy) -> None:
    feed.open()
    feed.wait_for_events(2)
    assert feed.told["states"] == ["connecting", "streaming"]
    assert (front.asked(broken.STREAM), front.asked(broken.POLL)) == (1, 0)


def test_a_feed_without_a_stream_polls_and_nothing_else(feed: FeedPage, front: Proxy) -> None:
    feed.open(stream=None)
    feed.wait_for_events(3)
    assert feed.told["states"] == ["polling"]
    assert front.asked(broken.STREAM) == 0


def test_a_browser_without_event_streams_gets_the_same_events_by_polling(feed: FeedPage, server: Server) -> None:
    feed.page.evaluate("delete window.EventSource")
    feed.open(channels=["no-eventsource"])
    feed.page.wait_for_function("feed.cursor !== null")
    server.publish("no-eventsource", "hello")
    feed.wait_for_events(1)
    assert feed.data == ["hello"]
    assert feed.told["states"] == ["polling"]


@everywhere(
    "failure, reason",
    [(broken.refuses, "refused"), (broken.holds_back, "says nothing")],
    [
        (broken.is_a_web_page, "refused"),
        (broken.says_nothing, "says nothing"),
        (broken.hangs_up, "could not be reached"),
    ],
)
def test_a_stream_that_fails_from_the_start_is_replaced_by_polling_until_it_works(
    feed: FeedPage, front: Proxy, failure: Failure, reason: str
) -> None:
    front.failures[broken.STREAM] = failure
    feed.open(helloTimeout=500)
    feed.wait_for_state("polling")
    feed.wait_for_reason(reason)
    feed.wait_for_events(2)
    front.mend_stream()
    feed.wait_for_state("streaming")
    feed.wait_for_events(len(feed.told["events"]) + 2)  # the last poll may just have been on its way
    before = front.asked(broken.POLL)
    feed.wait_for_events(len(feed.told["events"]) + 2)
    assert front.asked(broken.POLL) == before, "polling goes on beside the stream"


@EVERYWHERE
def test_a_stream_that_falls_silent_is_replaced(feed: FeedPage, front: Proxy) -> None:
    front.failures[broken.STREAM] = broken.falls_silent
    feed.open()
    feed.wait_for_reason("nothing arrived for")
    front.mend_stream()
    feed.wait_for_state("streaming")


def test_heartbeats_keep_a_stream_on_which_nothing_happens(feed: FeedPage, front: Proxy) -> None:
    feed.open(channels=["quiet"])
    feed.wait_for_state("streaming")
    feed.page.evaluate(
        """() => new Promise((resolve) => {
          let heartbeats = 0;
          feed.addEventListener("traffic", () => (heartbeats += 1) === 4 && resolve());
        })"""
    )  # three intervals of a second, and 2.5 of silence would have been the end
    assert feed.told["states"] == ["connecting", "streaming"]


@EVERYWHERE
def test_a_stream_that_ends_is_tried_once_more_before_polling(feed: FeedPage, front: Proxy) -> None:
    feed.open()
    feed.wait_for_state("streaming")
    front.cut()
    feed.page.wait_for_function("told.states.length >= 4")
    assert feed.told["states"] == ["connecting", "streaming", "connecting", "streaming"]
    assert front.asked(broken.POLL) == 0


def test_a_stream_that_ends_again_and_again_is_not_asked_for_at_a_constant_pace(feed: FeedPage, front: Proxy) -> None:
    feed.open(retry={"base": 1, "max": 60_000})
    feed.wait_for_state("streaming")
    front.cut()
    feed.page.wait_for_function("told.states.join(' ').endsWith('streaming connecting streaming')")
    front.cut()
    feed.page.wait_for_function("told.states.includes('polling')")


def test_what_happened_before_is_not_delivered(feed: FeedPage, server: Server) -> None:
    server.publish("late", "before")
    feed.open(channels=["late"])
    feed.wait_for_state("streaming")
    server.publish("late", "after")
    feed.wait_for_events(1)
    assert feed.data == ["after"]


def test_events_are_delivered_by_their_type_also_to_listeners_that_come_later(
    feed: FeedPage, front: Proxy, server: Server
) -> None:
    feed.open("first", channels=["typed"])
    feed.wait_for_state("streaming")
    feed.page.evaluate("feed.addEventListener('second', ({ data, lastEventId: id }) => told.events.push({ data, id }))")
    server.publish("typed", 1, type="first")
    server.publish("typed", 2, type="second")
    feed.wait_for_events(2)
    front.break_stream(broken.refuses)
    feed.wait_for_state("polling")
    front.mend_stream()
    feed.wait_for_state("streaming")
    server.publish("typed", 3, type="second")
    feed.wait_for_events(3)
    assert feed.data == [1, 2, 3]


def test_events_published_while_nothing_works_arrive_afterwards(feed: FeedPage, front: Proxy, server: Server) -> None:
    feed.open(channels=["outage"])
    feed.wait_for_state("streaming")
    front.failures[broken.POLL] = broken.is_out_of_order
    front.break_stream(broken.hangs_up)
    feed.wait_for_reason("a poll was answered 500")
    for number in range(3):
        server.publish("outage", number)
    del front.failures[broken.POLL]
    feed.wait_for_events(3)
    front.mend_stream()
    feed.wait_for_state("streaming")
    server.publish("outage", 3)
    feed.wait_for_events(4)
    assert feed.data == [0, 1, 2, 3]


@everywhere("failure", [(broken.hangs_up,)], [(broken.refuses,), (broken.says_nothing,)])
def test_a_published_event_arrives_once_across_a_change_of_transport(
    feed: FeedPage, front: Proxy, server: Server, failure: Failure
) -> None:
    channel = f"series-{failure.__name__}"
    feed.open("message", "odd", channels=["clock", channel], helloTimeout=300, interval=20)
    feed.wait_for_state("streaming")
    with publishing(server, channel) as published:
        for _ in range(6):
            front.break_stream(failure)
            feed.wait_for_state("polling")
            feed.wait_for_events(len(feed.told["events"]) + 5)
            front.mend_stream()
            feed.wait_for_state("streaming")
            feed.wait_for_events(len(feed.told["events"]) + 5)
    feed.page.wait_for_function("last => told.events.some(({ data }) => data === last)", arg=str(published[-1]))
    assert feed.told["states"].count("streaming") == 7
    assert numbers(feed) == published
    assert feed.told["resets"] == 0


def test_a_stream_that_was_asked_for_before_a_poll_found_its_place_leaves_no_hole(
    feed: FeedPage, front: Proxy, server: Server
) -> None:
    asked, released = threading.Event(), threading.Event()

    def is_slow(exchange: broken.Exchange) -> None:
        asked.set()
        released.wait(30)
        exchange.pass_on()

    front.failures |= {broken.STREAM: broken.refuses, broken.POLL: broken.is_out_of_order}
    feed.open(channels=["hole"])
    feed.wait_for_reason("500")
    front.failures[broken.STREAM] = is_slow
    assert asked.wait(30)
    del front.failures[broken.POLL]
    feed.page.wait_for_function("feed.cursor !== null")
    front.failures[broken.POLL] = broken.is_out_of_order
    feed.page.evaluate("feed.interval = 60_000")
    server.publish("hole", "in between")
    released.set()
    feed.wait_for_state("streaming")
    feed.wait_for_events(1)
    assert feed.data == ["in between"]


def test_an_event_of_a_type_that_nobody_listens_to_neither_repeats_nor_hides_others(
    feed: FeedPage, front: Proxy, server: Server
) -> None:
    front.failures[broken.STREAM] = broken.refuses
    feed.open(channels=["clock", "unheard"], interval=20)
    feed.wait_for_state("polling")
    feed.page.wait_for_function("feed.cursor !== null")
    for number in range(20):
        server.publish("unheard", number, type="ignored" if number % 2 else "message")
        if number == 10:
            front.mend_stream()
    feed.wait_for_state("streaming")
    server.publish("unheard", 20)
    feed.page.wait_for_function("told.events.some(({ data }) => data === '20')")
    assert numbers(feed) == list(range(0, 21, 2))


@pytest.mark.parametrize("works_again", [broken.STREAM, broken.POLL])
def test_a_gap_is_told(page: Page, static_root: Path, works_again: str) -> None:
    with serve("uvicorn", static_root, HISTORY=3, HEARTBEAT=1) as server, proxy(server.port) as front:
        page.goto(front.url + broken.BLANK)
        feed = FeedPage(page)
        feed.open(channels=["gap"])
        feed.wait_for_state("streaming")
        server.publish("gap", "seen")
        feed.wait_for_events(1)
        front.failures[broken.POLL] = broken.is_out_of_order
        front.break_stream(broken.refuses)
        feed.wait_for_reason("500")
        for number in range(5):
            server.publish("gap", number)
        del front.failures[works_again]
        page.wait_for_function("told.resets > 0")
        server.publish("gap", "after")
        feed.wait_for_events(2)
        assert feed.data == ["seen", "after"]
        assert feed.told["resets"] == 1
        page.close()


@IN_FIREFOX_TOO
def test_coming_back_online_is_a_reason_to_try_the_stream_at_once(feed: FeedPage, front: Proxy) -> None:
    front.failures[broken.STREAM] = broken.refuses
    feed.open(retry={"base": 86_400_000, "max": 86_400_000})
    feed.wait_for_state("polling")
    front.mend_stream()
    feed.page.context.set_offline(True)
    feed.wait_for_reason("this browser is offline; asking again")
    feed.page.context.set_offline(False)
    feed.wait_for_state("streaming")


@IN_FIREFOX_TOO
@pytest.mark.parametrize("failure", [broken.asks_who_is_there, broken.forbids, broken.is_missing])
def test_a_refusal_for_good_is_final_and_told(feed: FeedPage, front: Proxy, failure: Failure) -> None:
    front.failures |= {broken.STREAM: failure, broken.POLL: failure}
    feed.open()
    feed.wait_for_state("denied")
    asked = len(front.requests)
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 3 * feed.interval))")
    assert len(front.requests) == asked
    assert "(40" in feed.told["reasons"][-1]


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<h1>Not Found</h1>"),
        ("text/plain", b'{"error": "default backend"}'),
        ("application/json", b'{"message": "no Route matched"}'),
    ],
)
def test_a_refusal_that_is_not_the_apps_own_is_not_final(
    feed: FeedPage, front: Proxy, server: Server, status: int, content_type: str, body: bytes
) -> None:
    failure = broken.has_lost_its_server(status, content_type, body)
    front.failures |= {broken.STREAM: failure, broken.POLL: failure}
    channel = f"replaced-{status}"
    feed.open(channels=[channel], cursor=server.publish(channel, "before"))
    feed.wait_for_reason(f"a poll was answered {status}; asking again")
    server.publish(channel, "meanwhile")
    front.failures.clear()
    feed.wait_for_state("streaming")
    feed.wait_for_events(1)
    assert feed.data == ["meanwhile"]
    assert "denied" not in feed.told["states"]


def test_polls_that_fail_again_and_again_are_not_asked_at_a_constant_pace(feed: FeedPage, front: Proxy) -> None:
    front.failures[broken.POLL] = broken.is_out_of_order
    feed.open(stream=None, interval=10, retry={"base": 1, "max": 86_400_000})
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 1500))")
    assert 2 <= front.asked(broken.POLL) <= 50
    del front.failures[broken.POLL]
    feed.page.evaluate("feed.reconnect()")
    feed.wait_for_events(3)


def test_the_cursor_stays_fresh_while_nothing_happens_in_the_feeds_own_channels(feed: FeedPage, server: Server) -> None:
    feed.open(channels=["fresh"])
    feed.wait_for_state("streaming")
    assert feed.cursor
    elsewhere = server.publish("elsewhere", 1)
    feed.page.wait_for_function("cursor => feed.cursor === cursor", arg=elsewhere)


def test_an_event_without_an_id_does_not_take_that_of_another(feed: FeedPage, server: Server) -> None:
    feed.open(channels=["clock", "ids"])
    feed.wait_for_state("streaming")
    given = server.publish("ids", "durable")
    feed.page.wait_for_function("told.events.some(({ data }) => data === '\"durable\"')")
    feed.wait_for_events(len(feed.told["events"]) + 2)
    assert {event["id"] for event in feed.told["events"]} == {"", given}


def test_a_stream_that_is_ended_on_purpose_is_opened_again_when_the_server_says_and_loses_nothing(
    page: Page, static_root: Path
) -> None:
    with serve("uvicorn", static_root, MAX_STREAM_AGE=0.5, RETRY=300, SPREAD=50) as server, proxy(server.port) as front:
        page.goto(front.url + broken.BLANK)
        feed = FeedPage(page)
        feed.open("message", "odd", channels=["drained"], retry={"base": 60_000, "max": 60_000})
        feed.wait_for_state("streaming")
        with publishing(server, "drained") as published:
            page.wait_for_function("told.states.filter((state) => state === 'streaming').length >= 4")
        page.wait_for_function("last => told.events.some(({ data }) => data === last)", arg=str(published[-1]))
        assert numbers(feed) == published
        assert set(feed.told["states"]) == {"connecting", "streaming"}
        assert front.asked(broken.POLL) == 0
        page.close()


def test_a_drain_for_long_is_bridged_by_polling(feed: FeedPage, front: Proxy, server: Server) -> None:
    front.failures[broken.STREAM] = broken.drains_for_an_hour
    feed.open(channels=["bridged"])
    feed.wait_for_state("polling")
    server.publish("bridged", 1)
    feed.wait_for_events(1)
    assert (feed.data, front.asked(broken.STREAM)) == ([1], 1)


def test_what_a_stream_that_lags_behind_the_polls_says_moves_no_cursor_back(
    feed: FeedPage, front: Proxy, server: Server
) -> None:
    start = server.publish("lags", 0)
    steps = {name: threading.Event() for name in ("asked", "hello", "replay")}

    def frame(event_id: str, type: str, data: object = None) -> bytes:
        return f"id: {event_id}\nevent: {type}\ndata: {json.dumps(data)}\n\n".encode()

    def lags(exchange: broken.Exchange) -> None:
        steps["asked"].set()
        steps["hello"].wait(30)
        exchange.begin(200, "text/event-stream")
        exchange.wfile.write(frame(start, "hello", {"heartbeat": 30}) + frame(start, "heartbeat"))
        steps["replay"].wait(30)
        exchange.wfile.write(b"".join(frame(event_id, "message", number) for number, event_id in enumerate(ids, 1)))
        exchange.wfile.write(frame(later, "heartbeat"))
        exchange.wait_until_the_client_leaves()

    front.failures[broken.STREAM] = broken.refuses
    feed.open(channels=["lags"], cursor=start, helloTimeout=60_000)
    feed.wait_for_state("polling")
    front.failures[broken.STREAM] = lags
    assert steps["asked"].wait(30)
    ids = [server.publish("lags", number) for number in (1, 2)]
    later = server.publish("elsewhere", 3)
    feed.wait_for_events(2)
    feed.page.evaluate("feed.addEventListener('traffic', (e) => (told.heartbeat ||= e.detail.type === 'heartbeat'))")
    steps["hello"].set()
    feed.wait_for_state("streaming")
    feed.page.wait_for_function("told.heartbeat")
    assert feed.cursor != start
    steps["replay"].set()
    feed.page.wait_for_function("cursor => feed.cursor === cursor", arg=later)
    assert (feed.data, feed.told["resets"]) == ([1, 2], 0)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("script", ["pageshow", "pagehide pageshow", "pageshow pagehide pageshow"])
def test_a_feed_starts_once_whatever_the_page_is_told_before(
    feed: FeedPage, front: Proxy, server: Server, script: str, share: bool
) -> None:
    turns = ";".join(f"dispatchEvent(new PageTransitionEvent('{name}'))" for name in script.split())
    feed.page.evaluate(
        f"""async (options) => {{
          const {{ openFeed }} = await import("/static/events/feed.js");
          window.told = {{ events: [] }};
          window.feed = openFeed(options);
          feed.addEventListener("message", ({{ data }}) => told.events.push(data));
          {turns};
        }}""",
        {"channels": ["turned"], "share": share},
    )
    feed.wait_for_state("streaming")
    server.publish("turned", 1)
    feed.wait_for_events(1)
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 300))")
    assert (front.asked(broken.STREAM), feed.told["events"]) == (1, ["1"])
    feed.page.evaluate(f"feed.close(); {turns}")
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 300))")
    assert (front.asked(broken.STREAM), feed.page.evaluate("feed.state")) == (1, "closed")
    assert feed.page.evaluate("navigator.locks.query().then(({ held, pending }) => held.length + pending.length)") == 0


def test_a_browser_that_denies_event_streams_is_served_by_polling(feed: FeedPage, server: Server) -> None:
    feed.page.evaluate("() => (window.EventSource = class { constructor() { throw new Error('denied') } })")
    feed.open(channels=["denied-stream"])
    feed.wait_for_reason("this browser denies an event stream")
    feed.page.wait_for_function("feed.cursor !== null")
    server.publish("denied-stream", 1)
    feed.wait_for_events(1)
    assert feed.data == [1]


@pytest.mark.parametrize("share", [False, True])
def test_urls_are_those_of_the_document(feed: FeedPage, front: Proxy, share: bool) -> None:
    feed.page.evaluate("document.head.insertAdjacentHTML('beforeend', '<base href=\"/events/deeper/\">')")
    feed.open(stream="../", poll="../poll/", share=share)
    feed.wait_for_state("streaming")
    assert front.asked(broken.STREAM) == 1


def test_a_feed_that_was_denied_can_be_revived(feed: FeedPage, front: Proxy) -> None:
    front.failures |= {broken.STREAM: broken.forbids, broken.POLL: broken.forbids}
    feed.open()
    feed.wait_for_state("denied")
    front.failures.clear()
    feed.page.evaluate("feed.reconnect()")
    feed.wait_for_state("streaming")


def test_retry_after_is_respected(feed: FeedPage, front: Proxy) -> None:
    front.failures[broken.POLL] = broken.is_asked_too_often
    feed.open(stream=None)
    feed.wait_for_reason("429: Slower, please.")
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 3 * feed.interval))")
    assert front.asked(broken.POLL) == 1


def test_a_closed_feed_asks_for_nothing_more(feed: FeedPage, front: Proxy) -> None:
    feed.open()
    feed.wait_for_state("streaming")
    feed.page.evaluate("feed.close(); feed.reconnect()")
    asked = len(front.requests)
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 3 * feed.interval))")
    assert feed.told["states"] == ["connecting", "streaming", "closed"]
    assert len(front.requests) == asked


def test_the_interval_can_be_changed_while_polling(feed: FeedPage) -> None:
    feed.open(stream=None, interval=3_600_000)
    feed.wait_for_events(1)
    feed.page.evaluate("feed.interval = 20")
    feed.wait_for_events(4)


AWKWARD = "data: no field\r\nid: 7\rretry: 1\n\n: no comment\n</script><!-- 🜂👩‍🚀 \u2028\0\ufeff" * 670


@IN_FIREFOX_TOO
@pytest.mark.parametrize("stream", ["/events/", None])
def test_awkward_data_arrives_unchanged(feed: FeedPage, server: Server, stream: str | None) -> None:
    assert 60_000 < len(json.dumps(AWKWARD, ensure_ascii=False).encode()) <= 65_536
    feed.open(channels=["awkward"], stream=stream)
    feed.page.wait_for_function("feed.cursor !== null")
    server.publish("awkward", AWKWARD)
    feed.wait_for_events(1)
    assert feed.data == [AWKWARD]


def test_the_traffic_of_a_poll_is_what_was_asked_and_received(feed: FeedPage, front: Proxy) -> None:
    feed.open(stream=None, interval=3_600_000)
    feed.wait_for_events(1)
    feed.page.evaluate(
        """() => {
          window.traffic = { requests: 0, bytes: 0 };
          feed.addEventListener("traffic", ({ detail }) => {
            traffic.requests += detail.requests;
            traffic.bytes += detail.bytes;
          });
          feed.reconnect();
        }"""
    )
    feed.page.wait_for_function("traffic.bytes > 0")
    assert feed.page.evaluate("traffic.requests") == 1
    assert feed.page.evaluate("traffic.bytes") > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chanels": ["a"]}, "there is no option chanels"),
        ({"channels": ["clock", ""]}, "channels must be a list"),
        ({"channels": "clock"}, "channels must be a list"),
        ({"interval": 0}, "interval must be a number of milliseconds"),
        ({"interval": "5 s"}, "interval must be a number of milliseconds"),
        ({"poll": None}, "poll must be a URL"),
        ({"stream": "http://"}, "stream must be a URL or null"),
        ({"retry": {"base": 1}}, "retry.max must be a number"),
    ],
)
def test_an_option_that_is_not_accepted_says_what_is(feed: FeedPage, options: dict[str, object], message: str) -> None:
    with pytest.raises(Error, match=message):
        feed.open(**options)


def test_what_one_may_not_read_is_said_and_not_asked_for_again(feed: FeedPage, front: Proxy) -> None:
    feed.open(channels=["private:news"], retry={"base": 86_400_000, "max": 86_400_000})
    feed.wait_for_reason("not allowed (403): The channel 'private:news' is not for you to read.")
    assert feed.told["states"] == ["connecting", "polling", "denied"]
    feed.page.evaluate("new Promise((resolve) => setTimeout(resolve, 3 * feed.interval))")
    assert (front.asked(broken.STREAM), front.asked(broken.POLL)) == (1, 1)


def test_a_page_of_another_origin_reads_what_it_may_and_only_if_it_is_listed(page: Page, static_root: Path) -> None:
    server = Server("uvicorn", static_root)
    with proxy(server.port) as front:
        server.events = {"ALLOWED_ORIGINS": [front.url]}
        try:
            server.start()
            urls = {"stream": f"{server.url}/events/", "poll": f"{server.url}/events/poll/"}
            page.goto(front.url + broken.BLANK)
            feed = FeedPage(page)
            feed.open(**urls)
            feed.wait_for_state("streaming")
            feed.page.evaluate("feed.close()")
            feed.open(**urls | {"stream": None})
            feed.wait_for_events(1)
            feed.page.evaluate("feed.close()")
            feed.open(**urls, channels=["private:news"])
            feed.wait_for_state("denied")
            page.goto(front.url.replace("127.0.0.1", "localhost") + broken.BLANK)
            feed.open(**urls)
            feed.wait_for_reason("could not be reached; asking again")
        finally:
            server.stop()
