"""Reading from pages of other origins: for those in EVENTS["ALLOWED_ORIGINS"], and nobody else.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from .conf import get_config

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    # What clients that are not an EventSource send, which needs no preflight.
    "Access-Control-Allow-Headers": "Authorization, Cache-Control, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "3600",  # seconds; browsers keep it for two hours at most
}


def preflight(request: HttpRequest) -> HttpResponse | None:
    """The answer to a browser that asks, for one of the origins, whether it may ask; None for any other request."""
    if request.method == "OPTIONS" and _is_listed(request) and "Access-Control-Request-Method" in request.headers:
        return HttpResponse(status=204, headers=_PREFLIGHT)
    return None


def share(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let the page that has asked read the response, if it is of one of the origins."""
    if not get_config().ALLOWED_ORIGINS:
        return
    patch_vary_headers(response, ["Origin"])  # also for others, whose answer a cache would give to them
    if _is_listed(request):
        # Never "*", with which browsers send no cookies.
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = "ETag, Retry-After, Server-Timing"


def _is_listed(request: HttpRequest) -> bool:
    return request.headers.get("Origin") in get_config().ALLOWED_ORIGINS
