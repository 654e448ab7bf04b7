"""`manage.py publish`, as one meets it in a terminal."""

import json
from pathlib import Path

import pytest

from events.wire import Event
from tests.brokers import PATIENCE, Log, OpenLog, Recorder


@pytest.fixture
def log(open_log: OpenLog) -> Log:
    return open_log("sqlite")


def command(log: Log, *arguments: str, given: str = "") -> tuple[int, str, str]:
    process = log.process("manage.py", "publish", *arguments, stdin=-1)
    output, errors = process.communicate(given, timeout=PATIENCE)
    return process.returncode, output, errors


def test_it_publishes_and_prints_the_id(log: Log) -> None:
    recorder = Recorder(log.open())
    code, output, errors = command(log, "orders", '{"id": 7}', "--type", "paid")
    assert (code, errors) == (0, "")
    assert recorder.next() == Event(output.strip(), "orders", "paid", '{"id":7}')


def test_each_line_of_standard_input_is_an_event(log: Log) -> None:
    recorder = Recorder(log.open())
    code, output, _ = command(log, "log", "-", given='first line\n\n{"n": 2}\r\n42\nlast without an end')
    assert code == 0
    events = recorder.events(4)
    assert [json.loads(event.data) for event in events] == ["first line", {"n": 2}, 42, "last without an end"]
    assert output.split() == [event.id for event in events]


@pytest.mark.parametrize(
    "arguments", [["cart", "--text", "{<b>3</b>"], ["cart", "{<b>3</b>", "--text", "--type", "message"]]
)
def test_text_is_published_as_it_is(log: Log, arguments: list[str]) -> None:
    recorder = Recorder(log.open())
    code, output, errors = command(log, *arguments)
    assert (code, errors) == (0, "")
    assert recorder.next() == Event(output.strip(), "cart", "message", "{<b>3</b>")


def test_each_line_of_standard_input_may_be_text(log: Log) -> None:
    recorder = Recorder(log.open())
    code, _, _ = command(log, "log", "--text", "-", given='{broken\n\n42\r\n"quoted"')
    assert code == 0
    assert [event.data for event in recorder.events(3)] == ["{broken", "42", '"quoted"']


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hello", "hello"),
        ("two words", "two words"),
        ("42", 42),
        ('"42"', "42"),
        ("true", True),
        ("null", None),
        ("true story", "true story"),
        ("[1, 2]", [1, 2]),
        ("", ""),
        ("-1", -1),
    ],
)
def test_what_is_json_is_json_and_the_rest_is_text(given: str, meant: object) -> None:
    from events.management.commands.publish import parse

    assert parse(given) == meant


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a", "{id: 7}"], 1, "begins as JSON does, and is not"),
        (["no spaces", "x"], 1, "1 to 100 letters"),
        (["a", "x", "--type", "hello"], 1, "reserved"),
        (["a", "x" * 70_000], 1, "at most 65,536 bytes"),
        (["a"], 2, "required: DATA"),
    ],
)
def test_what_cannot_be_published_is_an_error_that_says_what_is_accepted(
    log: Log, arguments: list[str], code: int, said: str
) -> None:
    returned, output, errors = command(log, *arguments)
    assert (returned, output) == (code, "")
    assert said in errors
    assert "Traceback" not in errors


def test_a_line_that_cannot_be_published_is_named_and_those_before_it_are_published(log: Log) -> None:
    recorder = Recorder(log.open())
    code, output, errors = command(log, "a", "-", given="one\n{broken\nthree\n")
    assert code == 1
    assert "Line 2: " in errors
    assert output.split() == [event.id for event in recorder.events(1)]
    assert recorder.nothing_more()


def test_a_broker_that_reaches_nobody_is_refused() -> None:
    code, _, errors = command(Log("memory:"), "a", "x")
    assert code == 1
    assert "reaches only the process that publishes" in errors


def test_a_database_that_was_not_migrated_is_named_with_the_remedy(tmp_path: Path) -> None:
    log = Log("db:", {"DATABASE_URL": f"sqlite:///{tmp_path / 'new.sqlite3'}"})
    code, _, errors = command(log, "a", "x")
    assert code == 1
    assert "manage.py migrate" in errors
    assert "Traceback" not in errors
