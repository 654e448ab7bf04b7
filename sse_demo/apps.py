from django.apps import AppConfig


class DemoConfig(AppConfig):
    name = "sse_demo"

    def ready(self) -> None:
        from sse_demo import clock, stats  # noqa: F401  they register the sources
