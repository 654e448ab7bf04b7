from django.apps import AppConfig, apps
from django.core.checks import register

NAME = __name__.rpartition(".")[0]  # under which the app is imported: it may be copied or installed under any


class EventsConfig(AppConfig):
    name = NAME

    def ready(self) -> None:
        from .checks import check_deployment, check_settings

        register(check_settings, "events")
        register(check_deployment, "events", deploy=True)


def get_label() -> str:
    """The app's label in this project, which its tables are named by."""
    return next(config.label for config in apps.get_app_configs() if config.name == NAME)
