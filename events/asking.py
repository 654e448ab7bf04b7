"""Questions to the broker that somebody waits for: one after the other, in a thread of their own, with an end."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from .brokers import Unavailable

_PATIENCE = 5.0  # seconds; somebody waits for the answer to a request

T = TypeVar("T")


class Asker:
    """Asks in one thread, so that what one question brings need not be asked for again by those who wait behind it.

    A broker that does not answer holds that thread, and each who asks for `_PATIENCE` seconds at most; once it has
    held the thread for longer than that, nobody.
    """

    def __init__(self) -> None:
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._since = 0.0  # when the question that is being asked was begun, by the monotonic clock; 0 for none

    def ask(self, question: Callable[[], T]) -> T:
        """Returns what `question` returns and raises what it raises; Unavailable when that takes too long."""
        since = self._since
        if since and time.monotonic() > since + _PATIENCE:
            raise Unavailable(f"The broker has not answered for {time.monotonic() - since:.0f} seconds.")
        asked = _Question(question)
        with self._starting:
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="events-asker", daemon=True)
                self._thread.start()
        self._questions.put(asked)
        if not asked.is_answered.wait(_PATIENCE):
            asked.is_cancelled = True
            raise Unavailable(f"No answer within {_PATIENCE:g} seconds.")
        if asked.error:
            raise asked.error
        return asked.answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the thread, once it has got its answer."""
        self._questions.put(None)

    def _run(self) -> None:
        while question := self._questions.get():
            if question.is_cancelled:
                continue
            self._since = time.monotonic()
            try:
                question.answer = question.ask()
            except Exception as error:  # noqa: BLE001  it is raised where it was asked
                question.error = error
            self._since = 0.0
            question.is_answered.set()


class _Question:
    def __init__(self, ask: Callable[[], Any]) -> None:
        self.ask = ask
        self.answer: Any = None
        self.error: Exception | None = None
        self.is_answered = threading.Event()
        self.is_cancelled = False
