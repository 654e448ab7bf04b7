from django.apps import AppConfig
from django.core.checks import register


class EventsConfig(AppConfig):
    name = "events"

    def ready(self) -> None:
        from events.checks import check_deployment, check_settings

        register(check_settings, "events")
        register(check_deployment, "events", deploy=True)
