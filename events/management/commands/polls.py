"""manage.py polls FILE…: which endpoints are polled, by the site's own access log, and what streaming would take."""

import json
import sys
import time
from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...polls import Progress, Unreadable, as_json, as_text, read, recognise
from ...polls.rhythm import FEWEST

EVERY = 0.1  # seconds, between two looks of the progress bar
BAR = 30  # columns
FEWEST_IN_HAR = 5  # of one person's browser, for as long as somebody looked


class Command(BaseCommand):
    help = (
        "Read a site's access log, or a HAR saved from the browser, and name the endpoints that are polled: by how "
        "many clients, how often, for how much; what streaming would take instead, and the line of code to write. "
        "Exit status: 0, also when nothing is polled; 2 for what cannot be read."
    )
    requires_system_checks = ()  # it may speak of any site

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "files",
            nargs="+",
            metavar="FILE",
            help="access logs of nginx, Apache or gunicorn (combined, common, JSON lines; .gz too), a HAR, or - for "
            "standard input; several are read together, in the order of time",
        )
        parser.add_argument("--json", action="store_true", help="figures for machines, on standard output")

    def handle(self, *_: Any, **options: Any) -> None:
        bar = _Bar(self)
        progress = Progress(bar.show)
        try:
            with ExitStack() as files:
                requests = read(options["files"], progress, files)
                findings = recognise(requests, FEWEST_IN_HAR if progress.is_har else FEWEST)
        except Unreadable as error:
            self._fail(bar, str(error))
        except KeyboardInterrupt:
            self._fail(bar, "Interrupted before anything was read.")
        bar.clear()
        if options["json"]:
            self.stdout.write(json.dumps(as_json(findings, progress), indent=2, ensure_ascii=False))
        else:
            self.stdout.write(as_text(findings, progress, options["files"]))

    def _fail(self, bar: "_Bar", message: str) -> None:
        bar.clear()
        self.stderr.write(message)
        sys.exit(2)


def _plain(text: str) -> str:
    """The standard error is red otherwise."""
    return text


class _Bar:
    """On the standard error, where that is a terminal."""

    def __init__(self, command: Command) -> None:
        self._out = command.stderr
        self._is_shown = self._out.isatty()
        self._next = self._began = time.monotonic()

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._is_shown or now < self._next:
            return
        self._next = now + EVERY
        text = f"{progress.lines:,} requests  {now - self._began:.0f} s"
        if progress.size:
            done = min(1.0, progress.done / progress.size)
            full = round(done * BAR)
            text = f"Reading  {'━' * full}{'╌' * (BAR - full)}  {100 * done:3.0f} %  {text}"
        self._out.write(f"\r\033[K{text}", _plain, "")

    def clear(self) -> None:
        if self._is_shown:
            self._out.write("\r\033[K", _plain, "")
