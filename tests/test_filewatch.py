"""What tells of commits to SQLite."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from events.brokers import database
from events.brokers.filewatch import FileWatch
from events.wire import Event
from tests.brokers import OpenLog, Recorder


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[FileWatch]:
    with closing(FileWatch(tmp_path, {"watched", "watched-wal"})) as watch:
        yield watch


def write(path: Path) -> None:
    """From another process."""
    subprocess.run([sys.executable, "-c", f"open({str(path)!r}, 'a').write('x')"], check=True)


@pytest.mark.parametrize("name", ["watched", "watched-wal"])
def test_a_write_of_another_process_is_told_once(watch: FileWatch, tmp_path: Path, name: str) -> None:
    assert not watch.was_written()
    write(tmp_path / name)
    assert watch.was_written()
    assert not watch.was_written()


def test_other_files_are_not_told_of(watch: FileWatch, tmp_path: Path) -> None:
    write(tmp_path / "watched-too")
    write(tmp_path / "other")
    assert not watch.was_written()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inotify_add_watch"):
        FileWatch(tmp_path / "missing", {"watched"})


class Counting(FileWatch):
    """How often it is asked, and so SQLite."""

    asked = 0

    def was_written(self) -> bool:
        Counting.asked += 1
        return super().was_written()


def test_a_busy_file_beside_the_database_keeps_nobody_busy(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(database, "FileWatch", Counting)
    log = open_log("sqlite")
    here, elsewhere = Recorder(log.open()), log.open()
    before = Counting.asked
    with (tmp_path / "access.log").open("w", buffering=1) as other:
        for line in range(300):
            other.write(f"{line}\n")
            time.sleep(0.001)
    assert Counting.asked - before < 100
    given = elsewhere.append([Event(None, "a", "message", "heard")])
    assert [event.id for event in here.events(1)] == given


class Deaf(FileWatch):
    """As on a disk that another machine writes to."""

    def was_written(self) -> bool:
        super().was_written()
        return False


class Missing(FileWatch):
    """As on another system."""

    def __init__(self, directory: Path, names: set[str]) -> None:
        raise OSError


@pytest.mark.parametrize("kind", [Deaf, Missing])
def test_without_it_events_of_other_processes_arrive_as_well(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, kind: type[FileWatch]
) -> None:
    monkeypatch.setattr(database, "FileWatch", kind)
    log = open_log("sqlite")
    here, elsewhere = Recorder(log.open()), log.open()
    for number in range(3):
        given = elsewhere.append([Event(None, "a", "message", str(number))])
        assert [event.id for event in here.events(1)] == given
