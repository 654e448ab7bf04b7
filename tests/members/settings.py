"""The deployed project, with members for users."""

from tests.live.settings import *  # noqa: F403
from tests.live.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.members"]
AUTH_USER_MODEL = "members.Member"
ROOT_URLCONF = "tests.members.urls"
