from django.apps import AppConfig


class DemoConfig(AppConfig):
    name = "sse_demo"

    def ready(self) -> None:
        from sse_demo import clock  # noqa: F401  registers the source
