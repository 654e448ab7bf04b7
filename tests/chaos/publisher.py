"""Publishes 1, 2, 3, … at a steady rate until its standard input is closed; then prints how many.

python -m tests.chaos.publisher RATE
"""

import sys
import threading
import time


def main(rate: float) -> None:
    import django

    django.setup()

    from events.brokers import Unavailable
    from events.log import Cursor
    from events.process import get_broker
    from events.publishing import publish
    from tests.chaos.clients import CHANNEL

    def find(number: int, last: str | None) -> str | None:
        """The id of an event that may have been published, though the answer was lost."""
        while last:
            try:
                later = get_broker().after(Cursor.parse(last), 1000)
                return next((event.id for event in later if event.data == str(number)), None)
            except Unavailable:
                time.sleep(0.05)
        return None

    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    last: str | None = None
    began = time.monotonic()
    number = 0
    while not stop.is_set():
        number += 1
        stop.wait(began + number / rate - time.monotonic())
        event_id = None
        while not event_id:
            try:
                event_id = publish(CHANNEL, number)
            except Unavailable:
                event_id = find(number, last)
        last = event_id
    print(number)


if __name__ == "__main__":
    main(float(sys.argv[1]))
