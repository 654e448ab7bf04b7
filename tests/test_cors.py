"""Reading from pages of other origins."""

from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

LISTED, OTHER = "https://app.example.org", "https://evil.example.org"
PATHS = ["/events/", "/events/poll/"]

pytestmark = pytest.mark.parametrize("path", PATHS)


@pytest.fixture
def listed(settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "memory:", "ALLOWED_ORIGINS": [LISTED]}


def sharing(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def ask(client: Client, path: str, origin: str, **headers: str) -> Any:
    return client.options(
        path, headers={"Origin": origin, "Access-Control-Request-Method": "GET", "X-Real": "1", **headers}
    )


def test_is_off_by_default(client: Client, path: str) -> None:
    response = client.get(path, headers={"Origin": LISTED})
    assert response.status_code == 200
    assert sharing(response) == {}
    assert "Origin" not in response.get("Vary", "")
    assert ask(client, path, LISTED).status_code == 405


@pytest.mark.usefixtures("listed")
class TestOnceListed:
    def test_an_origin_may_read_with_cookies(self, client: Client, path: str) -> None:
        response = client.get(path, headers={"Origin": LISTED})
        assert sharing(response) == {
            "Access-Control-Allow-Origin": LISTED,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "ETag, Retry-After, Server-Timing",
        }
        assert response["Vary"] == "Origin"

    def test_it_may_read_why_it_is_refused(self, client: Client, path: str) -> None:
        response = client.get(path, {"channel": "private:a"}, headers={"Origin": LISTED})
        assert response.status_code == 403
        assert sharing(response)["Access-Control-Allow-Origin"] == LISTED

    @pytest.mark.parametrize("origin", [OTHER, "null", "http://app.example.org", "https://app.example.org.evil.org"])
    def test_no_other_origin_may(self, client: Client, path: str, origin: str) -> None:
        response = client.get(path, headers={"Origin": origin})
        assert sharing(response) == {}
        assert response["Vary"] == "Origin"  # a cache must not give it to the listed one
        assert ask(client, path, origin).status_code == 405

    def test_a_preflight_is_answered(self, client: Client, path: str) -> None:
        response = ask(client, path, LISTED, **{"Access-Control-Request-Headers": "if-none-match,last-event-id"})
        assert (response.status_code, response.content) == (204, b"")
        assert sharing(response)["Access-Control-Allow-Origin"] == LISTED
        assert {"If-None-Match", "Last-Event-ID"} <= set(sharing(response)["Access-Control-Allow-Headers"].split(", "))

    def test_publishing_stays_off(self, client: Client, path: str) -> None:
        response = client.post("/events/publish/", headers={"Origin": LISTED})
        assert response.status_code == 403
        assert sharing(response) == {}
        assert ask(client, "/events/publish/", LISTED).status_code == 405
