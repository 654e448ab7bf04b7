"""The project as an ASGI application: the one to deploy."""

import os

from django.conf import settings
from servestatic import ServeStaticASGI

from events.asgi import get_event_stream_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application = get_event_stream_application()
if not settings.DEBUG:  # runserver serves static files by itself
    application = ServeStaticASGI(application, root=settings.STATIC_ROOT, prefix=settings.STATIC_URL)
