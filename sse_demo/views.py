from datetime import UTC, datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_safe

from events.conf import get_config
from sse_demo import faults, notes
from sse_demo.status import lines_that_differ


def _static_origin() -> str:
    """The origin of the static files, where it is not the page's own."""
    url = urlsplit(settings.STATIC_URL)
    return f" {url.scheme or 'https'}://{url.netloc}" if url.netloc else ""


CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src 'self'{_static_origin()}",
        f"style-src 'self'{_static_origin()}",
        f"img-src 'self'{_static_origin()}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)

# All that js/page.js imports, so that the browser need not discover it file by file.
MODULES = [
    "events/answers.js",
    "events/feed.js",
    "events/feed_source.js",
    "events/reader.js",
    "events/share.js",
    "js/at_your_size.js",
    "js/chart.js",
    "js/charts.js",
    "js/costs.js",
    "js/faults.js",
    "js/format.js",
    "js/lane.js",
    "js/log.js",
    "js/notes.js",
    "js/offline.js",
    "js/server_clock.js",
    "js/server_cost.js",
    "js/signs.js",
    "js/staleness.js",
    "js/status.js",
    "js/strip.js",
    "js/tabs.js",
    "js/verdict.js",
]

SIZES = {
    "requests": "Requests each second",
    "updates": "Updates that are seen",
    "waits": "What is seen is late by",
    "cores": "Processor cores",
    "every": "Cores, to show every update",
    "traffic": "Traffic a month",
}


@require_safe
@gzip_page  # the one secret in it, the CSRF token, is masked anew for each answer
def index(request: HttpRequest) -> HttpResponse:
    """The demonstration: one clock, read by streaming and by polling, side by side."""
    context = {
        "server_time": datetime.now(UTC),
        "origin": request.build_absolute_uri("/").rstrip("/"),
        "stream_is_broken": request.COOKIES.get(faults.COOKIE) == faults.Fault.REFUSE,
        "modules": MODULES,
        "sizes": SIZES,
        "stream_age": get_config().MAX_STREAM_AGE,
        "lines": lines_that_differ(),
        "may_publish": notes.may_publish(request),
    }
    response = render(request, "index.html", context)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Cache-Control"] = "no-cache"  # not no-store, which keeps a page out of the back/forward cache
    return response
