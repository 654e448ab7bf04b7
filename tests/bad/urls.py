from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import include, path

from events import views


def hidden(request: HttpRequest) -> HttpResponseBase:
    """A view around the stream that shows nothing of it."""
    return views.stream(request)


urlpatterns = [path("events/", hidden), path("events/", include("events.urls"))]
