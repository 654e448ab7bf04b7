#!/usr/bin/env python
"""Django's command line for the demonstration project."""

import os
import sys


def main() -> None:
    if not os.environ.get("DJANGO_SECRET_KEY"):  # production has one: this is a fresh clone, or a machine to develop on
        os.environ.setdefault("DJANGO_DEBUG", "1")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
