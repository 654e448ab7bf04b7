"""`compare` against the real thing: short, small, and with everything in it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from tests.live.servers import ROOT, free_port, serve

TINY = ["--clients", "10", "--updates-per-second", "5", "--duration", "1", "--intervals", "0.5"]


@contextmanager
def running(directory: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, and its end, whatever a test finds."""
    files = ["--json", str(directory / "compare.json"), "--html", str(directory / "compare.html")]
    with subprocess.Popen(
        [sys.executable, "manage.py", "compare", *files, *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "140", "FORCE_COLOR": "1"},  # so that progress is shown
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # which ends its servers too


def run(directory: Path, *options: str) -> tuple[int, str, str]:
    """Its exit status, and what it has printed, without colours and line breaks."""
    with running(directory, *options) as process:
        out, err = process.communicate(timeout=100)
    return process.returncode, plain(out), plain(err)


def plain(text: str) -> str:
    """Without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """The whole command, run once: what it printed, its JSON, and its HTML."""
    directory = tmp_path_factory.mktemp("report")
    status, out, err = run(directory, *TINY)
    assert status == 0, out + err
    return out, json.loads((directory / "compare.json").read_text()), (directory / "compare.html").read_text()


def test_every_way_of_reading_gets_the_same_updates_and_loses_none(report: tuple[str, dict[str, Any], str]) -> None:
    _, figures, _ = report
    assert [result["arm"]["name"] for result in figures["results"]] == ["SSE", "poll 0.5 s", "poll 0.5 s + ETag"]
    for result in figures["results"]:
        assert result["updates"] == 5
        assert 0 < result["publish_cpu"] < result["cpu"]
        assert (result["lost"], result["doubled"]) == (0, 0)
        assert result["cpu"] > 0
        assert result["memory"] > 0
        assert len(result["quantiles"]) == 201
        assert set(result["statuses"]) <= {"200", "304"}
    stream, poll, _ = figures["results"]
    assert stream["requests"] == 0
    assert poll["requests"] in range(15, 26)
    assert stream["staleness"]["median"] < poll["staleness"]["median"]


def test_polling_gets_the_server_that_is_cheaper_for_it(report: tuple[str, dict[str, Any], str]) -> None:
    _, figures, _ = report
    finding = [trial for trial in figures["trials"] if trial["arm"]["name"] == "polls that find an update"]
    assert len(finding) == 2
    assert figures["results"][1]["server"] == min(finding, key=lambda trial: trial["cpu_per_request"])["server"]


def test_every_column_is_explained_where_it_is_printed(report: tuple[str, dict[str, Any], str]) -> None:
    out, _, _ = report
    for head in ("reading alone", "bytes per update", "memory per client", "never shown", "last one back", "answers"):
        assert out.count(head) >= 2, head
    assert "Polls got the server that answers them with less CPU" in out
    assert "What more users would need" in out


def test_the_html_report_needs_nothing_but_itself(report: tuple[str, dict[str, Any], str]) -> None:
    _, _, page = report
    assert page.count("<svg") >= 10  # each chart, wide and narrow
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "<script" not in page
    assert "compare --json" in page


def test_a_running_site_is_measured_by_its_clock(static_root: Path, tmp_path: Path) -> None:
    with serve("asgi", static_root) as site:
        status, out, err = run(tmp_path, "--url", f"{site.url}/events/", *TINY)
    assert status == 0, out + err
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert [result["arm"]["name"] for result in figures["results"]] == ["SSE", "poll 0.5 s"]
    assert [result["lost"] for result in figures["results"]] == [None] * 2
    assert figures["results"][0]["updates"] in (1, 2)
    assert all(result["staleness"] for result in figures["results"])


def test_a_site_behind_tls_is_measured_by_what_is_published_there(
    static_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):  # for these tests, and for compare
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    with serve("asgi", static_root, "--certfile", str(pem), "--keyfile", str(pem), PUBLISH_TOKEN="secret") as site:
        status, out, err = run(tmp_path, "--url", f"{site.url}/events/", "--token", "secret", *TINY)
        assert status == 0, out + err
        monkeypatch.delenv("SSL_CERT_FILE")
        status, _, err = run(tmp_path, "--url", f"{site.url}/events/", *TINY)
        assert (status, "certificate verify failed" in err) == (1, True), err
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert [result["updates"] for result in figures["results"]] == [5] * 3
    assert [(result["lost"], result["doubled"], result["refused"]) for result in figures["results"]] == [(0, 0, 0)] * 3
    assert "secret" not in (tmp_path / "compare.html").read_text() + json.dumps(figures) + out


def test_what_cannot_be_measured_is_said_before_anything_starts(static_root: Path, tmp_path: Path) -> None:
    with serve("asgi", static_root) as site:
        for url, words in [
            (f"http://127.0.0.1:{free_port()}/events/", "cannot be reached"),
            ("http://no-such-host.invalid/events/", "--url http://no-such-host.invalid/events/"),
            (f"{site.url}/", "is no event stream: it answers text/html"),
        ]:
            status, out, err = run(tmp_path, "--url", url)
            assert (status, out) == (1, ""), err
            assert words in err
            assert "Traceback" not in err


def until_measuring(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Wait for the first steady window; returns the servers that run by then."""
    assert process.stderr
    seen = ""
    while "measuring" not in seen:
        piece = process.stderr.read(1)
        assert piece, seen
        seen += piece
    return psutil.Process(process.pid).children(recursive=True)


def test_an_interrupted_run_reports_what_it_has(static_root: Path, tmp_path: Path) -> None:
    with (
        serve("asgi", static_root) as site,
        running(tmp_path, "--url", f"{site.url}/events/", "--clients", "1", "--duration", "60") as process,
    ):
        until_measuring(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "Interrupted" in plain(out)
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert figures["cut_short"].startswith("Interrupted")
    assert figures["results"][0]["interrupted"] is True
    assert "Interrupted" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_end_however_compare_ends(sig: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path) as process:
        servers = until_measuring(process)
        assert len(servers) >= 2  # gunicorn and its worker
        process.send_signal(sig)
        process.communicate(timeout=30)
    assert not psutil.wait_procs(servers, timeout=20)[1]


def test_behind_a_proxy_both_ways_are_measured_at_each_number_of_clients(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "--proxy", "--clients", "1", "--duration", "1", "--interval", "0.5")
    assert status == 0, out + err
    figures = json.loads((tmp_path / "compare.json").read_text())
    measured = [(step["clients"], step["arm"]["interval"]) for step in figures["behind_proxy"]]
    assert measured == [(1, 0.5), (1, None)]
    assert "SSE: no failures up to 1 client." in out
    assert "Where polling breaks" in (tmp_path / "compare.html").read_text()
