"""`make bench`: this project and its peers, one after the other and again, under the same load in the same run.

The server has the first core to itself and the clients the second one, so "a second" is "a second and core". Every
number is the median over the rounds, whose servers take turns; speeds of different runs do not compare. In the reload
alone three workers share both cores with the clients.

    ROUNDS=3 SECONDS=4 ONLY=fan-out,nchan make bench

ROWS=own,mute selects tables:

    rates       events to 1,000 clients of one channel, at several rates, and the most of these
    silent      1,000 and 10,000 streams of one channel on which nothing happens
    own         10,000 streams with a channel each: events to one after the other, then silent
    shared      the same, each also on a channel that all of them have
    greeting    what it costs to greet 10,000 streams with a channel each, and with one for all
    back        10,000 clients that come back, each with 3 events to catch up on among 100,000 that are not its own
    mute        clients that never read, for MUTE_SECONDS=60
    reload      a SIGHUP
    live        1,000 clients of one live view, beside publishing the same, and beside polling it
    following   what a process can follow of each broker's log when nobody reads there

STREAMS=200 has so many streams, and channels, where it says 10,000 from `own` to `back`.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.following import LOGS, cpu_of, following
from benchmarks.live import live
from benchmarks.reload import reload

HERE = Path(__file__).resolve().parent
NCHAN = next(Path("/usr/lib").glob("**/ngx_nchan_module.so"), None) if shutil.which("nginx") else None
SERVER_CORE, CLIENT_CORE = sorted(os.sched_getaffinity(0))[:2]
ROUNDS = int(os.environ.get("ROUNDS", 3))
SECONDS = float(os.environ.get("SECONDS", 4))
MUTE_SECONDS = float(os.environ.get("MUTE_SECONDS", 60))
STREAMS = int(os.environ.get("STREAMS", 10_000))
RATES = (20, 100, 1000, 4000, 10_000)  # events a second to 1,000 clients
OWN_RATES = (1000, 5000)  # events a second to one after the other of STREAMS clients
SHARED = 1000  # one event in so many goes to all of them, where they share a channel
GRACE = 2.0  # seconds in which the last events of a measurement may still arrive
REST = 5.0  # seconds; and a heartbeat's interval
HEARTBEAT = 15.0
OTHERS = 10 * STREAMS  # events for others, among which are those that a client missed
MISSED = 3  # of its own; benchmarks/project.py has it too

ROWS = ("rates", "silent", "own", "shared", "greeting", "back", "mute", "reload", "live", "following")

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
        location = /pub {{ nchan_publisher; nchan_channel_id $arg_channel; }}
        location = /own {{
            nchan_subscriber eventsource; nchan_channel_id $arg_channel; nchan_subscriber_first_message newest;
        }}
        location = /shared {{
            nchan_subscriber eventsource; nchan_channel_id $arg_a $arg_b; nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class Named(Protocol):
    name: str


@dataclass
class Peer:
    name: str
    command: list[str]
    path: str = "/"
    forks: bool = False  # the server is the first child of what was started
    most: int = 10_000  # streams
    rates: tuple[int, ...] = (100, 1000, 4000)  # what it can do, and more than it can
    own: str = ""  # the path of a client with a channel of its own
    shared: str = ""  # and with another one that is everybody's


PEERS = [
    Peer("send() in C", ["{load}", "bound", "{port}", "{rate}"], most=1000),
    Peer(
        "nchan",
        ["nginx", "-p", "{directory}", "-c", "nginx.conf", "-e", "stderr"],
        "/sub",
        forks=True,
        own="/own?channel=u%d",
        shared="/shared?a=u%d&b=all",
    ),
    Peer("django-eventstream", [*UVICORN, "benchmarks.peers:eventstream", "--factory"], most=1000, rates=(20, 100)),
    Peer("sse-starlette", [*UVICORN, "benchmarks.peers:starlette", "--factory"]),
    Peer("stock Django", [*UVICORN, "benchmarks.peers:stock", "--factory"]),
    Peer("portable", [*UVICORN, "sse_demo.asgi:application"], "/events/?channel=bench"),
    Peer(
        "fan-out",
        [*GUNICORN, "--bind", "127.0.0.1:{port}"],
        "/events/?channel=bench",
        forks=True,
        rates=(100, 1000, 4000, 10_000),
        own="/events/?channel=u%d",
        shared="/events/?channel=u%d&channel=all",
    ),
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
    """A server that runs, on its core, at a rate; what else is to be published is as benchmarks/project.py has it."""

    def __init__(
        self,
        peer: Peer,
        load: Path,
        rate: float,
        *,
        channels: int = 0,
        shared: int = 0,
        size: int = 0,
        **more: int,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.peer, self.load = peer, load
        directory = load.parent
        (directory / "nginx.conf").write_text(NGINX.format(port=self.port, nchan=NCHAN))
        names = {"load": load, "port": self.port, "rate": max(1, int(rate)), "directory": directory}
        self._gate = directory / f"start-{self.port}"
        environment = os.environ | {"RATE": str(rate), "GATE": str(self._gate)}
        environment |= {"CHANNELS": str(channels), "SHARED": str(shared), "SIZE": str(size)}
        environment |= {name: str(value) for name, value in more.items()}
        self._publishing = rate, channels, shared, size
        self._publisher: subprocess.Popen[str] | None = None
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

    def _children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def publish(self) -> None:
        """Begin to publish."""
        self._gate.touch()
        rate, channels, *_ = self._publishing
        if self.peer.name == "nchan" and rate:
            self._publisher = self._post("/pub?channel=%s" if channels else "/pub?channel=bench", *self._publishing)

    def _post(
        self, path: str, rate: float, channels: int, shared: int = 0, size: int = 0, count: int = 0
    ) -> "subprocess.Popen[str]":
        order = [path, rate, channels, shared, max(size, 17), count]
        return subprocess.Popen(
            [self.load, "publish", str(self.port), *map(str, order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )

    def fill(self) -> str:
        """Publish what clients are to have missed. Returns the cursor before."""
        if self.peer.name == "nchan":
            cursor = f"{int(time.time()) - 1}:0"
            for path, count in (("/pub?channel=o%s", OTHERS), ("/pub?channel=%s", MISSED * STREAMS)):
                _ended(self._post(path, 20_000, STREAMS, count=count))
            return cursor
        written = Path(f"{self._gate}.cursor")
        with self.clients(1, path="/events/?channel=back"):
            self.publish()
            deadline = time.monotonic() + 120
            while not written.exists():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.peer.name} did not publish what is to be caught up on")
                time.sleep(0.05)
        return written.read_text()

    def cpu(self) -> float:
        """Seconds used so far."""
        return cpu_of(self.pid)

    def memory(self) -> float:
        """Resident kilobytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024

    def peak(self) -> float:
        """The most resident kilobytes so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))

    def files(self) -> int:
        """Open ones, and so connections: a client whose kernel holds bytes that it never reads does not see the end."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        """The seconds that it takes to end after a SIGTERM; 10 for one that had to be killed."""
        if self._publisher:
            _ended(self._publisher, stop=True)
            self._publisher = None
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
    def clients(self, count: int, mute: int = 0, path: str = "") -> Iterator["Clients"]:
        process = subprocess.Popen(
            [self.load, "clients", str(self.port), path or self.peer.path, str(count), str(mute)],
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


def _ended(publisher: "subprocess.Popen[str]", stop: bool = False) -> None:
    """Wait for the publisher to be done, or stop it. Whatever was refused would be missed by everybody."""
    assert publisher.stdout
    if stop:
        assert publisher.stdin
        publisher.stdin.close()
    answer = publisher.stdout.readline()
    publisher.wait()
    if answer and (refused := json.loads(answer)["refused"]):
        print(f"  the server has refused {refused:,} events", file=sys.stderr)


class Clients:
    """The load generator; `greeted` says how it went to connect."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.greeted = self._answer()

    def measure(self, seconds: float, grace: float = 0) -> dict[str, Any]:
        return self._order(f"measure {seconds} {grace}")

    def came(self, count: int) -> dict[str, Any]:
        return self._order(f"came {count}")

    def _order(self, order: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
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


def own(peer: Peer, load: Path, rate: int, shared: bool = False, early: bool = False) -> dict[str, float]:
    """Clients with a channel each, so many events a second in all. `early`: they begin before the clients connect."""
    seconds = max(1, round(SECONDS))  # whole ones have as many events for all of them, whenever they begin
    path, one_in = (peer.shared, SHARED) if shared else (peer.own, 0)
    with Running(peer, load, rate, channels=STREAMS, shared=one_in) as server:
        with server.clients(min(100, STREAMS), path=path):
            pass
        memory = server.memory()
        if early:
            server.publish()
        with server.clients(STREAMS, path=path) as clients:
            if not early:
                time.sleep(2)  # what the greeting has left to do
                server.publish()
            clients.measure(1)
            before = server.cpu()
            measured = clients.measure(seconds, GRACE)
            used = server.cpu() - before
            due = rate * seconds
            expected = due - due / SHARED + due / SHARED * STREAMS if shared else due
            result = {
                "delivered %": 100 * measured["due"] / expected,
                "deliveries/s": measured["events"] / measured["seconds"],
                "CPU µs/delivery": 1e6 * used / max(1, measured["events"]),
                "% of a core": 100 * used / measured["seconds"],
                "p50 ms": measured["p50_ms"],
                "p99 ms": measured["p99_ms"],
                "KB/stream": (server.memory() - memory) / STREAMS,
            }
            if early:
                result |= {"greeted s": clients.greeted["seconds"], "refused": clients.greeted["refused"]}
    return result


def rest(peer: Peer, load: Path, shared: bool = False) -> dict[str, float]:
    """Clients with a channel each, on which nothing happens."""
    path = peer.shared if shared else peer.own
    with Running(peer, load, 0, channels=STREAMS) as server:
        with server.clients(min(100, STREAMS), path=path):
            pass
        memory = server.memory()
        with server.clients(STREAMS, path=path) as clients:
            time.sleep(4)
            result = {
                "greeted s": clients.greeted["seconds"],
                "refused": clients.greeted["refused"],
                "KB/stream": (server.memory() - memory) / STREAMS,
            }
            for seconds in (REST, HEARTBEAT):
                before, began = server.cpu(), time.monotonic()
                time.sleep(seconds)
                result[f"% of a core, {seconds:.0f} s"] = 100 * (server.cpu() - before) / (time.monotonic() - began)
    return result


def _cost_of_greeting(server: Running, path: str) -> tuple[float, int]:
    """CPU seconds, and how many were refused."""
    before = server.cpu()
    with server.clients(STREAMS, path=path) as clients:
        time.sleep(1)  # what is left to do
        return server.cpu() - before, clients.greeted["refused"]


def greeting(peer: Peer, load: Path) -> dict[str, float]:
    """Clients with a channel each, and with one for all."""
    costs = []
    for path in (peer.own, peer.path):
        with Running(peer, load, 0, channels=STREAMS) as server:
            with server.clients(min(100, STREAMS), path=path):
                pass
            time.sleep(1)
            costs.append(_cost_of_greeting(server, path))
    (own, refused), (one, _) = costs
    return {"CPU s, own channels": own, "CPU s, one channel": one, "ratio": own / one, "refused": refused}


def back(peer: Peer, load: Path) -> dict[str, float]:
    """Clients with a channel each that come back with a cursor, beside clients of one channel that have none."""
    with Running(peer, load, 0, channels=STREAMS, BACKLOG=OTHERS, BENCH_HISTORY=2 * OTHERS) as server:
        cursor = server.fill()
        time.sleep(1)
        new, _ = _cost_of_greeting(server, peer.path)
        time.sleep(3)  # they have left, and the server has seen it
        before, began = server.cpu(), time.monotonic()
        with server.clients(STREAMS, path=f"{peer.own}&last_event_id={cursor}") as clients:
            came = clients.came(MISSED)
            while came["exactly"] < STREAMS and time.monotonic() < began + 60:
                time.sleep(0.1)
                came = clients.came(MISSED)
            seconds = time.monotonic() - began
            time.sleep(1)  # for what nobody should get
            used = server.cpu() - before
            came = clients.came(MISSED)
    return {
        "CPU s, back": used,
        "CPU s, new to one channel": new,
        "ratio": used / new,
        "all back s": seconds,
        "refused": clients.greeted["refused"],
        f"got exactly {MISSED}": came["exactly"],
        "got what they should not": came["more"],
    }


def beside_mute(peer: Peer, load: Path) -> dict[str, float]:
    """100 readers beside 300 clients that never read, at 300 events of 2 KB a second; and the same without those."""
    result: dict[str, float] = {}
    for silent in (0, 300):
        with Running(peer, load, 300, size=2048) as server, server.clients(100 + silent, silent) as clients:
            memory = server.memory()
            server.publish()
            clients.measure(1)
            files, before = server.files(), server.cpu()
            measured = clients.measure(MUTE_SECONDS)
            result |= {
                f"p99 ms, {silent} mute": measured["p99_ms"],
                f"delivered %, {silent} mute": 100 * measured["events"] / (300 * 100 * measured["seconds"]),
                f"CPU %, {silent} mute": 100 * (server.cpu() - before) / measured["seconds"],
                f"MB grown, {silent} mute": (server.memory() - memory) / 1024,
                f"MB at most, {silent} mute": (server.peak() - memory) / 1024,
            }
            if silent:
                result["cut"] = files - server.files()
    return result


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
    rows = [name for name in os.environ.get("ROWS", "").split(",") if name] or list(ROWS)
    if unknown := sorted(set(rows) - set(ROWS)):
        sys.exit(f"There are no rows {', '.join(unknown)}; there are {', '.join(ROWS)}.")
    if not NCHAN:
        print("nchan is left out: no nginx with ngx_nchan_module.so here (Debian: nginx, libnginx-mod-nchan).")
        peers = [peer for peer in peers if peer.name != "nchan"]
    information = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = [line.split(":")[1].strip() for line in information if line.startswith("model name")]
    print(f"{os.cpu_count()} cores, {cpu[0] if cpu else 'unknown'}; load {os.getloadavg()[0]:.1f}; {ROUNDS} rounds")
    tables: dict[str, dict[str, dict[str, float]]] = {}

    def row(title: str, rounds: int, measure: Any, these: Sequence[Named]) -> None:
        results: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for each in these:
                print(f"  {title}: {each.name}", file=sys.stderr)
                results.setdefault(each.name, []).append(measure(each))
        if results:
            tables[title] = {name: medians(each) for name, each in results.items()}
            show(title, tables[title])

    fan_out = [peer for peer in peers if peer.name == "fan-out"]
    with_channels = [peer for peer in peers if peer.own]
    servers = [peer for peer in peers if "{load}" not in peer.command]
    streams = f"{STREAMS:,} streams"
    with tempfile.TemporaryDirectory() as directory:
        load = compile_load(Path(directory))
        if "rates" in rows:
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
        if "silent" in rows:
            row("1,000 silent streams", 1, lambda peer: holding(peer, load, 1000), servers)
            many = [peer for peer in servers if peer.most >= 10_000]
            row("10,000 silent streams", ROUNDS, lambda peer: holding(peer, load, 10_000), many)
        for name, shared, kind in (
            ("own", False, f"{streams}, a channel each"),
            ("shared", True, f"{streams}, a channel each and one for all"),
        ):
            if name not in rows:
                continue
            for early, when in ((False, ""), (True, " from before they connect")):
                for rate in OWN_RATES:
                    measure = partial(own, load=load, rate=rate, shared=shared, early=early)
                    row(f"{kind}: {rate:,} events/s in all{when}", ROUNDS, measure, with_channels)
            row(f"{kind}: silent", ROUNDS, partial(rest, load=load, shared=shared), with_channels)
        if "greeting" in rows:
            row(f"Greeting {streams}", ROUNDS, partial(greeting, load=load), with_channels)
        if "back" in rows:
            title = f"{STREAMS:,} come back, {MISSED} events behind among {OTHERS:,} of others"
            row(title, ROUNDS, partial(back, load=load), with_channels)
        if "mute" in rows:
            row("100 of 1,000 never read, 100 events/s", 1, lambda peer: mute(peer, load), fan_out)
            title = "100 readers beside 300 that never read, 300 events/s of 2 KB"
            row(title, 1, partial(beside_mute, load=load), with_channels)
        if "reload" in rows:
            row("Reload (SIGHUP): 1,000 streams, 3 workers, db:", 1, lambda peer: reload(), fan_out)
        if "live" in rows:
            title = "1,000 clients of one live view, every second"
            row(title, ROUNDS, lambda peer: live(partial(Running, peer, load), CLIENT_CORE, SECONDS), fan_out)
        if "following" in rows and fan_out:
            measure = partial(following, cores=(SERVER_CORE, CLIENT_CORE), seconds=SECONDS)
            row("Following a log that nobody reads", ROUNDS, measure, LOGS)
    results = HERE / "results.json"
    results.write_text(json.dumps({"cores": os.cpu_count(), "cpu": cpu[:1], "tables": tables}, indent=2))
    print(f"\nAlso in {results.relative_to(HERE.parent)}.")


if __name__ == "__main__":
    main()
