import traceback
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from events.checks import check_settings
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
        ({"BROKER": None}, r"EVENTS\['BROKER'\] takes text, not NoneType"),
        ({1: 2, "x": 3}, "EVENTS has no key 1"),
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
        (["BROKER"], "EVENTS takes a dict, not list"),
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
    with pytest.raises(ImproperlyConfigured, match=r"takes 'memory:'.*not 'carrier-pigeon:…'"):
        get_hub()


@pytest.mark.parametrize(
    "given",
    [
        {"BROKER": "redsi://:hunter2@cache:6379"},
        {"BROKER": "redis:/:hunter2@cache"},
        {"BROKER": "//:hunter2@cache"},
        {"BROKER": "user:hunter2@cache"},
        {"BROKER": "hunter2"},
        {"BROKER": "db:postgres://shop:hunter2@db/shop"},
        {"BROKER": "memory:hunter2"},
        {"BROKER": "redis://:hunter2@cache:port"},
        {"BROKER": "redis://:hunter2@cache:99999"},
        {"BROKER": "redis://:hunter2/x@cache"},
        {"BROKER": "redis://:hunter2#x@cache"},
        {"BROKER": "redis://:1?hunter2@cache"},
        {"BROKER": "redis://[hunter2@cache"},
        {"BROKER": b"redis://:hunter2@cache"},
        {"PUBLISH_TOKEN": b"hunter2"},
        {"PUBLISH_TOKEN": "hunter2\n"},
        {"METRICS_TOKEN": " hunter2"},
        {"METRICS_TOKEN": "hunter2\x00"},
        [("PUBLISH_TOKEN", "hunter2")],
        "redis://:hunter2@cache",
    ],
)
def test_a_wrong_setting_is_told_without_what_is_secret(settings: Settings, given: Any) -> None:
    settings.EVENTS = given
    [error] = check_settings()
    assert error.id == "events.E001"
    assert "hunter2" not in f"{error}{error.hint}"
    with pytest.raises(ImproperlyConfigured) as raised:
        get_hub()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pass%40word@cache:6379/0",
        "rediss://user:secret@[::1]:6380",
        "unix:///run/redis.sock?db=1",
        "db:other",
    ],
)
def test_a_url_with_credentials_is_taken_and_not_shown(settings: Settings, url: str) -> None:
    settings.EVENTS = {"BROKER": url, "PUBLISH_TOKEN": "sécret", "METRICS_TOKEN": "secret with blanks"}
    assert url == get_config().BROKER
    assert "ecret" not in repr(get_config())
    assert url not in repr(get_config())
