"""Who may read what, on real servers with Django's sessions and a user model of the project's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.servers import ROOT, Server, Stream


@pytest.fixture(scope="module")
def servers(static_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Two processes of one site, of different kinds, on one database."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.members.settings",
        "DJANGO_SECRET_KEY": "for tests only",
        "TEST_STATIC_ROOT": str(static_root),
        "DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('members') / 'db.sqlite3'}",
    }
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=ROOT, env=os.environ | environment, check=True)
    running = {
        kind: Server(kind, static_root, {"BROKER": "db:"}, arguments, environment)
        for kind, arguments in (("asgi", []), ("gthread", ["--threads", "8"]))
    }
    try:
        for server in running.values():
            server.start()
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture(params=[("asgi", "gthread"), ("gthread", "asgi")], ids="-from-".join)
def here_and_there(request: pytest.FixtureRequest, servers: dict[str, Server]) -> tuple[Server, Server]:
    """Where streams are open, and another process."""
    here, there = request.param
    return servers[here], servers[there]


class Member:
    def __init__(self, server: Server, name: str) -> None:
        self.session = requests.Session()
        answer = self.session.post(f"{server.url}/test/login/", {"name": name}, timeout=10)
        self.id = str(answer.json()["id"])
        self.channel = f"user:{self.id}:orders"

    def open(self, server: Server, *channels: str) -> Stream:
        stream = Stream(server, {"Cookie": self.cookie}, channel=channels or [self.channel])
        stream.next("hello")
        return stream

    def ask(self, server: Server, path: str) -> requests.Response:
        url = f"{server.url}/events/{path}"
        return requests.get(url, {"channel": self.channel}, headers={"Cookie": self.cookie}, timeout=10)

    @property
    def cookie(self) -> str:
        return f"sessionid={self.session.cookies['sessionid']}"


def ends_in_good_order(stream: Stream) -> bool:
    assert stream.next().type == "drain"
    with pytest.raises(StopIteration):
        stream.next()
    return (stream.decoder.retry or 0) >= 2000


def post(server: Server, path: str, **options: Any) -> None:
    requests.post(f"{server.url}/test/{path}/", timeout=10, **options).raise_for_status()


def test_a_member_reads_what_is_theirs_and_nobody_else_does(here_and_there: tuple[Server, Server]) -> None:
    here, there = here_and_there
    ada, grace = Member(here, "ada"), Member(there, "grace")
    with ada.open(here) as stream:
        there.publish(ada.channel, "hers")
        assert stream.next("message").data == '"hers"'
    assert ada.ask(there, "poll/").status_code == 200
    for path in ("", "poll/"):
        refused = requests.get(
            f"{here.url}/events/{path}", {"channel": ada.channel}, headers={"Cookie": grace.cookie}, timeout=10
        )
        assert refused.status_code == 403
        assert refused.json() == {"error": f"The channel '{ada.channel}' is not for you to read."}


def test_a_member_who_is_expelled_elsewhere_reads_no_more(here_and_there: tuple[Server, Server]) -> None:
    here, there = here_and_there
    ada, grace = Member(here, f"ada-{here.kind}"), Member(here, "grace")
    with ada.open(here) as own, ada.open(here, "private:news") as news, grace.open(here, "private:news") as others:
        post(there, "expel", data={"id": ada.id})
        assert ends_in_good_order(own)
        assert ends_in_good_order(news)
        assert ada.ask(here, "").status_code == ada.ask(here, "poll/").status_code == 403
        there.publish("private:news", "for members")
        assert others.next("message").data == '"for members"'


def test_one_channel_may_be_taken_back(here_and_there: tuple[Server, Server]) -> None:
    here, there = here_and_there
    ada = Member(here, "ada")
    with ada.open(here, "private:a") as one, ada.open(here, "private:a", "private:b") as both:
        post(there, "revoke", json={"user": ada.id, "channel": "private:b"})
        assert ends_in_good_order(both)
        there.publish("private:a", "still here")
        assert one.next("message").data == '"still here"'


def test_who_logs_out_reads_no_more(here_and_there: tuple[Server, Server]) -> None:
    here, there = here_and_there
    ada = Member(here, "ada")
    with ada.open(here) as stream:
        post(there, "logout", headers={"Cookie": ada.cookie})
        assert ends_in_good_order(stream)
    assert ada.ask(here, "").status_code == 403
