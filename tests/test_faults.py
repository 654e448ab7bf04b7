"""The failures that a visitor's cookie asks for."""

import asyncio
from typing import Any

import pytest
from django.test import AsyncClient, Client, override_settings

from events.process import get_hub
from sse_demo import faults

# As a stream ends, Django looks after the connections to the database.
pytestmark = pytest.mark.django_db


async def whole_stream(client: AsyncClient) -> bytes:
    response: Any = await client.get("/events/")
    return b"".join([frame async for frame in response])


def test_without_the_cookie_nothing_fails(client: Client) -> None:
    response = client.get("/events/")
    assert response.status_code == 200
    response.close()
    assert client.get("/events/poll/").status_code == 200


@pytest.mark.parametrize(("fault", "poll"), [("refuse", 200), ("restart", 503), ("hang", 200), ("cut", 200)])
def test_only_a_restart_prevents_polls(client: Client, fault: str, poll: int) -> None:
    client.cookies[faults.COOKIE] = fault
    assert client.get("/events/poll/").status_code == poll


@pytest.mark.parametrize("fault", ["refuse", "restart"])
def test_a_refusal_says_when_to_come_back(client: Client, fault: str) -> None:
    client.cookies[faults.COOKIE] = fault
    response = client.get("/events/")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


def test_a_stream_that_is_cut_says_hello_and_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "CUT_AFTER", 0.05)
    client.cookies[faults.COOKIE] = "cut"
    response = client.get("/events/")
    assert b"event: hello" in b"".join(response)
    response.close()
    assert get_hub().streams == 0


def test_a_stream_in_an_event_loop_is_cut_as_well(async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "CUT_AFTER", 0.05)
    async_client.cookies[faults.COOKIE] = "cut"
    assert b"event: hello" in asyncio.run(whole_stream(async_client))
    assert get_hub().streams == 0


def test_a_stream_that_hangs_says_nothing_takes_a_place_and_frees_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "HANG_FOR", 0.01)
    client.cookies[faults.COOKIE] = "hang"
    response = client.get("/events/")
    assert get_hub().streams == 1
    assert b"".join(response) == b""
    assert get_hub().streams == 0


@override_settings(EVENTS={"BROKER": "memory:", "MAX_THREAD_STREAMS": 0})
def test_one_that_hangs_is_refused_when_no_stream_fits(client: Client) -> None:
    client.cookies[faults.COOKIE] = "hang"
    assert client.get("/events/").status_code == 503


def test_a_stream_in_an_event_loop_hangs_as_well(async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "HANG_FOR", 0.01)
    async_client.cookies[faults.COOKIE] = "hang"
    assert asyncio.run(whole_stream(async_client)) == b""
    assert get_hub().streams == 0
