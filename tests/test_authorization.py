"""Who may read what, and how that is taken back."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpRequest
from django.test import AsyncRequestFactory, Client, RequestFactory
from pytest_django.fixtures import DjangoAssertNumQueries, Settings

from events import process, publish, revoke
from events.asgi import EventStreamHandler
from events.authorization import by_prefix, get_rule
from events.hub import REVOKED, Hub
from events.log import Cursor
from events.process import get_broker, get_hub
from events.publishing import InvalidEvent
from events.streams import EventStream, EventStreamResponse
from events.wire import Decoder, Event
from tests.brokers import PATIENCE, OpenLog
from tests.test_asgi import Client as AsgiClient

STREAM = "/events/"
POLL = "/events/poll/"

pytestmark = pytest.mark.django_db(transaction=True)  # so that what is published need not wait for a commit


Factory = RequestFactory | AsyncRequestFactory


def request_of(user: Any, factory: Factory | None = None) -> HttpRequest:
    request = (factory or RequestFactory()).get("/")
    request.user = user
    return request


ADA = User(pk=7)
UUID_PK = UUID("1d0e8a9c-3a27-4bb1-a6ec-2f7d8f3f0b55")


class TestTheDefaultRule:
    @pytest.mark.parametrize("channel", ["clock", "user", "private", "users:8", "user.8", "a:user:8", "user-8:x"])
    def test_channels_without_a_prefix_are_open_to_all(self, channel: str) -> None:
        assert by_prefix(RequestFactory().get("/"), channel)

    @pytest.mark.parametrize("channel", ["user:7", "user:7:orders", "User:7:orders", "private:news", "PRIVATE:news"])
    def test_a_user_reads_what_is_theirs_and_what_is_private(self, channel: str) -> None:
        assert by_prefix(request_of(ADA), channel)
        assert not by_prefix(request_of(AnonymousUser()), channel)
        assert not by_prefix(request_of(User(pk=7, is_active=False)), channel)
        assert not by_prefix(RequestFactory().get("/"), channel)  # a site without users

    @pytest.mark.parametrize(
        "channel",
        ["user:8:orders", "USER:8:orders", "user:77:x", "user:07:x", "user:7.0", "user:", "user::7", "user:7x:a"],
    )
    def test_nobody_reads_what_is_somebody_elses(self, channel: str) -> None:
        assert not by_prefix(request_of(ADA), channel)

    def test_ids_that_are_no_numbers(self) -> None:
        member = User(pk=UUID_PK)  # type: ignore[misc]
        assert by_prefix(request_of(member), f"user:{UUID_PK}:orders")
        assert not by_prefix(request_of(member), f"user:{UUID_PK.hex}:orders")

    def test_an_open_channel_costs_no_session(
        self, client: Client, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        client.force_login(User.objects.create(username="ada"))
        with django_assert_num_queries(0):
            response = client.get(POLL)
        assert response.status_code == 200
        assert not response.has_header("Vary")
        assert client.get(POLL, {"channel": "private:a"})["Vary"] == "Cookie"


@pytest.mark.parametrize("path", [STREAM, POLL])
class TestOverHttp:
    def test_who_may_not_read_is_told_which_channel(self, client: Client, path: str) -> None:
        response = client.get(path, {"channel": ["clock", "user:1:a"]})
        assert response.status_code == 403
        assert response.json() == {"error": "The channel 'user:1:a' is not for you to read."}
        assert client.head(path, {"channel": "user:1:a"}).status_code == 403
        assert get_hub().streams == 0

    def test_a_session_opens_the_channels_of_its_user(self, client: Client, path: str) -> None:
        user = User.objects.create(username="ada")
        client.force_login(user)
        assert client.get(path, {"channel": [f"user:{user.pk}:a", "private:a"]}).status_code == 200
        User.objects.update(is_active=False)
        assert client.get(path, {"channel": f"user:{user.pk}:a"}).status_code == 403

    def test_a_site_without_sessions_and_users_serves_open_channels(
        self, client: Client, settings: Settings, path: str
    ) -> None:
        settings.MIDDLEWARE = []
        assert client.get(path).status_code == 200
        assert client.get(path, {"channel": "private:a"}).status_code == 403

    @pytest.mark.parametrize("rule", ["staff", "staff_async", "Staff"])
    def test_a_rule_of_ones_own(self, client: Client, settings: Settings, path: str, rule: str) -> None:
        settings.EVENTS = {"BROKER": "memory:", "AUTHORIZE": f"{__name__}.{rule}"}
        assert client.get(path, {"channel": "clock"}).status_code == 403
        client.force_login(User.objects.create(username="ada", is_staff=True))
        assert client.get(path, {"channel": "clock"}).status_code == 200
        assert client.get(path, {"channel": ["clock", "private:a"]}).status_code == 403

    def test_a_rule_that_fails_is_a_500_that_tells_nothing_and_holds_nothing(
        self, settings: Settings, path: str
    ) -> None:
        settings.EVENTS = {"BROKER": "memory:", "AUTHORIZE": f"{__name__}.failing"}
        response = Client(raise_request_exception=False).get(path)
        assert response.status_code == 500
        assert b"secret" not in response.content
        assert get_hub().streams == 0


def staff(request: HttpRequest, channel: str) -> bool:
    return channel == "clock" and request.user.is_staff


async def staff_async(request: HttpRequest, channel: str) -> bool:
    user = await request.auser()
    return channel == "clock" and user.is_staff


class _Staff:
    def __call__(self, request: HttpRequest, channel: str) -> Any:
        return staff_async(request, channel)


Staff = _Staff()


def failing(request: HttpRequest, channel: str) -> bool:
    raise ValueError("the secret is 42")


async def open_to_all(request: HttpRequest, channel: str) -> bool:
    await asyncio.sleep(0)
    return channel == "a"


@pytest.mark.parametrize(("channel", "status"), [("a", 200), ("b", 403)])
def test_an_async_rule_is_asked_in_the_thread_of_an_asgi_request(settings: Settings, channel: str, status: int) -> None:
    settings.EVENTS = {"BROKER": "memory:", "AUTHORIZE": f"{__name__}.open_to_all"}
    settings.MIDDLEWARE = []

    async def main() -> None:
        client = AsgiClient(EventStreamHandler(), POLL, query=f"channel={channel}")
        assert (await client.ask())["status"] == status
        await client.end()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"EVENTS\['AUTHORIZE'\] cannot be imported"),
        ("events.nowhere.rule", r"EVENTS\['AUTHORIZE'\] cannot be imported: No module named 'events.nowhere'"),
        ("events.authorization.no_such", "does not define a"),
        (f"{__name__}.STREAM", "takes the path of a function, and tests.test_authorization.STREAM is '/events/'"),
    ],
)
def test_a_rule_that_is_none_is_an_error_that_names_the_setting(settings: Settings, path: str, message: str) -> None:
    settings.EVENTS = {"AUTHORIZE": path}
    with pytest.raises(ImproperlyConfigured, match=message):
        get_rule()


@pytest.fixture(params=["threads", "coroutines"])
def factory(request: pytest.FixtureRequest) -> Factory:
    return RequestFactory() if request.param == "threads" else AsyncRequestFactory()


class Reading:
    """A stream, read to the end by whichever twin serves this kind of request."""

    def __init__(self, request: HttpRequest, *channels: str, **options: Any) -> None:
        self._response = EventStreamResponse(request, channels, **options)
        self._decoder = Decoder()

    def rest(self) -> list[Event]:
        """Everything until the stream ends in good order, as it must by itself."""
        pieces = asyncio.run(self._collect()) if self._response.is_async else list(self._response)
        events = [event for piece in pieces for event in self._decoder.feed(piece)]
        assert pieces[-1].startswith(b"retry: ")
        self._response.close()
        return events

    async def _collect(self) -> list[bytes]:
        return [piece async for piece in self._response]

    @property
    def is_over(self) -> bool:
        stream = self._response._stream
        assert isinstance(stream, EventStream)
        return stream.is_over()

    def close(self) -> None:
        self._response.close()


class TestRevoke:
    def test_ends_the_streams_of_that_user_on_that_channel(self, factory: Factory) -> None:
        def open_stream(user: Any, *channels: str) -> Reading:
            return Reading(request_of(user, factory), *channels)

        ended = [open_stream(ADA, "a"), open_stream(ADA, "b", "a")]
        others = [open_stream(ADA, "b"), open_stream(User(pk=8), "a"), open_stream(AnonymousUser(), "a")]
        revoke(ADA, "a")
        for stream in ended:
            assert [event.type for event in stream.rest()] == ["hello", "drain"]
        assert not any(stream.is_over for stream in others)
        assert get_hub().streams == 3
        revoke(7)
        assert [stream.is_over for stream in others] == [True, False, False]
        for stream in others:
            stream.close()

    def test_wakes_a_stream_that_waits(self, settings: Settings) -> None:
        settings.EVENTS = {"BROKER": "memory:", "HEARTBEAT": 3600}

        async def main() -> bytes:
            with closing(EventStreamResponse(request_of(ADA, AsyncRequestFactory()), ["a"])) as response:
                pieces = aiter(response)
                await anext(pieces)
                waiting = asyncio.ensure_future(anext(pieces))
                await asyncio.sleep(0)  # it has begun to wait
                await asyncio.to_thread(revoke, ADA)
                return await asyncio.wait_for(waiting, PATIENCE)

        assert asyncio.run(main()).startswith(b"retry: ")

    def test_nothing_is_read_after_it(self, factory: Factory) -> None:
        cursor = publish("a", "before")
        stream = Reading(request_of(ADA, factory), "a", last_event_id=cursor)
        revoke(ADA)
        publish("a", "after")
        assert [event.type for event in stream.rest()] == ["hello", "drain"]

    def test_holds_for_a_stream_that_opens_while_it_is_asked_for(self, factory: Factory) -> None:
        place = get_hub().log.head  # as `authorize` takes it, before the rule looks
        revoke(ADA, "a")
        publish("a", "secret")
        assert Reading(request_of(ADA, factory), "a", authorized=place).is_over
        begin = Reading(request_of(ADA, factory), "a", last_event_id=str(place), authorized=place)
        assert [event.type for event in begin.rest()] == ["hello", "drain"]
        for user, channel in ((ADA, "b"), (User(pk=8), "a")):
            assert not Reading(request_of(user, factory), channel, authorized=place).is_over

    def test_holds_when_a_rule_has_seen_the_permission_and_it_is_gone_now(
        self, client: Client, settings: Settings
    ) -> None:
        settings.EVENTS = {"BROKER": "memory:", "AUTHORIZE": f"{__name__}.withdrawn_meanwhile"}
        client.force_login(User.objects.create(username="ada"))
        response = client.get(STREAM, {"channel": "a"})
        hello, farewell = list(response)
        assert (response.status_code, b"event: hello" in hello) == (200, True)
        assert farewell.startswith(b"retry: ")

    def test_an_earlier_one_does_not_concern_who_comes_back(self, factory: Factory) -> None:
        revoke(ADA)
        with closing(Reading(request_of(ADA, factory), "a", authorized=get_hub().log.head)) as stream:
            assert not stream.is_over

    def test_waits_for_the_commit(self, factory: Factory, open_log: OpenLog) -> None:
        log = open_log("sqlite")
        stream = get_hub().subscribe(["a"], 10, user="7")
        get_broker().database = log.alias
        with transaction.atomic(using=log.alias):
            revoke(ADA)
            assert not stream.is_revoked
        assert stream.is_revoked

    @pytest.mark.parametrize("user", [AnonymousUser(), User(), None, ""])
    def test_of_nobody_is_an_error(self, user: Any) -> None:
        with pytest.raises(ValueError, match="takes a saved user or the primary key of one"):
            revoke(user)

    def test_on_what_is_no_channel_is_an_error(self) -> None:
        with pytest.raises(InvalidEvent, match="A channel's name is"):
            revoke(ADA, "no channel")

    def test_what_was_lost_may_have_been_one(self) -> None:
        theirs = get_hub().subscribe(["a"], 10, user="7")
        anonymous = get_hub().subscribe(["a"], 10)
        get_hub().restart(Cursor(9, 9))
        assert (theirs.is_revoked, anonymous.is_revoked) == (True, False)

    def test_is_for_users_whom_the_rule_has_looked_at(self, client: Client) -> None:
        user = User.objects.create(username="ada")
        client.force_login(user)
        opened = [client.get(STREAM, {"channel": name}) for name in ("clock", f"user:{user.pk}:a")]
        assert sorted(subscription.user for subscription in get_hub()._slots.open) == ["", str(user.pk)]
        for response in opened:
            response.close()


def withdrawn_meanwhile(request: HttpRequest, channel: str) -> bool:
    allowed = request.user.is_authenticated
    revoke(request.user)
    return allowed


class TestItsChannel:
    def test_can_be_neither_read_nor_published_to(self, client: Client, settings: Settings) -> None:
        settings.EVENTS = {"BROKER": "memory:", "PUBLISH_TOKEN": "secret"}
        for path in (STREAM, POLL):
            assert client.get(path, {"channel": REVOKED}).status_code == 400
        body = json.dumps({"channel": REVOKED, "data": {"user": "7", "channel": None}})
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/events/publish/", body, "application/json", headers=headers).status_code == 400
        with pytest.raises(InvalidEvent):
            publish(REVOKED, {})

    def test_is_nothing_to_a_poll_but_a_cursor_further_on(self, client: Client) -> None:
        since = client.get(POLL, {"channel": "a"}).json()["cursor"]
        revoke(ADA, "a")
        publish("a", 1)
        revoke(ADA)
        answer = client.get(POLL, {"channel": "a", "since": since}).json()
        assert [event["data"] for event in answer["events"]] == ["1"]
        assert answer["cursor"] == str(get_hub().log.head)


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def other_process(
    request: pytest.FixtureRequest, settings: Settings, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """The hub of another process on the log that `revoke` here writes to."""
    monkeypatch.setattr(process, "_is_testing", lambda: False)  # else `db:` would be in memory
    log = open_log(request.param)
    settings.EVENTS = {"BROKER": log.url}
    other = Hub(log.open(), 100)
    yield other
    other.close()
    get_broker().close()


def test_a_revocation_reaches_the_other_processes(other_process: Hub) -> None:
    stream = other_process.subscribe(["a"], 10, user=str(UUID_PK))
    stream.wait(0)  # the first wait enlists
    revoke(UUID_PK)
    assert stream.wait(PATIENCE)
    assert stream.is_revoked


def test_who_has_no_session_any_more_is_refused_when_the_stream_has_ended_at_its_age(
    client: Client, settings: Settings
) -> None:
    settings.EVENTS = {"BROKER": "memory:", "MAX_STREAM_AGE": 0.2, "RETRY": 1000, "SPREAD": 0}
    client.force_login(User.objects.create(username="ada"))
    stream = client.get(STREAM, {"channel": "private:a"})
    Session.objects.all().delete()
    assert list(stream)[-1] == b'retry: 1000\nevent: drain\ndata: {"retry": 1000}\n\n'
    assert client.get(STREAM, {"channel": "private:a"}).status_code == 403
