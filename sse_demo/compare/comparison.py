"""The whole of a comparison: which server polling gets, then each arm on a server of its own, and what follows."""

import asyncio
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psutil

from sse_demo.compare import capacity
from sse_demo.compare.arms import Load, Progress, Target, Unusable, fetch, measure
from sse_demo.compare.http import Connection, Site, Wire
from sse_demo.compare.plan import BadPlan, Plan, cores
from sse_demo.compare.results import Arm, Result
from sse_demo.compare.servers import ASGI, GTHREAD, Kind, run_server
from sse_demo.compare.updates import PublishFailed

# Trials find what a cost is made of, at one rate of requests: enough of them to tell small costs apart.
TRIAL = Load(clients=100, updates_per_second=0.0, duration=2.0, steady_only=True)
NOBODY = Arm("nobody reads")
EMPTY = Arm("empty polls", 0.5, conditional=True)
FINDING = Arm("polls that find", 0.5)
RATES = (2.0, 20.0)  # updates a second: one and ten for each poll


@dataclass
class Comparison:
    """What was measured, and what it was measured on."""

    plan: Plan
    command: str
    began_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: str = field(
        default_factory=lambda: f"{cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    )
    software: str = field(
        default_factory=lambda: ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("Django", "gunicorn"))]
        )
    )
    trials: list[Result] = field(default_factory=list)  # polls that find nothing, on each server that polling could get
    alone: dict[str, Result] = field(default_factory=dict)  # by server: updates published, and nobody to read them
    finding: list[Result] = field(default_factory=list)  # polls that find something, on the server that polling got
    results: list[Result] = field(default_factory=list)
    steps: list[Result] = field(default_factory=list)  # behind a proxy: both ways, at each number of clients
    interrupted: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.results and not self.steps

    @property
    def poll_server(self) -> Result | None:
        """The trial of the server that answers a poll with the least CPU."""
        ours = [trial for trial in self.trials if trial.cpu_per_request]
        return min(ours, key=lambda trial: trial.cpu_per_request or 0.0, default=None)

    @property
    def stream(self) -> Result | None:
        return next((result for result in self.results if result.arm.streams), None)

    @property
    def costs(self) -> capacity.Costs | None:
        """None until both ways have been measured, on servers of our own."""
        stream, empty = self.stream, self.poll_server
        if not (stream and stream.cpu and stream.client_updates and empty and len(self.finding) == len(RATES)):
            return None
        return capacity.fit(stream, empty, self.finding, self.alone)

    def to_json(self) -> str:
        """Everything, for machines: seconds and bytes, unrounded."""
        derived = (
            "client_updates",
            "cpu_per_client_update",
            "client_updates_per_cpu",
            "bytes_per_client_update",
            "cpu_per_request",
            "memory_per_client",
            "never_shown",
        )

        def plain(result: Result) -> dict[str, Any]:
            return asdict(result) | {name: getattr(result, name) for name in derived}

        costs = self.costs
        whole = {
            "command": self.command,
            "began_at": self.began_at,
            "machine": self.machine,
            "software": self.software,
            "interrupted": self.interrupted,
            "plan": asdict(self.plan) | {"token": "given" if self.plan.token else ""},
            "trials": [plain(trial) for trial in self.trials],
            "finding": [plain(result) for result in self.finding],
            "alone": [plain(result) for result in self.alone.values()],
            "results": [plain(result) for result in self.results],
            "behind_proxy": [plain(step) for step in self.steps],
            "costs": asdict(costs) if costs else None,
        }
        return json.dumps(whole, indent=2)


Watch = Callable[[str], Progress]  # names an arm, and gets what to tell its progress


def compare(comparison: Comparison, watch: Watch) -> None:
    """Measure everything that the plan says, into `comparison`. Ctrl-C ends it with what has been measured.

    Raises BadPlan for a site that cannot be measured, ServerFailed for a server of our own that does not start.
    """
    try:
        if comparison.plan.url:
            _compare_site(comparison, watch)
        else:
            _compare_servers(comparison, watch)
    except KeyboardInterrupt:
        comparison.interrupted = True


def _compare_servers(comparison: Comparison, watch: Watch) -> None:
    plan = comparison.plan
    kinds = {kind.name: kind for kind in (GTHREAD, ASGI)}
    for kind in kinds.values():
        with _server(kind) as target:
            progress = watch(f"trying {kind.name}")
            nobody = replace(TRIAL, clients=0, updates_per_second=max(RATES))
            comparison.alone[kind.name] = asyncio.run(measure(NOBODY, nobody, target, progress))
            comparison.trials.append(asyncio.run(measure(EMPTY, TRIAL, target, progress)))
    cheapest = comparison.poll_server
    for_polls = kinds[cheapest.server] if cheapest else GTHREAD
    with _server(for_polls) as target:
        progress = watch("what a poll costs")
        for rate in RATES:
            load = replace(TRIAL, updates_per_second=rate)
            comparison.finding.append(asyncio.run(measure(FINDING, load, target, progress)))
    for arm in plan.arms:
        # A fresh server for each: none inherits another's memory or history.
        with _server(ASGI if arm.streams else for_polls) as target:
            result = asyncio.run(measure(arm, plan.load, target, watch(arm.name)))
        comparison.results.append(result)
        if result.interrupted:
            raise KeyboardInterrupt


@contextmanager
def _server(kind: Kind) -> Iterator[Target]:
    with run_server(kind) as server:
        yield Target(Site.resolve(server.url), kind.name, server.token, server.usage)


def _compare_site(comparison: Comparison, watch: Watch) -> None:
    plan = comparison.plan
    site = plan.resolve()
    target = Target(site, plan.url, plan.token)
    _require_contract(site)
    for arm in plan.arms:
        try:
            result = asyncio.run(measure(arm, plan.load, target, watch(arm.name)))
        except (OSError, Unusable, PublishFailed) as error:
            if comparison.results:
                comparison.interrupted = True
                return
            raise BadPlan(f"--url {plan.url}: {error}") from None
        comparison.results.append(result)
        if result.interrupted:
            raise KeyboardInterrupt


def _require_contract(site: Site) -> None:
    """Raises BadPlan unless a stream and polls are there."""
    try:
        status, body = asyncio.run(fetch(site, "poll/"))
        kind = asyncio.run(_media_type(site))
    except (OSError, TimeoutError) as error:
        raise BadPlan(f"{site.authority} cannot be reached: {error or type(error).__name__}") from None
    if kind != "text/event-stream":
        raise BadPlan(
            f"{site.scheme}://{site.authority}{site.path} is no event stream: it answers {kind}. Give the URL of the "
            f"stream, such as https://example.com/events/."
        )
    if status != 200 or b'"cursor"' not in body:
        raise BadPlan(f"{site.scheme}://{site.authority}{site.path}poll/ answers {status}, and no poll of ours.")


async def _media_type(site: Site) -> str:
    """What the stream's head says it is."""
    head: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def answered(status: int, headers: Any) -> None:
        if not head.done():
            head.set_result(headers.get("content-type", "").partition(";")[0] if status == 200 else str(status))

    def lost(_: object) -> None:
        if not head.done():
            head.set_result("nothing")

    connection = Connection(answered, lambda piece: None, lambda: None, lost)
    await site.connect(connection, Wire())
    try:
        connection.write(site.request("", {"Accept": "text/event-stream"}))
        return await asyncio.wait_for(head, 10)
    finally:
        connection.abort()
