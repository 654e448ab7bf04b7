import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.log import Cursor, EventLog, Gap
from events.wire import Event

START = Cursor(1000, 0)


def event(number: int, channel: str = "a") -> Event:
    return Event(f"1000-{number}", channel, "message", str(number))


def log_of(*numbers: int, capacity: int = 100) -> EventLog:
    log = EventLog(capacity, START)
    for number in numbers:
        log.append(event(number))
    return log


def data(events: list[Event]) -> list[str]:
    return [event.data for event in events]


def test_a_reader_gets_what_came_after_its_cursor_oldest_first() -> None:
    log = log_of(1, 2, 5)
    assert data(log.since(START)) == ["1", "2", "5"]
    assert data(log.since(Cursor(1000, 2))) == ["5"]
    assert data(log.since(log.head)) == []


def test_a_reader_gets_its_own_channels_only() -> None:
    log = EventLog(10, START)
    for number, channel in enumerate("abcab", 1):
        log.append(event(number, channel))
    assert data(log.since(START, {"a", "c"})) == ["1", "3", "4"]


def test_the_oldest_events_make_room_and_their_readers_are_told() -> None:
    log = log_of(1, 2, 3, 4, capacity=2)
    assert data(log.since(Cursor(1000, 2))) == ["3", "4"]
    with pytest.raises(Gap):
        log.since(Cursor(1000, 1))


def test_a_cursor_of_another_log_is_a_gap() -> None:
    log = log_of(1)
    for foreign in (Cursor(999, 5), Cursor(1000, 2), Cursor(2000, 0)):
        with pytest.raises(Gap):
            log.since(foreign)


def test_ids_only_grow() -> None:
    log = log_of(2)
    for number in (1, 2):
        with pytest.raises(ValueError, match="comes after"):
            log.append(event(number))


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1-", "-1", "1-2-3", " 1-2", "1-2\n", "\uff11-\uff12", "1" * 21 + "-0", "-1-0"]
)
def test_what_is_no_cursor_is_a_gap(text: str) -> None:
    with pytest.raises(Gap):
        Cursor.parse(text)


@given(major=st.integers(0, 2**64), minor=st.integers(0, 2**64))
def test_a_cursor_comes_back_as_it_was(major: int, minor: int) -> None:
    assert Cursor.parse(str(Cursor(major, minor))) == (major, minor)


@given(st.text() | st.from_regex(r"\d+-\d+"))
def test_any_text_is_a_cursor_or_a_gap(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except Gap:
        return
    assert Cursor.parse(str(cursor)) == cursor
    assert min(cursor) >= 0


@given(
    gaps=st.lists(st.integers(1, 3), max_size=40),
    capacity=st.integers(1, 20),
    cursor=st.integers(0, 130),
)
def test_a_reader_is_told_everything_or_told_of_the_gap(gaps: list[int], capacity: int, cursor: int) -> None:
    numbers = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    log = log_of(*numbers, capacity=capacity)
    expected = [str(number) for number in numbers if number > cursor]
    try:
        assert data(log.since(Cursor(1000, cursor))) == expected
    except Gap:
        lost_some = len(expected) > capacity
        not_ours = cursor > max(numbers, default=0)
        before_a_trimmed_one = bool(numbers[:-capacity]) and cursor < numbers[-capacity - 1]
        assert lost_some or not_ours or before_a_trimmed_one


@pytest.mark.parametrize(("capacity", "kept", "floor"), [(100, "123456", 0), (6, "123456", 0), (5, "23456", 1)])
def test_what_came_before_is_taken_in_as_far_as_it_fits(capacity: int, kept: str, floor: int) -> None:
    log = EventLog(capacity, Cursor(1000, 4))
    for number in (5, 6):
        log.append(event(number))
    log.extend_back(START, [event(number) for number in (1, 2, 3, 4)])
    assert data(log.since(log.floor)) == list(kept)
    assert (log.floor, log.head) == (Cursor(1000, floor), Cursor(1000, 6))
    assert log.is_full == (capacity <= 6)


def test_nothing_fits_into_a_full_log() -> None:
    log = EventLog(1, Cursor(1000, 2))
    log.append(event(3))
    log.extend_back(START, [event(1), event(2)])
    assert (data(log.since(log.floor)), log.floor) == (["3"], Cursor(1000, 2))
