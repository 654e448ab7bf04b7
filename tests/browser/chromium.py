"""Finds a Chrome or Chromium for the browser tests: `python -m tests.browser.chromium` also installs one."""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import debian

NAMES = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "chrome")


def find() -> str | None:
    """The path of a browser: one on PATH, else the one that Playwright installed, else None."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> None:
    """Install Playwright's Chromium, or Debian's where that cannot be had and we may."""
    if subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"]).returncode == 0:
        return
    debian.install("chromium")


if __name__ == "__main__":
    if not find():
        install()
    browser = find()
    if not browser:
        sys.exit("No browser for the browser tests: install Chrome or Chromium, or run `playwright install chromium`.")
    print(f"Browser tests use {browser}")  # noqa: T201
