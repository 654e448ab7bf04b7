"""One line of an access log: the combined and common formats with whatever follows them, and JSON."""

import json
import re
from calendar import timegm
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .request import Request

ACCEPTED = (
    "nginx and Apache: combined or common, also with fields after it, such as\n"
    "      $request_time and $http_x_forwarded_for",
    "gunicorn: the default --access-logformat; and what runserver prints",
    "JSON, one object on a line: nginx's escape=json, gunicorn's JSON formatters,\n"
    "      Caddy, `docker logs`; with the time, method, path and status",
    "any of these in .gz, and - for standard input",
    "HAR: saved from the network tab of a browser's developer tools",
)

_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LINE = re.compile(
    r"\[([^\[\]\s]{19,40}(?: [+-]\d{4})?|\d\d/\w{3}/\d{4} [\d:]{8})\] "
    rf"{_QUOTED} (\d{{3}}) (\d+|-)(?: {_QUOTED} {_QUOTED})?(.*)"
)
_TIME = re.compile(r"(\d\d)/(\w{3})/(\d{4})[: ](\d\d):(\d\d):(\d\d)(?: ([+-])(\d\d)(\d\d))?$")
_MONTHS = {"Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6}
_MONTHS |= {"Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12}
_IPV4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_IPV6 = r"(?=[\da-fA-F:]*::|(?:[\da-fA-F]+:){6})[\da-fA-F:]+(?:\.[\d.]+)?"
# nginx's own format `main` has X-Forwarded-For right after the user agent; elsewhere an address with a port is rather
# that of the server behind.
_FORWARDED = re.compile(rf'^ "\[?({_IPV4}|{_IPV6})\]?(?::\d+)?[",]|["=]({_IPV4}|{_IPV6})(?:["\s,]|$)')
_SECONDS = re.compile(r'(?:^|[\s=":])(\d{1,5}\.\d{3,9})(?=$|[\s",s])')  # two decimals are a ratio of compression
_PORT = re.compile(rf"({_IPV4}):\d+|\[({_IPV6})\](?::\d+)?")
_ESCAPED = re.compile(r"\\x([\da-fA-F]{2})")
_REMEMBERED = 10_000  # times and shapes of JSON; few are new in a log that is in order

# What fields are called, the first that is there. Lower case, "-" as "_", without "@".
_NAMES = {
    "time": "time_iso8601 msec time_local timestamp time ts datetime date asctime startutc start_time",
    "forwarded": "http_x_forwarded_for x_forwarded_for xff forwarded_for",
    "address": "remote_addr remote_ip client_ip clienthost remote_address remote_host client_addr client ip",
    "line": "request request_line requestline",
    "method": "request_method method requestmethod http_method verb",
    "target": "request_uri uri requestpath request_path url path",
    "query": "query_string querystring args query",
    "status": "status status_code statuscode downstreamstatus response_status response_code code",
    "size": "body_bytes_sent bytes_sent response_length response_size downstreamcontentsize bytes size length",
    "seconds": "request_time duration_s duration_in_ms duration_ms request_time_ms response_time_ms request_time_us "
    "duration_us response_time duration elapsed latency",
    "agent": "http_user_agent user_agent useragent agent",
    "inner": "message log msg",
}
# gunicorn's atoms, where a formatter dumps them as they are.
_ATOMS = {"address": "h", "time": "t", "line": "r", "status": "s", "size": "B", "agent": "a", "seconds": "L"}

_times: dict[str, float] = {}
_shapes: dict[tuple[str, ...], dict[str, str]] = {}


def parse_line(line: str) -> Request | None:
    """The request of a line, or None when the line is cut, or of another format."""
    if match := _LINE.search(line):
        when, first, status, size, _, agent, rest = match.groups()
        before = line[: match.start()].split()
        address = before[-3] if len(before) > 2 else ""  # gunicorn behind a Unix socket, and runserver, have none
        seconds = None
        if rest:
            address, seconds = _more(rest, address)
        return _make(when, address, agent, first, status, size, seconds)
    start = line.find("{")
    return _parse_json(line[start:]) if start >= 0 else None


def _more(rest: str, address: str) -> tuple[str, float | None]:
    """What fields after the combined format say: the address of a client behind a proxy, and the time."""
    forwarded = _FORWARDED.search(rest)
    seconds = _SECONDS.search(rest)
    return forwarded[1] or forwarded[2] if forwarded else address, float(seconds[1]) if seconds else None


def _make(
    when: object, address: Any, agent: object, line: str, status: Any, size: Any, seconds: float | None
) -> Request | None:
    time = parse_time(when)
    method, _, target = line.partition(" ")
    target = target.partition(" ")[0]
    if time is None:
        return None
    if not target or not method.isalpha():  # noise such as a TLS handshake: a request all the same
        method = target = ""
    if address and (port := _PORT.fullmatch(str(address))):
        address = port[1] or port[2]
    try:
        return Request(
            time, str(address or ""), str(agent or ""), method, _relative(target), int(status), _int(size), seconds
        )
    except (TypeError, ValueError):
        return None


def _relative(target: str) -> str:
    if "\\x" in target:
        target = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), target)
    if target.startswith(("http://", "https://")):
        return "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    return target


def _int(size: Any) -> int:
    return 0 if size in (None, "-", "") else int(size)


def parse_time(when: object) -> float | None:
    """Seconds since 1970 of any time that logs have; None when it is none."""
    if isinstance(when, int | float):
        return when / 1_000 if when > 1e11 else float(when)
    if not isinstance(when, str):
        return None
    if (known := _times.get(when)) is not None:
        return known
    try:
        seconds = _parse_time(when.strip("[]"))
    except (ValueError, KeyError, OverflowError):
        return None
    if len(_times) >= _REMEMBERED:
        _times.clear()
    _times[when] = seconds
    return seconds


def _parse_time(when: str) -> float:
    if match := _TIME.match(when):
        day, month, year, hour, minute, second, sign, off_hours, off_minutes = match.groups()
        offset = (int(off_hours or 0) * 60 + int(off_minutes or 0)) * (-60 if sign == "-" else 60)
        date = int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second)
        datetime(*date, tzinfo=UTC)  # raises what timegm takes silently
        return float(timegm((*date, 0, 0, 0)) - offset)
    if re.fullmatch(r"\d{9,}(\.\d+)?", when):
        return parse_time(float(when)) or 0.0
    moment = datetime.fromisoformat(when.replace(",", "."))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _parse_json(text: str, is_inner: bool = False) -> Request | None:
    try:
        record = json.loads(text)
    except ValueError:
        if "\\x" not in text:
            return None
        try:  # nginx without escape=json
            record = json.loads(_ESCAPED.sub(r"\\u00\1", text))
        except ValueError:
            return None
    except RecursionError:
        return None
    return _of_record(record, is_inner) if isinstance(record, dict) else None


def _of_record(record: Mapping[str, Any], is_inner: bool) -> Request | None:
    inner = record.get("request")
    if isinstance(inner, dict):  # Caddy
        headers = inner.get("headers")
        agents = headers.get("User-Agent") if isinstance(headers, dict) else None
        record = {**record, **inner, "request": None, "user_agent": agents[0] if agents else ""}
    names = _shape(record)
    line = record.get(names.get("line", ""))
    target = record.get(names.get("target", ""))
    if not isinstance(line, str) and not isinstance(target, str):
        message = record.get(names.get("inner", ""))
        if isinstance(message, dict) and not is_inner:
            return _of_record({**record, **message}, is_inner=True)
        if not isinstance(message, str) or is_inner:
            return None
        return _parse_json(message, is_inner=True) if message.startswith("{") else _of_text(message)
    if not isinstance(line, str):
        query = record.get(names.get("query", ""))
        if query and query != "-" and "?" not in str(target):
            target = f"{target}?{str(query).lstrip('?')}"
        line = f"{record.get(names.get('method', ''), '')} {target}"
    forwarded = str(record.get(names.get("forwarded", "")) or "-").partition(",")[0].strip()
    address = forwarded if forwarded != "-" else record.get(names.get("address", ""))
    when, agent = record.get(names.get("time", "")), record.get(names.get("agent", ""))
    status, size = record.get(names.get("status", "")), record.get(names.get("size", ""))
    return _make(when, address, agent, line, status, size, _duration(names.get("seconds", ""), record))


def _of_text(text: str) -> Request | None:
    return parse_line(text) if _LINE.search(text) else None


def _shape(record: Mapping[str, Any]) -> dict[str, str]:
    """Which key of such a record has the time, the path, and so on."""
    shape = tuple(record)
    if (known := _shapes.get(shape)) is not None:
        return known
    keys = {key.lower().replace("-", "_").lstrip("@"): key for key in record}
    if {"h", "r", "s"} <= record.keys():
        names = {role: key for role, key in _ATOMS.items() if key in record}
    else:
        names = {
            role: keys[found]
            for role, candidates in _NAMES.items()
            if (found := next((name for name in candidates.split() if name in keys), ""))
        }
    if len(_shapes) >= _REMEMBERED:
        _shapes.clear()
    _shapes[shape] = names
    return names


def _duration(name: str, record: Mapping[str, Any]) -> float | None:
    """Seconds: by the name of the field, in the unit that it says."""
    try:
        value = float(record[name])
    except (KeyError, TypeError, ValueError):
        return None
    name = name.lower()
    if "downstreamstatus" in (key.lower() for key in record) and name == "duration":  # Traefik
        return value / 1e9
    if "ms" in name or "milli" in name:
        return value / 1e3
    return value / 1e6 if name.endswith("_us") or "micro" in name else value
