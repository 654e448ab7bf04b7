"""What operators read in the log: one line for what went wrong, however many it hits, and none for what is well."""

import json
import logging
import re
import threading
import time

_PAUSE = 60.0  # seconds between two lines on one trouble

_logger = logging.getLogger(__package__)
_PLAIN = re.compile(r"[^\s\"=]+")


def tell(level: int, text: str, error: BaseException | None = None, /, **context: object) -> None:
    """Log the text and its context, as `text: key=value key="some value"`; a JSON formatter finds it in `context`.

    `error` adds its traceback: for what nobody has foreseen.
    """
    pairs = " ".join(f"{key}={_shown(value)}" for key, value in context.items())
    _logger.log(level, f"{text}: %s", pairs, exc_info=error, extra={"context": context})


class Trouble:
    """A trouble that hits many at once: told when it begins, and while it lasts with how many it has hit since."""

    def __init__(self, text: str, counted: str) -> None:
        self._text = text
        self._counted = counted
        self._lock = threading.Lock()
        self._count = 0
        self._next = 0.0

    def hit(self, **context: object) -> None:
        with self._lock:
            self._count += 1
            now = time.monotonic()
            if now < self._next:
                return
            count, self._count, self._next = self._count, 0, now + _PAUSE
        tell(logging.ERROR, self._text, **{self._counted: count}, **context)


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
