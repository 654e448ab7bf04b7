"""What a report's figures promise: how they are counted, and what is concluded from them."""

import math
from collections.abc import Mapping
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sse_demo.compare import capacity, figures
from sse_demo.compare.capacity import Costs
from sse_demo.compare.comparison import Comparison
from sse_demo.compare.http import Connection
from sse_demo.compare.plan import BadPlan, Plan
from sse_demo.compare.proxy import fails_from, steps
from sse_demo.compare.results import SSE, Arm, Result, Spread, quantiles
from sse_demo.compare.screens import Screen, Staleness
from sse_demo.compare.terminal import print_report
from sse_demo.compare.updates import Clock, Updates

COSTS = Costs(
    stream_cpu=10e-6,
    stream_bytes=150,
    stream_memory=3_000,
    stream_connect=1e-3,
    empty_cpu=500e-6,
    empty_bytes=400,
    poll_cpu=600e-6,
    poll_bytes=600,
    event_cpu=5e-6,
    event_bytes=180,
    poll_memory=3_000,
    publish_cpu=1e-3,
)


class Made(Updates):
    """Updates that were made at these times."""

    def __init__(self, *made: float) -> None:
        super().__init__()
        self.later = list(made)

    def make(self) -> None:
        self.made.append(self.later.pop(0))

    def of_stream(self, event: Any) -> int | None:
        return None

    def of_poll(self, answer: dict[str, Any]) -> list[int]:
        return []


def screen_of(*made: float) -> tuple[Screen, Staleness]:
    updates, staleness = Made(*made), Staleness()
    staleness.begin(0.0)
    screen = Screen(updates, staleness)
    for _ in made:
        updates.make()
    return screen, staleness


def result(arm: Arm, **changed: Any) -> Result:
    values: dict[str, Any] = {
        "arm": arm,
        "server": "s",
        "clients": 100,
        "seconds": 10.0,
        "updates": 10,
        "requests": 0 if arm.streams else 1_000,
        "found": 0 if arm.streams else 1_000,
        "skipped": 0,
        "statuses": {"200": 100},
        "sent": 0,
        "received": 150_000,
        "sent_in_all": 0,
        "received_in_all": 160_000,
        "cpu": 0.01,
        "publish_cpu": 0.0,
        "connect_cpu": 0.1,
        "memory_before": 1_000_000,
        "memory": 2_000_000,
        "staleness": Spread(0.5, 0.95, 0.99, 1.0),
        "quantiles": [0.0, 0.5, 1.0],
        "shown": 900,
        "lost": 0,
        "refused": 0,
        "doubled": 0,
        "connect": None,
        "reconnect": None,
        "client_cpu": 0.1,
    }
    return Result(**values | changed)


def test_an_update_that_was_never_shown_is_stale_until_a_later_one_was() -> None:
    screen, staleness = screen_of(10.0, 11.0, 12.0)
    screen.show([0, 1, 2], now=12.5)
    assert list(staleness.values) == [2.5, 1.5, 0.5]
    assert staleness.shown == 1


def test_an_update_that_never_arrived_is_charged_for_the_time_it_has_been_missing() -> None:
    screen, staleness = screen_of(10.0, 11.0)
    screen.show([0], now=10.1)
    staleness.give_up([screen], [10.0, 11.0], now=31.0)
    assert list(staleness.values) == pytest.approx([0.1, 20.0])
    assert screen.lost(2) == 1


def test_updates_outside_the_window_do_not_count() -> None:
    screen, staleness = screen_of(10.0, 20.0, 30.0)
    staleness.begin(15.0)
    staleness.end(25.0)
    screen.show([0, 1, 2], now=31.0)
    assert list(staleness.values) == [11.0]


def test_lost_and_doubled_updates_are_told_apart_from_late_ones() -> None:
    screen, _ = screen_of(1.0, 2.0, 3.0, 4.0)
    screen.show([1], now=5.0)
    screen.show([0], now=6.0)
    screen.show([1, 3], now=7.0)
    assert (screen.lost(4), screen.doubled) == (1, 1)


def test_updates_from_before_a_client_came_are_not_lost() -> None:
    updates = Made(1.0, 2.0)
    updates.make()
    screen = Screen(updates, Staleness())
    updates.make()
    screen.show([1], now=3.0)
    assert screen.lost(2) == 0


def test_a_poll_of_the_clock_shows_the_second_that_the_server_is_in() -> None:
    clock = Clock(offset=0.0)
    first = math.floor(Clock.epoch("1970-01-01T00:00:00+00:00"))
    clock._first = first
    assert clock.of_poll({"server_time": "1970-01-01T00:00:02.750+00:00"}) == [2]
    assert clock.made == [0.0, 1.0, 2.0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=400))
def test_marks_are_values_that_were_measured(values: list[float]) -> None:
    marks = Spread.of(values)
    assert marks
    assert {marks.median, marks.p95, marks.p99, marks.worst} <= set(values)
    assert marks.median <= marks.p95 <= marks.p99 <= marks.worst == max(values)
    assert quantiles(values) == sorted(quantiles(values))


class Answers:
    """What a connection made of some bytes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self._pieces: list[bytes] = []
        self._status = 0
        self.connection = Connection(self._head, self._pieces.append, self._end, lambda connection: None)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status

    def _end(self) -> None:
        self.seen.append((self._status, b"".join(self._pieces)))
        self._pieces.clear()


ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\n\r\n"
    b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
)


@settings(deadline=None)
@given(st.sets(st.integers(1, len(ANSWERS) - 1)))
def test_answers_are_the_same_however_the_network_cuts_them(cuts: set[int]) -> None:
    answers = Answers()
    edges = [0, *sorted(cuts), len(ANSWERS)]
    for start, end in pairwise(edges):
        answers.connection.data_received(ANSWERS[start:end])
    assert answers.seen == [(200, b"hello"), (304, b""), (200, b"hello"), (204, b""), (503, b"")]


def test_streaming_costs_the_same_at_any_polling_interval_and_polling_less_the_longer_it_is() -> None:
    assert capacity.streaming(COSTS, 1_000, 1.0).cores == pytest.approx(0.01 + 1_000 * 1e-3 / 3_240)
    costs = [capacity.polling(COSTS, 1_000, 1.0, interval).cores for interval in (1, 5, 60)]
    assert costs == pytest.approx([0.605, 0.125, 0.015])


def test_the_crossover_is_where_both_cost_the_same() -> None:
    for rate in (1.0, 1 / 60, 1 / 3_600):
        interval = capacity.crossover(COSTS, rate)
        assert interval
        polling = capacity.polling(COSTS, 1, rate, interval).cores
        assert polling == pytest.approx(capacity.streaming(COSTS, 1, rate).cores, rel=0.01)


def test_there_is_no_crossover_where_each_event_costs_polling_more() -> None:
    assert capacity.crossover(Costs(**{**vars(COSTS), "event_cpu": 20e-6}), rate=1.0) is None


def test_costs_are_those_of_reading_without_publishing() -> None:
    costs = capacity.fit(
        result(SSE, cpu=0.02, publish_cpu=0.01),
        empty=result(Arm.poll(1), cpu=0.5, updates=0),
        finding=result(Arm.poll(1), cpu=0.605 + 0.01, publish_cpu=0.01),
        crowded=result(Arm.poll(1), updates=100, found=10_000, cpu=0.650 + 0.1, publish_cpu=0.1),
    )
    assert costs.stream_cpu == pytest.approx(10e-6)
    assert costs.stream_connect == pytest.approx(1e-3)
    assert costs.empty_cpu == pytest.approx(0.5e-3)
    assert costs.poll_cpu == pytest.approx(0.6e-3)
    assert costs.event_cpu == pytest.approx(5e-6)
    assert costs.publish_cpu == pytest.approx(1e-3)


def test_a_server_that_is_behind_does_not_make_events_look_small() -> None:
    # 100 updates were made for each of 100 clients, and polls had brought a fifth of them by the end of the window.
    costs = capacity.fit(
        result(SSE),
        empty=result(Arm.poll(1), updates=0),
        finding=result(Arm.poll(1), received=600_000),
        crowded=result(Arm.poll(1), updates=100, found=2_000, received=800_000),
    )
    assert (costs.poll_bytes, costs.event_bytes) == pytest.approx((400, 200))


def test_a_formula_that_its_own_check_contradicts_is_marked() -> None:
    comparison = Comparison(Plan(clients=100, intervals=(1.0,)), "")
    comparison.results.append(result(Arm.poll(1), received=8_000_000, cpu=0.6))
    [line] = figures.checks(comparison, COSTS)
    assert line.endswith("OFF BY 90 %: do not rely on the formulas, and measure again on an idle machine")
    comparison.results[0] = result(Arm.poll(1), received=780_000, cpu=0.605)
    [line] = figures.checks(comparison, COSTS)
    assert "OFF" not in line


def test_polling_begins_to_fail_where_the_first_answer_was_a_failure() -> None:
    steps = [
        result(Arm.poll(1), clients=n, statuses={"200": 1_000, "429": failed}) for n, failed in ((500, 0), (1_000, 3))
    ]
    assert fails_from(steps) == 1_000


def test_behind_a_proxy_each_step_has_twice_the_clients() -> None:
    assert steps(4_000) == [500, 1_000, 2_000, 4_000]
    assert steps(3) == [1, 3]


def test_figures_have_three_digits_and_the_unit_that_fits() -> None:
    shown = [figures.seconds(value) for value in (None, 5.04e-6, 0.000_9996, 0.51234, 0.9996, 59.6, 7_300, 864_000)]
    assert shown == ["–", "5.04 µs", "1 ms", "512 ms", "1 s", "59.6 s", "2 h", "10 days"]
    assert [figures.size(value) for value in (0, 999.6, 1_234_000, 2e18)] == ["0 B", "1 kB", "1.23 MB", "2,000 PB"]
    assert [figures.count(value) for value in (0, 0.0123, 9.99, 1_234_567)] == ["0", "0.012", "10", "1,230,000"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 0}, "--clients takes 1 to 10,000, not 0."),
        ({"updates_per_second": 0.0}, "--updates-per-second takes 0.01 to 1,000, not 0."),
        ({"duration": 0.5}, "--duration takes 1 to 3,600 seconds, not 0.5."),
        ({"duration": 5.0, "updates_per_second": 0.1}, "Choose a longer --duration."),
        ({"intervals": [0.0]}, "--intervals takes one or more of 0.1 to 3,600 seconds."),
        ({"url": "https://example.com/", "proxy": True}, "it does not go with --url."),
        ({"url": "ftp://example.com/"}, "is no URL such as"),
        ({"costs": "manage.py"}, "--costs manage.py is not the compare.json of a whole comparison"),
        ({"html": "/nowhere/compare.html"}, "/nowhere/compare.html cannot be written."),
    ],
)
def test_a_bad_option_is_refused_before_anything_starts(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    files = {"json": str(tmp_path / "compare.json"), "html": str(tmp_path / "compare.html")}
    with pytest.raises(CommandError) as error:
        call_command("compare", **files | options)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_too_few_files_is_said_with_the_number_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_demo.compare.plan.resource.getrlimit", lambda kind: (256, 1_024))
    with pytest.raises(BadPlan, match="This needs 5,500 open files, and the limit is 1,024: raise it"):
        Plan(clients=5_000)


@pytest.mark.parametrize("steps", [False, True])
def test_the_report_fits_a_terminal_of_80_columns(steps: bool) -> None:
    wide = {"200": 123_456, "304": 43_210, "429": 99_999, "502": 33, "504": 1_234, "none": 3}
    comparison = Comparison(Plan(clients=4_000, intervals=(1.0, 5.0)), "", COSTS)
    results = comparison.steps if steps else comparison.results
    for arm in (SSE, Arm.poll(1)) if steps else (SSE, Arm.poll(1), Arm.poll(1, conditional=True), Arm.poll(5)):
        results.append(result(arm, clients=4_000, received=152_345_678, cpu=9.9, statuses=wide))
    printed = [StringIO(), StringIO()]
    for width, file in zip((80, 300), printed, strict=True):
        print_report(Console(file=file, width=width), comparison)
    narrow, whole = ({*file.getvalue().split()} for file in printed)
    assert whole <= narrow  # nothing is cut off
