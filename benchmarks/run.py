"""`make bench`: this project and its peers, one after the other and again, under the same load in the same run.

The server has the first core to itself and the clients the second one, so "a second" is "a second and core". Every
number is the median over the rounds, whose servers take turns; speeds of different runs do not compare. In the reload
alone three workers share both cores with the clients.

    ROUNDS=3 SECONDS=4 ONLY=fan-out,nchan make bench
"""

import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import publish_at_rate
from benchmarks.reload import reload

HERE = Path(__file__).resolve().parent
NCHAN = next(Path("/usr/lib").glob("**/ngx_nchan_module.so"), None) if shutil.which("nginx") else None
SERVER_CORE, CLIENT_CORE = sorted(os.sched_getaffinity(0))[:2]
ROUNDS = int(os.environ.get("ROUNDS", 3))
SECONDS = float(os.environ.get("SECONDS", 4))
MUTE_SECONDS = float(os.environ.get("MUTE_SECONDS", 60))
RATES = (20, 100, 1000, 4000)  # events a second to 1,000 clients

UVICORN = [sys.executable, "-m", "uvicorn", "--port", "{port}", "--log-level", "critical", "--backlog", "4096"]
GUNICORN = [sys.executable, "-m", "gunicorn", "sse_demo.asgi", "--no-control-socket", "--log-level", "warning"]
NGINX = """
load_module {nchan};
daemon off; pid nginx.pid; error_log stderr error; worker_processes 1; worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
    access_log off; tcp_nodelay on; keepalive_requests 1000000000;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /sub {{ nchan_subscriber eventsource; nchan_channel_id bench; }}
        location = /pub {{ nchan_publisher; nchan_channel_id bench; }}
    }}
}}
"""


@dataclass
class Peer:
    name: str
    command: list[str]
    path: str = "/"
    forks: bool = False  # the server is the first child of what was started
    most: int = 10_000  # streams
    rates: tuple[int, ...] = (100, 1000, 4000)  # what it can do, and more than it can


PEERS = [
    Peer("send() in C", ["{load}", "bound", "{port}", "{rate}"], most=1000),
    Peer("nchan", ["nginx", "-p", "{directory}", "-c", "nginx.conf", "-e", "stderr"], "/sub", forks=True),
    Peer("django-eventstream", [*UVICORN, "benchmarks.peers:eventstream", "--factory"], most=1000, rates=(20, 100)),
    Peer("sse-starlette", [*UVICORN, "benchmarks.peers:starlette", "--factory"]),
    Peer("stock Django", [*UVICORN, "benchmarks.peers:stock", "--factory"]),
    Peer("portable", [*UVICORN, "sse_demo.asgi:application"], "/events/?channel=bench"),
    Peer("fan-out", [*GUNICORN, "--bind", "127.0.0.1:{port}"], "/events/?channel=bench", forks=True),
]
OURS = ("fan-out", "portable")


def compile_load(directory: Path) -> Path:
    """Build the load generator; Python's would be the limit of what it measures."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        sys.exit("The load generator is a C program, benchmarks/load.c: install a C compiler (cc or gcc).")
    subprocess.run([compiler, "-O2", "-o", directory / "load", HERE / "load.c"], check=True)
    return directory / "load"


class Running:
    """A server that runs, on its core, at a rate."""

    def __init__(self, peer: Peer, load: Path, rate: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.peer, self.load = peer, load
        directory = load.parent
        (directory / "nginx.conf").write_text(NGINX.format(port=self.port, nchan=NCHAN))
        names = {"load": load, "port": self.port, "rate": max(1, int(rate)), "directory": directory}
        self._gate = directory / f"start-{self.port}"
        environment = os.environ | {"RATE": str(rate), "GATE": str(self._gate)}
        self.process = subprocess.Popen(
            [part.format(**names) for part in peer.command],
            env=environment | {"DJANGO_SECRET_KEY": "benchmark", "DJANGO_SETTINGS_MODULE": "benchmarks.project"},
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{peer.name} did not start") from None
                time.sleep(0.05)
        time.sleep(1)  # gunicorn listens before its worker has loaded the application
        self.pid = self._children()[0] if peer.forks else self.process.pid
        self._stop = threading.Event()
        if peer.name == "nchan" and rate:
            os.environ["RATE"], os.environ["GATE"] = str(rate), str(self._gate)
            threading.Thread(target=self._publish_over_http, daemon=True).start()

    def _children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _publish_over_http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)

        def publish(_: str) -> None:
            connection.request("POST", "/pub", f"t={time.monotonic_ns() // 1000:015d}")
            connection.getresponse().read()

        with suppress(OSError, http.client.HTTPException):  # the server was stopped
            publish_at_rate(publish, self._stop.wait)

    def publish(self) -> None:
        """Begin to publish."""
        self._gate.touch()

    def cpu(self) -> float:
        """Seconds used so far."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident kilobytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        """The seconds that it takes to end after a SIGTERM; 10 for one that had to be killed."""
        self._stop.set()
        since = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in [*self._children(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        return time.monotonic() - since

    @contextmanager
    def clients(self, count: int, mute: int = 0) -> Iterator["Clients"]:
        process = subprocess.Popen(
            [self.load, "clients", str(self.port), self.peer.path, str(count), str(mute)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )
        try:
            yield Clients(process)
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait()


class Clients:
    """The load generator; `greeted` says how it went to connect."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.greeted = self._answer()

    def measure(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"measure {seconds}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        return dict(json.loads(self._process.stdout.readline()))


def deliveries(peer: Peer, load: Path, rate: int) -> dict[str, float]:
    """1,000 clients, so many events a second."""
    with Running(peer, load, rate) as server, server.clients(1000) as clients:
        server.publish()
        clients.measure(1)
        before = server.cpu()
        measured = clients.measure(SECONDS)
        used = server.cpu() - before
    return {
        "deliveries/s": measured["events"] / measured["seconds"],
        "deliveries/CPU-s": measured["events"] / used,
        "p50 ms": measured["p50_ms"],
        "p99 ms": measured["p99_ms"],
    }


def holding(peer: Peer, load: Path, count: int) -> dict[str, float]:
    """So many clients on which nothing happens."""
    with Running(peer, load, 0) as server:
        with server.clients(100):
            pass
        before = server.memory()
        with server.clients(count) as clients:
            time.sleep(4)  # what the greeting took is let go
            return {
                "greeted s": clients.greeted["seconds"],
                "refused": clients.greeted["refused"],
                "threads": server.threads(),
                "KB/stream": (server.memory() - before) / count,
                "SIGTERM s": server.stop(),
            }


def mute(peer: Peer, load: Path) -> dict[str, float]:
    """1,000 clients, of which 100 never read, at 100 events a second; and the same without them."""
    result = {}
    for silent in (0, 100):
        with Running(peer, load, 100) as server, server.clients(1000, silent) as clients:
            server.publish()
            clients.measure(1)
            before = server.memory()
            measured = clients.measure(MUTE_SECONDS)
            result[f"p99 ms, {silent} mute"] = measured["p99_ms"]
            result[f"MB grown, {silent} mute"] = (server.memory() - before) / 1024
    return result


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(f'{row[c]:,.0f}' if row[c] >= 1000 else f'{row[c]:.3g}' for c in columns)} |")
    sys.stdout.flush()


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {column: statistics.median(result[column] for result in rounds) for column in rounds[0]}


def main() -> None:
    wanted = os.environ.get("ONLY", "").split(",")
    peers = [peer for peer in PEERS if wanted == [""] or peer.name in wanted]
    if not NCHAN:
        print("nchan is left out: no nginx with ngx_nchan_module.so here (Debian: nginx, libnginx-mod-nchan).")
        peers = [peer for peer in peers if peer.name != "nchan"]
    information = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = [line.split(":")[1].strip() for line in information if line.startswith("model name")]
    print(f"{os.cpu_count()} cores, {cpu[0] if cpu else 'unknown'}; load {os.getloadavg()[0]:.1f}; {ROUNDS} rounds")
    tables: dict[str, dict[str, dict[str, float]]] = {}

    def row(title: str, rounds: int, measure: Any, these: list[Peer]) -> None:
        results: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for peer in these:
                print(f"  {title}: {peer.name}", file=sys.stderr)
                results.setdefault(peer.name, []).append(measure(peer))
        if results:
            tables[title] = {name: medians(each) for name, each in results.items()}
            show(title, tables[title])

    with tempfile.TemporaryDirectory() as directory:
        load = compile_load(Path(directory))
        for rate in RATES:
            row(
                f"{rate:,} events/s to 1,000 clients",
                ROUNDS,
                partial(deliveries, load=load, rate=rate),
                [p for p in peers if rate in p.rates],
            )
        most = {p.name: max(t[p.name]["deliveries/s"] for t in tables.values() if p.name in t) for p in peers}
        title = "The most of these"
        tables[title] = {
            name: {"deliveries/s": each} | {f"{ours} / it": most[ours] / each for ours in OURS if ours in most}
            for name, each in most.items()
            if each
        }
        show(title, tables[title])
        servers = [peer for peer in peers if "{load}" not in peer.command]
        row("1,000 silent streams", 1, lambda peer: holding(peer, load, 1000), servers)
        many = [peer for peer in servers if peer.most >= 10_000]
        row("10,000 silent streams", ROUNDS, lambda peer: holding(peer, load, 10_000), many)
        fan_out = [peer for peer in peers if peer.name == "fan-out"]
        row("100 of 1,000 never read, 100 events/s", 1, lambda peer: mute(peer, load), fan_out)
        row("Reload (SIGHUP): 1,000 streams, 3 workers, db:", 1, lambda peer: reload(), fan_out)
    results = HERE / "results.json"
    results.write_text(json.dumps({"cores": os.cpu_count(), "cpu": cpu[:1], "tables": tables}, indent=2))
    print(f"\nAlso in {results.relative_to(HERE.parent)}.")


if __name__ == "__main__":
    main()
