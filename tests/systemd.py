"""Finds systemd-analyze for the test of the unit: `python -m tests.systemd` also installs it."""

import shutil
import sys

from tests import debian


def find() -> str | None:
    return shutil.which("systemd-analyze")


if __name__ == "__main__":
    if not find():
        debian.install("systemd")
    if not find():
        sys.exit("No systemd-analyze to verify the unit in docs/ with: install the package systemd.")
