"""What README tells a reader to do in a project of their own, done to the letter in a fresh one."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.live.servers import ROOT, Stream, free_port, wait_for


def blocks(heading: str) -> dict[str, str]:
    """The code in a section of README, by its language and its number in the section."""
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    return {f"{language}{number}": code for number, (language, code) in enumerate(found)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    run(tmp_path, "-m", "django", "startproject", "mysite", ".")
    shutil.copytree(ROOT / "events", tmp_path / "events")
    code = blocks("Use it in your project")
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write(code["python0"])
    with (tmp_path / "mysite" / "urls.py").open("a") as urls:
        urls.write("from django.urls import include\n" + code["python1"])
    run(tmp_path, "manage.py", "migrate", "--verbosity", "0")
    return tmp_path


def run(directory: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def runserver(directory: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    log = directory / "runserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "runserver", "--noreload", url.removeprefix("http://")],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(url, process, log)
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_fresh_project_has_its_first_event_by_following_the_readme(project: Path) -> None:
    command = blocks("Use it in your project")["sh3"]
    with runserver(project) as url, Stream(url, channel="news") as stream:
        stream.next("hello")
        program, *arguments = shlex.split(command)
        assert program == "python"
        event_id = run(project, *arguments).strip()
        event = stream.next("message")
        assert (event.id, event.data) == (event_id, '{"text":"hello"}')
        assert requests.get(f"{url}/static/events/feed.js", timeout=10).status_code == 200


def test_the_section_keeps_its_promise_to_be_short() -> None:
    section = (ROOT / "README.md").read_text().split("## Use it in your project\n")[1].split("\nInside a")[0]
    assert sum(bool(line) for line in section.splitlines()) < 25
