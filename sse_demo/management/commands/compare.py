"""manage.py compare: SSE beside polling, measured on this machine or against a site."""

import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

INSTALL = "pip install -r requirements-compare.txt"


class Command(BaseCommand):
    help = (
        "Measure SSE beside polling: the same events at the same times to the same number of clients. Starts servers "
        "of its own, or measures a running site (--url). Ctrl-C ends it and reports what was measured."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--clients", type=int, metavar="N", help="how many (default 500; with --proxy the most of them, 4000)")
        add("--updates-per-second", type=float, default=1.0, metavar="N", help="to each client (default 1)")
        add(
            "--duration", type=float, metavar="SECONDS", help="of each arm's steady window (default 15; with --proxy 6)"
        )
        add(
            "--intervals",
            "--interval",
            type=float,
            nargs="+",
            default=[1.0, 5.0],
            metavar="SECONDS",
            help="of polling (default 1 5)",
        )
        add("--together", action="store_true", help="all clients poll at the same moment, as after an outage")
        add("--proxy", action="store_true", help="instead: nginx in front, with limits, and ever more clients")
        add("--url", default="", help="measure this site's stream, such as https://example.com/events/")
        add(
            "--token",
            default=os.environ.get("EVENTS_PUBLISH_TOKEN", ""),
            help="to publish at --url with; default: EVENTS_PUBLISH_TOKEN from the environment, and without any, "
            "the ticks of the site's clock are what is read",
        )
        add("--costs", default="", metavar="FILE", help="check the formulas of an earlier compare.json by this run")
        add("--json", default="compare.json", metavar="FILE", help="figures for machines (default compare.json)")
        add("--html", default="compare.html", metavar="FILE", help="a report for people (default compare.html)")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            from rich.console import Console

            from sse_demo.compare import html, progress, terminal
            from sse_demo.compare.comparison import INTERRUPTED, Comparison, compare, read_costs
            from sse_demo.compare.nginx import NoNginx
            from sse_demo.compare.plan import BadPlan, Plan
            from sse_demo.compare.processes import ServerFailed
            from sse_demo.compare.proxy import compare_behind_proxy
        except ModuleNotFoundError as missing:
            raise CommandError(f"compare needs {missing.name}: {INSTALL}") from None
        files = {kind: Path(options[kind]) for kind in ("json", "html")}
        for file in files.values():
            if not os.access(file.parent, os.W_OK):
                raise CommandError(f"{file} cannot be written.")
        signal.signal(signal.SIGTERM, _as_interrupt)
        try:
            plan = Plan(
                clients=_or(options["clients"], 4_000 if options["proxy"] else 500),
                updates_per_second=options["updates_per_second"],
                duration=_or(options["duration"], 6.0 if options["proxy"] else 15.0),
                intervals=tuple(sorted(set(options["intervals"]))),
                together=options["together"],
                url=options["url"],
                token=options["token"] if options["url"] else "",
                proxy=options["proxy"],
            )
            comparison = Comparison(plan, _command_line(options), read_costs(options["costs"]))
            with progress.shown() as watch:
                (compare_behind_proxy if plan.proxy else compare)(comparison, watch)
        except (BadPlan, ServerFailed, NoNginx) as error:
            raise CommandError(str(error)) from None
        terminal.print_report(Console(), comparison)
        if comparison.is_empty:
            sys.exit(1)
        files["json"].write_text(comparison.to_json() + "\n")
        files["html"].write_text(html.render(comparison))
        self.stdout.write(f"The report is in {files['html']}, the figures are in {files['json']}.")
        if comparison.cut_short:
            sys.exit(130 if comparison.cut_short == INTERRUPTED else 1)  # as shells have it for Ctrl-C


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """Who is told to end stops the servers first, as with Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def _command_line(options: dict[str, Any]) -> str:
    """As it was typed, but for what is secret."""
    words = ["python", "manage.py", *sys.argv[1:]] if sys.argv[1:2] == ["compare"] else ["python manage.py compare"]
    return shlex.join(words).replace(options["token"], "…") if options["token"] else " ".join(words)
