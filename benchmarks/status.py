"""The URLs of the demonstration, and a page's status: polled or live, with the middleware that the demonstration has."""

import time

from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from events import live

_asked = 0


@live(every=1)
def status(request: HttpRequest) -> JsonResponse:
    global _asked
    _asked += 1
    return JsonResponse(f"t={int(time.monotonic() * 1e6):015d}", safe=False)


def asked(request: HttpRequest) -> JsonResponse:
    """How often the view was asked, by whoever it was."""
    return JsonResponse(_asked, safe=False)


urlpatterns = [path("status/", status), path("asked/", asked), path("", include("sse_demo.urls"))]
