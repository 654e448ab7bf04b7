"""How much one visitor may have, and who that is."""

import gc
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import AsyncRequestFactory, Client, RequestFactory
from pytest_django.fixtures import Settings

from events import limits
from events.limits import Rates, TooMany, address_of
from events.process import get_hub
from events.streams import EventStreamResponse

STREAM = "/events/"
POLL = "/events/poll/"


pytestmark = pytest.mark.django_db  # the end of a response looks at connections


@pytest.fixture
def configure(settings: Settings) -> Callable[..., None]:
    def set_events(**events: Any) -> None:
        settings.EVENTS = {"BROKER": "memory:", **events}

    return set_events


class TestAddress:
    @pytest.mark.parametrize(
        ("peer", "forwarded", "address"),
        [
            ("203.0.113.9", "", "203.0.113.9"),
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # anybody can send the header
            ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("127.0.0.1", "spoofed, 1.1.1.1, 198.51.100.1", "198.51.100.1"),
            ("127.0.0.1", "198.51.100.1, 10.1.2.3, 10.9.9.9", "198.51.100.1"),  # through proxies of ours
            ("127.0.0.1", "10.1.2.3", "10.1.2.3"),  # from the inside
            ("127.0.0.1", "", "127.0.0.1"),
            ("127.0.0.1", "unknown", "127.0.0.1"),
            ("127.0.0.1", "198.51.100.1:50123", "198.51.100.1"),
            ("127.0.0.1", "[2001:db8:1:2::3]:50123", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
            ("::ffff:203.0.113.9", "", "203.0.113.9"),
            ("fe80::1%eth0", "", "fe80::/64"),
            ("", "198.51.100.1", "198.51.100.1"),  # a socket file, as gunicorn says it under WSGI
            ("", "", ""),
        ],
    )
    def test_is_the_last_one_that_no_trusted_proxy_has(
        self, configure: Callable[..., None], peer: str, forwarded: str, address: str
    ) -> None:
        configure(TRUSTED_PROXIES=["127.0.0.1", "10.0.0.0/8", "unix"])
        request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
        assert address_of(request) == address

    def test_nobody_is_believed_by_default(self) -> None:
        for peer in ("127.0.0.1", ""):
            request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR="198.51.100.1")
            assert address_of(request) == peer

    def test_a_socket_file_has_none_under_asgi_either(self) -> None:
        request = AsyncRequestFactory().get("/")
        del request.META["REMOTE_ADDR"]
        assert address_of(request) == ""


def request_of(user: Any = None, address: str = "203.0.113.9", factory: RequestFactory | None = None) -> HttpRequest:
    request = (factory or RequestFactory()).get("/")
    request.META["REMOTE_ADDR"] = address
    request.user = user
    return request


class TestStreams:
    def test_of_one_user(self, configure: Callable[..., None]) -> None:
        configure(MAX_STREAMS_PER_USER=2)
        requests = [request_of(User(pk=7)) for _ in range(3)]
        with closing(EventStreamResponse(requests[0], ["a"])):
            with (
                closing(EventStreamResponse(requests[1], ["b"])),
                pytest.raises(TooMany, match="for one user"),
            ):
                EventStreamResponse(requests[2], ["c"])
            EventStreamResponse(requests[2], ["c"]).close()  # there is a place again
            EventStreamResponse(request_of(User(pk=8)), ["a"]).close()

    def test_from_one_address(self, configure: Callable[..., None]) -> None:
        configure(MAX_STREAMS_PER_ADDRESS=1)
        with closing(EventStreamResponse(request_of(), ["a"])):
            with pytest.raises(TooMany, match="for one address"):
                EventStreamResponse(request_of(), ["a"])
            EventStreamResponse(request_of(address="203.0.113.10"), ["a"]).close()
            EventStreamResponse(request_of(address=""), ["a"]).close()

    def test_an_office_behind_one_address_is_not_limited_by_default(self, configure: Callable[..., None]) -> None:
        configure(MAX_THREAD_STREAMS=1000)
        streams = [EventStreamResponse(request_of(), ["a"]) for _ in range(500)]
        assert get_hub().streams == 500
        del streams

    def test_are_given_back_on_every_way_out(self, configure: Callable[..., None]) -> None:
        configure(MAX_STREAMS_PER_ADDRESS=1)

        def read_to_its_end(response: EventStreamResponse) -> None:
            assert response._stream
            response.limit(0)
            assert list(response)[-1].startswith(b"retry: ")

        def leave_in_the_middle(response: EventStreamResponse) -> None:
            next(iter(response))

        def fail(response: EventStreamResponse) -> None:
            raise ValueError("in a middleware, say")

        def detach(response: EventStreamResponse) -> None:
            response.detach()

        ways: list[Callable[[EventStreamResponse], object]] = [
            *(EventStreamResponse.close, read_to_its_end, leave_in_the_middle, fail, detach, lambda response: None),
        ]
        for way in ways:
            with suppress(ValueError):
                way(EventStreamResponse(request_of(User(pk=7)), ["a"]))
            gc.collect()
            assert get_hub().streams == 0
            assert not get_hub()._slots._users
            assert not get_hub()._slots._addresses

    def test_too_many_are_answered_429_and_when_to_try_again(
        self, configure: Callable[..., None], client: Client
    ) -> None:
        configure(MAX_STREAMS_PER_ADDRESS=1)
        with closing(client.get(STREAM)):
            refused = client.get(STREAM)
        assert (refused.status_code, refused["Retry-After"]) == (429, "10")
        assert refused.json() == {"error": "At most 1 streams are open here for one address; close some, or poll."}


class TestPolls:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The seconds that the limits see, for a test to move on."""
        now = [1000.0]
        monkeypatch.setattr(limits, "monotonic", lambda: now[0])
        monkeypatch.setattr(limits.polls, "_used_until", {})
        return now

    def test_a_burst_and_then_so_many_a_second(self, clock: list[float]) -> None:
        rates = Rates()
        assert [rates.ask("a", 2) for _ in range(20)] == [0] * 20
        assert rates.ask("a", 2) == 1
        assert rates.ask("b", 2) == 0
        clock[0] += 1
        assert [rates.ask("a", 2) for _ in range(3)] == [0, 0, 1]

    def test_less_than_one_in_ten_seconds_is_still_one(self, clock: list[float]) -> None:
        rates = Rates()
        assert [rates.ask("a", 0.01) for _ in range(2)] == [0, 100]
        clock[0] += 100
        assert rates.ask("a", 0.01) == 0

    def test_the_idlest_of_too_many_visitors_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "_VISITORS", 2)
        rates = Rates()
        for visitor in "abac":
            rates.ask(visitor, 0.01)
        assert rates._used_until.keys() == {"a", "c"}

    def test_are_not_counted_by_default(self, client: Client) -> None:
        assert {client.get(POLL).status_code for _ in range(50)} == {200}
        assert not limits.polls._used_until

    def test_too_many_are_answered_429_and_when_to_try_again(
        self, configure: Callable[..., None], client: Client, clock: list[float]
    ) -> None:
        configure(MAX_POLLS_PER_SECOND=0.1)
        assert client.get(POLL).status_code == 200
        refused = client.get(POLL)
        assert (refused.status_code, refused["Retry-After"]) == (429, "10")
        assert refused.json() == {"error": "At most 0.1 polls a second; ask again in 10 s."}
        assert client.get(POLL, REMOTE_ADDR="203.0.113.9").status_code == 200
        clock[0] += 10
        assert client.get(POLL).status_code == 200

    def test_a_user_is_counted_apart_from_the_others_behind_one_address(
        self, configure: Callable[..., None], client: Client
    ) -> None:
        configure(MAX_POLLS_PER_SECOND=0.1)

        def ask() -> HttpResponseBase:
            return client.get(POLL, {"channel": "private:a"})

        for name in ("ada", "grace"):
            client.force_login(User.objects.create(username=name))
            assert [ask().status_code for _ in range(2)] == [200, 429]
