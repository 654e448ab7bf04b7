"""Live views: what pollers get, what listeners get, and who never gets what."""

import asyncio
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from pytest_django.fixtures import Settings

from events import live, publish
from events.wire import Decoder, Event

pytestmark = pytest.mark.django_db

STREAM = {"accept": "text/event-stream"}

state: dict[str, Any] = {}
evaluations = itertools.count()


def answer(request: HttpRequest) -> Any:
    """What the test says."""
    return state["answer"](request) if callable(state["answer"]) else JsonResponse(state["answer"], safe=False)


@method_decorator(live(every=0.05), name="dispatch")
class Status(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse(state["answer"], safe=False)

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("posted")


@method_decorator(live(every=0.05), name="dispatch")
class StatusAsync(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse(state["answer"], safe=False)


class Plain(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse(state["answer"], safe=False)


class PlainAsync(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse(state["answer"], safe=False)


@live(every=0.05)
async def status_async(request: HttpRequest) -> Any:
    return answer(request)


urlpatterns = [
    path("status/", live(every=0.05)(answer)),
    path("class/", Status.as_view()),
    path("async/", status_async),
    path("class/async/", StatusAsync.as_view()),
    path("as-view/", live(every=0.05)(Plain.as_view())),
    path("as-view/async/", live(every=0.05)(PlainAsync.as_view())),
    path("slow/", live(every=3600)(answer)),
    path("order/<int:pk>/", live(on=lambda request, pk: [f"order:{pk}"])(lambda request, pk: answer(request))),
    path("fragment/", live(every=0.05, headers={"HX-Request": "true", "Accept": "text/html"})(answer)),
]


KINDS = ("/status/", "/async/", "/class/", "/class/async/", "/as-view/", "/as-view/async/")


@pytest.fixture(autouse=True)
def site(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 3600}
    state["answer"] = {"open": 0}


class Listener:
    """Reads a stream of the test client."""

    def __init__(self, client: Client, url: str = "/status/", **headers: str) -> None:
        self.response: Any = client.get(url, headers=STREAM | headers)
        self._decoder = Decoder()
        self._pieces = iter(self.response) if self.response.streaming else iter(())
        self._events: list[Event] = []

    def next(self) -> Event:
        while not self._events:
            self._events += self._decoder.feed(next(self._pieces))
        return self._events.pop(0)

    def answer(self) -> Any:
        event = self.next()
        assert event.type == "message", event
        return json.loads(event.data)


@pytest.fixture
def listen(client: Client) -> Iterator[Callable[..., Listener]]:
    listeners = []

    def make(*args: Any, **headers: str) -> Listener:
        listeners.append(Listener(args[0] if args and isinstance(args[0], Client) else client, *args[1:], **headers))
        assert listeners[-1].next().type == "hello"
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.response.close()


class TestPolls:
    def test_get_what_they_got_and_a_tag(self, client: Client) -> None:
        response = client.get("/status/")
        assert (response.status_code, response.json()) == (200, {"open": 0})
        assert response["Vary"] == "Accept"
        again = client.get("/status/", headers={"If-None-Match": response["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        state["answer"] = {"open": 1}
        assert client.get("/status/", headers={"If-None-Match": response["ETag"]}).status_code == 200

    @pytest.mark.parametrize("url", KINDS)
    def test_of_any_kind_of_view(self, client: Client, url: str) -> None:
        assert client.get(url)["ETag"]

    def test_with_another_method_are_as_before(self, client: Client) -> None:
        response = client.post("/class/", headers=STREAM)
        assert response.content == b"posted"
        assert not response.has_header("ETag")

    def test_with_a_wildcard_ask_for_no_stream(self, client: Client) -> None:
        assert not client.get("/status/", headers={"Accept": "*/*"}).streaming


class TestListeners:
    @pytest.mark.parametrize("url", KINDS)
    def test_get_the_present_answer_and_each_that_differs(self, client: Client, url: str) -> None:
        listener = Listener(client, url)
        assert listener.response["Content-Type"].startswith("text/event-stream")
        assert "Accept" in listener.response["Vary"]
        assert listener.next().type == "hello"
        first = listener.next()
        assert json.loads(first.data) == {"open": 0}
        assert first.id == client.get(url)["ETag"]
        state["answer"] = {"open": 1}
        assert listener.answer() == {"open": 1}
        listener.response.close()

    def test_who_come_back_with_the_tag_are_told_nothing_new(self, client: Client, listen: Any) -> None:
        tag = client.get("/status/")["ETag"]
        listener = listen(**{"Last-Event-ID": tag})
        state["answer"] = {"open": 1}
        assert listener.answer() == {"open": 1}

    def test_are_told_when_an_event_is_published(
        self, client: Client, listen: Any, django_capture_on_commit_callbacks: Any
    ) -> None:
        listener = listen(client, "/order/7/")
        assert listener.answer() == {"open": 0}
        state["answer"] = {"open": 1}
        with django_capture_on_commit_callbacks(execute=True):
            publish("order:8", "another")
            publish("order:7", "paid")
        assert listener.answer() == {"open": 1}

    def test_an_evaluation_asks_for_what_the_poll_asked_for(self, client: Client, listen: Any) -> None:
        asked = []

        def fragment(request: HttpRequest) -> HttpResponse:
            asked.append((request.headers["HX-Request"], request.headers["Accept"], request.META["HTTP_ACCEPT"]))
            return HttpResponse(f"<b>{len(asked)}</b>\n<i>two lines</i>")

        state["answer"] = fragment
        listener = listen(client, "/fragment/")
        assert [listener.next().data for _ in range(2)] == [f"<b>{n}</b>\n<i>two lines</i>" for n in (1, 2)]
        assert asked[:2] == [("true", "text/html", "text/html")] * 2

    def test_a_template_that_is_rendered_later_is_rendered(self, client: Client, listen: Any) -> None:
        state["answer"] = lambda request: TemplateResponse(request, "compare.html", {})
        assert client.get("/status/")["ETag"]
        assert "<" in listen().next().data

    def test_keep_the_last_answer_while_the_view_fails(self, client: Client, listen: Any) -> None:
        client.raise_request_exception = False
        listener = listen()
        assert listener.answer() == {"open": 0}
        failures = threading.Event()

        def fail(request: HttpRequest) -> HttpResponse:
            state["answer"] = {"open": 2}
            failures.set()
            raise RuntimeError("the database is away")

        state["answer"] = fail
        assert listener.answer() == {"open": 2}
        assert failures.is_set()

    @pytest.mark.parametrize("status", [401, 403, 404, 302])
    def test_end_when_they_may_read_no_more_and_are_told_why_when_they_come_back(
        self, client: Client, listen: Any, status: int
    ) -> None:
        listener = listen()
        listener.answer()
        state["answer"] = lambda request: JsonResponse({"error": "no"}, status=status)
        assert listener.next().type == "drain"
        assert client.get("/status/", headers=STREAM).status_code == status

    @pytest.mark.parametrize("url", ["/status/", "/async/"])
    @pytest.mark.parametrize(("error", "status"), [(Http404, 404), (PermissionDenied, 403)])
    def test_a_refusal_that_the_view_raises_is_marked_as_the_views(
        self, client: Client, url: str, error: type[Exception], status: int
    ) -> None:
        """By which `FeedSource` tells it from a page of a proxy."""

        def refuse(request: HttpRequest) -> HttpResponse:
            raise error

        state["answer"] = refuse
        for headers in ({}, STREAM):
            refused = client.get(url, headers=headers)
            assert refused.status_code == status
            assert "Accept" in refused["Vary"].split(", ")
        assert "Accept" not in client.post("/status/").get("Vary", "").split(", ")

    def test_head_opens_no_stream(self, client: Client) -> None:
        response = client.head("/status/", headers=STREAM)
        assert response["Content-Type"].startswith("text/event-stream")

    def test_more_than_fit_get_503_and_poll_the_same_url(self, client: Client, listen: Any, settings: Settings) -> None:
        settings.EVENTS |= {"MAX_THREAD_STREAMS": 1}
        listen()
        refused = client.get("/status/", headers=STREAM)
        assert (refused.status_code, refused["Retry-After"]) == (503, "10")
        assert client.get("/status/").json() == {"open": 0}


def test_with_djangos_asynchronous_client(settings: Settings) -> None:
    settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 3600}

    async def read(url: str) -> list[Event]:
        response: Any = await AsyncClient().get(url, headers=STREAM)
        decoder, events = Decoder(), list[Event]()
        async with aclosing(aiter(response)) as pieces:
            while len(events) < 2:
                events += decoder.feed(await anext(pieces))
        response.close()
        return events

    for url in KINDS:
        hello, answer = asyncio.run(read(url))
        assert (hello.type, answer.data) == ("hello", '{"open": 0}')


class TestWhatIsNotStreamed:
    """It is answered as before, and the log says why, once."""

    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (lambda: StreamingHttpResponse(iter([b"a"])), "streamed itself"),
            (lambda: HttpResponse("x" * 70_000), "70,000 bytes"),
        ],
    )
    def test_what_is_no_answer_to_share(
        self, client: Client, caplog: pytest.LogCaptureFixture, response: Any, reason: str
    ) -> None:
        state["answer"] = lambda request: response()
        for _ in range(2):
            answered = client.get("/slow/", headers=STREAM)
            assert not answered["Content-Type"].startswith("text/event-stream")
        assert caplog.text.count(reason) <= 1

    def test_an_answer_with_a_cookie(self, client: Client) -> None:
        def with_cookie(request: HttpRequest) -> HttpResponseBase:
            response = HttpResponse("a")
            response.set_cookie("seen", "1")
            return response

        state["answer"] = with_cookie
        response = client.get("/status/", headers=STREAM)
        assert (b"".join(response) if response.streaming else response.content) == b"a"
        assert response.cookies["seen"].value == "1"

    def test_an_answer_that_differs_each_time_is_told_with_what_differs(
        self, client: Client, listen: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        numbers = itertools.count()
        state["answer"] = lambda request: HttpResponse(f"<p>token={next(numbers)}</p>")
        listener = listen()
        for _ in range(8):
            listener.next()
        assert caplog.text.count("answers otherwise each time") == 1
        assert "token=" in caplog.text


async def channels_async(request: HttpRequest) -> list[str]:
    return ["orders"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"every": 0}, ValueError),
        ({"every": -1}, ValueError),
        ({"every": math.nan}, ValueError),
        ({"every": math.inf}, ValueError),
        ({"every": "2"}, ValueError),
        ({"every": True}, ValueError),
        ({"on": "orders"}, TypeError),
        ({"on": []}, ValueError),
        ({"on": ["no name"]}, ValueError),
        ({"on": [7]}, ValueError),
        ({"on": channels_async}, TypeError),
        ({"every": 2, "headers": "HX-Request"}, TypeError),
        ({"every": 2, "headers": {"HX-Request": True}}, TypeError),
        ({"every": 2, "headers": {"HX Request": "true"}}, ValueError),
        ({"every": 2, "headers": {"HX-Prompt": "a\nb"}}, ValueError),
        ({"every": 2, "headers": {"HX-Prompt": "\N{SNOWMAN}"}}, ValueError),
    ],
)
def test_arguments_that_are_not_accepted_are_refused_with_what_is(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"live\("):
        live(**arguments)


@pytest.mark.parametrize(("channels", "error"), [("orders", TypeError), (["no name"], ValueError), ([7], ValueError)])
def test_channels_that_are_none_are_refused_when_they_are_asked_for(channels: Any, error: type[Exception]) -> None:
    view = live(on=lambda request: channels)(answer)
    with pytest.raises(error, match=r"live\(on="):
        view(RequestFactory().get("/status/", headers=STREAM))


def test_on_a_method_it_says_how_that_is_done() -> None:
    class Orders(View):
        @live(every=2)
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("orders")

    with pytest.raises(TypeError, match=r"method_decorator\(live\("):
        Orders.as_view()(RequestFactory().get("/"))


def test_what_a_view_forgets_to_return_is_told_as_django_tells_it(client: Client) -> None:
    state["answer"] = lambda request: None
    with pytest.raises(ValueError, match="didn't return an HttpResponse"):
        client.get("/status/")


def whoami(request: HttpRequest) -> HttpResponse:
    user = request.user
    return JsonResponse({"user": user.get_username() if user.is_authenticated else ""})


def by_session(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.session.get("name", "")})


def by_cookie(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.COOKIES.get("name", "")})


def by_raw_cookie(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.META.get("HTTP_COOKIE", "").partition("name=")[2].partition(";")[0]})


def by_authorization(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.headers.get("Authorization", "")})


def by_language(request: HttpRequest) -> HttpResponse:
    response = JsonResponse({"user": request.META.get("HTTP_ACCEPT_LANGUAGE", "")})
    response["Vary"] = "Accept-Language"
    return response


def by_address(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.META["REMOTE_ADDR"]})


def by_host(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.get_host()})


ADDRESSES = {"ada": "192.0.2.1", "bob": "192.0.2.2", "": "192.0.2.3"}


def visitor(name: str, view: Any) -> tuple[Client, dict[str, str]]:
    """A browser of this visitor's, which the view can tell from others, and the headers that it sends."""
    client = Client(REMOTE_ADDR=ADDRESSES[name])
    if not name:
        return client, {}
    if view is whoami:
        client.force_login(User.objects.create(username=name))
    elif view is by_session:
        session = client.session
        session["name"] = name
        session.save()
    elif view in (by_cookie, by_raw_cookie):
        client.cookies["name"] = name
    elif view is by_authorization:
        return client, {"Authorization": name}
    elif view is by_language:
        return client, {"Accept-Language": name}
    return client, {}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "view", [whoami, by_session, by_cookie, by_raw_cookie, by_authorization, by_language, by_address]
)
def test_no_answer_that_was_made_for_one_visitor_reaches_another(view: Any) -> None:
    state["answer"] = view
    listeners = {}
    for name in ("ada", "bob", ""):
        client, headers = visitor(name, view)
        listeners[name] = Listener(client, **headers)
    whose = {address: name for name, address in ADDRESSES.items()}
    for name, listener in listeners.items():
        assert listener.next().type == "hello"
        told = listener.answer()["user"]
        assert whose.get(told, told) == name
    # Each is evaluated for its own visitor: a change that one of them sees is nobody else's.
    state["answer"] = lambda request: JsonResponse({**json.loads(view(request).content), "more": True})
    for name, listener in listeners.items():
        told = listener.answer()
        assert told["more"]
        assert whose.get(told["user"], told["user"]) == name
        listener.response.close()


def test_one_path_under_two_hosts_is_two_views(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["a.example", "b.example"]
    state["answer"] = by_host
    for host in settings.ALLOWED_HOSTS:
        listener = Listener(Client(SERVER_NAME=host))
        assert listener.next().type == "hello"
        assert listener.answer() == {"user": host}
        listener.response.close()


@pytest.mark.django_db
def test_who_is_logged_out_gets_no_further_answer(client: Client) -> None:
    def for_users(request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({"error": "log in"}, status=403)
        return JsonResponse({"secret": next(evaluations)})

    state["answer"] = for_users
    client.force_login(User.objects.create(username="ada"))
    listener = Listener(client)
    assert listener.next().type == "hello"
    assert "secret" in listener.answer()
    other = Client()
    other.cookies = client.cookies.copy()  # type: ignore[assignment]
    other.logout()
    seen = []
    while (event := listener.next()).type == "message":
        seen.append(event)
    assert event.type == "drain"
    assert len(seen) < 3


class TestHypermedia:
    def test_a_client_that_takes_html_as_well_gets_that_when_no_stream_can_be_had(
        self, client: Client, listen: Callable[..., Listener], settings: Settings
    ) -> None:
        settings.EVENTS |= {"MAX_STREAMS": 1, "MAX_THREAD_STREAMS": 1}
        state["answer"] = lambda request: HttpResponse("<b>1</b>")
        listen()
        for accepted in ("text/html, text/event-stream", "text/event-stream, text/*;q=0.5", "text/event-stream, */*"):
            response = client.get("/status/", headers={"Accept": accepted})
            assert (response.status_code, response.content) == (200, b"<b>1</b>")
            assert (response["Vary"], response.has_header("ETag")) == ("Accept", True)
        for accepted in ("text/event-stream", "text/event-stream, application/json"):
            assert client.get("/status/", headers={"Accept": accepted}).status_code == 503

    @pytest.mark.parametrize(
        ("answer", "type", "data"),
        [
            (HttpResponse("<b>\r\n1</b>"), "datastar-patch-elements", "elements <b>\nelements 1</b>"),
            (JsonResponse({"open": 1}), "datastar-patch-signals", 'signals {"open": 1}'),
        ],
    )
    def test_datastar_gets_events_of_its_own_types_and_others_do_not(
        self, listen: Callable[..., Listener], answer: HttpResponse, type: str, data: str
    ) -> None:
        state["answer"] = lambda request: answer
        first = listen(**{"Datastar-Request": "true"}).next()
        assert (first.type, first.data) == (type, data)
        assert listen().next().type == "message"
        again = listen(**{"Datastar-Request": "true", "Last-Event-ID": first.id})
        state["answer"] = lambda request: HttpResponse("<i>2</i>")
        assert again.next().data == "elements <i>2</i>"


@pytest.mark.django_db(transaction=True)
def test_a_refusal_that_the_view_raises_takes_back_what_it_wrote(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes_and_refuses(request: HttpRequest) -> HttpResponse:
        User.objects.create(username="ada")
        raise Http404

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    state["answer"] = writes_and_refuses
    for headers in ({}, STREAM):
        assert client.get("/status/", headers=headers).status_code == 404
        assert not User.objects.exists()
