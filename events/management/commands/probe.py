"""manage.py probe URL: does it really stream, through everything between it and the user?"""

import sys
import textwrap
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...probe import Finding, Level, NotAStream, judge, survey
from ...probe.checks import intermediaries
from ...probe.watch import Target

WIDTH = 100  # columns; a remedy stays on one line however long, to be copied
LABELS = {Level.OK: "ok", Level.NOTE: "note", Level.PROBLEM: "PROBLEM"}


class Command(BaseCommand):
    help = (
        "Probe a deployed event stream from outside: does it arrive as it is sent, does it stay open, who is in the "
        "way, and what to change. Exit status: 0 healthy, 1 findings, 2 unreachable or no event stream."
    )
    requires_system_checks = ()  # it may speak of any site

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="the stream's URL, such as https://example.com/events/")
        parser.add_argument(
            "--patience",
            type=float,
            default=35.0,
            metavar="SECONDS",
            help="how long to watch for a cut (default 35: two heartbeats of 15 s; 70 finds the usual limits of 60 s)",
        )
        parser.add_argument(
            "--connections", type=int, default=20, metavar="N", help="streams to open at once (default 20)"
        )
        parser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="NAME:VALUE",
            help="send this with each request, for a site that wants a cookie, say; may be given again",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        if options["patience"] < 1:
            self._fail("--patience takes 1 second or more.")
        if not 1 <= options["connections"] <= 1_000:
            self._fail("--connections takes 1 to 1,000.")
        headers = {}
        for header in options["header"]:
            name, colon, value = header.partition(":")
            if not colon or not name.strip():
                self._fail(f"--header takes NAME:VALUE, not {header!r}.")
            headers[name.strip()] = value.strip()
        try:
            target = Target.parse(options["url"], headers)
            seen = survey(target, options["patience"], options["connections"], self._progress)
        except (ValueError, NotAStream) as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"{options['url']} cannot be reached: {error}")
        except KeyboardInterrupt:
            self._fail("Interrupted before anything was seen.")
        self._progress("")
        findings = judge(seen)
        way = " and ".join(intermediaries(seen))
        self.stdout.write(f"{seen.target.url}" + (f", by way of {way}" if way else "") + "\n\n")
        for finding in findings:
            self._print(finding)
        problems = sum(finding.level is Level.PROBLEM for finding in findings)
        if seen.interrupted:
            self.stdout.write(f"Interrupted after {seen.patience:.0f} s: not everything was looked at.")
        if problems:
            self.stdout.write(self.style.ERROR(f"{problems} to put right." if problems > 1 else "One to put right."))
            sys.exit(1)
        if seen.interrupted:
            sys.exit(1)
        self.stdout.write(self.style.SUCCESS("Healthy: it streams."))

    def _print(self, finding: Finding) -> None:
        style = {
            Level.OK: self.style.SUCCESS,
            Level.NOTE: self.style.WARNING,
            Level.PROBLEM: self.style.ERROR,
        }[finding.level]
        indent = " " * 10
        text = textwrap.fill(f"{finding.check}: {finding.seen}", WIDTH, subsequent_indent=indent, initial_indent=indent)
        self.stdout.write(style(f"{LABELS[finding.level]:>8}  ") + text[len(indent) :])
        if finding.means:
            self.stdout.write(textwrap.fill(finding.means, WIDTH, initial_indent=indent, subsequent_indent=indent))
        column = max(map(len, finding.remedies), default=0)
        for place, line in finding.remedies.items():
            self.stdout.write(f"{indent}{place:<{column}}  {line}")
        if finding.remedies:
            self.stdout.write("")

    def _progress(self, step: str) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r\033[K{step}" + ("…" if step else ""), ending="")

    def _fail(self, message: str) -> None:
        self._progress("")
        self.stderr.write(message)
        sys.exit(2)
