import gc
import json
import os
import threading

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from events import publish, views
from events.process import get_hub


@csrf_exempt
def publish_view(request: HttpRequest) -> JsonResponse:
    """Publishes within the server's own process, with nothing between the test and `publish`."""
    return JsonResponse({"id": publish(**json.loads(request.body))})


@csrf_exempt
@transaction.atomic
def transaction_view(request: HttpRequest) -> JsonResponse:
    """Publishes in a transaction, which is taken back when the address says so."""
    publish(**json.loads(request.body))
    transaction.set_rollback("rollback" in request.GET)
    return JsonResponse({"pid": os.getpid()})


def connection_view(request: HttpRequest) -> JsonResponse:
    """What tells one connection to this server from another."""
    return JsonResponse({"port": request.META["REMOTE_PORT"]})


def process_view(request: HttpRequest) -> JsonResponse:
    """What this process holds just now."""
    return JsonResponse({"pid": os.getpid(), "streams": get_hub().streams, "threads": threading.active_count()})


def stream_view(request: HttpRequest) -> HttpResponseBase:
    """The stream, for whom it asks the database first."""
    request.session.get("anything")
    return views.stream(request)


def objects_view(request: HttpRequest) -> JsonResponse:
    """How many objects this process holds that nothing but a reference could let go."""
    gc.collect()
    return JsonResponse({"objects": len(gc.get_objects())})


urlpatterns = [
    path("test/events/", stream_view),
    path("test/publish/", publish_view),
    path("test/transaction/", transaction_view),
    path("test/process/", process_view),
    path("events/test/connection/", connection_view),
    path("test/objects/", objects_view),
    path("test/live/", include("tests.live.live_urls")),
    path("", include("sse_demo.urls")),
]
