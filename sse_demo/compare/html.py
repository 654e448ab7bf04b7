"""The report as one HTML file that needs nothing else: no script, no network."""

from collections.abc import Sequence
from typing import Any

from django.template.loader import render_to_string

from sse_demo.compare import charts, figures, proxy
from sse_demo.compare.capacity import HEARTBEAT_EVERY
from sse_demo.compare.comparison import Comparison
from sse_demo.compare.figures import Column
from sse_demo.compare.results import Result


def render(comparison: Comparison) -> str:
    """The report. Whatever was not measured is not in it."""
    plan = comparison.plan
    context: dict[str, Any] = {
        "comparison": comparison,
        "plan": plan,
        "clients": f"{plan.clients:,}",
        "rate": figures.rate(plan.updates_per_second),
        "began_at": comparison.began_at[:16].replace("T", " ") + " UTC",
        "warnings": figures.warnings(comparison),
    }
    if comparison.steps:
        context |= _behind_proxy(comparison)
    if comparison.results:
        context |= _side_by_side(comparison)
    return render_to_string("compare.html", context)


def _side_by_side(comparison: Comparison) -> dict[str, Any]:
    results, costs, plan = comparison.results, comparison.costs, comparison.plan
    context: dict[str, Any] = {
        "verdict": figures.verdict(comparison),
        "tiles": figures.tiles(comparison),
        "staleness": charts.staleness(results),
        "bytes": charts.bars(
            results,
            [result.bytes_per_client_update for result in results],
            [figures.size(result.bytes_per_client_update) for result in results],
            "Bytes for one update to one client",
        ),
        "cost_table": _table(figures.COST, results),
        "seen_table": _table(figures.SEEN, results),
        "connections_table": _table(figures.CONNECTIONS, results),
    }
    if all(result.client_updates_per_cpu for result in results):
        context["work"] = charts.bars(
            results,
            [result.client_updates_per_cpu or 0.0 for result in results],
            [figures.count(result.client_updates_per_cpu) for result in results],
            "Updates that reach users for one second of CPU",
        )
    if costs:
        context |= {
            "cores": charts.cores(costs, plan.updates_per_second, plan.intervals),
            "crossover": charts.crossover(costs),
            "capacity_heads": figures.CAPACITY_HEADS,
            "capacity_rows": figures.capacity_rows(comparison, costs),
            "where_polling_wins": figures.where_polling_wins(comparison, costs),
            "checks": figures.checks(comparison, costs),
            "costs": figures.cost_lines(costs),
            "heartbeat": HEARTBEAT_EVERY,
        }
    return context


def _behind_proxy(comparison: Comparison) -> dict[str, Any]:
    ways = [[step for step in comparison.steps if step.arm.streams is streams] for streams in (False, True)]
    return {
        "proxy": proxy,
        "proxy_verdict": figures.proxy_verdict(comparison),
        "failures": charts.failures(comparison.steps),
        "staleness_by_clients": charts.staleness_by_clients(comparison.steps),
        "step_tables": [
            (steps[0].arm.name, _table(figures.STEP, steps, [f"{step.clients:,} clients" for step in steps]))
            for steps in ways
            if steps
        ],
    }


def _table(columns: Sequence[Column], results: Sequence[Result], names: Sequence[str] = ()) -> dict[str, Any]:
    names = names or [result.arm.name for result in results]
    return {
        "heads": [head for head, _, _ in columns],
        "rows": [
            {"name": name, "streams": result.arm.streams, "cells": [cell(result) for _, cell, _ in columns]}
            for name, result in zip(names, results, strict=True)
        ],
        "legend": [(head, meaning) for head, _, meaning in columns],
    }
