"""The demonstration's URLs, and the status of a page, polled or live, with the demonstration's middleware."""

import time

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from events import live

_asked = 0


@live(every=1)
def status(request: HttpRequest) -> JsonResponse:
    """As cheap as a view can be: what it costs to ask it is Django's."""
    global _asked
    _asked += 1
    return JsonResponse(f"t={int(time.monotonic() * 1e6):015d}", safe=False)


@live(every=3600)
def status_of_database(request: HttpRequest) -> JsonResponse:
    """One question to the database, as few views have less."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM sqlite_master")
        return JsonResponse(f"t={cursor.fetchone()[0]:015d}", safe=False)


def asked(request: HttpRequest) -> JsonResponse:
    """How often the first of them was asked, by whoever it was."""
    return JsonResponse(_asked, safe=False)


urlpatterns = [
    path("status/", status),
    path("database/", status_of_database),
    path("asked/", asked),
    path("", include("sse_demo.urls")),
]
