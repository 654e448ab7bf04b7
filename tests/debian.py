"""Programs that the tests run and no wheel brings; `python -m tests.debian` installs them where it may."""

import os
import shutil
import subprocess
import sys

PACKAGES = {  # by program
    "systemd-analyze": "systemd",
    "curl": "curl",
    "firefox-esr": "firefox-esr",
    "WebKitWebDriver": "webkit2gtk-driver",
    "broadwayd": "libgtk-3-bin",  # the display of that one
}


def install(*packages: str) -> None:
    """Does nothing where there is no apt-get, or we are not root."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], check=True, env=environment)


def missing() -> list[str]:
    return [program for program in PACKAGES if not shutil.which(program)]


if __name__ == "__main__":
    if missing():
        install(*(PACKAGES[program] for program in missing()))
    if missing():
        sys.exit(f"The tests run {' and '.join(missing())}, of the packages {PACKAGES}: install them.")
