"""The site under test: gunicorn with three workers, nginx in front, and a broker; all real, all for this run alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.clients import HEARTBEAT
from tests.live.servers import ROOT, Server
from tests.services import Nginx, Valkey


class Site:
    """Started on entering, stopped and removed on leaving."""

    def __init__(self, broker: str, **more: Any) -> None:
        """`more` settings of EVENTS."""
        self.valkey = Valkey() if broker.startswith("redis") else None
        self.directory = Path(tempfile.mkdtemp(prefix="sse-demo-chaos-"))
        self.environment = {
            "DATABASE_URL": f"sqlite:///{self.directory / 'db.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "tests.live.settings",
            "DJANGO_SECRET_KEY": "for tests only",
            "TEST_STATIC_ROOT": str(self.directory / "static"),
        }
        events = {"BROKER": self.valkey.url if self.valkey else "db:", "HEARTBEAT": HEARTBEAT, **more}
        self.environment["TEST_EVENTS"] = json.dumps(events)
        (self.directory / "static").mkdir()
        # Old workers hold streams until they are told to end them; what they do not finish in time is cut.
        arguments = ["--workers", "3", "--graceful-timeout", "3", "--log-level", "error"]
        self.server = Server("asgi", self.directory / "static", events, arguments, self.environment)
        self.nginx = Nginx(self.server.port)

    def __enter__(self) -> "Site":
        try:
            self.python("manage.py", "migrate", "--verbosity", "0").communicate()
            if self.valkey:
                self.valkey.start()
            self.server.start()
            self.nginx.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.nginx.remove()
        self.server.stop()
        if self.valkey:
            self.valkey.remove()
        shutil.rmtree(self.directory)

    def python(self, *arguments: str) -> "subprocess.Popen[str]":
        """A process of the project with the settings of the site."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def first_cursor(self) -> str:
        return str(self.server.poll().json()["cursor"])

    def worker(self) -> int:
        """The process id of one of gunicorn's workers."""
        assert self.server.process
        master = self.server.process.pid
        return int(random.choice(Path(f"/proc/{master}/task/{master}/children").read_text().split()))

    def reload(self) -> None:
        assert self.server.process
        self.server.process.send_signal(signal.SIGHUP)
