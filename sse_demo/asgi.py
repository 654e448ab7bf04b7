"""The project as an ASGI application: the one to deploy."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from servestatic import ServeStaticASGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application = get_asgi_application()
if not settings.DEBUG:  # runserver serves static files by itself
    application = ServeStaticASGI(application, root=settings.STATIC_ROOT, prefix=settings.STATIC_URL)
