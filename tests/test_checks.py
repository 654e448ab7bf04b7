"""The system checks: what they say of a project that does all wrong, and that they say nothing of what is right."""

import re
import secrets
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import set_script_prefix
from pytest_django.fixtures import Settings

from events import checks
from tests.live.servers import ROOT
from tests.test_settings import manage

EVERYTHING = {"E003", "I009", "W001", "W003", "W004", "W005", "W007", "W008", "W010", "W011", "W012", "W014", "W015"}
INSTEAD = {
    "no ASGI application": "W002",
    "a broken ASGI application": "E004",
    "no URL": "W013",
    "an unknown key": "E001",
    "an unknown alias": "E002",
    "no redis": "E002",
    "no rule": "E005",
    "a small pool": "W006",
    "another database": "W016",
    "only hashed files": "W017",
}

MEANT = {"AUTHORIZE": "events.authorization.by_prefix"}


def reported(fault: str) -> set[str]:
    done = manage("check", "--deploy", DJANGO_SETTINGS_MODULE="tests.bad.settings", FAULT=fault)
    assert "Traceback" not in done.stderr
    return set(re.findall(r"\(events\.([EWI]\d{3})\)", done.stderr))


def found(settings: Settings) -> set[str]:
    """What all checks report of these settings."""
    return {str(message.id).removeprefix("events.") for message in checks.check_settings() + checks.check_deployment()}


def test_a_project_that_does_all_wrong_is_told_everything() -> None:
    assert reported("") == EVERYTHING


@pytest.mark.parametrize("fault", INSTEAD)
def test_it_is_told_what_excludes_the_others(fault: str) -> None:
    assert INSTEAD[fault] in reported(fault)


def test_the_demonstration_is_told_nothing() -> None:
    done = manage(
        *("check", "--deploy", "--fail-level", "INFO"),
        DJANGO_SECRET_KEY=secrets.token_urlsafe(50),
        DJANGO_ALLOWED_HOSTS="example.org",
        DJANGO_HTTPS="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "System check identified no issues" in done.stdout


def test_in_development_only_that_is_told_which_is_wrong_there_too() -> None:
    assert manage("check", "--fail-level", "INFO", DJANGO_DEBUG="1", EVENTS_BROKER="memory:").returncode == 0


def test_a_script_name_hides_no_mark_of_the_stream(settings: Settings) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.bad.middleware.sync_only"]
    set_script_prefix("/app/")
    try:
        [told] = [message for message in checks.check_deployment() if message.id == "events.I009"]
    finally:
        set_script_prefix("/")
    assert "but for streams and polls, which run in one thread anyway" in told.msg


def test_every_check_is_documented() -> None:
    ids = r"events\.([EWI]\d{3})"
    documented = re.findall(rf"^\| `{ids}`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(set(re.findall(ids, Path(checks.__file__).read_text())))
    assert set(documented) == EVERYTHING | set(INSTEAD.values())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("EVENTS", MEANT | {"BROKER": "db:", "HEARTBEAT": 59.9}),
        ("EVENTS", MEANT | {"BROKER": "redis://127.0.0.1:1"}),  # that nobody answers there is not for a check to find
        ("EVENTS", MEANT | {"BROKER": "db:default", "METRICS_TOKEN": "secret"}),
        ("SESSION_ENGINE", "django.contrib.sessions.backends.cache"),
        ("WSGI_APPLICATION", "mysite.wsgi.application"),
    ],
)
def test_what_is_right_is_not_reported(settings: Settings, setting: str, value: Any) -> None:
    settings.EVENTS = MEANT
    setattr(settings, setting, value)
    assert found(settings) == set()


@pytest.mark.django_db  # as a stream ends, Django looks after the connections to the database
@pytest.mark.parametrize("first", [True, False])
def test_compressing_middleware_that_spares_streams_is_right_in_any_place(
    settings: Settings, client: Client, first: bool
) -> None:
    settings.EVENTS = MEANT | {"BROKER": "memory:"}
    gzip, others = ["django.middleware.gzip.GZipMiddleware"], settings.MIDDLEWARE
    settings.MIDDLEWARE = gzip + others if first else others + gzip
    assert found(settings) == {"W001"}
    response = client.get("/events/", headers={"Accept-Encoding": "gzip"})
    assert next(iter(response)).startswith(b"retry: ")
    response.close()


@pytest.mark.parametrize(
    ("cors", "told"),
    [
        ({"CORS_ALLOW_ALL_ORIGINS": True}, "of all channels that need no user"),
        ({"CORS_ALLOW_ALL_ORIGINS": True, "CORS_ALLOW_CREDENTIALS": True}, "with their visitors' cookies"),
        ({"CORS_ALLOWED_ORIGIN_REGEXES": [r".*"]}, "of all channels that need no user"),
        ({"CORS_ALLOWED_ORIGINS": ["https://other.example"]}, None),
        ({"CORS_ALLOWED_ORIGINS": ["https://listed.example"], "CORS_ALLOW_CREDENTIALS": True}, None),
        ({"CORS_ALLOW_ALL_ORIGINS": True, "CORS_URLS_REGEX": r"^/(?!events/)"}, None),  # as docs/security.md has it
        ({}, None),
    ],
)
def test_cors_middleware_that_overrides_ours_is_told(
    settings: Settings, cors: dict[str, Any], told: str | None
) -> None:
    settings.EVENTS = MEANT | {"BROKER": "db:", "ALLOWED_ORIGINS": ["https://listed.example"]}
    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    for name, value in cors.items():
        setattr(settings, name, value)
    messages = checks.check_settings()
    assert [message.id for message in messages] == (["events.W015"] if told else [])
    assert not told or told in messages[0].msg


def test_cors_middleware_that_says_star_to_a_listed_origin_alone_is_told(settings: Settings) -> None:
    settings.EVENTS = MEANT | {"BROKER": "db:", "ALLOWED_ORIGINS": ["https://listed.example"]}
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.bad.middleware.cors_for_one"]
    [message] = checks.check_settings()
    assert "browsers will not show these origins" in message.msg
