"""The project's own settings, as in production, with what a test process needs instead of an environment."""

import os

os.environ.setdefault("DJANGO_SECRET_KEY", "for tests only")

from sse_demo.settings import *  # noqa: F403
from sse_demo.settings import STORAGES

# No collectstatic before unit tests; the live tests run it for real.
STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"

EVENTS = {"BROKER": "memory:"}  # each test begins with an empty log
