"""The project as a WSGI application. Streams hold a thread each here: see docs/deploy.md."""

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

from sse_demo.static import collect_once

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application: Any = get_wsgi_application()
if settings.DEBUG:
    application = StaticFilesHandler(application)
else:
    collect_once()
    application = ServeStatic(application, root=settings.STATIC_ROOT, prefix=urlsplit(settings.STATIC_URL).path)
