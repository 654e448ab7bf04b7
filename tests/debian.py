"""Installs what no wheel brings, where that is Debian's and we may."""

import os
import shutil
import subprocess


def install(package: str) -> None:
    """Does nothing where there is no apt-get, or we are not root."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True, env=environment)
