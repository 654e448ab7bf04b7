"""The project as a WSGI application. Streams hold a thread each here: see docs/deploy.md."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

from sse_demo.static import with_static_files

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")

application = with_static_files(get_wsgi_application(), StaticFilesHandler, ServeStatic)
