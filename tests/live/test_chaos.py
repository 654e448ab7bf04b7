"""A short run of `make chaos`, with every fault in it."""

import asyncio

import pytest

from tests.chaos.run import run


@pytest.mark.parametrize("broker", ["db:", "redis:"])
def test_every_client_sees_every_event_once_and_in_order_whatever_happens(broker: str) -> None:
    happened: list[str] = []
    accounts = asyncio.run(run(broker, 24, streams=24, polls=6, changing=6, standard=8, rate=50, say=happened.append))
    assert len(accounts) == 44
    assert [account for account in accounts if not account.faultless or not account.expected] == []
    for fault in ("kill -9 a worker", "connections", "stop reading", "restart nginx", "freeze a worker", "reload"):
        assert any(fault in line for line in happened)
