"""Real-time updates for Django without polling: one ordered log of events, read as a stream or by polls.

    from events import publish

    publish("orders", {"id": 7, "state": "paid"})

Every client with a stream open on the channel has it at once; one that polls, or that was away, has it when it
next asks. An event travels publishing.py -> brokers/ -> hub.py -> log.py, and from there to fanout.py, streams.py or
the poll in views.py.
"""

from .authorization import arevoke, revoke
from .live import live
from .process import current_cursor
from .publishing import apublish, publish
from .wire import Event

__all__ = ["Event", "apublish", "arevoke", "current_cursor", "live", "publish", "revoke"]
