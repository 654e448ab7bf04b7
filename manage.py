#!/usr/bin/env python
"""Django's command line for the demonstration project."""

import os
import sys

FROM_OUTSIDE = {"compare", "probe"}  # they look at a site as its users do, and hold no secret of this project


def main() -> None:
    if FROM_OUTSIDE & set(sys.argv[1:2]):
        os.environ.setdefault("DJANGO_DEBUG", "1")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sse_demo.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
