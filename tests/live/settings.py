"""The project as it is deployed, with a way to publish from outside and settings that a test may choose."""

import json
import os
from pathlib import Path

from sse_demo.settings import *  # noqa: F403
from sse_demo.settings import DATABASES, EVENTS

ROOT_URLCONF = "tests.live.urls"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
STATIC_ROOT = Path(os.environ["TEST_STATIC_ROOT"])
EVENTS = EVENTS | {"BROKER": "memory:"} | json.loads(os.environ.get("TEST_EVENTS", "{}"))
DATABASES["default"] |= json.loads(os.environ.get("TEST_DATABASE", "{}"))
