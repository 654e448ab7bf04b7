"""Failures that visitors of the demonstration can give themselves, and nobody else: a cookie asks for one.

fault=refuse    the stream is answered 503, as when the server has no room for another
"""

from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from events import views

COOKIE = "fault"
REFUSE = "refuse"

RETRY_AFTER = "1"  # seconds; the switch may be turned back at any moment


@csrf_exempt  # as views.stream is
def stream(request: HttpRequest) -> HttpResponseBase:
    """The stream, or the failure that this visitor has asked for."""
    if request.COOKIES.get(COOKIE) == REFUSE:
        message = "Refused, as your fault cookie asks; without it this is an event stream."
        return views.error(503, message, {"Retry-After": RETRY_AFTER})
    return views.stream(request)
