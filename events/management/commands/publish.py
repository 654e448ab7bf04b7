"""`manage.py publish`: an event from the command line, or one for each line of a program's output."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...brokers import Unavailable
from ...conf import get_config
from ...publishing import InvalidEvent, publish

_NOT_TEXT = ("{", "[", '"')


class Command(BaseCommand):
    help = """Publish an event, and print its id.

  manage.py publish orders '{"id": 7, "state": "paid"}' --type paid
  manage.py publish chat hello
  manage.py publish cart --text '<b>3</b> items'
  tail -f access.log | manage.py publish log -
"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("channel", metavar="CHANNEL", help="the channel to publish in")
        parser.add_argument(
            "data",
            metavar="DATA",
            help="JSON; or text, which needs no quotes unless it begins with {, [ or a quote or is itself JSON, "
            "such as 42 or true; or - for one event from each line of standard input that is not blank",
        )
        # A flag, not an option with a value: DATA would be optional, and older versions of argparse then refuse
        # `publish CHANNEL --type T DATA`.
        parser.add_argument(
            "--text", action="store_true", help="publish DATA, or each line, as text that arrives as it is, not as JSON"
        )
        parser.add_argument("--type", metavar="T", default="message", help="the event's type (default: message)")

    def handle(self, *, channel: str, data: str, type: str, text: bool, **options: Any) -> None:
        """Raises CommandError for what cannot be published; what came before it has been."""
        if get_config().BROKER == "memory:":
            raise CommandError(
                "EVENTS['BROKER'] is 'memory:', which reaches only the process that publishes, and this one ends "
                "now. Use 'db:' or 'redis://…'."
            )
        if data != "-":
            self._publish(channel, data, type, text)
            return
        for number, line in enumerate(sys.stdin, 1):
            if content := line.rstrip("\r\n"):
                self._publish(channel, content, type, text, f"Line {number}: ")

    def _publish(self, channel: str, given: str, type: str, is_text: bool, where: str = "") -> None:
        try:
            content = {"text": given} if is_text else {"data": parse(given)}
            self.stdout.write(str(publish(channel, type=type, **content)))
        except (InvalidEvent, Unavailable) as error:
            raise CommandError(f"{where}{error}") from None
        self.stdout.flush()


def parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith(_NOT_TEXT):
            raise InvalidEvent(
                f"This begins as JSON does, and is not: {error}. Text that begins so is quoted."
            ) from None
        return text
    except RecursionError:
        raise InvalidEvent("This JSON is nested too deeply.") from None
