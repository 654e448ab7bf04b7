"""Notes that visitors of the page send each other, to see one event arrive in many windows."""

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from events import views


def may_publish(request: HttpRequest) -> bool:
    """Staff; and anybody while debugging, who need not make an account first."""
    return settings.DEBUG or (request.user.is_active and request.user.is_staff)


@views.allow("POST")
def publish(request: HttpRequest) -> HttpResponseBase:
    """As the app has it, and open to all while debugging."""
    if not settings.DEBUG or "Authorization" in request.headers:
        return views.publish_event(request)
    if refusal := views.forgery(request):
        return views.error(403, refusal)
    return views.accept_event(request)
