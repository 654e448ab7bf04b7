from django.urls import include, path

from sse_demo import views

urlpatterns = [
    path("", views.index, name="index"),
    path("events/", include("events.urls")),
]
