"""The project as a WSGI application. Streams hold a thread each here: see docs/deploy.md."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application = get_wsgi_application()
if not settings.DEBUG:  # runserver serves static files by itself
    application = ServeStatic(application, root=settings.STATIC_ROOT, prefix=settings.STATIC_URL)
