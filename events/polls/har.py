"""A HAR, as browsers save it: one entry after the other, so that a large one is never in memory as a whole.

The format: https://w3c.github.io/web-performance/specs/HAR/Overview.html
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .lines import parse_time
from .request import Request

BEGINS = re.compile(r"\s*\{\s*\"log\"\s*:\s*\{")  # and not docker's {"log": "…"}
_ENTRIES = re.compile(r'(?<!\\)"entries"\s*:\s*\[')
_LARGEST = 64 << 20  # characters of one entry, with the body of its answer
_LOADED = {"image", "stylesheet", "script", "font", "media", "manifest"}  # by the page, not asked for by its code


class Cut(Exception):
    """The HAR ends before its end."""


def read_har(read: Callable[[], str]) -> Iterator[Request | None]:
    """Each entry's request; None for what is none. `read` gives the next piece of the text, and "" at its end.

    Raises Cut, after the last whole entry, where the list of entries has no end.
    """
    decoder, text, host = json.JSONDecoder(), "", ""
    is_among_entries = False
    while piece := read():
        text += piece
        if not is_among_entries:
            if not (entries := _ENTRIES.search(text)):
                text = text[-100:]
                continue
            is_among_entries, text = True, text[entries.end() :]
        at = 0
        while True:
            while text[at : at + 1] in tuple(" \t\r\n,"):
                at += 1
            if text[at : at + 1] == "]":
                return
            try:
                entry, at = decoder.raw_decode(text, at)
            except RecursionError:
                raise Cut from None
            except ValueError:  # it goes on in the next piece
                break
            url = _url(entry)
            if url and url[0] in ("http", "https"):
                host = host or url.netloc
                yield _request(entry, url, host)
            elif not url:
                yield None
        text = text[at:]
        if len(text) > _LARGEST:
            break
    raise Cut


def _url(entry: Any) -> Any:
    """The URL of an entry; None for what is no entry. Those of data: and blob: were never asked for."""
    try:
        return urlsplit(entry["request"]["url"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _request(entry: Any, url: Any, host: str) -> Request | None:
    """`host` is that of the first entry, which is the page's; what another one answers is told with its name."""
    try:
        request, response = entry["request"], entry["response"]
        time = parse_time(entry["startedDateTime"])
        if time is None:
            return None
        target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        if url.netloc != host:
            target = f"{url.scheme}://{url.netloc}{target}"
        if entry.get("_resourceType") in _LOADED:
            target = ""
        agent = next((h["value"] for h in request["headers"] if h["name"].lower() == "user-agent"), "")
        content = response.get("content", {})
        sent = response.get("_transferSize") or max(0, response.get("headersSize", 0)) + max(
            0, response.get("bodySize", 0)
        )
        return Request(
            time,
            "",
            agent,
            request["method"],
            target,
            int(response["status"]),
            sent or content.get("size", 0),
            max(0.0, entry.get("time", 0.0)) / 1_000,
            hash(content["text"]) if content.get("text") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
