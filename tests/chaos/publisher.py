"""Publishes [channel, 1], [channel, 2], … in each channel, at its rate, until its standard input is closed.

Prints at the end how many there are in each channel, as JSON.

python -m tests.chaos.publisher CHANNEL=RATE ...
"""

import heapq
import json
import sys
import threading
import time
from collections.abc import Mapping


def main(rates: Mapping[str, float]) -> None:
    import django

    django.setup()

    from events.brokers import Unavailable
    from events.log import Cursor, Gap
    from events.process import get_broker
    from events.publishing import publish

    def find(channel: str, number: int) -> str | None:
        """The id of an event that may have been published, though the answer was lost."""
        while newest:
            try:
                later = get_broker().after(Cursor.parse(newest), [channel], 10)
                return next((event.id for event in later if json.loads(event.data) == [channel, number]), None)
            except Unavailable:
                time.sleep(0.05)
            except Gap:
                return None  # the history in which it may have been is gone
        return None

    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    newest: str | None = None
    published = dict.fromkeys(rates, 0)
    began = time.monotonic()
    due = [(began, channel) for channel in rates]  # at once in each: also in one that has its next in 10 seconds
    while True:
        at, channel = heapq.heappop(due)
        stop.wait(max(0.0, at - time.monotonic()))
        if stop.is_set():
            break
        number = published[channel] + 1
        event_id = None
        while not event_id:
            try:
                event_id = publish(channel, [channel, number])
            except Unavailable:
                event_id = find(channel, number)
        newest = event_id
        published[channel] = number
        heapq.heappush(due, (began + number / rates[channel], channel))
    print(json.dumps(published))


if __name__ == "__main__":
    main({channel: float(rate) for channel, _, rate in (argument.partition("=") for argument in sys.argv[1:])})
