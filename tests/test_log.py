from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from events.log import Cursor, EventLog, Gap
from events.wire import Event

START = Cursor(1000, 0)
ALL = frozenset("abc")


def event(number: int, channel: str = "a", size: int = 0) -> Event:
    return Event(f"1000-{number}", channel, "message", str(number).rjust(size))


def log_of(*numbers: int, history: int = 100) -> EventLog:
    log = EventLog(history, 2**20, START)
    for number in numbers:
        log.append(event(number))
    return log


def data(events: list[Event]) -> list[str]:
    return [event.data.strip() for event in events]


def test_a_reader_gets_what_came_after_its_cursor_oldest_first() -> None:
    log = log_of(1, 2, 5)
    assert data(log.since(START, ALL)) == ["1", "2", "5"]
    assert data(log.since(Cursor(1000, 2), ALL)) == ["5"]
    assert data(log.since(log.head, ALL)) == []


def test_a_reader_gets_its_own_channels_only() -> None:
    log = EventLog(10, 2**20, START)
    for number, channel in enumerate("abcab", 1):
        log.append(event(number, channel))
    assert data(log.since(START, {"a", "c"})) == ["1", "3", "4"]


def test_the_oldest_events_of_a_channel_make_room_and_its_readers_are_told() -> None:
    log = log_of(1, 2, 3, 4, history=2)
    assert data(log.since(Cursor(1000, 2), ALL)) == ["3", "4"]
    with pytest.raises(Gap):
        log.since(Cursor(1000, 1), ALL)


def test_a_busy_channel_takes_nothing_from_a_quiet_one() -> None:
    log = EventLog(10, 2**20, START)
    log.append(event(1, "quiet"))
    for number in range(2, 5_000):
        log.append(event(number, "busy"))
    log.append(event(5_000, "quiet"))
    assert data(log.since(START, {"quiet"})) == ["1", "5000"]
    assert data(log.since(START, {"never"})) == []
    with pytest.raises(Gap):
        log.since(START, {"busy"})


def test_what_is_kept_of_ever_new_channels_is_bounded_in_bytes() -> None:
    log = EventLog(10, 100_000, START)
    for number in range(1, 2_000):
        log.append(event(number, f"c{number}", size=number % 500))
        assert log.size <= 100_000
    assert data(log.since(Cursor(1000, 1998), {"c1999"})) == ["1999"]
    with pytest.raises(Gap):
        log.since(START, {"c1"})


def test_one_event_that_is_larger_than_everything_may_be_is_not_kept() -> None:
    log = EventLog(10, 5_000, START)
    log.append(event(1, size=10_000))
    with pytest.raises(Gap):
        log.since(START, ALL)
    assert log.since(log.head, ALL) == []


def test_a_watched_channel_is_not_forgotten_however_much_happens_elsewhere() -> None:
    log = EventLog(10, 50_000, START)
    log.append(event(1, "quiet"))
    log.watch(["quiet", "silent"])
    for number in range(2, 3_000):
        log.append(event(number, f"c{number}"))
    assert log.since(Cursor(1000, 1), {"quiet", "silent"}) == []
    log.unwatch(["quiet", "silent"])
    for number in range(3_000, 6_000):
        log.append(event(number, f"c{number}"))
    with pytest.raises(Gap):
        log.since(Cursor(1000, 1), {"quiet", "silent"})


def test_what_is_too_old_is_dropped() -> None:
    log = EventLog(10, 2**20, START, seconds=1.0)
    log.append(Event("2000-0", "a", "message", "old"))
    log.append(Event("3500-0", "b", "message", "new"))
    with pytest.raises(Gap):
        log.since(START, {"a"})
    assert data(log.since(START, {"b"})) == ["new"]


def test_ids_only_grow() -> None:
    log = log_of(2)
    for number in (1, 2):
        with pytest.raises(ValueError, match="does not come after"):
            log.append(event(number))


@pytest.mark.parametrize("bad", [Event("1000-3", "a", "two\nlines", ""), Event(None, "a", "message", "")])
def test_an_event_that_cannot_be_sent_is_refused_and_leaves_nothing_behind(bad: Event) -> None:
    log = log_of(2)
    with pytest.raises(ValueError, match=r"type|id"):
        log.append(bad)
    log.append(event(3))
    assert data(log.since(START, ALL)) == ["2", "3"]


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


@given(major=st.integers(0, 2**42), minor=st.integers(0, 2**20), now=st.floats(0, 2e9))
def test_the_next_id_is_later_whatever_the_clock_says(major: int, minor: int, now: float) -> None:
    assert Cursor(major, minor).next(now) > Cursor(major, minor)


class Model(RuleBasedStateMachine):
    """Whatever happens, a reader is told everything of its channels that came after its cursor, or that it is not."""

    channels = st.sampled_from("abcdef")

    def __init__(self) -> None:
        super().__init__()
        self.log = EventLog(3, 12_000, START)
        self.all: list[Event] = []
        self.watched: list[str] = []

    def after(self, cursor: Cursor, channels: frozenset[str]) -> list[Event]:
        return [e for e in self.all if Cursor.parse(e.id or "") > cursor and e.channel in channels]

    @rule(channel=channels, size=st.integers(0, 3_000))
    def append(self, channel: str, size: int) -> None:
        self.all.append(event(len(self.all) + 1, channel, size))
        self.log.append(self.all[-1])
        assert self.log.size <= 12_000

    @rule(channel=channels)
    def watch(self, channel: str) -> None:
        self.log.watch([channel])
        self.watched.append(channel)

    @rule(which=st.integers(0))
    def unwatch(self, which: int) -> None:
        if self.watched:
            self.log.unwatch([self.watched.pop(which % len(self.watched))])

    @rule(channel=channels)
    def forget(self, channel: str) -> None:
        self.log.forget(channel, self.log.head)
        assert self.log.head == START or not self.log.reaches(START, {channel})

    @rule(at=st.integers(0, 50), channels=st.frozensets(channels, min_size=1))
    def extend_back(self, at: int, channels: frozenset[str]) -> None:
        cursor = min(Cursor(1000, at), self.log.head)
        self.log.extend_back(cursor, self.log.head, channels, self.after(cursor, channels))

    @rule(at=st.integers(0, 50), asked=st.integers(0, 50), channels=st.frozensets(channels, min_size=1))
    def extend_back_after_more_has_happened(self, at: int, asked: int, channels: frozenset[str]) -> None:
        until = min(Cursor(1000, asked), self.log.head)
        cursor = min(Cursor(1000, at), until)
        page = [e for e in self.after(cursor, channels) if Cursor.parse(e.id or "") <= until]
        self.log.extend_back(cursor, until, channels, page)

    @rule(at=st.integers(0, 50), channels=st.frozensets(channels, min_size=1))
    def read(self, at: int, channels: frozenset[str]) -> None:
        cursor = min(Cursor(1000, at), self.log.head)
        if self.log.reaches(cursor, channels):
            assert self.log.since(cursor, channels) == self.after(cursor, channels)
            assert self.log.has_news(cursor, channels) == bool(self.after(cursor, channels))
        else:
            with pytest.raises(Gap):
                self.log.since(cursor, channels)

    @invariant()
    def who_is_watched_and_up_to_date_is_never_told_of_a_gap(self) -> None:
        assert self.log.since(self.log.head, self.watched) == []


class TestModel(Model.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    pass


@pytest.mark.parametrize(("history", "kept", "floor"), [(100, "123456", 0), (6, "123456", 0), (5, "56", 4)])
def test_what_came_before_is_taken_in_where_all_of_it_fits(history: int, kept: str, floor: int) -> None:
    log = EventLog(history, 2**20, Cursor(1000, 4))
    for number in (5, 6):
        log.append(event(number))
    log.extend_back(START, log.head, ALL, [event(number) for number in (1, 2, 3, 4)])
    assert data(log.since(Cursor(1000, floor), ALL)) == list(kept)
    assert log.reaches(START, ALL) == (floor == 0)


def test_what_has_happened_and_gone_since_the_broker_was_asked_stays_a_gap() -> None:
    log = log_of(1, history=2)
    asked = log.head
    log.watch(["b"])
    log.forget("b", asked)
    for number in (2, 3, 4):
        log.append(event(number, "b"))
    log.extend_back(START, asked, {"b"}, [])
    with pytest.raises(Gap):
        log.since(START, {"b"})


def test_a_busy_channel_costs_nothing_for_the_channels_that_are_merely_watched() -> None:
    class Unwalked(dict[Any, Any]):
        def items(self) -> NoReturn:
            raise AssertionError("All channels are looked at.")

        values = keys = __iter__ = items

    log = EventLog(10, 2**20, START)
    log.append(event(1, "quiet"))
    log._channels = Unwalked(log._channels)
    for number in range(2, 5_000):
        log.append(event(number, "busy"))
    assert len(log._order) < 2_000
