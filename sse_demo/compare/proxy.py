"""The problem, reproduced: a real nginx in front, with the limits that a CDN sets, and ever more clients."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from sse_demo.compare.arms import Load, Progress, Target, measure
from sse_demo.compare.comparison import INTERRUPTED, Comparison, Watch, keep, try_servers
from sse_demo.compare.http import Site
from sse_demo.compare.nginx import find_nginx, run_nginx
from sse_demo.compare.plan import SPARE_FILES
from sse_demo.compare.processes import free_port
from sse_demo.compare.results import SSE, Arm, Result
from sse_demo.compare.servers import ASGI, Kind, run_server

STEPS = 4  # each with twice the clients of the one before
ADDRESSES = 20  # offices, schools, mobile carriers: many users behind each address
RATE_PER_ADDRESS = 50  # requests a second; a usual order of magnitude for a CDN's rate limiting rule
BURST = 50  # requests above the rate before the first 429
READ_TIMEOUT = 3  # seconds until nginx gives up on the server: 504
STREAM_TIMEOUT = 20  # the same for a stream, whose silence lasts until its heartbeat at 15 s
BACKLOG = 512  # connections that wait for the server; with more of them nginx is refused: 502

HTTP = f"""
    limit_req_zone $http_x_client_address zone=address:10m rate={RATE_PER_ADDRESS}r/s;
    limit_req_status 429;
    upstream application {{ server unix:SOCKET max_fails=0; keepalive 256; }}
"""
LIMITED = f"limit_req zone=address burst={BURST} nodelay; proxy_pass http://application;"
SERVER = f"""
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_connect_timeout {READ_TIMEOUT}s;
        proxy_read_timeout {READ_TIMEOUT}s;
        location = /events/ {{ {LIMITED} proxy_read_timeout {STREAM_TIMEOUT}s; }}
        location = /events/poll/ {{ {LIMITED} }}
        location = /events/publish/ {{ proxy_pass http://application; proxy_read_timeout 60s; }}
"""


def steps(most: int) -> list[int]:
    return sorted({max(1, most >> shift) for shift in range(STEPS)})


def compare_behind_proxy(comparison: Comparison, watch: Watch) -> None:
    """Each step on a fresh server behind a fresh nginx, polling first. Raises NoNginx, ServerFailed."""
    find_nginx()
    plan = comparison.plan
    try:
        for_polls = try_servers(comparison, watch)
        for clients in steps(plan.clients):
            for arm, kind in ((Arm.poll(min(plan.intervals), conditional=True), for_polls), (SSE, ASGI)):
                load = replace(plan.load, clients=clients, addresses=ADDRESSES, outage=False)
                keep(comparison.steps, _behind_proxy(arm, kind, load, watch(f"{arm.name}, {clients:,} clients")))
    except KeyboardInterrupt:
        comparison.cut_short = INTERRUPTED


def _behind_proxy(arm: Arm, kind: Kind, load: Load, progress: Progress) -> Result:
    progress("starting", 0.0)
    kind = replace(kind, arguments=(*kind.arguments, "--backlog", str(BACKLOG)))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        socket = Path(directory, "socket")
        with (
            run_server(kind, f"unix:{socket}") as server,
            run_nginx(port, SERVER, HTTP.replace("SOCKET", str(socket)), files=2 * load.clients + SPARE_FILES),
        ):
            site = Site.resolve(f"http://127.0.0.1:{port}/events/")
            target = Target(site, f"nginx, {kind.name}", server.token, server.usage)
            return asyncio.run(measure(arm, load, target, progress))


def fails_from(steps: list[Result]) -> int | None:
    """The least number of clients at which an answer was a failure."""
    failing = [step.clients for step in steps if step.failures]
    return min(failing, default=None)
