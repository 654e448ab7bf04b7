"""The project as an ASGI application: the one to deploy."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from servestatic import ServeStaticASGI

from events.asgi import get_event_stream_application
from sse_demo.static import with_static_files

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application = with_static_files(get_event_stream_application(), ASGIStaticFilesHandler, ServeStaticASGI)
