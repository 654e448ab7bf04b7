import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from events.process import close_hub
from tests.brokers import open_log
from tests.live.servers import ROOT
from tests.services import postgresql_server, valkey_server

__all__ = ["open_log", "postgresql_server", "valkey_server"]


# Without a deadline: a busy machine is no fault. `make fuzz` looks for what is new, the tests for what was promised.
settings.register_profile("test", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("fuzz", deadline=None, max_examples=int(os.environ.get("CASES", 1_000)))
settings.load_profile("test")

# A job in the background ignores SIGINT, and so does all that it starts: but not what these tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_hub() -> Iterator[None]:
    """Each test begins with an empty log and ends without the hub's threads."""
    close_hub()
    yield
    close_hub()


@pytest.fixture(scope="session")
def static_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static files as production serves them: collected, hashed, compressed."""
    root = tmp_path_factory.mktemp("static")
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.live.settings",
        "DJANGO_SECRET_KEY": "for tests only",
        "TEST_STATIC_ROOT": str(root),
    }
    subprocess.run(
        [sys.executable, "manage.py", "collectstatic", "--noinput", "--verbosity", "0"],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return root
