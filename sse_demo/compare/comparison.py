"""The whole of a comparison: which server polling gets, then each arm on a server of its own, and what follows."""

import asyncio
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from sse_demo.compare import capacity
from sse_demo.compare.arms import Load, Progress, Target, Unusable, measure
from sse_demo.compare.http import Conversation, Site
from sse_demo.compare.plan import BadPlan, Plan, cores
from sse_demo.compare.results import Arm, Result
from sse_demo.compare.servers import ASGI, GTHREAD, Kind, run_server
from sse_demo.compare.updates import PublishFailed

# Trials find what a poll's cost is made of: enough of them to tell small costs apart, as many a second as 500 clients
# make that poll each second.
TRIAL = Load(clients=250, updates_per_second=0.0, duration=2.0, outage=False)
NOBODY = Arm("nobody reads")
EMPTY = Arm("polls that find nothing", 0.5, conditional=True)
FINDING = Arm("polls that find an update", 0.5)
CROWDED = Arm("polls that find ten", 0.5)
RATES = {NOBODY: 20.0, EMPTY: 0.0, FINDING: 2.0, CROWDED: 20.0}  # updates a second

INTERRUPTED = "Interrupted: the last arm is shorter than planned, and others are missing."


@dataclass(frozen=True)
class Trials:
    """What one server takes for publishing, and for polls of each kind."""

    server: str
    alone: Result
    empty: Result
    finding: Result
    crowded: Result

    def poll_cpu(self, found: float) -> float:
        """CPU seconds of a poll, by how many updates one finds on average."""
        share = min(1.0, found)
        return (1 - share) * (self.empty.cpu_per_request or 0.0) + share * (self.finding.cpu_per_request or 0.0)


@dataclass
class Comparison:
    """What was measured, and what it was measured on."""

    plan: Plan
    command: str
    earlier: capacity.Costs | None = None  # those of another comparison, for this one to check
    began_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: str = field(
        default_factory=lambda: f"{cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    )
    software: str = field(
        default_factory=lambda: ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("Django", "gunicorn"))]
        )
    )
    trials: list[Trials] = field(default_factory=list)  # on each server that polling could get
    results: list[Result] = field(default_factory=list)
    steps: list[Result] = field(default_factory=list)  # behind a proxy: both ways, at each number of clients
    cut_short: str = ""  # by what

    @property
    def is_empty(self) -> bool:
        return not self.results and not self.steps

    @property
    def for_polls(self) -> Trials | None:
        """The trials of the server that answers polls with the least CPU, at this rate and the shortest interval."""
        found = self.plan.updates_per_second * min(self.plan.intervals)
        return min(self.trials, key=lambda trials: trials.poll_cpu(found), default=None)

    def publish_cpu(self, server: str) -> float:
        """CPU seconds that publishing an update takes there; 0 where that is not known."""
        return next((trials.alone.cpu_per_update for trials in self.trials if trials.server == server), 0.0)

    @property
    def stream(self) -> Result | None:
        return next((result for result in self.results if result.arm.streams), None)

    @property
    def costs(self) -> capacity.Costs | None:
        """None until both ways have been measured, on servers of our own."""
        if self.earlier:
            return self.earlier
        stream, polls = self.stream, self.for_polls
        if not (stream and stream.cpu and stream.client_updates and polls):
            return None
        return capacity.fit(stream, polls.empty, polls.finding, polls.crowded)

    def to_json(self) -> str:
        """Everything, for machines: seconds and bytes, unrounded."""
        derived = [name for name, kind in vars(Result).items() if isinstance(kind, property)]

        def plain(result: Result) -> dict[str, Any]:
            return asdict(result) | {name: getattr(result, name) for name in derived}

        costs = self.costs
        whole = {
            "command": self.command,
            "began_at": self.began_at,
            "machine": self.machine,
            "software": self.software,
            "cut_short": self.cut_short,
            "plan": asdict(self.plan) | {"token": "given" if self.plan.token else ""},
            "trials": [plain(each) for t in self.trials for each in (t.alone, t.empty, t.finding, t.crowded)],
            "results": [plain(result) for result in self.results],
            "behind_proxy": [plain(step) for step in self.steps],
            "costs": asdict(costs) if costs else None,
        }
        return json.dumps(whole, indent=2)


def read_costs(file: str) -> capacity.Costs | None:
    """Those that `Comparison.to_json` has written there; None without a file. Raises BadPlan."""
    try:
        return capacity.Costs(**json.loads(Path(file).read_text())["costs"]) if file else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadPlan(f"--costs {file} is not the compare.json of a whole comparison: {error}") from None


Watch = Callable[[str], Progress]  # names an arm, and gets what to tell its progress


def compare(comparison: Comparison, watch: Watch) -> None:
    """Measure everything that the plan says, into `comparison`. Ctrl-C ends it with what has been measured.

    Raises BadPlan for a site that cannot be measured, ServerFailed for a server of our own that does not start.
    """
    plan = comparison.plan
    try:
        if plan.url:
            _compare_site(comparison, watch)
            return
        for_polls = try_servers(comparison, watch)
        for arm in plan.arms:
            # A fresh server for each: none inherits another's memory or history.
            with _server(ASGI if arm.streams else for_polls, comparison) as target:
                result = asyncio.run(measure(arm, plan.load, target, watch(arm.name)))
            keep(comparison.results, result)
    except KeyboardInterrupt:
        comparison.cut_short = INTERRUPTED


def keep(results: list[Result], result: Result) -> None:
    """Raises KeyboardInterrupt if that ended it."""
    results.append(result)
    if result.interrupted:
        raise KeyboardInterrupt


def try_servers(comparison: Comparison, watch: Watch) -> Kind:
    """Find what polls cost on each server that could answer them; returns the one that is cheaper for them."""
    plan = comparison.plan
    kinds = {kind.name: kind for kind in (GTHREAD, ASGI)}
    for kind in kinds.values():
        with _server(kind, comparison) as target:
            progress = watch(f"trying {kind.name}")
            results: list[Result] = []
            for arm, rate in RATES.items():
                clients, duration = 0 if arm is NOBODY else TRIAL.clients, min(TRIAL.duration, plan.duration)
                load = replace(TRIAL, updates_per_second=rate, clients=clients, duration=duration)
                keep(results, asyncio.run(measure(arm, load, target, progress)))
                if arm is NOBODY:
                    target = replace(target, publish_cpu=results[0].cpu_per_update)
            comparison.trials.append(Trials(kind.name, *results))
    assert comparison.for_polls, "there are trials"  # noqa: S101
    return kinds[comparison.for_polls.server]


@contextmanager
def _server(kind: Kind, comparison: Comparison) -> Iterator[Target]:
    with run_server(kind) as server:
        yield Target(Site.resolve(server.url), kind.name, server.token, server.usage, comparison.publish_cpu(kind.name))


def _compare_site(comparison: Comparison, watch: Watch) -> None:
    plan = comparison.plan
    site = plan.resolve()
    try:
        asyncio.run(_require_contract(site, bool(plan.token)))
        for arm in plan.arms:
            result = asyncio.run(measure(arm, plan.load, Target(site, plan.url, plan.token), watch(arm.name)))
            keep(comparison.results, result)
    except (OSError, Unusable, PublishFailed) as error:
        what = f"it cannot be reached: {error or type(error).__name__}" if isinstance(error, OSError) else error
        problem = f"{plan.url}: {what}"
        if not comparison.results:
            raise BadPlan(f"--url {problem}") from None
        comparison.cut_short = f"It ended early, and the rest is missing: {problem}"


async def _require_contract(site: Site, publishes: bool) -> None:
    """Raises Unusable unless a stream and polls are there, and OSError when nothing is."""
    conversation = Conversation(site)
    # A stream does not end: what it begins with is enough, or its clock's first tick when that is what will be read.
    enough = b"event: hello" if publishes else b"\n\ndata: "
    stream = await conversation.ask("", {"Accept": "text/event-stream"}, enough=enough, patience=5.0)
    conversation.close()
    kind = stream.headers.get("content-type", "nothing").partition(";")[0]
    if stream.status != 200 or kind != "text/event-stream":
        raise Unusable(
            f"it is no event stream: it answers {kind if stream.status == 200 else stream.status}. Give the URL of the "
            f"stream, such as https://example.com/events/."
        )
    if enough not in stream.body:
        raise Unusable(
            "its stream does not begin with a hello."
            if publishes
            else "it has no clock that ticks. Give --token, so that updates can be published there."
        )
    poll = await conversation.ask("poll/")
    conversation.close()
    if poll.status != 200 or b'"cursor"' not in poll.body:
        raise Unusable(f"poll/ answers {poll.status}, and no poll of ours.")
