"""The documents: every command in them is run by a test, code in them is code, and what they name is there.

A new command, or a block in a new language, fails here until TESTED says what runs it.
"""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from django.conf import global_settings
from playwright._impl._driver import compute_driver_executable

from events.conf import Config
from tests.live.servers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# What runs a command: the first pattern that is found in it says which test (file::name), or why none has to.
# A block of configuration or of a page is accounted for in the same way, by its language and what is in it.
TESTED = [
    (r"^make run\b", "tests/live/test_commands.py::test_make_runs_the_page"),
    (r"^make serve\b", "tests/live/test_commands.py::test_make_serves_the_page_as_in_production"),
    (r"^make (test|check|docs)\b", "runs this: .ci/run"),
    (
        r"^make chaos\b",
        "tests/live/test_chaos.py::test_every_client_sees_every_event_once_and_in_order_whatever_happens",
    ),
    (r"^make fuzz\b", "tests/fuzz/test_application.py::test_any_request_has_an_answer_that_keeps_to_the_contract"),
    (r"manage\.py runserver\b", "tests/live/test_commands.py::test_a_fresh_clone_runs_and_a_visitor_publishes_a_note"),
    (r"manage\.py test\b", "tests/test_testing.py::test_a_project_tests_itself_with_the_default_broker"),
    (r"^make help\b", "tests/live/test_commands.py::test_make_help_lists_every_target"),
    (r"^make compare\b", "tests/live/test_compare.py::"),
    (r"^make (bench|bench-publish|test-matrix|audit)\b", "minutes of measuring, other interpreters or the network"),
    (r"manage\.py publish\b", "tests/live/test_readme.py::test_the_first_event_is_seen_in_a_browser"),
    (r"manage\.py migrate\b", "tests/live/test_readme.py::test_the_first_event_is_seen_in_a_browser"),
    (r"manage\.py collectstatic\b", "tests/live/test_commands.py::test_make_serves_the_page_as_in_production"),
    (r"manage\.py polls\b", "tests/live/test_polls.py::"),
    (r"manage\.py compare\b", "tests/live/test_compare.py::"),
    (r"manage\.py probe\b", "tests/live/test_probe.py::"),
    (r"^python manage\.py test\b", "tests/live/test_recipes.py::test_the_tests_in_the_recipe_pass"),
    (r"^celery\b", "tests/live/test_recipes.py::test_a_page_follows_a_task_of_celery"),
    (r"^python -m build\b|^twine check\b", "tests/test_distribution.py::test_an_index_accepts_it"),
    (r"^git clone\b", "what every test has begun with"),
    (r"^curl -N -H .*\?channel=", "tests/live/test_recipes.py::test_a_token_reads_its_own_channel_alone"),
    (r"^curl -H .*/publish/", "tests/test_publish_view.py::"),
    (r"^(dockerfile |yaml # compose)", "tests/live/test_recipes.py::test_the_image_starts_and_is_healthy"),
    (r"^yaml apiVersion", "tests/live/test_recipes.py::test_kubernetes_accepts_its_manifests"),
    (r"^html \{# shop/", "tests/live/test_recipes.py::test_a_page_shows_what_is_saved"),
    (r"^\{toctree\} ", "make docs"),
    (r"^(http|text|json) ", "what the server says: tests/live/test_servers.py"),
    (r"^tcpdump\b", "needs a capture of a network interface, which only root may take"),
    (r"^curl (-N )?'?localhost", "tests/live/test_commands.py::test_curl_shows_the_stream_and_the_polls"),
    (r"manage\.py check\b", "tests/test_checks.py::"),
    (r"manage\.py polls\b", "the tests of the command read logs that a real nginx has written"),
    (r"^diff ", "tests/live/test_readme_live.py::test_what_was_polled_is_live_by_the_lines_of_the_readme"),
    (r"^pip install 'gunicorn\[http2\]'|^gunicorn .*--http-protocols", "tests/live/test_proxies.py::"),
    (r"^gunicorn mysite\.[aw]sgi\b|^systemctl\b|^curl .*--retry", "tests/live/test_proxies.py::"),
    (r"^(nginx|haproxy|caddy|ini) ", "tests/live/test_proxies.py::"),
    (r"^pip install prometheus-client", "tests/test_metrics.py::"),
    (r"^yaml scrape_configs|^ histogram_quantile", "what Prometheus reads"),
    (r"^yaml readinessProbe", "what Kubernetes reads"),
    (r"^uvicorn --workers$", "a mention"),
    (r"^gunicorn\b.* sse_demo\.(asgi|wsgi)\b", "tests/live/test_servers.py::"),
    (r"^pip install -r requirements", "make does it: Makefile"),
    (r"^pip install( this repository| \.)?$", "tests/live/test_readme.py::test_the_first_event_is_seen_in_a_browser"),
    (r"^pip install redis$", "the optional dependency [redis]: pyproject.toml"),
    (r"^html .*openFeed", "tests/live/test_readme.py::test_the_first_event_is_seen_in_a_browser"),
    (
        r"^html .*events_feed",
        "tests/browser/test_template_tags.py::test_what_is_published_between_the_page_and_its_feed_arrives_once",
    ),
    (
        r"^html \{# shop/templates/",
        "tests/browser/test_hypermedia.py::"
        "test_a_live_view_and_what_is_published_are_shown_once_and_in_order_over_a_restart",
    ),
    (r"^jsx ", "needs React and a bundler"),
    (r"^ .*c_stream", "a formula"),
    (r"^ .*updates/s × interval", "a formula"),
]

PROGRAMS = {
    "make",
    "python",
    "manage.py",
    "pip",
    "curl",
    "gunicorn",
    "tcpdump",
    "uvicorn",
    "git",
    "systemctl",
    "nginx",
    "celery",
    "twine",
}
SHELLS = {"sh", "bash", "shell", "console"}

# What the documents name and is not in the repository: made by a command, the reader's own, or of other programs.
ELSEWHERE = {
    "CORS_ALLOW_ALL_ORIGINS",
    "CORS_ALLOW_CREDENTIALS",
    "CORS_URLS_REGEX",
    "compare.json",
    "compare.html",
    "db.sqlite3",
    "gunicorn.events.py",
    "hx-sse.js",
    "FORWARDED_ALLOW_IPS",
}


class Block(NamedTuple):
    """A piece of code in a document. `language` is empty where the document says none."""

    document: str
    language: str
    text: str


@dataclass
class Document:
    path: Path

    def __post_init__(self) -> None:
        self.name = str(self.path.relative_to(ROOT))
        self.text = self.path.read_text(encoding="utf-8")
        self.prose = re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def blocks(self) -> Iterator[Block]:
        for language, text in re.findall(r"^```(\S*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE):
            yield Block(self.name, language, text)
        for text in re.findall(r"(?:\A|\n)\n((?: {4}.*\n(?:\n(?= {4}))*)+)", self.prose):
            yield Block(self.name, "", re.sub(r"^ {4}", "", text, flags=re.MULTILINE))

    @property
    def spans(self) -> list[str]:
        """What stands between backticks within a line."""
        without_blocks = re.sub(r"(?:\A|\n)\n(?: {4}.*\n(?:\n(?= {4}))*)+", "\n", self.prose)
        return re.findall(r"`([^`\n]+)`", without_blocks)

    @property
    def commands(self) -> Iterator[str]:
        for block in self.blocks:
            if block.language in SHELLS or (not block.language and is_command(block.text)):
                yield from (strip(line) for line in block.text.replace("\\\n", "").splitlines() if strip(line))
        for span in self.spans:
            if is_command(span) and " " in span:
                yield strip(span)

    @property
    def anchors(self) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def strip(line: str) -> str:
    """A command without its comment, its settings and the interpreter."""
    line = re.sub(r"(^|\s)#\s.*", "", line).strip()
    return re.sub(r"^(\w+=\S*\s+)+", "", line)


def is_command(text: str) -> bool:
    return strip(text).partition(" ")[0].removeprefix("./") in PROGRAMS


def runner(command: str) -> str:
    """What runs it; empty when nothing does."""
    return next((by for pattern, by in TESTED if re.search(pattern, command, re.DOTALL)), "")


def check_runner(command: str) -> None:
    by = runner(command)
    assert by, f"Add a line to TESTED in {__file__} that says which test runs this: {command}"
    if "::" in by:
        check_test(by)


def check_test(test: str) -> None:
    file, _, name = test.partition("::")
    assert (ROOT / file).exists(), test
    assert not name or f"def {name}(" in (ROOT / file).read_text(), test


documents = pytest.mark.parametrize(
    "document", [Document(path) for path in DOCUMENTS], ids=lambda document: document.name
)


@documents
def test_every_command_is_run_by_a_test(document: Document) -> None:
    for command in document.commands:
        check_runner(command)


@documents
def test_every_block_of_code_is_code(document: Document) -> None:
    for block in document.blocks:
        match block.language:
            case "python" | "py":
                ast.parse(block.text)
            case "js" | "javascript":
                check_javascript(block.text)
            case "" if is_command(block.text) or runner(f" {block.text}"):
                pass
            case "":
                ast.parse(block.text)
            case language if language not in SHELLS:
                check_runner(f"{language} {block.text}")


def check_javascript(code: str) -> None:
    node, _ = compute_driver_executable()  # Playwright brings one
    checked = subprocess.run(
        [node, "--check", "--input-type=module", "-"], input=code, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr


@documents
def test_every_target_of_make_exists(document: Document) -> None:
    for command in document.commands:
        if match := re.match(r"make (\S+)", command):
            assert re.search(rf"^{match[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


@documents
def test_every_link_leads_somewhere(document: Document) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.prose):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.path.parent / path).resolve() if path else document.path
        assert file.exists(), target
        if anchor:
            assert anchor in Document(file).anchors, target


@cache
def all_files() -> list[str]:
    """The project's, without what was made or installed."""
    found: list[str] = []
    for directory, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in (".venv", ".git", "build", "node_modules")]
        found += (str((Path(directory) / name).relative_to(ROOT)) for name in names)
    return found


@documents
def test_every_file_that_is_named_exists(document: Document) -> None:
    for span in document.spans:
        if re.fullmatch(r"[\w@.-][\w@./-]*\.(py|js|md|css|html|toml|txt|conf|service|json|yml|yaml)", span):
            assert span in ELSEWHERE or any(f"/{name}".endswith(f"/{span}") for name in all_files()), span


@documents
def test_every_test_that_is_named_exists(document: Document) -> None:
    for span in document.spans:
        if re.fullmatch(r"tests/[\w/]+\.py(::\w+)?", span):
            check_test(span)


@documents
def test_every_setting_that_is_named_exists(document: Document) -> None:
    known = {key.name for key in fields(Config)}
    for name in re.findall(r"""EVENTS\[["'](\w+)["']\]""", document.text):
        assert name in known
    sources = [*(ROOT / "events").rglob("*.py"), *(ROOT / "sse_demo").rglob("*.py"), ROOT / "gunicorn.conf.py"]
    code = "\n".join(path.read_text() for path in [*sources, ROOT / "Makefile"])
    for span in document.spans:
        if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", span):
            is_known = span in known | ELSEWHERE or hasattr(global_settings, span)
            assert is_known or re.search(rf"\b{span}\b", code), span


@pytest.mark.parametrize("key", [key.name for key in fields(Config)])
def test_every_setting_is_documented(key: str) -> None:
    assert any(re.search(rf"\b{key}\b", document.read_text()) for document in DOCUMENTS)
