from collections.abc import Iterator
from functools import lru_cache

from django.urls import URLResolver, get_resolver, get_urlconf, path

from . import views
from .apps import NAME

app_name = NAME.rpartition(".")[2]

urlpatterns = [
    path("", views.stream, name="stream"),
    path("poll/", views.poll, name="poll"),
    path("publish/", views.publish_event, name="publish"),
    path("health/", views.health, name="health"),
    path("metrics/", views.metrics, name="metrics"),
]


def find_namespace() -> str:
    """The namespace in which the present URLconf includes these, as `reverse` takes it; or else `app_name`."""
    return _find(get_resolver(get_urlconf()))


@lru_cache(maxsize=8)
def _find(root: URLResolver) -> str:
    return ":".join(next(_namespaces(root), [app_name]))


def _namespaces(resolver: URLResolver) -> Iterator[list[str]]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            for inner in _namespaces(pattern):
                yield [pattern.namespace, *inner] if pattern.namespace else inner
        elif pattern.callback is views.stream:
            yield []
