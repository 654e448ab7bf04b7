from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from events.conf import get_config
from events.process import get_hub


def test_every_key_has_a_default(settings: Settings) -> None:
    settings.EVENTS = {}
    assert get_config().HEARTBEAT == 15.0
    del settings.EVENTS
    assert get_config().RETRY == 2000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"HEARTBEET": 1}, "EVENTS has no key 'HEARTBEET'; it takes BROKER, "),
        ({"HEARTBEAT": 0}, r"EVENTS\['HEARTBEAT'\] takes a number from 0.1 to 3,600, not 0."),
        ({"HEARTBEAT": "15"}, "takes a number from 0.1 to 3,600, not '15'"),
        ({"RETRY": 1.5}, "takes a whole number from 0 to 3,600,000, not 1.5"),
        ({"HISTORY": True}, "takes a whole number from 1 to 10,000,000, not True"),
        ({"MAX_STREAMS": float("nan")}, "takes a whole number"),
        ({"HEARTBEAT": float("nan")}, "takes a number"),
        ({"BROKER": None}, r"EVENTS\['BROKER'\] takes text, not None"),
        ({"ALLOWED_ORIGINS": "https://a.org"}, r"EVENTS\['ALLOWED_ORIGINS'\] takes a list of origins such as"),
        ({"ALLOWED_ORIGINS": ["*"]}, r"without a path or a default port; not \['\*'\]"),
        ({"ALLOWED_ORIGINS": ["null"]}, "takes a list of origins"),
        ({"ALLOWED_ORIGINS": ["https://a.org/"]}, "takes a list of origins"),
        ({"ALLOWED_ORIGINS": ["https://A.org"]}, "takes a list of origins"),
        ({"ALLOWED_ORIGINS": ["https://a.org:443"]}, "takes a list of origins"),
        ({"ALLOWED_ORIGINS": ["https://*.a.org"]}, "takes a list of origins"),
        ({"ALLOWED_ORIGINS": [None]}, "takes a list of origins"),
        ({"TRUSTED_PROXIES": ["10.0.0.1/8"]}, r"EVENTS\['TRUSTED_PROXIES'\] takes a list of addresses and networks"),
        ({"TRUSTED_PROXIES": ["nginx"]}, "and 'unix'; not"),
        (["BROKER"], r"EVENTS takes a dict, not \['BROKER'\]"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_accepted(settings: Settings, given: Any, message: str) -> None:
    settings.EVENTS = given
    with pytest.raises(ImproperlyConfigured, match=message):
        get_config()


def test_origins_and_networks_as_they_are_written(settings: Settings) -> None:
    settings.EVENTS = {
        "ALLOWED_ORIGINS": ["https://a.org", "http://localhost:5173", "http://[::1]:8000", "capacitor://localhost"],
        "TRUSTED_PROXIES": ("127.0.0.1", "::1", "10.0.0.0/8", "2001:db8::/32", "unix"),
    }
    assert len(get_config().ALLOWED_ORIGINS) == 4
    assert len(get_config().TRUSTED_PROXIES) == 5


def test_an_unknown_broker_is_an_error_that_names_the_known_ones(settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "carrier-pigeon://coop"}
    with pytest.raises(ImproperlyConfigured, match=r"takes 'memory:'.*not 'carrier-pigeon://coop'"):
        get_hub()
