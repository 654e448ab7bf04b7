"""The report on a terminal. Every column is explained where it is printed."""

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sse_demo.compare import capacity, figures, proxy
from sse_demo.compare.comparison import Comparison
from sse_demo.compare.figures import CONNECTIONS, COST, SEEN, STEP, Column, proxy_verdict, verdict, warnings
from sse_demo.compare.results import Result


def print_report(console: Console, comparison: Comparison) -> None:
    """The tables, and what they mean. Says so when there is nothing to tell."""
    if comparison.is_empty:
        console.print("Nothing was measured.")
        return
    if comparison.steps:
        _print_steps(console, comparison)
    else:
        _print_arms(console, comparison)
    if comparison.cut_short:
        console.print(comparison.cut_short, style="yellow", markup=False)


def _print_arms(console: Console, comparison: Comparison) -> None:
    plan = comparison.plan
    console.print()
    console.print(
        f"[b]{plan.clients:,} clients, {figures.rate(plan.updates_per_second)} to each, for "
        f"{plan.duration:g} s[/b] on {comparison.machine}; {comparison.software}"
        if not plan.url
        else f"[b]{plan.clients:,} clients of {plan.url} for {plan.duration:g} s[/b]"
    )
    for title, columns in (("What it costs the server", COST), ("What users see", SEEN), ("Connections", CONNECTIONS)):
        console.print(_table(title, columns, comparison.results), _legend(columns))
    for line in [*verdict(comparison), *warnings(comparison)]:
        console.print(line)
    if comparison.costs:
        console.print(_capacity(comparison, comparison.costs))


def _print_steps(console: Console, comparison: Comparison) -> None:
    console.print()
    console.print(
        f"[b]Behind nginx: ever more clients, {figures.rate(comparison.plan.updates_per_second)} to each[/b] on "
        f"{comparison.machine}; {comparison.software}"
    )
    console.print(
        f"nginx allows {proxy.RATE_PER_ADDRESS} requests a second from each of {proxy.ADDRESSES} addresses (burst "
        f"{proxy.BURST}) and waits {proxy.READ_TIMEOUT} s for the server (a stream: {proxy.STREAM_TIMEOUT} s), which "
        f"lets {proxy.BACKLOG} connections wait."
    )
    for streams in (False, True):
        steps = [step for step in comparison.steps if step.arm.streams is streams]
        if steps:
            names = (f"{step.clients:,}" for step in steps)
            console.print(_table(f"{steps[0].arm.name}, number of clients", STEP, steps, names))
    console.print(_legend(STEP))
    for line in proxy_verdict(comparison):
        console.print(line)


def _table(
    title: str, columns: Sequence[Column], results: Sequence[Result], names: Iterable[str] = ()
) -> RenderableType:
    table = _plain_table(title)
    table.add_column("", no_wrap=True)
    for head, _, _ in columns:
        table.add_column(head, justify="right", min_width=max(map(len, head.split())))
    for name, result in zip(names or [result.arm.name for result in results], results, strict=True):
        table.add_row(name, *(cell(result) for _, cell, _ in columns), style="bold" if result.arm.streams else "")
    return Padding(table, (1, 0, 0, 0))


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="", box=None, pad_edge=False)


def _legend(columns: Sequence[Column]) -> RenderableType:
    legend = Table(box=None, show_header=False, pad_edge=False, style="dim")
    legend.add_column(no_wrap=True)
    for head, _, meaning in columns:
        legend.add_row(head, meaning)
    return Padding(legend, (1, 0, 1, 2))


def _capacity(comparison: Comparison, costs: capacity.Costs) -> RenderableType:
    title = f"What more users would need, at {figures.rate(comparison.plan.updates_per_second)} to each"
    table = _plain_table(title)
    for head in figures.CAPACITY_HEADS:
        table.add_column(head, justify="right" if head else "left")
    last = ""
    for users, *cells in figures.capacity_rows(comparison, costs):
        table.add_row("" if users == last else users, *cells, style="" if users == last else "bold")
        last = users
    lines = [
        "In proportion to what was measured, CPU only of the application; docs/scaling.md has the formulas.",
        *figures.checks(comparison, costs),
        "",
        *figures.where_polling_wins(comparison, costs),
    ]
    return Padding(Group(table, Text(), *(Text(line) for line in lines)), (1, 0))
