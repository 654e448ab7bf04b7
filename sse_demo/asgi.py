"""The project as an ASGI application: the one to deploy."""

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from servestatic import ServeStaticASGI

from events.asgi import get_event_stream_application
from sse_demo.static import collect_once

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application: Any = get_event_stream_application()
if settings.DEBUG:
    application = ASGIStaticFilesHandler(application)
else:
    collect_once()
    application = ServeStaticASGI(application, root=settings.STATIC_ROOT, prefix=urlsplit(settings.STATIC_URL).path)
