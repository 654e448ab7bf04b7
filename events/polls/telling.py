"""What was found, for people in 80 columns, and for programs."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from .code import Code, code_for
from .formula import PUBLISHED, Need, polling, streaming
from .reading import Progress
from .recognising import Findings, Polled

WIDTH = 80
_SHOWN = 10  # endpoints in the table
_DETAILED = 3  # endpoints with what streaming would take, and code; --json has all
_LEAST = 0.001  # of all requests; what is less is not told in detail

Column = tuple[str, int, Callable[[Polled], str], str]  # its head, width, cells, and what it means

_COLUMNS: tuple[Column, ...] = (
    ("clients", 7, lambda one: number(one.clients) if one.interval else "?", "addresses and user agents that polled"),
    ("every", 7, lambda one: seconds(one.interval), "from one poll of a client to its next, median"),
    ("polls", 9, lambda one: number(one.polls), "how many there were"),
    ("share", 6, lambda one: percent(one.polls, one.share), "of all requests in the log"),
    (
        "same",
        6,
        lambda one: percent(one.same, one.same / one.polls),
        "answers like the client's one before: 304, or as many bytes",
    ),
    ("bytes", 8, lambda one: size(one.size), "of these answers"),
    ("time", 8, lambda one: seconds(one.seconds), "that these answers took, all together"),
)


def as_text(findings: Findings, progress: Progress, names: Sequence[str]) -> str:
    lines = [*_summary(findings, names), *_notes(findings, progress)]
    if findings.polled:
        lines += ["", *_table(findings.polled, has_time=any(one.seconds is not None for one in findings.polled))]
        detailed = [one for one in findings.polled if one.share >= _LEAST][:_DETAILED] or findings.polled[:1]
        for one in detailed:
            lines += ["", *_detail(one)]
        if any(one.interval for one in detailed):
            lines += [""]
            lines += textwrap.wrap(
                "Cores and bytes by the formula of docs/scaling.md, with its published costs: of one machine, for this "
                "app's own answers, without what your view does. `manage.py compare` measures yours. A live view is "
                "evaluated once for all who would get the same answer, however many listen.",
                WIDTH,
            )
    return "\n".join(lines)


def as_json(findings: Findings, progress: Progress) -> dict[str, Any]:
    """All that was found; seconds and bytes, times in ISO 8601."""
    return {
        "requests": findings.requests,
        "first": _iso(findings.first) if findings.requests else None,
        "last": _iso(findings.last) if findings.requests else None,
        "interrupted": findings.is_interrupted,
        "cut_off": progress.cut,
        "unreadable_lines": progress.skipped,
        "left_out": findings.left_out,
        "polled": [_endpoint(one) for one in findings.polled],
    }


def _need(need: Need) -> dict[str, float]:
    return {"requests": need.requests, "cores": need.cores, "bytes": need.bytes}


def _endpoint(one: Polled) -> dict[str, Any]:
    code = code_for(one)
    need: dict[str, Any] = {}
    if one.interval:
        need = {
            "pages_open_at_once": round(one.pages),
            "polling": _need(polling(PUBLISHED, one.pages, one.changes, one.interval)),
            "streaming": _need(streaming(PUBLISHED, one.pages, one.changes)),
        }
    return {
        "method": one.method,
        "path": one.path,
        "example": one.example,
        "parameters": one.parameters,
        "clients": one.clients,
        "interval": one.interval,
        "polls": one.polls,
        "share": round(one.share, 6),
        "same": one.same,
        "errors": one.errors,
        "bytes": one.size,
        "seconds": None if one.seconds is None else round(one.seconds, 3),
        "busiest_minute": {"at": _iso(one.peak_at), "polls_per_second": round(one.peak, 3), **need},
        "asked_by": one.by,
        "code": {"view": code.where, "server": list(code.server), "page": list(code.page), "hints": list(code.hints)},
    }


# The parts


def _summary(findings: Findings, names: Sequence[str]) -> Iterator[str]:
    log = ", ".join("standard input" if name == "-" else name for name in names[:3])
    log += f" and {len(names) - 3} more" if len(names) > 3 else ""
    yield log if len(log) <= WIDTH else f"…{log[1 - WIDTH :]}"
    if not findings.requests:
        yield "It is empty: there is no request in it."
        return
    total = sum(one.share for one in findings.polled)
    first, last = (datetime.fromtimestamp(time, UTC) for time in (findings.first, findings.last))
    until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%-d %b %H:%M}"
    yield (
        f"{findings.requests:,} request{_s(findings.requests)} in {seconds(findings.span)}, "
        f"{first:%-d %b %Y %H:%M} to {until} UTC"
    )
    yield ""
    match len(findings.polled):
        case 0:
            yield "Nothing is polled."
        case 1:
            yield f"One endpoint is polled: {percent(1, total)} of all requests."
        case several:
            yield f"{several} endpoints are polled: {percent(1, total)} of all requests."
    if out := ", ".join(f"{number(many)} of {what}" for what, many in findings.left_out.items() if many):
        yield f"Not looked at: {out}."


def _notes(findings: Findings, progress: Progress) -> Iterator[str]:
    if findings.is_interrupted:
        yield "Interrupted: this is what was read until then."
    if progress.skipped:
        yield (
            f"{progress.skipped:,} line{_s(progress.skipped)} of {progress.lines:,} could not be read"
            f"{'; the first:' if progress.first_skipped else ''}"
        )
        if progress.first_skipped:
            yield f"    {''.join(c if c.isprintable() else '·' for c in progress.first_skipped[: WIDTH - 4])}"
    for name in progress.cut:
        yield f"{name if len(name) < 30 else '…' + name[-29:]} is cut off or damaged; what comes before is told."


def _table(polled: Sequence[Polled], has_time: bool) -> Iterator[str]:
    columns = _COLUMNS if has_time else _COLUMNS[:-1]
    name_width = WIDTH - sum(width + 1 for _, width, _, _ in columns)
    yield " " * name_width + "".join(f" {head:>{width}}" for head, width, _, _ in columns)
    for one in polled[:_SHOWN]:
        cells = "".join(f" {cell(one):>{width}}" for _, width, cell, _ in columns)
        name = _name(one)
        if len(name) > name_width:
            yield _shortened(name)
            name = ""
        yield f"{name:<{name_width}}{cells}"
    if len(polled) > _SHOWN:
        rest = polled[_SHOWN:]
        yield f"and {len(rest)} more, {percent(1, sum(one.share for one in rest))} of all requests: --json has them"
    yield ""
    for head, _, _, meaning in columns:
        yield f"  {head:<8} {meaning}"


def _detail(one: Polled) -> Iterator[str]:
    code = code_for(one)
    yield _shortened(_name(one))
    if one.parameters:
        yield f"  asked with {', '.join(f'?{name}=…' for name in one.parameters)}"
    if one.errors:
        yield f"  {percent(one.errors, one.errors / one.polls)} of its answers were errors, 400 and above"
    if one.seconds and one.interval and one.seconds / one.timed > one.interval / 2:
        yield "  its answers take about as long as the interval: long polling, or a view that is overloaded"
    for hint in code.hints:
        yield from textwrap.wrap(hint, WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield ""
    yield from _needs(one, one.interval) if one.interval else _cannot_tell(one)
    yield from _lines_to_write(code)


def _needs(one: Polled, interval: float) -> Iterator[str]:
    pages = max(1, round(one.pages))
    then = datetime.fromtimestamp(one.peak_at, UTC)
    yield f"  {f'at {then:%H:%M} UTC, the busiest minute':<34}{'requests/s':>11}{'cores':>10}{'bytes/s':>11}"
    ways = (
        (f"polling each {seconds(interval)}", polling(PUBLISHED, pages, one.changes, interval)),
        (f"streaming to {number(pages)} page{_s(pages)}", streaming(PUBLISHED, pages, one.changes)),
    )
    for name, need in ways:
        yield f"  {name:<34}{number(need.requests):>11}{number(need.cores):>10}{size(need.bytes):>11}"
    yield ""


def _cannot_tell(one: Polled) -> Iterator[str]:
    yield from textwrap.wrap(
        f"At most {number(one.peak)} a second, far more evenly than people ask. The clients cannot be told apart, so "
        "neither can their interval: log $http_x_forwarded_for, or set_real_ip_from, where a proxy stands before this "
        "server.",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
    )
    yield ""


def _lines_to_write(code: Code) -> Iterator[str]:
    if code.server:
        if code.where:
            yield f"  above {code.where}:" if len(code.where) < WIDTH - 10 else f"  {code.where}:"
        else:
            yield "  above the view:"
        yield ""
        yield from (f"      {line}".rstrip() for line in code.server)
        yield ""
    yield "  in the page, in place of the fetch loop:"
    yield ""
    yield from (f"      {line}" for line in code.page)


def _name(one: Polled) -> str:
    return one.path if one.method == "GET" else f"{one.method} {one.path}"


def _shortened(name: str) -> str:
    return name if len(name) <= WIDTH else f"{name[: WIDTH // 2 - 2]} … {name[-WIDTH // 2 + 2 :]}"


# Figures


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()


def _s(many: float) -> str:
    return "" if many == 1 else "s"


def number(value: float) -> str:
    """Three figures, with thousands marked."""
    if value >= 1_000_000:
        return f"{value / 1e6:.3g} M"
    if value >= 100 or value == int(value):
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.2g}" if value >= 0.0001 else "< 0.0001"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.995:
        return f"{value * 1e3:.3g} ms"
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    if value < 5_400:
        return f"{value / 60:.0f} min"
    return f"{value / 3_600:.3g} h" if value < 129_600 else f"{value / 86_400:.3g} d"


def size(value: float) -> str:
    """Bytes, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.2g} {unit}"
        value /= 1_000
    return f"{value:.3g} TB"


def percent(part: float, share: float) -> str:
    if not part or not share:
        return "0"
    if share < 0.001:
        return "<0.1 %"
    if share < 0.0995:
        return f"{100 * share:.2g} %"
    return f"{100 * share:.0f} %" if share < 0.99 or share == 1 else "99 %"
