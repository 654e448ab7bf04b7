"""The HTTP contract, as far as it needs no server."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from events import publish
from events.process import get_hub
from events.wire import Decoder

STREAM = "/events/"
POLL = "/events/poll/"


def poll(client: Client, **parameters: Any) -> Any:
    return client.get(POLL, parameters).json()


def begins_after(response: Any, cursor: str) -> bool:
    return f"id: {cursor}\n" in next(iter(response)).decode()


class TestStream:
    def test_its_headers_keep_every_proxy_from_holding_it_back(self, client: Client) -> None:
        response = client.get(STREAM)
        assert response.status_code == 200
        assert response["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response["Cache-Control"] == "no-cache, no-transform"
        assert response["X-Accel-Buffering"] == "no"
        assert not response.has_header("Content-Length")

    def test_gzip_middleware_leaves_it_alone(self, client: Client, settings: Settings) -> None:
        settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
        response = client.get(STREAM, headers={"Accept-Encoding": "gzip"})
        assert next(iter(response)).startswith(b"retry: 2000\nevent: hello\n")

    def test_the_header_wins_over_the_parameter(self, client: Client) -> None:
        first, _ = str(publish("clock", 1)), publish("clock", 2)
        response = client.get(STREAM, {"last_event_id": "1-1"}, headers={"Last-Event-ID": first})
        assert begins_after(response, first)

    def test_the_parameter_serves_where_no_header_can_be_set(self, client: Client) -> None:
        first, _ = str(publish("clock", 1)), publish("clock", 2)
        response = client.get(STREAM, {"last_event_id": first})
        assert begins_after(response, first)

    def test_a_polyfill_may_name_the_parameter_its_own_way(self, client: Client) -> None:
        first, _ = str(publish("clock", 1)), publish("clock", 2)
        assert begins_after(client.get(STREAM, {"last_event_id": "1-1", "lastEventId": first}), first)

    def test_several_channels(self, client: Client) -> None:
        first = str(publish("c", 0))
        for channel in "abc":
            publish(channel, channel)
        response = client.get(STREAM, {"channel": ["a", "b"], "last_event_id": first})
        pieces = iter(response)
        next(pieces)
        assert [event.data for event in Decoder().feed(next(pieces))] == ['"a"', '"b"']

    def test_head_opens_no_stream(self, client: Client) -> None:
        response = client.head(STREAM)
        assert (response.status_code, b"".join(response)) == (200, b"")
        assert response["Content-Type"].startswith("text/event-stream")
        assert not response.has_header("Content-Length")  # which GET has not
        assert get_hub().streams == 0

    def test_503_with_retry_after_when_no_more_fit(self, client: Client, settings: Settings) -> None:
        settings.EVENTS = {"MAX_THREAD_STREAMS": 0, "BROKER": "memory:"}
        response = client.get(STREAM)
        assert response.status_code == 503
        assert int(response["Retry-After"]) > 0
        assert "poll" in response.json()["error"]


class TestPoll:
    def test_without_since_no_events_only_where_to_begin(self, client: Client) -> None:
        last = publish("clock", 1)
        answer = poll(client)
        assert answer == {"server_time": answer["server_time"], "cursor": last, "gap": False, "events": []}
        assert abs((datetime.fromisoformat(answer["server_time"]) - datetime.now(UTC)).total_seconds()) < 60

    def test_the_events_since_a_cursor(self, client: Client) -> None:
        cursor = poll(client)["cursor"]
        first = publish("orders", {"n": 1}, type="paid")
        publish("other", 2)
        answer = poll(client, channel="orders", since=cursor)
        assert answer["events"] == [{"id": first, "channel": "orders", "type": "paid", "data": '{"n":1}'}]
        assert answer["gap"] is False
        assert poll(client, channel="orders", since=answer["cursor"])["events"] == []

    def test_what_one_answer_cannot_hold_comes_in_the_next(self, client: Client, settings: Settings) -> None:
        settings.EVENTS = {"MAX_POLL_EVENTS": 2, "BROKER": "memory:"}
        cursor = poll(client)["cursor"]
        for number in range(5):
            publish("clock", number)
        read: list[list[str]] = []
        more = True
        while more:
            answer = poll(client, since=cursor)
            read.append([event["data"] for event in answer["events"]])
            cursor, more = answer["cursor"], answer.get("more", False)
        assert read == [["0", "1"], ["2", "3"], ["4"]]

    def test_an_answer_is_no_longer_than_a_megabyte_and_an_event(self, client: Client) -> None:
        cursor = poll(client)["cursor"]
        for _ in range(40):
            publish("clock", "x" * 60_000)
        answers: list[Any] = []
        while not answers or answers[-1].get("more"):
            answers.append(poll(client, since=answers[-1]["cursor"] if answers else cursor))
        assert [len(answer["events"]) for answer in answers] == [18, 18, 4]

    @pytest.mark.parametrize("cursor", ["nonsense", "1-1", "99999999999999-0", "\0"])
    def test_a_cursor_that_cannot_be_resumed_is_a_gap(self, client: Client, cursor: str) -> None:
        last = publish("clock", 1)
        answer = poll(client, since=cursor)
        assert (answer["gap"], answer["cursor"], answer["events"]) == (True, last, [])

    def test_an_etag_and_304_while_nothing_happens(self, client: Client) -> None:
        first = client.get(POLL)
        again = client.get(POLL, headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
        publish("clock", 1)
        assert client.get(POLL, headers={"If-None-Match": first["ETag"]}).status_code == 200

    def test_a_gap_is_told_even_to_a_matching_etag(self, client: Client) -> None:
        etag = client.get(POLL)["ETag"]
        response = client.get(POLL, {"since": "1-1"}, headers={"If-None-Match": etag})
        assert response.json()["gap"] is True

    def test_a_precondition_that_no_poll_can_meet_is_ignored(self, client: Client) -> None:
        assert client.get(POLL, headers={"If-Match": '"x"'}).json()["events"] == []

    def test_no_cache_keeps_an_answer_for_others(self, client: Client) -> None:
        assert client.get(POLL)["Cache-Control"] == "no-cache, private"


@pytest.mark.parametrize("path", [STREAM, POLL])
class TestErrors:
    def test_a_method_that_is_not_accepted(self, path: str) -> None:
        response = Client(enforce_csrf_checks=True).put(path)
        assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
        assert response.json() == {"error": "PUT is not accepted here; use GET, HEAD."}

    @pytest.mark.parametrize("channel", ["", "a b", "a\nb", "\0", "x" * 101, "\U0001f389"])
    def test_a_bad_channel_says_what_is_accepted(self, client: Client, path: str, channel: str) -> None:
        response = client.get(path, {"channel": channel})
        assert response.status_code == 400
        assert "A channel's name is 1 to 100 letters, digits" in response.json()["error"]

    def test_too_many_channels(self, client: Client, path: str) -> None:
        response = client.get(path, {"channel": [f"c{number}" for number in range(33)]})
        assert response.status_code == 400
        assert response.json() == {"error": "At most 32 channels fit in one request; this one names 33."}

    def test_more_parameters_than_django_reads(self, client: Client, path: str) -> None:
        response = client.get(path, {"x": range(1001)})
        assert response.status_code == 400
        assert response.json() == {"error": "A request has at most 1,000 parameters."}

    def test_a_session_whose_key_no_database_can_look_for(self, client: Client, path: str) -> None:
        response = client.get(path, {"channel": "private:a"}, headers={"Cookie": r'sessionid="\000aaaaaaaa"'})
        assert response.status_code == 400
        assert "NUL" in response.json()["error"]

    def test_a_cursor_that_is_too_long(self, client: Client, path: str) -> None:
        parameters = {"since": "1" * 42} if path == POLL else {"last_event_id": "1" * 42}
        response = client.get(path, parameters)
        assert response.status_code == 400
        assert response.json() == {"error": "A cursor is at most 41 characters; this one has 42."}


class TestMiddleware:
    """What a project puts around all of its views."""

    def test_that_requires_a_login_leaves_to_this_app_who_may_do_what(self, client: Client, settings: Settings) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
        settings.EVENTS = {"BROKER": "memory:", "PUBLISH_TOKEN": "secret", "METRICS_TOKEN": "secret"}
        token = {"Authorization": "Bearer secret"}
        for path in (STREAM, POLL, "/events/health/", "/events/metrics/"):
            assert client.get(path, headers=token).status_code == 200
        body = {"channel": "a", "data": 1}
        answer = client.post("/events/publish/", body, content_type="application/json", headers=token)
        assert answer.status_code == 201
        assert client.get(POLL, {"channel": "private:a"}).status_code == 403

    def test_that_caches_pages_keeps_none_of_these(self, client: Client, settings: Settings) -> None:
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        settings.MIDDLEWARE = [
            "django.middleware.cache.UpdateCacheMiddleware",
            *settings.MIDDLEWARE,
            "django.middleware.cache.FetchFromCacheMiddleware",
        ]
        settings.EVENTS = {"BROKER": "memory:", "METRICS_TOKEN": "secret"}
        token = {"Authorization": "Bearer secret"}

        def published() -> str:
            lines = client.get("/events/metrics/", headers=token).content.decode().splitlines()
            return next(line for line in lines if line.startswith("events_published_total"))

        before, cursor = published(), poll(client)["cursor"]
        publish("clock", 1)
        assert published() != before
        assert poll(client)["cursor"] != cursor
        assert "no-store" in client.get("/events/publish/")["Cache-Control"]
