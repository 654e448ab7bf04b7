"""Live views, and all the ways in which an answer that was made for one visitor could reach another."""

import gc
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import path
from django.utils import timezone, translation
from django.utils.decorators import method_decorator
from pytest_django.fixtures import Settings
from rest_framework.decorators import api_view
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from events import live, publish, revoke
from events.live import _evaluator
from events.watched import EVERYTHING, WatchedASGIRequest
from tests.test_live import Listener

pytestmark = pytest.mark.django_db

STREAM = {"accept": "text/event-stream"}
state: dict[str, Any] = {}


def answer(request: HttpRequest) -> Any:
    return state["answer"](request)


class Above(APIView):  # type: ignore[misc]  # untyped
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> Response:
        return Response(state["answer"](request))


@api_view(["GET", "POST"])  # type: ignore[untyped-decorator]
@live(every=0.05)
def below(request: Request) -> Response:
    return Response(state["answer"](request))


@live(every=0.05)
@api_view(["GET"])  # type: ignore[untyped-decorator]
def above(request: Request) -> Response:
    return Response(state["answer"](request))


urlpatterns = [
    path("status/", live(every=0.05)(answer)),
    path("seldom/", live(every=3600)(answer)),
    path("on/", live(on=["orders"])(answer)),
    path("own/", live(on=lambda request: [f"orders:{request.COOKIES['token']}"])(answer)),
    path("drf/class/", method_decorator(live(every=0.05), name="dispatch")(Above).as_view()),
    path("drf/below/", below),
    path("drf/above/", above),
]


@pytest.fixture(autouse=True)
def site(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 3600}
    state["answer"] = lambda request: JsonResponse({"open": 0})


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners = []

    def make(client: Client, url: str = "/status/", **headers: str) -> Listener:
        listeners.append(Listener(client, url, **headers))
        assert listeners[-1].next().type == "hello", listeners[-1].response
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.response.close()


class TokenMiddleware:
    """Knows its users by a header, and tells nobody that it has looked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.tenant = request.META.get("HTTP_X_TOKEN", "") or request.COOKIES.get("token", "")  # type: ignore[attr-defined]
        return self.get_response(request)


class GateMiddleware:
    """Writes into META whom a token is of, as long as it is valid."""

    valid: ClassVar[set[str]] = set()

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if (token := request.COOKIES.get("token", "")) in self.valid:
            request.META["REMOTE_USER"] = token
        return self.get_response(request)


class CensorMiddleware:
    """Takes out of an answer what nobody should see."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not response.streaming:
            response.content = response.content.replace(b"secret", b"******")
        return response


def rendered(template: str) -> Callable[[HttpRequest], HttpResponse]:
    return lambda request: TemplateResponse(
        request,
        engines["django"].from_string(template),
        {},
    )


# What each of these answers depends on the visitor: by one of these headers or cookies, or the address.
LOOKS: dict[str, Callable[[HttpRequest], Any]] = {
    "META.items()": lambda request: dict(request.META.items())["HTTP_X_TOKEN"],
    "META.copy()": lambda request: request.META.copy()["HTTP_X_TOKEN"],
    "{**META}": lambda request: {**request.META}["HTTP_X_TOKEN"],
    "META |": lambda request: (request.META | {})["HTTP_X_TOKEN"],
    "META.values()": lambda request: [value for value in request.META.values() if value in ("ada", "bob")],
    "META.pop": lambda request: request.META.pop("HTTP_X_TOKEN"),
    "META.setdefault": lambda request: request.META.setdefault("HTTP_X_TOKEN", "none"),
    "in META": lambda request: "HTTP_X_ADA" in request.META,
    "headers.items()": lambda request: dict(request.headers.items())["X-Token"],
    "list(headers)": lambda request: "X-Ada" in list(request.headers),
    "in headers": lambda request: "x-ada" in request.headers,
    "environ": lambda request: request.environ["HTTP_X_TOKEN"],  # type: ignore[attr-defined]
    "COOKIES.items()": lambda request: dict(request.COOKIES.items()).get("token"),
    "COOKIES.copy()": lambda request: request.COOKIES.copy()["token"],
    "{**COOKIES}": lambda request: {**request.COOKIES}["token"],
    "COOKIES.values()": lambda request: list(request.COOKIES.values()),
    "json of COOKIES": lambda request: json.dumps(request.COOKIES),
    "str of COOKIES": lambda request: str(request.COOKIES),
    "COOKIES |": lambda request: (request.COOKIES | {})["token"],
    "signed cookie": lambda request: request.get_signed_cookie("signed", "none"),
    "REMOTE_PORT": lambda request: request.META["REMOTE_PORT"],
    "certificate": lambda request: request.META["SSL_CLIENT_S_DN"],
    "session key": lambda request: request.session.session_key,
}


def visitor(name: str) -> tuple[Client, dict[str, str]]:
    client = Client(
        REMOTE_ADDR={"ada": "192.0.2.1", "bob": "192.0.2.2"}[name], REMOTE_PORT=name, SSL_CLIENT_S_DN=f"CN={name}"
    )
    client.cookies["token"] = name
    signed = HttpResponse()
    signed.set_signed_cookie("signed", name)
    client.cookies["signed"] = signed.cookies["signed"].value
    session = client.session
    session["name"] = name
    session.save()
    return client, {"X-Token": name, f"X-{name}": "1"}


def assert_each_gets_its_own(listen: Any, view: Callable[[HttpRequest], HttpResponse]) -> None:
    """Each of two visitors is told what its own poll is told, at first and later."""
    state["answer"] = view
    visitors = [visitor("ada"), visitor("bob")]
    listeners = [listen(client, **headers) for client, headers in visitors]
    version = itertools.count()
    for _ in range(2):
        polled = [client.get("/status/", headers=headers).content.decode() for client, headers in visitors]
        told = [listener.next().data for listener in listeners]
        assert told == polled
        assert polled[0] != polled[1]
        number = next(version)
        state["answer"] = lambda request, number=number: _added(view(request), number)


def _added(response: HttpResponse, number: int) -> HttpResponse:
    if isinstance(response, TemplateResponse):
        response.render()
    response.content += f" {number}".encode()
    return response


@pytest.mark.parametrize("look", LOOKS)
def test_however_a_view_looks_at_who_asks_its_answer_is_for_nobody_else(listen: Any, look: str) -> None:
    assert_each_gets_its_own(listen, lambda request: HttpResponse(str(LOOKS[look](request))))


@pytest.mark.parametrize("template", ["{{ request.COOKIES.token }}", "{{ request.META.REMOTE_ADDR }}"])
def test_a_template_that_is_rendered_after_the_view_looks_too(listen: Any, template: str) -> None:
    assert_each_gets_its_own(listen, rendered(template))


def test_what_middleware_has_looked_at_counts_too(listen: Any, settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.TokenMiddleware", *settings.MIDDLEWARE]
    assert_each_gets_its_own(listen, lambda request: HttpResponse(request.tenant))  # type: ignore[attr-defined]


def test_what_middleware_has_written_for_one_evaluation_is_not_there_in_the_next(
    listen: Any, settings: Settings
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.GateMiddleware", *settings.MIDDLEWARE]
    numbers = itertools.count()
    state["answer"] = lambda request: HttpResponse(f"{request.META.get('REMOTE_USER')} {next(numbers)}")
    GateMiddleware.valid = {"ada", "bob"}
    listeners = [listen(visitor(name)[0]) for name in ("ada", "bob")]
    assert [listener.next().data.split()[0] for listener in listeners] == ["ada", "bob"]
    GateMiddleware.valid = {"bob"}
    while listeners[0].next().data.startswith("ada"):
        pass
    assert {listeners[0].next().data.split()[0] for _ in range(3)} == {"None"}
    assert {listeners[1].next().data.split()[0] for _ in range(3)} == {"bob"}


def test_what_a_client_sends_as_the_type_of_a_body_is_not_looked_at(listen: Any) -> None:
    numbers = itertools.count()
    state["answer"] = lambda request: HttpResponse(f"{request.content_type} {next(numbers)}")
    client = Client()
    client.defaults["CONTENT_TYPE"] = "text/ada"
    assert "ada" not in listen(client).next().data


def test_a_language_that_is_in_a_cookie_is_for_nobody_else(listen: Any, settings: Settings) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    settings.LANGUAGES = [("en", "English"), ("de", "German"), ("fr", "French")]
    numbers = itertools.count()
    state["answer"] = lambda request: HttpResponse(f"{translation.get_language()} {next(numbers)}")
    listeners = {}
    for language in ("de", "fr"):
        client = Client()
        client.cookies[settings.LANGUAGE_COOKIE_NAME] = language
        listeners[language] = listen(client)
    for language, listener in listeners.items():
        assert [listener.next().data.split()[0] for _ in range(3)] == [language] * 3


def test_a_language_that_a_view_has_activated_does_not_stay(listen: Any) -> None:
    def german(request: HttpRequest) -> HttpResponse:
        before = translation.get_language()
        translation.activate("de")
        return HttpResponse(f"{before} {next(numbers)}")

    numbers = itertools.count()
    before, state["answer"] = translation.get_language(), german
    listener = listen(Client())
    assert [listener.next().data.split()[0] for _ in range(3)] == [before] * 3


def test_a_view_that_begins_to_look_at_who_asks_is_evaluated_apart_from_then_on(listen: Any) -> None:
    ada, bob = Client(), Client()
    bob.cookies["name"] = "bob"
    listeners = [listen(ada), listen(bob)]
    assert [listener.answer() for listener in listeners] == [{"open": 0}] * 2
    state["answer"] = lambda request: HttpResponse(request.COOKIES.get("name", "nobody"))
    assert [listener.next().type for listener in listeners] == ["drain", "drain"]
    again = [listen(ada), listen(bob)]
    assert [listener.next().data for listener in again] == ["nobody", "bob"]


@pytest.mark.parametrize("header", ["Vary", "Cache-Control"])
def test_an_answer_that_becomes_private_ends_what_was_shared(listen: Any, header: str) -> None:
    ada, bob = Client(), Client()
    ada.cookies["a"], bob.cookies["b"] = "1", "1"
    listeners = [listen(ada), listen(bob)]
    for listener in listeners:
        listener.next()
    value = {"Vary": "Cookie", "Cache-Control": "private"}[header]
    state["answer"] = lambda request: HttpResponse("for one", headers={header: value})
    assert [listener.next().type for listener in listeners] == ["drain", "drain"]


def evaluation_of(listener: Listener) -> Any:
    """What tells one evaluation from another: the channel that its answers are shown on."""
    return listener.response._stream.subscription.channels


USUAL = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.gzip.GZipMiddleware",
]


@pytest.mark.parametrize("template", ["", "{% load i18n %}{% translate 'Yes' %} {{ request.path }}"])
def test_users_of_a_usual_site_share_one_evaluation_where_nobody_looks_at_them(
    listen: Any, settings: Settings, template: str
) -> None:
    settings.MIDDLEWARE = USUAL
    evaluations: list[int] = []

    def status(request: HttpRequest) -> HttpResponse:
        evaluations.append(1)
        return rendered(template)(request) if template else JsonResponse({"open": 0})

    state["answer"] = status
    listeners = []
    for number in range(20):
        client = visitor("ada")[0]
        client.force_login(User.objects.create(username=f"user-{number}"))
        client.defaults |= {"REMOTE_ADDR": f"192.0.2.{number}", "REMOTE_PORT": f"5{number}"}
        client.cookies["csrftoken"] = f"{number:032}"
        headers = {"User-Agent": f"Browser/{number}", "Accept-Language": "en", "Accept-Encoding": f"gzip;q=0.{number}"}
        listeners.append(listen(client, "/seldom/", **headers))
    assert {evaluation_of(listener) for listener in listeners} == {evaluation_of(listeners[0])}
    assert len(evaluations) < 20  # who comes within a second of the last evaluation is told what that has answered


def test_the_others_go_on_when_the_first_of_them_leaves(listen: Any) -> None:
    ada, bob = visitor("ada")[0], visitor("bob")[0]
    first, second = listen(ada), listen(bob)
    assert second.answer() == {"open": 0}
    first.response.close()
    del first
    gc.collect()
    state["answer"] = lambda request: JsonResponse({"open": 1})
    assert second.answer() == {"open": 1}


def test_the_stream_of_a_user_who_is_revoked_ends_and_the_others_go_on(
    listen: Any, django_capture_on_commit_callbacks: Any
) -> None:
    numbers = itertools.count()
    state["answer"] = lambda request: HttpResponse(f"{request.user.is_authenticated} {next(numbers)}")
    users = [User.objects.create(username=name) for name in ("ada", "bob")]
    clients = [Client(), Client()]
    for client, user in zip(clients, users, strict=True):
        client.force_login(user)
    listeners = [listen(client) for client in clients]
    with django_capture_on_commit_callbacks(execute=True):
        revoke(users[0])
    while (event := listeners[0].next()).type == "message":
        pass
    assert event.type == "drain"
    assert [listeners[1].next().type for _ in range(3)] == ["message"] * 3


def test_a_session_that_is_gone_ends_its_stream_and_no_other(listen: Any) -> None:
    numbers = itertools.count()
    state["answer"] = lambda request: HttpResponse(f"{request.session.get('name')} {next(numbers)}")
    clients = [visitor(name)[0] for name in ("ada", "bob")]
    listeners = [listen(client) for client in clients]
    clients[0].session.flush()
    while (event := listeners[0].next()).type == "message":
        assert event.data.startswith("ada")
    assert event.type == "drain"
    assert [listeners[1].next().data.split()[0] for _ in range(3)] == ["bob"] * 3


def secret(request: HttpRequest) -> HttpResponse:
    """For those who are logged in, and another one each time."""
    user = request.user
    return HttpResponse(f"secret of {user.get_username()} {next(numbers)}" if user.is_authenticated else "log in")


numbers = itertools.count()


def until_the_end(listener: Listener) -> list[str]:
    told = []
    while (event := listener.next()).type == "message":
        told.append(event.data)
    assert event.type == "drain"
    return told


def test_a_session_that_expires_ends_its_stream(listen: Any) -> None:
    state["answer"] = secret
    client = Client()
    client.force_login(User.objects.create(username="ada"))
    listener = listen(client)
    assert listener.next().data.startswith("secret of ada")
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert len(until_the_end(listener)) < 3
    assert listen(Client()).next().data == "log in"


def test_who_logs_in_while_streaming_is_told_so_by_another_stream_alone(listen: Any) -> None:
    state["answer"] = secret
    browser = Client()
    before, neighbour = listen(browser), listen(Client())
    browser.force_login(User.objects.create(username="ada"))
    after = listen(browser)
    assert after.next().data.startswith("secret of ada")
    assert [stream.next().data for stream in (before, neighbour)] == ["log in"] * 2
    state["answer"] = lambda request: HttpResponse("still: " + secret(request).content.decode())
    assert [stream.next().data for stream in (before, neighbour)] == ["still: log in"] * 2
    assert after.next().data.startswith("still: secret of ada")


def test_another_user_in_the_same_browser_is_told_nothing_of_the_one_before(listen: Any) -> None:
    state["answer"] = secret
    browser = Client()
    browser.force_login(User.objects.create(username="ada"))
    adas = listen(browser)
    adas.next()
    browser.logout()
    browser.force_login(User.objects.create(username="bob"))
    bobs = listen(browser)
    assert {bobs.next().data.split()[2] for _ in range(3)} == {"bob"}
    assert not any("bob" in data for data in until_the_end(adas))


def test_sessions_that_are_saved_on_every_request_are_streamed_each_to_its_own(listen: Any, settings: Settings) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    state["answer"] = lambda request: HttpResponse(f"for all {next(numbers)}")
    one, other = (listen(visitor(name)[0]) for name in ("ada", "bob"))
    assert "sessionid" in one.response.cookies  # of the request for the stream, as of each
    assert evaluation_of(one) != evaluation_of(other)
    assert [one.next().type for _ in range(3)] == ["message"] * 3


def test_who_is_told_of_other_events_is_evaluated_apart(listen: Any, django_capture_on_commit_callbacks: Any) -> None:
    """Though the view looks at nobody, what it is evaluated at differs."""
    clients = [visitor(name)[0] for name in ("ada", "bob")]
    listeners = [listen(client, "/own/") for client in clients]
    assert evaluation_of(listeners[0]) != evaluation_of(listeners[1])
    for listener in listeners:
        listener.next()
    state["answer"] = lambda request: JsonResponse({"open": 1})
    with django_capture_on_commit_callbacks(execute=True):
        publish("orders:bob", "paid")
    assert listeners[1].answer() == {"open": 1}


def test_an_event_while_the_first_answer_is_made_is_not_missed(
    listen: Any, client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    def meanwhile(request: HttpRequest) -> HttpResponse:
        state["answer"] = lambda request: JsonResponse({"open": 1})
        with django_capture_on_commit_callbacks(execute=True):
            publish("orders", "paid")
        return JsonResponse({"open": 0})

    state["answer"] = meanwhile
    listener = listen(client, "/on/")
    assert [listener.answer(), listener.answer()] == [{"open": 0}, {"open": 1}]


def test_an_answer_that_was_asked_for_earlier_does_not_replace_a_later_one(listen: Any) -> None:
    first = listen(Client(), "/on/")
    assert first.answer() == {"open": 0}
    late: list[Listener] = []

    def slow(request: HttpRequest) -> HttpResponse:
        state["answer"] = lambda request: JsonResponse({"open": 2})
        source = first.response._stream._source
        source.evaluate()  # as an event has it done meanwhile
        return JsonResponse({"open": 1})

    state["answer"] = slow
    time.sleep(1.1)  # until its answer is not told to who comes any more
    late.append(listen(Client(), "/on/"))
    assert [first.answer(), late[0].answer()] == [{"open": 2}] * 2


MIDDLEWARE = {
    "gzip": ("django.middleware.gzip.GZipMiddleware", None),
    "conditional": ("django.middleware.http.ConditionalGetMiddleware", None),
    "censor": (f"{__name__}.CensorMiddleware", None),
    "cache": ("django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.FetchFromCacheMiddleware"),
}


@pytest.mark.parametrize("name", MIDDLEWARE)
def test_what_is_streamed_is_what_a_poll_is_answered_through_all_middleware(
    listen: Any, settings: Settings, name: str
) -> None:
    first, last = MIDDLEWARE[name]
    settings.MIDDLEWARE = [first, *settings.MIDDLEWARE, *([last] if last else [])]
    settings.CACHE_MIDDLEWARE_SECONDS = 1
    text = "the secret answer " * 40
    state["answer"] = lambda request: HttpResponse(text)
    client = Client(headers={"Accept-Encoding": "gzip, deflate, br"})
    listener = listen(client)
    told = listener.next()
    polled = client.get("/status/", headers={"Accept-Encoding": "identity"})
    assert told.data == polled.content.decode()
    assert told.id.removeprefix("W/") == polled["ETag"].removeprefix("W/")
    state["answer"] = lambda request: HttpResponse(f"another {text}")
    changed = listener.next()
    assert changed.type == "message"
    assert changed.data.startswith("another")


def test_of_an_answer_that_is_no_text_there_is_no_stream(client: Client) -> None:
    state["answer"] = lambda request: HttpResponse(b"\x89PNG\xff\xfe", content_type="image/png")
    response = client.get("/status/", headers=STREAM)
    assert response["Content-Type"] == "image/png"
    assert (b"".join(response) if response.streaming else response.content) == b"\x89PNG\xff\xfe"


def test_an_answer_in_another_charset_arrives_in_utf_8(listen: Any, client: Client) -> None:
    state["answer"] = lambda request: HttpResponse("é", content_type="text/plain; charset=latin-1")
    assert listen(client).next().data == "é"


def test_a_view_that_fails_is_tried_again_before_the_next_event(
    listen: Any, client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    client.raise_request_exception = False
    listener = listen(client, "/on/")
    assert listener.answer() == {"open": 0}

    def fail(request: HttpRequest) -> HttpResponse:
        state["answer"] = lambda request: JsonResponse({"open": 1})
        raise RuntimeError("the database is away")

    state["answer"] = fail
    with django_capture_on_commit_callbacks(execute=True):
        publish("orders", "paid")
    assert listener.answer() == {"open": 1}


class TestRestFramework:
    @pytest.mark.parametrize("url", ["/drf/class/", "/drf/below/", "/drf/above/"])
    def test_views_are_streamed(self, listen: Any, client: Client, url: str) -> None:
        state["answer"] = lambda request: {"open": 0}
        polled = client.get(url)
        assert (polled.status_code, polled.json()) == (200, {"open": 0})
        assert client.get(url, headers={"If-None-Match": polled["ETag"]}).status_code == 304
        listener = listen(client, url)
        assert listener.answer() == {"open": 0}
        state["answer"] = lambda request: {"open": 1}
        assert listener.answer() == {"open": 1}

    @pytest.mark.parametrize("url", ["/drf/class/", "/drf/below/", "/drf/above/"])
    def test_who_authenticates_gets_nobody_elses_answer(self, listen: Any, url: str) -> None:
        numbers = itertools.count()
        state["answer"] = lambda request: {"auth": request.META.get("HTTP_AUTHORIZATION", ""), "n": next(numbers)}
        listeners = {name: listen(Client(), url, Authorization=name) for name in ("ada", "bob")}
        for name, listener in listeners.items():
            assert [listener.answer()["auth"] for _ in range(3)] == [name] * 3

    def test_another_method_is_as_before(self, client: Client) -> None:
        state["answer"] = lambda request: {"method": request.method}
        assert client.post("/drf/below/").json() == {"method": "POST"}
        assert client.put("/drf/below/").status_code == 405

    def test_a_type_that_nothing_renders_is_not_acceptable_still(self, client: Client) -> None:
        assert client.get("/drf/above/", headers={"Accept": "image/png"}).status_code == 406


def test_an_answer_that_sets_a_cookie_as_a_header_is_not_streamed(client: Client) -> None:
    state["answer"] = lambda request: HttpResponse("a", headers={"Set-Cookie": f"visitor={next(numbers)}"})
    answers = [client.get("/status/", headers=STREAM) for _ in range(2)]
    assert not any(response.streaming for response in answers)
    assert answers[0]["Set-Cookie"] != answers[1]["Set-Cookie"]


def test_names_that_visitors_make_up_are_not_kept(listen: Any) -> None:
    """Whoever sends headers of ever new names would have all of them compared at each request after theirs."""
    state["answer"] = lambda request: HttpResponse(str(len(request.META)))
    first = listen(Client(), **{"X-Name-0": "1"})
    for number in range(1, 20):
        Client().get("/status/", headers=STREAM | {f"X-Name-{number}": "1"}).close()
    last = listen(Client(), **{"X-Name-20": "1"})
    assert evaluation_of(first) != evaluation_of(last)
    assert max(map(len, _evaluator._learned.values())) < 20


def test_who_is_revoked_is_not_told_what_was_answered_before(
    listen: Any, django_capture_on_commit_callbacks: Any
) -> None:
    def for_staff(request: HttpRequest) -> HttpResponse:
        return HttpResponse("secret" if request.user.is_staff else "nothing")

    state["answer"] = for_staff
    ada = User.objects.create(username="ada", is_staff=True)
    client = Client()
    client.force_login(ada)
    before = listen(client, "/seldom/")
    assert before.next().data == "secret"
    User.objects.update(is_staff=False)
    with django_capture_on_commit_callbacks(execute=True):
        revoke(ada)
    assert listen(client, "/seldom/").next().data == "nothing"


def test_a_view_that_fails_for_one_of_its_readers_is_asked_by_the_others(listen: Any) -> None:
    """It looked at nobody when they began to share it."""
    clients = {name: visitor(name)[0] for name in ("ada", "bob")}
    listeners = {}
    for name, client in clients.items():
        client.raise_request_exception = False
        listeners[name] = listen(client)
        assert listeners[name].answer() == {"open": 0}

    def for_all_but_ada(request: HttpRequest) -> HttpResponse:
        if (name := request.COOKIES["token"]) == "ada":
            raise RuntimeError("ada has no profile")
        return HttpResponse(name)

    state["answer"] = for_all_but_ada
    assert listeners["bob"].next().type == "drain"
    assert listen(clients["bob"]).next().data == "bob"


SCOPES: dict[str, Callable[[Any], Any]] = {
    "headers": lambda scope: scope["headers"],
    "client": lambda scope: scope.get("client"),
    "state": lambda scope: scope["state"],  # where an outer application keeps what it knows of the visitor
    "in": lambda scope: "state" in scope,
    "copy()": lambda scope: scope.copy()["client"],
    "{**}": lambda scope: {**scope}["client"],
    "dict()": lambda scope: dict(scope)["client"],
    "items()": lambda scope: [value for key, value in scope.items() if key == "client"],
    "values()": lambda scope: list(scope.values()),
    "|": lambda scope: (scope | {})["client"],
    "str()": str,
}


@pytest.mark.parametrize("look", SCOPES)
def test_however_an_asgi_scope_is_looked_at_that_is_known(look: str) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/status/",
        "query_string": b"",
        "headers": [(b"x-token", b"ada")],
        "client": ("192.0.2.1", 1),
        "state": {"user": "ada"},
    }
    request = WatchedASGIRequest(scope, io.BytesIO())
    assert request.scope["path"] == "/status/"
    assert request.looks.names == set()
    SCOPES[look](request.scope)
    assert EVERYTHING in request.looks.names


def test_what_was_sent_is_kept_from_the_first_request_of_a_process_on() -> None:
    """The views are imported while that is answered, when middleware has written into it what it knows."""
    code = (
        "import django; django.setup(); from django.core.signals import request_started; "
        "environ = {'HTTP_ACCEPT': 'text/event-stream'}; request_started.send(None, environ=environ); "
        "environ['REMOTE_USER'] = 'ada'; print(environ['events.live.sent'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{'HTTP_ACCEPT': 'text/event-stream'}"
