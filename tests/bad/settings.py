"""A project that does everything wrong that the system checks know of, for tests/test_checks.py.

$FAULT chooses one of those that exclude the others.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from events import checks
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, MIDDLEWARE, STORAGES

FAULT = os.environ.get("FAULT", "")

unfit: dict[str, Any] = {"BROKER": "memory:", "HEARTBEAT": 60, "METRICS_TOKEN": "secret"}
EVENTS = unfit
sys.modules["prometheus_client"] = None  # type: ignore[assignment]  # as if it were not installed

ROOT_URLCONF = "tests.bad.urls"
MIDDLEWARE = [
    *MIDDLEWARE,
    *(f"tests.bad.middleware.{name}" for name in ("CompressEverything", "cors_for_all", "sync_only", "async_only")),
]
SESSION_SAVE_EVERY_REQUEST = True
wrong: dict[str, Any] = {"NAME": "/srv/shared data/db.sqlite3", "ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 600}
DATABASES["default"] |= wrong  # type: ignore[typeddict-item]

# No test can mount a network's file system, but it can say that one is mounted.
with tempfile.NamedTemporaryFile("w", delete=False) as mounts:
    mounts.write("/dev/sda1 / ext4 rw 0 0\nserver:/home /srv/shared\\040data nfs4 rw 0 0\n")
checks.MOUNTS = Path(mounts.name)

WSGI_APPLICATION = "sse_demo.wsgi.application"
ASGI_APPLICATION = "tests.bad.asgi.application"

match FAULT:
    case "no ASGI application":
        ASGI_APPLICATION = ""
    case "a broken ASGI application":
        ASGI_APPLICATION = "tests.bad.asgi.no_such_thing"
    case "no URL":
        ROOT_URLCONF = "tests.bad.no_urls"
    case "an unknown key":
        EVENTS = {"BROKRE": "db:"}
    case "an unknown alias":
        EVENTS = {"BROKER": "db:elsewhere"}
    case "no redis":
        EVENTS = {"BROKER": "redis://127.0.0.1"}
        sys.modules["redis"] = None  # type: ignore[assignment]
    case "no rule":
        EVENTS = {"AUTHORIZE": "tests.bad.nowhere.rule"}
    case "a small pool":
        EVENTS = {"BROKER": "db:"}
        DATABASES["default"] = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": {"max_size": 1}}}
    case "only hashed files":
        STORAGES["staticfiles"]["BACKEND"] = "servestatic.storage.CompressedManifestStaticFilesStorage"
        SERVESTATIC_KEEP_ONLY_HASHED_FILES = True
    case "another database":
        EVENTS = {"BROKER": "db:log"}
        DATABASES["log"] = DATABASES["default"]
