from django.contrib import admin
from django.urls import include, path

from sse_demo import faults, notes, views

urlpatterns = [
    path("", views.index, name="index"),
    path("events/", faults.stream),
    path("events/poll/", faults.poll),
    path("events/publish/", notes.publish),
    path("admin/", admin.site.urls),
    path("events/", include("events.urls")),
]
