from django.contrib import admin
from django.urls import include, path

from sse_demo import faults, notes, views
from sse_demo.status import status

urlpatterns = [
    path("", views.index, name="index"),
    path("events/", faults.stream),
    path("events/poll/", faults.poll),
    path("events/publish/", notes.publish),
    path("api/status/", status, name="status"),
    path("admin/", admin.site.urls),
    path("events/", include("events.urls")),
]
