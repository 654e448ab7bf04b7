from django.urls import path

from events import views

app_name = "events"

urlpatterns = [
    path("", views.stream, name="stream"),
    path("poll/", views.poll, name="poll"),
    path("publish/", views.publish_event, name="publish"),
    path("health/", views.health, name="health"),
    path("metrics/", views.metrics, name="metrics"),
]
