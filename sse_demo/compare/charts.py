"""The report's charts: Vega-Lite, drawn to SVG here, so that the report needs no script and no network.

Colours are CSS variables, which the page sets for light and dark. Each chart is drawn wide and narrow.
"""

import re
from collections.abc import Sequence
from typing import Any

import vl_convert
from django.utils.safestring import SafeString, mark_safe

from sse_demo.compare import capacity
from sse_demo.compare.results import SSE, Arm, Result

WIDTHS = {"wide": 740, "narrow": 290}  # pixels: a desktop's column, and a phone's
STREAM_COLOR = "var(--stream)"
POLL_COLORS = ("var(--poll-1)", "var(--poll-2)", "var(--poll-3)", "var(--poll-4)")
CODES = {"429": "var(--poll-1)", "502": "var(--poll-3)", "504": "var(--poll-2)", "none": "var(--muted)"}
POLLING = Arm("polling", 1.0)  # at any interval
FONT = "system-ui, sans-serif"
_SIZE = re.compile(r'<svg ([^>]*?)width="(\d+)(?:\.\d+)?" height="(\d+)(?:\.\d+)?"')

Spec = dict[str, Any]


def staleness(results: Sequence[Result]) -> SafeString:
    """The whole distribution: which share of what users saw was fresher than how long."""
    points = [
        {"way": result.arm.name, "seconds": max(value, 0.000_1), "share": index / (len(result.quantiles) - 1)}
        for result in results
        for index, value in enumerate(result.quantiles)
    ]
    arms = [result.arm for result in results if result.quantiles]
    return _draw(
        {
            "data": {"values": points},
            "height": 260,
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2.5, "clip": True},
            "encoding": {
                "x": _log("seconds", "staleness, seconds"),
                "y": {
                    "field": "share",
                    "type": "quantitative",
                    "title": "share of updates and users",
                    "axis": {"format": "%"},
                },
                "color": _colors(arms),
                "order": {"field": "share"},
            },
        },
        "Share of updates and users for which the screen was fresher than a time",
    )


def bars(results: Sequence[Result], values: Sequence[float], labels: Sequence[str], title: str) -> SafeString:
    """One bar for each way of reading, with its figure beside it."""
    points = [
        {"way": result.arm.name, "value": value, "label": label}
        for result, value, label in zip(results, values, labels, strict=True)
    ]
    names = [result.arm.name for result in results]
    y: Spec = {"field": "way", "type": "nominal", "sort": names, "title": None}
    y["axis"] = {"ticks": False, "domain": False, "minExtent": 112}  # its own measure is of another font
    # The longest bar leaves room for its own figure.
    x = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "axis": None,
        "scale": {"domain": [0, max([*values, 1e-9]) * 1.25]},
    }
    return _draw(
        {
            "data": {"values": points},
            "height": {"step": 30},
            "layer": [
                {
                    "mark": {"type": "bar", "height": 18, "cornerRadiusEnd": 3},
                    "encoding": {"x": x, "y": y, "color": {**_colors([r.arm for r in results]), "legend": None}},
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 6, "color": "var(--text)", "fontSize": 13},
                    "encoding": {"x": x, "y": y, "text": {"field": "label"}},
                },
            ],
        },
        title,
    )


def cores(costs: capacity.Costs, rate: float, intervals: Sequence[float]) -> SafeString:
    """How many cores it takes, by the number of users."""
    arms = [SSE, *(Arm.poll(interval) for interval in intervals)]
    points = [
        {"way": way, "users": users, "cores": need.cores}
        for users in capacity.USERS
        for way, need in capacity.needs(costs, users, rate, intervals)
    ]
    spec = _lines("users", "users", "cores", "cores", _colors(arms), 240)
    return _draw({"data": {"values": points}, **spec}, "Cores by number of users")


def crossover(costs: capacity.Costs) -> SafeString:
    """From which polling interval polling costs less, by how often something happens."""
    often = list(capacity.RATES.items())
    points = [
        {"way": name, "often": f"something happens {when}", "interval": interval, "cores": need.cores}
        for when, rate in often
        for interval in (10 ** (step / 10) for step in range(38))
        for name, need in (
            (SSE.name, capacity.streaming(costs, 1_000, rate)),
            (POLLING.name, capacity.polling(costs, 1_000, rate, interval)),
        )
    ]
    spec = _lines("interval", "polling interval, seconds", "cores", "cores", _colors([SSE, POLLING]), 110, points=False)
    return _draw(
        {
            "data": {"values": points},
            "facet": _rows("often", [f"something happens {when}" for when, _ in often]),
            "spec": spec,
        },
        "Cores for 1,000 users by polling interval, for several rates of updates",
    )


def failures(steps: Sequence[Result]) -> SafeString:
    """The share of each failure among all answers, by the number of clients."""
    points = [
        {
            "way": (SSE if step.arm.streams else POLLING).name,
            "clients": step.clients,
            "status": status,
            "share": step.statuses.get(status, 0) / max(1, step.answers),
        }
        for step in steps
        for status in CODES
    ]
    counts = sorted({step.clients for step in steps})
    return _draw(
        {
            "data": {"values": points},
            "facet": _rows("way", [POLLING.name, SSE.name]),
            "spec": {
                "height": 130,
                "mark": {"type": "bar"},
                "encoding": {
                    "x": {
                        "field": "clients",
                        "type": "ordinal",
                        "sort": counts,
                        "title": "clients",
                        "axis": {"labelAngle": 0},
                    },
                    "y": {
                        "field": "share",
                        "type": "quantitative",
                        "title": "failed answers",
                        "axis": {"format": "%"},
                        "scale": {"domain": [0, 1]},
                    },
                    "color": {
                        "field": "status",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": list(CODES), "range": list(CODES.values())},
                        "legend": {"orient": "top"},
                    },
                },
            },
        },
        "Share of failed answers by number of clients, polling and SSE",
    )


def staleness_by_clients(steps: Sequence[Result]) -> SafeString:
    """The staleness of one in a hundred, by the number of clients."""
    arms = list({step.arm.name: step.arm for step in steps}.values())
    points = [
        {"way": step.arm.name, "clients": step.clients, "seconds": step.staleness.p99}
        for step in steps
        if step.staleness
    ]
    spec = _lines("clients", "clients", "seconds", "p99 of staleness, seconds", _colors(arms), 200)
    return _draw({"data": {"values": points}, **spec}, "The p99 of staleness by number of clients")


def _lines(x: str, x_title: str, y: str, y_title: str, color: Spec, height: int, points: bool = True) -> Spec:
    """Lines on logarithmic axes."""
    mark = {"type": "line", "strokeWidth": 2.5} | ({"point": {"size": 45}} if points else {})
    return {"height": height, "mark": mark, "encoding": {"x": _log(x, x_title), "y": _log(y, y_title), "color": color}}


def _rows(field: str, order: Sequence[str]) -> Spec:
    return {"row": {"field": field, "title": None, "sort": order}}


def _log(field: str, title: str) -> Spec:
    decades = [10.0**power for power in range(-6, 9)]  # a line at each; Vega would draw nine between two
    axis = {"format": "~s" if field in ("users", "clients") else "~g", "labelOverlap": True, "values": decades}
    return {"field": field, "type": "quantitative", "title": title, "scale": {"type": "log"}, "axis": axis}


def _colors(arms: Sequence[Arm]) -> Spec:
    polls = [arm.name for arm in arms if not arm.streams]
    color = {arm.name: STREAM_COLOR for arm in arms if arm.streams} | {
        name: POLL_COLORS[number % len(POLL_COLORS)] for number, name in enumerate(polls)
    }
    return {
        "field": "way",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(color), "range": list(color.values())},
        "legend": {"orient": "top", "columns": 3, "symbolType": "stroke", "symbolStrokeWidth": 3},
    }


CONFIG: Spec = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)",
        "gridColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": "var(--text)", "labelFontSize": 12, "labelLimit": 200},
    "header": {"labelColor": "var(--text)", "labelFontSize": 13, "labelOrient": "top", "labelAnchor": "start"},
}


def _draw(spec: Spec, description: str) -> SafeString:
    """The chart at both widths; the page shows the one that fits."""
    drawn = []
    for name, width in WIDTHS.items():
        inner = {**spec.get("spec", spec), "width": width}
        sized = {**spec, "spec": inner} if "facet" in spec else inner
        svg = vl_convert.vegalite_to_svg({**sized, "config": CONFIG, "padding": 2}, vl_version="5.20")
        # Its size is that of the page's column; the viewBox keeps the proportions.
        svg = _SIZE.sub(rf'<svg \1role="img" aria-label="{description}"', svg, count=1)
        drawn.append(f'<div class="{name}">{svg}</div>')
    return mark_safe("".join(drawn))  # noqa: S308  drawn here, from numbers
