import gc
import json
import os
import threading

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import RequestContext, Template
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from events import live, publish, views
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


# A page with a feed, as the documents tell how to make one: from a template, with a script of the site's own.
PAGE = """{% load events %}<!doctype html>
<title>Orders</title>
<link rel="icon" href="data:,">
{% events_feed channel %}
<script type="module" src="/test/orders.js"></script>
<ul></ul>"""
SCRIPT = """
const { feed } = document.querySelector("[data-events]");
feed.addEventListener("message", ({ data }) => {
  const item = document.createElement("li");
  item.textContent = data;
  document.querySelector("ul").append(item);
});
"""


def page_view(request: HttpRequest) -> HttpResponse:
    """A page under a strict Content-Security-Policy."""
    page = Template(PAGE).render(RequestContext(request, {"channel": request.GET["channel"]}))
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:"
    return HttpResponse(page, headers={"Content-Security-Policy": policy})


def script_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(SCRIPT, content_type="text/javascript")


@live(every=0.05)
def state_view(request: HttpRequest, name: str) -> HttpResponse:
    """What the test has written there, which a restart of this process leaves as it is."""
    answer = json.loads((settings.STATIC_ROOT.parent / f"{name}.state").read_text())
    if answer["type"] == "raised":
        raise {403: PermissionDenied, 404: Http404}[answer["status"]]
    return HttpResponse(answer["text"], answer["type"], answer["status"])


urlpatterns = [
    path("test/orders/", page_view),
    path("test/orders.js", script_view),
    path("test/state/<name>/", state_view),
    path("test/events/", stream_view),
    path("test/publish/", publish_view),
    path("test/transaction/", transaction_view),
    path("test/process/", process_view),
    path("events/test/connection/", connection_view),
    path("test/objects/", objects_view),
    path("test/live/", include("tests.live.live_urls")),
    path("", include("sse_demo.urls")),
]
