"""For the tests of a project: what a block of code has published.

    from events.testing import published

    with published() as events:
        order.pay()
    assert [(event.channel, event.type, event.data) for event in events] == [("orders", "paid", '{"id":7}')]

In Django's test environment (`manage.py test`, pytest-django) `db:` keeps the log in the process's memory: see
`events.process.get_broker`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.test import TestCase

from .hub import REVOKED
from .process import get_broker
from .publishing import watchers
from .wire import Event


@contextmanager
def published(*channels: str) -> Iterator[list[Event]]:
    """Yields a list that after the block holds what it has published, in order; in these channels, if any are named.

    Within a TestCase, whose transaction never commits, the end of the block is the commit of what is published in it:
    all hooks of `transaction.on_commit` that the block has left run then, of other code too. What a block of
    `atomic()` within it has rolled back is not in the list. `data` is JSON, as clients receive it.
    """
    events: list[Event] = []

    def watch(event: Event) -> None:
        if event.channel != REVOKED and (not channels or event.channel in channels):
            events.append(event)

    watchers.append(watch)
    try:
        with TestCase.captureOnCommitCallbacks(using=get_broker().database, execute=True):
            yield events
    finally:
        watchers.remove(watch)
