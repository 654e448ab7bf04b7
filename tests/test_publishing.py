import asyncio
import datetime
import decimal
import json
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils.html import format_html
from pytest_django.fixtures import Settings

from events import Event, apublish, publish, publishing
from events.process import get_hub
from events.publishing import RESERVED_TYPES, InvalidEvent, TooLarge
from events.wire import Decoder


def last() -> Event:
    log = get_hub().log
    return log.newest(100)[1][-1]


def test_a_published_event_is_in_the_log_under_the_returned_id() -> None:
    event_id = publish("orders", {"id": 7}, type="paid")
    assert last() == Event(event_id, "orders", "paid", '{"id":7}')


def test_ids_grow() -> None:
    first, second = publish("a", 1), publish("b", 2)
    assert [event.id for event in get_hub().log.newest(100)[1]] == [first, second]


@pytest.mark.parametrize("text", ["", "two\r\nlines", "data: x", "</script>", "🎉", "\0", "x" * 60_000, "\u2028"])
def test_any_text_comes_back_unchanged_as_json(text: str) -> None:
    publish("a", text)
    assert json.loads(last().data) == text


def test_what_django_can_put_into_json_can_be_published() -> None:
    day, number, key = datetime.date(2026, 11, 22), decimal.Decimal("1.10"), uuid.UUID(int=7)
    publish("a", {"day": day, "number": number, "key": key})
    assert json.loads(last().data) == {"day": "2026-11-22", "number": "1.10", "key": str(key)}


@pytest.mark.parametrize("channel", ["", " ", "a b", "a\n", "-a", "é", "x" * 101, None, 7, "a/b", "a,b"])
def test_a_bad_channel_is_refused_with_what_is_accepted(channel: Any) -> None:
    with pytest.raises(InvalidEvent, match="A channel's name is 1 to 100 letters, digits"):
        publish(channel, 1)


@pytest.mark.parametrize("type", ["", "a b", "a\nid: 1", "7", "x" * 65, None])
def test_a_bad_type_is_refused_with_what_is_accepted(type: Any) -> None:
    with pytest.raises(InvalidEvent, match="An event's type is 1 to 64 letters, digits"):
        publish("a", 1, type=type)


@pytest.mark.parametrize("type", sorted(RESERVED_TYPES))
def test_types_that_mean_something_to_the_client_are_reserved(type: str) -> None:
    with pytest.raises(InvalidEvent, match=f"The type '{type}' is reserved"):
        publish("a", 1, type=type)


def test_they_are_those_that_feed_js_does_not_take_from_a_stream() -> None:
    feed = Path(publishing.__file__).with_name("static") / "events" / "reader.js"
    reserved = re.search(r"RESERVED = new Set\((.*)\);", feed.read_text())
    assert reserved
    assert set(json.loads(reserved[1])) == RESERVED_TYPES


def circular() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize("data", [object(), float("nan"), float("inf"), {1, 2}, "\ud800", circular(), {(1, 2): 3}])
def test_what_json_cannot_carry_is_refused(data: Any) -> None:
    with pytest.raises(InvalidEvent, match="An event's data is"):
        publish("a", data)


@pytest.mark.parametrize(
    "text",
    ["", "<b>3</b> items", "{not json", "a\n\nb\n", "data: x", " two  ", "🎉", "a\u2028b\x85", "\ufeffx", "null"],
)
def test_text_arrives_as_it_is(text: str) -> None:
    event_id = publish("cart", text=text, type="html")
    assert last() == Event(event_id, "cart", "html", text)
    assert [event.data for event in Decoder().feed(last().frame)] == [text]


def test_a_cr_in_text_arrives_as_lf_in_streams_and_polls_alike() -> None:
    publish("a", text="a\r\nb\rc\n\rd")
    assert last().data == "a\nb\nc\n\nd"
    assert [event.data for event in Decoder().feed(last().frame)] == ["a\nb\nc\n\nd"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\0b", "An event's text has no NUL"),
        ("\ud800", "An event's text is text that UTF-8 can carry: no lone surrogates"),
        (7, "An event's text is a string, not 7"),
        (b"<b>", "An event's text is a string, not b'<b>'"),
    ],
)
def test_text_that_not_every_broker_and_client_can_carry_is_refused(text: Any, why: str) -> None:
    with pytest.raises(InvalidEvent, match=why):
        publish("a", text=text)


def test_text_that_django_calls_safe_is_published_as_plain_text() -> None:
    publish("cart", text=format_html("<b>{}</b>", "<3"))
    assert last().data == "<b>&lt;3</b>"


@pytest.mark.parametrize("given", [{}, {"data": None, "text": "x"}, {"data": 1, "text": ""}, {"text": None}])
def test_an_event_has_either_data_or_text(given: Any) -> None:
    with pytest.raises(InvalidEvent, match="either data, which arrives as JSON, or text, which arrives as it is"):
        publish("a", **given)


def test_none_is_data() -> None:
    publish("a", None)
    assert last().data == "null"


def test_text_may_be_as_long_as_the_setting_says_and_no_longer(settings: Settings) -> None:
    settings.EVENTS = {"MAX_EVENT_BYTES": 10, "BROKER": "memory:"}
    publish("a", text="ééééé")
    with pytest.raises(TooLarge, match="at most 10 bytes of UTF-8; this is 11"):
        publish("a", text="ééééé" + "x")


def test_data_may_be_as_long_as_the_setting_says_and_no_longer(settings: Settings) -> None:
    settings.EVENTS = {"MAX_EVENT_BYTES": 10, "BROKER": "memory:"}
    publish("a", "éééé")
    with pytest.raises(TooLarge, match="at most 10 bytes of JSON; this is 11"):
        publish("a", "éééé" + "x")


def test_an_event_that_is_refused_leaves_no_trace() -> None:
    head = get_hub().log.head
    with pytest.raises(InvalidEvent):
        publish("a", object())
    assert get_hub().log.head == head


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_it_is_published_on_commit_and_has_no_id_yet() -> None:
    hub = get_hub()
    with transaction.atomic():
        assert publish("a", "waits") is None
        assert hub.log.newest(100)[1] == []
    assert last().data == '"waits"'


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_fails_publishes_nothing() -> None:
    hub = get_hub()
    with suppress(InvalidEvent), transaction.atomic():
        publish("a", "never")
        publish("not a channel", "fails")
    assert hub.log.newest(100)[1] == []


def test_async_code_publishes_with_apublish() -> None:
    event_id = asyncio.run(apublish("orders", {"id": 7}, type="paid"))
    assert last() == Event(event_id, "orders", "paid", '{"id":7}')
    asyncio.run(apublish("cart", text="<b>3</b>"))
    assert last().data == "<b>3</b>"


def test_no_line_end_of_any_client_is_in_the_data() -> None:
    publish("a", {"text": "a\x85b\u2028c\u2029d\ve\nf"})
    data = last().data
    assert len(data.splitlines()) == 1
    assert json.loads(data) == {"text": "a\x85b\u2028c\u2029d\ve\nf"}
