"""Publishing over HTTP: with the token, or as staff."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from pytest_django.fixtures import Settings

from events.process import get_hub
from events.wire import Event

URL = "/events/publish/"
TOKEN = {"Authorization": "Bearer secret"}


OTHER_TYPES = [
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/x-www-form-urlencoded; charset=latin-1",
    "application/x-www-form-urlencoded",
    "text/plain; charset=no-such",
    "",
]
BODIES = {b'{"channel": "a", "data": 1}': 201, b"--x\r\n\r\n--x--": 400, b"--x": 400, b"a=%ff\xff": 400, b"": 400}


def reads_forms(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def answer(request: HttpRequest) -> HttpResponse:
        assert request.POST
        return get_response(request)

    return answer


@pytest.fixture
def token(settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "memory:", "PUBLISH_TOKEN": "secret", "MAX_EVENT_BYTES": 1000}


def post(client: Client, body: Any, headers: dict[str, str] | None = None) -> Any:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(URL, text, content_type="application/json", headers=headers)


def published() -> list[Event]:
    log = get_hub().log
    return log.newest(100)[1]


def error(response: Any) -> str:
    return str(json.loads(response.content)["error"])


@pytest.mark.usefixtures("token")
class TestWithTheToken:
    def test_an_event_is_published_and_its_id_returned(self, client: Client) -> None:
        response = post(client, {"channel": "orders", "data": {"id": 7}, "type": "paid"}, TOKEN)
        assert response.status_code == 201
        assert published() == [Event(json.loads(response.content)["id"], "orders", "paid", '{"id":7}')]

    def test_the_type_may_be_left_out(self, client: Client) -> None:
        assert post(client, {"channel": "a", "data": None}, TOKEN).status_code == 201
        assert published()[0].type == "message"

    def test_text_is_published_as_it_is_and_polled_as_it_is(self, client: Client) -> None:
        since = str(get_hub().log.head)
        assert post(client, {"channel": "cart", "text": "<b>3</b>\r\n", "type": "html"}, TOKEN).status_code == 201
        answer = client.get("/events/poll/", {"channel": "cart", "since": since}).json()
        assert [(event["type"], event["data"]) for event in answer["events"]] == [("html", "<b>3</b>\n")]

    @pytest.mark.parametrize("path", [URL, "/events/metrics/"])
    def test_a_token_that_is_not_ascii_is_taken_in_utf_8_and_in_latin_1(
        self, client: Client, settings: Settings, path: str
    ) -> None:
        settings.EVENTS |= {"PUBLISH_TOKEN": "sécret", "METRICS_TOKEN": "sécret"}
        method = client.post if path == URL else client.get
        for encoding, status in (("utf-8", (200, 400)), ("latin-1", (200, 400)), ("utf-16", (403,))):
            as_sent = "sécret".encode(encoding).decode("latin-1")
            assert method(path, headers={"Authorization": f"Bearer {as_sent}"}).status_code in status

    def test_the_name_of_the_scheme_has_no_case(self, client: Client) -> None:
        assert post(client, {"channel": "a", "data": 1}, {"Authorization": "bearer secret"}).status_code == 201

    @pytest.mark.parametrize("given", ["Bearer wrong", "Bearer ", "Bearer", "Basic secret", "secret", "Bearer sécret"])
    def test_any_other_token_is_refused(self, client: Client, given: str) -> None:
        assert post(client, {"channel": "a", "data": 1}, {"Authorization": given}).status_code == 403
        assert published() == []

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            "[]",
            '"text"',
            b"\xff",
            "[" * 100_000,
            {"channel": "a"},
            {"data": 1},
            {"channel": "a", "data": 1, "tpye": "x"},
            {"channel": "a", "data": 1, "text": "x"},
            {"channel": "a", "data": 1, "text": None},
            {"text": "x"},
        ],
    )
    def test_a_body_of_another_form_is_an_error_that_shows_the_form(self, client: Client, body: Any) -> None:
        response = post(client, body, TOKEN)
        assert response.status_code == 400
        assert '{"channel": …, "data": …}, or {"channel": …, "text": "…"}' in error(response)

    @pytest.mark.parametrize(
        ("body", "accepted"),
        [
            ({"channel": "no spaces", "data": 1}, "1 to 100 letters"),
            ({"channel": 7, "data": 1}, "1 to 100 letters"),
            ({"channel": "a", "data": 1, "type": "a\nb"}, "1 to 64 letters"),
            ({"channel": "a", "data": 1, "type": "hello"}, "reserved"),
            ({"channel": "a", "data": 1, "type": None}, "1 to 64 letters"),
            ('{"channel": "a", "data": NaN}', "what JSON can carry"),
            ({"channel": "a", "text": 7}, "a string, not 7"),
            ({"channel": "a", "text": None}, "either data"),
            ({"channel": "a", "text": "\0"}, "no NUL"),
            ({"channel": "a", "text": "\ud800"}, "no lone surrogates"),
        ],
    )
    def test_a_wrong_field_is_an_error_that_says_what_is_accepted(
        self, client: Client, body: Any, accepted: str
    ) -> None:
        response = post(client, body, TOKEN)
        assert response.status_code == 400
        assert accepted in error(response)

    @pytest.mark.parametrize("content_type", OTHER_TYPES)
    def test_a_body_is_read_as_json_whatever_its_type(self, client: Client, content_type: str) -> None:
        for body, status in BODIES.items():
            assert client.generic("POST", URL, body, content_type, headers=TOKEN).status_code == status

    def test_a_body_that_middleware_has_read_as_a_form_is_an_error(self, client: Client, settings: Settings) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.reads_forms"]
        response = client.post(URL, {"channel": "a"}, headers=TOKEN)
        assert response.status_code == 400
        assert '{"channel": …, "data": …}' in error(response)

    def test_too_much_data_is_413_and_names_the_limit(self, client: Client) -> None:
        response = post(client, {"channel": "a", "data": "x" * 1000}, TOKEN)
        assert response.status_code == 413
        assert "1,000 bytes" in error(response)
        assert post(client, {"channel": "a", "text": "x" * 1001}, TOKEN).status_code == 413

    def test_a_body_longer_than_django_reads_is_413_as_well(self, client: Client) -> None:
        response = post(client, {"channel": "a", "data": "x" * 3_000_000}, TOKEN)
        assert response.status_code == 413
        assert "2,621,440 bytes" in error(response)

    def test_another_method_is_405_and_names_the_right_one(self, client: Client) -> None:
        response = client.get(URL, headers=TOKEN)
        assert (response.status_code, response["Allow"]) == (405, "POST")

    def test_nobody_needs_a_csrf_cookie(self) -> None:
        assert post(Client(enforce_csrf_checks=True), {"channel": "a", "data": 1}, TOKEN).status_code == 201


@pytest.mark.django_db
class TestAsStaff:
    def test_staff_may_publish_with_their_session_and_csrf_token(self) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(User.objects.create_user("ada", is_staff=True))
        client.get("/admin/password_change/")  # any page with a form sets the cookie
        csrf = {"X-CSRFToken": client.cookies["csrftoken"].value}
        assert post(client, {"channel": "a", "data": 1}, csrf).status_code == 201

    @pytest.mark.parametrize("content_type", OTHER_TYPES)
    def test_a_form_in_a_session_is_an_error_in_json(self, content_type: str) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(User.objects.create_user("ada", is_staff=True))
        client.get("/admin/password_change/")
        csrf = {"X-CSRFToken": client.cookies["csrftoken"].value}
        for body, status in BODIES.items():
            response = client.generic("POST", URL, body, content_type, headers=csrf)
            assert response.status_code in (status, 400)  # where the check finds no form, the body is not looked at
            assert response.status_code == 201 or len(error(response)) > 20
            assert client.generic("POST", URL, body, content_type).status_code in (400, 403)

    @pytest.mark.parametrize("headers", [{}, {"X-CSRFToken": "x" * 32}])
    def test_a_session_without_its_csrf_token_is_refused(self, headers: dict[str, str]) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(User.objects.create_user("ada", is_staff=True))
        response = post(client, {"channel": "a", "data": 1}, headers)
        assert response.status_code == 403
        assert "X-CSRFToken" in error(response)
        assert published() == []

    @pytest.mark.parametrize(("is_staff", "is_active"), [(False, True), (True, False)])
    def test_others_who_are_logged_in_may_not(self, client: Client, is_staff: bool, is_active: bool) -> None:
        client.force_login(User.objects.create_user("eve", is_staff=is_staff, is_active=is_active))
        assert post(client, {"channel": "a", "data": 1}).status_code == 403


def test_it_is_off_until_something_is_configured(client: Client, settings: Settings) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "auth" not in name and "messages" not in name]
    for headers in ({}, TOKEN):
        response = post(client, {"channel": "a", "data": 1}, headers)
        assert response.status_code == 403
        assert "PUBLISH_TOKEN" in error(response)
    assert published() == []
