"""What `python -m build` makes: an index accepts it, and it holds the app and its documents, nothing else."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a source distribution and the wheel that was made from it."""
    source = tmp_path_factory.mktemp("source") / "project"  # a copy, as building leaves its traces
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "staticfiles", "*.egg-info", "screenshots")
    shutil.copytree(ROOT, source, ignore=ignored)
    out = tmp_path_factory.mktemp("dist")
    run("build", "--no-isolation", "--outdir", str(out), str(source))
    return out


def run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(built: Path) -> zipfile.ZipFile:
    [wheel] = built.glob("*.whl")
    return zipfile.ZipFile(wheel)


def metadata_of(built: Path) -> Message:
    with wheel_of(built) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(wheel.read(name))


def app_files() -> set[str]:
    files = (path for path in (ROOT / "events").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in files}


def test_an_index_accepts_it(built: Path) -> None:
    run("twine", "check", "--strict", *map(str, built.iterdir()))


def test_the_wheel_is_the_app_and_its_license(built: Path) -> None:
    with wheel_of(built) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert names == {f"live_{name}" for name in app_files()}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_the_source_is_the_app_and_its_documents(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert app_files() <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "docs/index.md"} <= names
    tops = {name.partition("/")[0] for name in names if "/" in name}
    assert tops == {"events", "docs", "django_live_events.egg-info"}


def test_it_says_what_it_is(built: Path) -> None:
    metadata = metadata_of(built)
    assert metadata["Name"] == "django-live-events"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == {"gunicorn", "metrics", "postgres", "redis"}


def test_what_an_index_shows_has_no_link_that_leads_nowhere_there(built: Path) -> None:
    description = str(metadata_of(built).get_payload())
    assert "publish(" in description
    assert not re.findall(r"\]\((?!https://)[^)]*\)", description)


def test_the_version_is_the_newest_in_the_changelog() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["version"]


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_an_extra_allows_what_is_tested(extra: str) -> None:
    tested = {
        requirement.name: requirement.specifier
        for file in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / file).read_text().splitlines()
        if (text := line.partition("#")[0].strip()) and not text.startswith("-")
        for requirement in [Requirement(text)]
    }
    for given in map(Requirement, PROJECT["optional-dependencies"][extra]):
        assert given.name in tested
        lowest = min(specifier.version for specifier in tested[given.name] if specifier.operator == ">=")
        assert given.specifier.contains(lowest), given
