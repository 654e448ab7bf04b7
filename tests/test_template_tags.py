"""`{% load events %}`: what a page hands to its feed."""

import asyncio
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.urls import include, path, set_script_prefix
from pytest_django.fixtures import Settings

from events import current_cursor, process, publish
from events.brokers import Unavailable
from events.log import Cursor
from events.process import get_hub
from events.publishing import InvalidEvent

ORDERS = '{% events_feed "orders" "user:7" %}'

urlpatterns = [path("live/", include("events.urls"))]


class Instances:
    urlpatterns = (
        path("one/", include("events.urls", namespace="one")),
        path("two/", include("events.urls", namespace="two")),
    )


class Within:
    urlpatterns = (path("site/", include((urlpatterns, "site"))),)


class Nothing:
    urlpatterns = ()


def render(tag: str, request: Any = None, **values: Any) -> str:
    context = RequestContext(request, values) if request else Context(values)
    return Template("{% load events %}" + tag).render(context)


def attributes(html: str) -> dict[str, str | None]:
    """Of the one element that this is."""
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(html)
    ((tag, given),) = found
    assert tag == "script"
    return given


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise Unavailable("It is away")

    monkeypatch.setattr(process, "Hub", fail)


@pytest.fixture
def prefix() -> Iterator[None]:
    set_script_prefix("/app/")
    yield
    set_script_prefix("/")


class TestTheFeed:
    def test_it_says_all_that_a_feed_needs(self) -> None:
        cursor = publish("orders", 1)
        assert attributes(render(ORDERS)) == {
            "type": "module",
            "src": "/static/events/page.js",
            "data-events": None,
            "data-channels": "orders user:7",
            "data-stream": "/events/",
            "data-poll": "/events/poll/",
            "data-cursor": cursor,
        }

    def test_channels_may_come_from_the_view_in_a_list(self) -> None:
        given = attributes(render("{% events_feed 'news' channels one %}", channels=["a", "b"], one="c"))
        assert given["data-channels"] == "news a b c"

    def test_a_cursor_that_the_view_took_before_it_read_counts(self) -> None:
        before = current_cursor()
        publish("orders", 1)
        assert attributes(render('{% events_feed "orders" cursor=before %}', before=before))["data-cursor"] == before

    def test_options_and_attributes(self) -> None:
        given = attributes(render('{% events_feed "a" share=True interval=1500 id="shop" nonce="r4nd0m" %}'))
        expected = {"data-share": "true", "data-interval": "1500", "id": "shop", "nonce": "r4nd0m"}
        assert expected.items() <= given.items()

    def test_values_are_escaped(self) -> None:
        html = render('{% events_feed "a" id=id cursor=cursor %}', id='"><script>', cursor="'\"&")
        assert "<script>" not in html
        assert attributes(html)["id"] == '"><script>'
        assert attributes(html)["data-cursor"] == "'\"&"

    @pytest.mark.parametrize(
        ("tag", "why"),
        [
            ("{% events_feed %}", "needs a channel"),
            ("{% events_feed missing %}", "1 to 100 letters"),
            ('{% events_feed "a b" %}', "1 to 100 letters"),
            ("{% events_feed many %}", "At most 32 channels"),
        ],
    )
    def test_channels_that_cannot_be_read_are_an_error(self, tag: str, why: str) -> None:
        with pytest.raises(InvalidEvent, match=why):
            render(tag, many=[f"a{n}" for n in range(33)])


class TestUrls:
    def test_they_are_where_the_project_has_put_them(self, settings: Settings) -> None:
        settings.ROOT_URLCONF = __name__
        assert attributes(render(ORDERS))["data-poll"] == "/live/poll/"

    @pytest.mark.usefixtures("prefix")
    def test_below_a_script_name(self) -> None:
        assert attributes(render(ORDERS))["data-stream"] == "/app/events/"

    def test_of_the_instance_that_the_request_is_for(self, settings: Settings) -> None:
        settings.ROOT_URLCONF = Instances
        request: Any = RequestFactory().get("/")
        for name in ("one", "two"):
            request.current_app = name
            assert attributes(render(ORDERS, request))["data-stream"] == f"/{name}/"

    def test_within_another_namespace(self, settings: Settings) -> None:
        settings.ROOT_URLCONF = Within
        given = attributes(render('{% events_feed "a" namespace="site:events" %}'))
        assert given["data-stream"] == "/site/live/"

    def test_without_urls_the_error_says_what_to_add(self, settings: Settings) -> None:
        settings.ROOT_URLCONF = Nothing
        with pytest.raises(ImproperlyConfigured, match=r'path\("events/", include\("events.urls"\)\)'):
            render(ORDERS)

    def test_static_files_of_another_origin(self, settings: Settings) -> None:
        settings.STATIC_URL = "https://static.example.org/"
        assert attributes(render(ORDERS))["src"] == "https://static.example.org/events/page.js"


class TestTheCursor:
    def test_it_is_the_newest_event_s_id(self) -> None:
        cursor = publish("orders", 1)
        assert render("{% events_cursor %}") == cursor == current_cursor()

    def test_what_is_published_after_it_is_what_a_reader_gets(self) -> None:
        publish("orders", "before")
        cursor = Cursor.parse(render("{% events_cursor %}"))
        publish("orders", "after")
        assert [event.data for event in get_hub().since(cursor, ["orders"], 10)[0]] == ['"after"']

    @pytest.mark.usefixtures("away")
    def test_a_page_is_made_without_one_while_the_broker_is_away(self) -> None:
        assert "data-cursor" not in attributes(render(ORDERS))
        assert render("{% events_cursor %}") == ""
        assert current_cursor() is None

    def test_a_broker_that_does_not_answer_holds_no_page_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hang() -> None:
            time.sleep(2)
            raise Unavailable("It has not answered")

        monkeypatch.setattr(process, "get_hub", hang)
        monkeypatch.setattr(process, "_PATIENCE", 0.1)
        monkeypatch.setattr(process, "_start", None)  # and none of it is left to the next test
        began = time.monotonic()
        assert [current_cursor() for _ in range(20)] == [None] * 20
        assert time.monotonic() - began < 1

    @pytest.mark.django_db(transaction=True)
    def test_async_code_may_ask_for_it_with_a_database(self, settings: Settings) -> None:
        settings.EVENTS = {"BROKER": "db:"}

        async def view() -> str:
            return render("{% events_cursor %}")

        assert Cursor.parse(asyncio.run(view()))

    def test_wrong_settings_are_an_error(self, settings: Settings) -> None:
        settings.EVENTS = {"BROKER": "carrier-pigeon:"}
        with pytest.raises(ImproperlyConfigured):
            render("{% events_cursor %}")
