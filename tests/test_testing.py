"""A project's own tests: Django's TestCase with the default broker, run by manage.py test."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from django.db import transaction
from pytest_django.fixtures import Settings

from events import publish, revoke
from events.brokers.memory import MemoryBroker
from events.process import get_broker
from events.testing import published
from tests.live.servers import ROOT

SHOP_TESTS = """
    from django.db import transaction
    from django.test import TestCase, TransactionTestCase
    from events import publish
    from events.testing import published

    class Shop(TestCase):
        def test_a_poll_is_answered_and_finds_what_was_published(self):
            cursor = self.client.get("/events/poll/?channel=orders").json()["cursor"]
            with published() as events, transaction.atomic():
                publish("orders", 7, type="paid")
            self.assertEqual([(e.channel, e.type, e.data) for e in events], [("orders", "paid", "7")])
            polled = self.client.get("/events/poll/", {"channel": "orders", "since": cursor}).json()
            self.assertEqual([e["data"] for e in polled["events"]], ["7"])

        def test_a_stream_opens(self):
            response = self.client.get("/events/?channel=orders")
            self.assertEqual(response.status_code, 200)
            self.assertIn(b"hello", next(iter(response)))
            response.close()

        def test_health(self):
            self.assertEqual(self.client.get("/events/health/").status_code, 200)

    class Committing(TransactionTestCase):
        def test_it_commits(self):
            with published() as events:
                publish("orders", 8)
            self.assertEqual([e.data for e in events], ["8"])
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_project_tests_itself_with_the_default_broker(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    (tmp_path / "shop_tests.py").write_text(textwrap.dedent(SHOP_TESTS))
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgresql_server").new_database()
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "manage.py", "test", "shop_tests"],
        cwd=ROOT,
        env=environment | {"DATABASE_URL": url, "DJANGO_DEBUG": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 4 tests" in done.stderr
    assert "being accessed by other users" not in done.stderr


@pytest.fixture
def _default_broker(settings: Settings) -> None:
    settings.EVENTS = {}


@pytest.mark.usefixtures("_default_broker")
@pytest.mark.django_db
def test_what_is_rolled_back_is_not_published() -> None:
    assert isinstance(get_broker(), MemoryBroker)
    with published() as events:
        publish("orders", 1)
        with transaction.atomic():
            publish("orders", 2)
            transaction.set_rollback(True)
    assert [event.data for event in events] == ["1"]


@pytest.mark.usefixtures("_default_broker")
@pytest.mark.django_db
def test_published_holds_the_events_of_the_channels_asked_for_and_of_this_block_alone() -> None:
    publish("orders", 0)
    with published("orders") as events:
        publish("orders", 1)
        publish("news", 2)
        revoke("7")
    publish("orders", 3)
    assert [event.data for event in events] == ["1"]
