import codecs
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.wire import Decoder, Event, encode, encode_retry

one_line = st.text().filter(lambda text: not set(text) & set("\r\n\0"))


def decode(*chunks: bytes) -> list[tuple[str | None, str, str]]:
    decoder = Decoder()
    return [(event.id, event.type, event.data) for chunk in chunks for event in decoder.feed(chunk)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


class TestTheExamplesOfTheStandard:
    """WHATWG HTML, 9.2: every example of an event stream in it."""

    def test_messages_separated_by_blank_lines(self) -> None:
        stream = b"data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n"
        stream += b"data: This is the third message.\n\n"
        assert [data for _, _, data in decode(stream)] == [
            "This is the first message.",
            "This is the second message, it\nhas two lines.",
            "This is the third message.",
        ]

    def test_named_events(self) -> None:
        stream = b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n"
        assert decode(stream) == [(None, "add", "73857293"), (None, "remove", "2153"), (None, "add", "113411")]

    def test_the_stock_ticker_in_three_lines(self) -> None:
        assert decode(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [(None, "message", "YHOO\n+2\n10")]

    def test_a_comment_ids_and_an_id_taken_back(self) -> None:
        stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
        assert decode(stream) == [
            ("1", "message", "first event"),
            (None, "message", "second event"),
            (None, "message", " third event"),
        ]

    def test_empty_data_is_an_event_and_what_no_blank_line_ends_is_not(self) -> None:
        assert decode(b"data\n\ndata\ndata\n\ndata:") == [(None, "message", ""), (None, "message", "\n")]

    def test_the_space_after_the_colon_is_optional(self) -> None:
        assert decode(b"data:test\n\ndata: test\n\n") == [(None, "message", "test")] * 2


def test_a_byte_order_mark_is_ignored_at_the_start_and_only_there() -> None:
    assert decode(codecs.BOM_UTF8 + b"data: a\n\n" + codecs.BOM_UTF8 + b"data: b\n\ndata: c\n\n") == [
        (None, "message", "a"),
        (None, "message", "c"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end_also_when_cut_anywhere(end: bytes) -> None:
    stream = end.join([b"id: 7", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    for place in range(len(stream)):
        assert decode(stream[:place], stream[place:]) == [("7", "message", "a\nb"), ("7", "message", "c")]


def test_other_line_separators_of_unicode_are_plain_text() -> None:
    text = "a\u2028b\u0085c\x0bd\x0c"
    assert decode(encode(Event(None, "", "message", text))) == [(None, "message", text)]


def test_an_id_with_nul_is_ignored() -> None:
    assert decode(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n") == [("1", "message", "a"), ("1", "message", "b")]


def test_an_id_without_data_is_remembered_but_is_no_event() -> None:
    decoder = Decoder()
    assert list(decoder.feed(b"id: 9\n\n")) == []
    assert decoder.last_event_id == "9"


def test_an_id_counts_only_once_its_event_is_complete() -> None:
    decoder = Decoder()
    list(decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n"))
    assert decoder.last_event_id == "1"


def test_an_event_type_without_data_is_forgotten() -> None:
    assert decode(b"event: add\n\ndata: a\n\n") == [(None, "message", "a")]


@pytest.mark.parametrize(
    ("line", "retry"),
    [
        (b"retry: 1500", 1500),
        (b"retry: 1.5", None),
        (b"retry: -1", None),
        (b"retry:", None),
        (b"retry: 12s", None),
        ("retry: \u00b2".encode(), None),
        (b"retry: " + b"9" * 5000, None),
    ],
)
def test_retry_takes_digits_only(line: bytes, retry: int | None) -> None:
    decoder = Decoder()
    list(decoder.feed(line + b"\n"))
    assert decoder.retry == retry


def test_unknown_fields_are_ignored() -> None:
    assert decode(b"foo: bar\nData: x\ndata: a\n\n") == [(None, "message", "a")]


def test_utf8_may_be_cut_within_a_character() -> None:
    stream = "data: 🎉é\n\n".encode()
    for place in range(len(stream)):
        assert decode(stream[:place], stream[place:]) == [(None, "message", "🎉é")]


def test_invalid_bytes_are_replaced() -> None:
    assert decode(b"data: a\xffb\n\n") == [(None, "message", "a\ufffdb")]


@given(id=st.none() | one_line.filter(bool), type=one_line.filter(bool), data=st.text())
def test_any_event_comes_back_as_it_was(id: str | None, type: str, data: str) -> None:
    line_ends_folded = data.replace("\r\n", "\n").replace("\r", "\n")
    assert decode(encode(Event(id, "", type, data))) == [(id, type, line_ends_folded)]


@given(
    data=st.lists(
        st.sampled_from([b"data", b"id", b"event", b"retry", b":", b" ", b"\n", b"\r", b"\0", b"7", "é".encode()])
        | st.binary(max_size=3)
    ),
    places=st.lists(st.integers(0, 1000)),
)
def test_any_bytes_can_be_read_and_any_cutting_gives_the_same_events(data: list[bytes], places: list[int]) -> None:
    stream = b"".join(data)
    whole, pieces = Decoder(), Decoder()
    events = list(whole.feed(stream))
    assert [event for piece in cut(stream, places) for event in pieces.feed(piece)] == events
    assert (pieces.last_event_id, pieces.retry) == (whole.last_event_id, whole.retry)


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_what_would_end_a_field_is_refused_in_id_and_type(bad: str) -> None:
    with pytest.raises(ValueError, match="type cannot hold CR, LF or NUL"):
        encode(Event(None, "", bad, ""))
    with pytest.raises(ValueError, match="id cannot hold CR, LF or NUL"):
        encode(Event(bad, "", "message", ""))


def test_a_frame_is_what_the_contract_shows() -> None:
    event = Event("1763795005123-0", "news", "announcement", '{"text": "hi"}')
    assert event.frame == b'id: 1763795005123-0\nevent: announcement\ndata: {"text": "hi"}\n\n'
    assert Event(None, "clock", "message", "a\r\nb").frame == b"data: a\ndata: b\n\n"
    assert encode_retry(2000) == b"retry: 2000\n"
