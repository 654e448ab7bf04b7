from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from sse_demo import faults

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """The demonstration: one clock, read by streaming and by polling, side by side."""
    context = {
        "server_time": datetime.now(UTC),
        "origin": request.build_absolute_uri("/").rstrip("/"),
        "stream_is_broken": request.COOKIES.get(faults.COOKIE) == faults.REFUSE,
    }
    response = render(request, "index.html", context)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Cache-Control"] = "no-cache"  # not no-store, which keeps a page out of the back/forward cache
    return response
