"""The figures of a report, as people read them: with their units, their columns and the sentences they amount to."""

from collections import Counter
from collections.abc import Callable, Sequence

from sse_demo.compare import capacity, proxy
from sse_demo.compare.comparison import Comparison
from sse_demo.compare.results import Result, Spread

Column = tuple[str, Callable[[Result], str], str]  # its head, its cells, what it means

TOLERANCE = 0.3  # of what was measured, by which a formula may be off: of another load it is a guess then
_UNRELIABLE = ": do not rely on the formulas, and measure again on an idle machine"
BUSY_CLIENTS = 0.7  # of a core; beyond it the clients' own delays begin to show in what they measure


def seconds(value: float | None) -> str:
    """Three figures at most, with the unit that fits."""
    if value is None:
        return "–"
    if value < 0.000_995:
        return f"{value * 1e6:.3g} µs"
    if value < 0.995:
        return f"{value * 1e3:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    if value < 5_400:
        return f"{value / 60:.0f} min"
    if value < 129_600:
        return f"{value / 3_600:.0f} h"
    return f"{value / 86_400:.0f} days"


def size(value: float | None) -> str:
    """Bytes, in powers of 1,000."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.5 or unit == "PB":
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
        value /= 1000
    return ""


def count(value: float | None) -> str:
    """A number to compare by: three figures, with thousands marked."""
    if value is None:
        return "–"
    if value and abs(value) < 10:
        return f"{value:.2g}"
    return f"{float(f'{value:.3g}'):,.0f}"


def share(part: float, whole: float) -> str:
    if not whole or not part:
        return "0"
    percent = 100 * part / whole
    return f"{percent:.{3 if percent >= 10 else 2 if percent >= 0.1 else 1}g} %"


def rate(updates_per_second: float) -> str:
    return f"{updates_per_second:g} update{'' if updates_per_second == 1 else 's'} a second"


def _of(spread: Spread | None, mark: str) -> str:
    return seconds(getattr(spread, mark)) if spread else "–"


COST: Sequence[Column] = (
    ("requests per s", lambda r: count(r.requests / r.seconds), "made by all clients together"),
    (
        "updates per CPU s",
        lambda r: count(r.client_updates_per_cpu),
        "updates that reached clients, for one second of the server's CPU time (user and system, all its processes)",
    ),
    (
        "reading alone",
        lambda r: count(r.client_updates_per_reading_cpu),
        "the same without the CPU that publishing takes, once for each update, however many read it and how",
    ),
    (
        "bytes per update",
        lambda r: size(r.bytes_per_client_update),
        "through the sockets in both directions, heads included, for one update to one client",
    ),
    ("bytes/s", lambda r: size((r.sent + r.received) / r.seconds), "the same for all clients, a second"),
    ("memory per client", lambda r: size(r.memory_per_client), "what the server grew by, shared among the clients"),
)
SEEN: Sequence[Column] = (
    (
        "median",
        lambda r: _of(r.staleness, "median"),
        "staleness: from when an update was made until a user saw it, or a later one; half are less",
    ),
    ("p95", lambda r: _of(r.staleness, "p95"), "95 % are less"),
    ("p99", lambda r: _of(r.staleness, "p99"), "99 % are less"),
    ("worst", lambda r: _of(r.staleness, "worst"), "the most, of all updates and users"),
    (
        "never shown",
        lambda r: share(r.never_shown, r.client_updates),
        "updates that no longer were the newest when they arrived: that user never saw them",
    ),
    ("lost", lambda r: count(r.lost), "updates that never arrived, over the whole run, an outage included"),
    ("doubled", lambda r: count(r.doubled), "updates that arrived again"),
)
CONNECTIONS: Sequence[Column] = (
    ("connect", lambda r: _of(r.connect, "median"), "from wanting to be connected to the first good answer, median"),
    ("reconnect", lambda r: _of(r.reconnect, "median"), "the same when all were cut at once, median"),
    ("last one back", lambda r: _of(r.reconnect, "worst"), "and of the last client"),
    (
        "answers",
        lambda r: ", ".join(f"{n:,}\u00a0×\u00a0{status}" for status, n in r.statuses.items()),
        "every status code, from the first connection to the last; none: refused or cut",
    ),
    ("late", lambda r: count(r.skipped), "polls not made because the answer to the one before was still out"),
    (
        "clients' CPU",
        lambda r: f"{100 * r.client_cpu:.0f} %",
        "of one core: what measured all this, and no part of the figures",
    ),
)


STEP: Sequence[Column] = (
    ("asked per s", lambda r: count(r.requests / r.seconds), "made by all clients together, in the steady window"),
    ("good", lambda r: share(r.answers - r.failures, r.answers), "answers as they should be: 200 or 304"),
    *(
        (status, lambda r, status=status: share(r.statuses.get(status, 0), r.answers), meaning)
        for status, meaning in (
            ("429", "refused by nginx: too many requests from one address"),
            ("502", "the server did not take nginx's connection"),
            ("504", "the server did not answer nginx in time"),
            ("none", "no answer at all: cut, or none within 30 s"),
        )
    ),
    ("median", lambda r: _of(r.staleness, "median"), "staleness of what users see,"),
    ("p99", lambda r: _of(r.staleness, "p99"), "and that of one in a hundred"),
    ("server CPU", lambda r: share(r.cpu or 0.0, r.seconds), "of one core"),
)


def _clients(number: int) -> str:
    return f"{number:,} client{'' if number == 1 else 's'}"


def proxy_verdict(comparison: Comparison) -> list[str]:
    """From how many clients on each way fails, in sentences."""
    lines = []
    for streams in (False, True):
        steps = [step for step in comparison.steps if step.arm.streams is streams]
        if not steps:
            continue
        name, begins = steps[0].arm.name, proxy.fails_from(steps)
        if begins is None:
            lines.append(f"{name}: no failures up to {_clients(steps[-1].clients)}.")
            continue
        codes = Counter[str]()
        for step in steps:
            codes.update({status: n for status, n in step.statuses.items() if status not in ("200", "304")})
        seen = ", ".join(f"{n:,} times {status}" for status, n in sorted(codes.items()))
        [first] = [step for step in steps if step.clients == begins]
        failed = share(first.failures, first.answers)
        lines.append(f"{name}: begins to fail at {_clients(begins)}, {failed} of the answers there; in all {seen}.")
    return lines


def _rivals(comparison: Comparison) -> tuple[Result, Result, Result] | None:
    """The stream, and of the polls at the shortest interval the one that costs least, and the one that is freshest."""
    stream = comparison.stream
    polls = [result for result in comparison.results if not result.arm.streams]
    if not (stream and polls):
        return None
    shortest = min(result.arm.interval or 0.0 for result in polls)
    polls = [result for result in polls if result.arm.interval == shortest]
    return (
        stream,
        max(polls, key=lambda result: result.client_updates_per_cpu or 0.0),
        min(polls, key=lambda result: result.staleness.median if result.staleness else float("inf")),
    )


def _ratio(more: float | None, less: float | None) -> str:
    return count(more / less) if more and less else ""


def verdict(comparison: Comparison) -> list[str]:
    """The comparison in sentences: only what was measured."""
    lines = []
    if rivals := _rivals(comparison):
        stream, best, fresh = rivals
        if ratio := _ratio(stream.client_updates_per_cpu, best.client_updates_per_cpu):
            lines.append(
                f"For the same CPU, publishing included, SSE brought {ratio} times as many updates to users as "
                f"{best.arm.name}; for reading alone, "
                f"{_ratio(stream.client_updates_per_reading_cpu, best.client_updates_per_reading_cpu)} times."
            )
        if stream.staleness and fresh.staleness:
            ratio = _ratio(fresh.staleness.median, stream.staleness.median)
            lines.append(f"What users saw was {ratio} times fresher at the median than with {fresh.arm.name}.")
    if costs := comparison.costs:
        lines.append(
            f"Publishing took {seconds(costs.publish_cpu)} of CPU for each update, however many read it; reading it, "
            f"{seconds(costs.stream_cpu)} for each user on a stream."
        )
    if chosen := comparison.for_polls:
        tried = (
            f"{trials.server}: {seconds(trials.finding.cpu_per_request)} of CPU for one that finds an update, "
            f"{seconds(trials.empty.cpu_per_request)} for one that finds nothing"
            for trials in sorted(comparison.trials, key=lambda trials: trials is not chosen)
        )
        lines.append(f"Polls got the server that answers them with less CPU. {'; '.join(tried)}.")
    return lines


def tiles(comparison: Comparison) -> list[tuple[str, str]]:
    """The few figures to remember: each, and what it is."""
    if not (rivals := _rivals(comparison)):
        return []
    stream, best, fresh = rivals
    found = []
    if ratio := _ratio(stream.client_updates_per_cpu, best.client_updates_per_cpu):
        reading = _ratio(stream.client_updates_per_reading_cpu, best.client_updates_per_reading_cpu)
        more = f"as many updates to users for the same CPU as {best.arm.name}; {reading} × for reading alone"
        found.append((f"{ratio} ×", more))
    if stream.staleness and fresh.staleness:
        for mark, where in (("median", "at the median"), ("worst", "at worst")):
            meaning = f"old is what users see {where}; {_of(fresh.staleness, mark)} with {fresh.arm.name}"
            found.append((_of(stream.staleness, mark), meaning))
    ratio = _ratio(best.bytes_per_client_update, stream.bytes_per_client_update)
    found.append((f"1 / {ratio}", f"of the bytes that {best.arm.name} moves"))
    return found


def warnings(comparison: Comparison) -> list[str]:
    """What limits these figures."""
    lines = []
    for result in comparison.results:
        if result.refused:
            lines.append(
                f"{result.arm.name}: the site did not take {count(result.refused)} updates, so nobody got them."
            )
        if result.client_cpu > BUSY_CLIENTS:
            lines.append(
                f"{result.arm.name}: the clients took {100 * result.client_cpu:.0f} % of a core, so part of the "
                f"staleness is theirs; measure with fewer."
            )
        if result.cpu and result.cpu / result.seconds > 0.9:
            lines.append(
                f"{result.arm.name}: the server was busy {100 * result.cpu / result.seconds:.0f} % of one core, "
                f"about as much as one process can do; what users see suffers from it."
            )
    return lines


CAPACITY_HEADS = ("users", "", "requests/s", "cores", "memory", "traffic a month")


def capacity_rows(comparison: Comparison, costs: capacity.Costs) -> list[tuple[str, ...]]:
    """What each number of users would need, each way."""
    plan = comparison.plan
    return [
        (
            f"{users:,}",
            way,
            count(need.requests),
            count(need.cores),
            size(need.memory),
            size(need.bytes * capacity.MONTH),
        )
        for users in capacity.USERS
        for way, need in capacity.needs(costs, users, plan.updates_per_second, plan.intervals)
    ]


def where_polling_wins(comparison: Comparison, costs: capacity.Costs) -> list[str]:
    """The interval from which polling costs less, computed for some rates of updates."""
    lines = []
    for often, updates in capacity.RATES.items():
        interval = capacity.crossover(costs, updates)
        wins = (
            f"polling costs less from an interval of {seconds(interval)} on" if interval else "polling never costs less"
        )
        lines.append(f"Something happens {often}: {wins}.")
    interval = comparison.plan.intervals[-1]
    few = capacity.users_for(costs, comparison.plan.updates_per_second, interval, 0.05)
    lines.append(
        f"Up to {count(few)} users, polling each {interval:g} s takes less than 5 % of a core: either will do."
    )
    return lines


def checks(comparison: Comparison, costs: capacity.Costs) -> list[str]:
    """What the formulas say of arms that they were not made from, beside what was measured."""
    lines = []
    for result in comparison.results:
        arm = result.arm
        if arm.conditional or not result.reading_cpu or (arm.streams and not comparison.earlier):
            continue
        rate = result.updates / result.seconds
        need = dict(capacity.needs(costs, result.clients, rate, comparison.plan.intervals))[arm.name]
        measured = (result.reading_cpu / result.seconds, (result.sent + result.received) / result.seconds)
        off = max(abs(need.cores / measured[0] - 1), abs(need.bytes / max(1.0, measured[1]) - 1))
        lines.append(
            f"{arm.name}: {need.cores:.2g} cores by the formula, {measured[0]:.2g} measured; "
            f"{size(need.bytes)}/s by the formula, {size(measured[1])}/s measured"
            + (f" – OFF BY {100 * off:.0f} %{_UNRELIABLE}" if off > TOLERANCE else "")
        )
    return lines


def cost_lines(costs: capacity.Costs) -> list[str]:
    """The measured costs that the formulas are filled with."""
    return [
        f"an update on a stream: {seconds(costs.stream_cpu)} of CPU, {size(costs.stream_bytes)}",
        f"opening a stream: {seconds(costs.stream_connect)}",
        f"a poll that finds nothing: {seconds(costs.empty_cpu)}, {size(costs.empty_bytes)}",
        f"a poll that finds something: {seconds(costs.poll_cpu)}, {size(costs.poll_bytes)}; and each event in it "
        f"{seconds(costs.event_cpu) if costs.event_cpu else 'too little to tell'}, {size(costs.event_bytes)}",
        f"and once for each update, however it is read: {seconds(costs.publish_cpu)} to publish it",
        f"memory: {size(costs.stream_memory)} for a stream, {size(costs.poll_memory)} for a connection that polls",
    ]
