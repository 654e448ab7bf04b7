"""A HAR, as browsers save it: one entry after the other, so that a large one is never in memory as a whole.

The format: https://w3c.github.io/web-performance/specs/HAR/Overview.html
"""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from events.polls.lines import parse_time
from events.polls.request import Request

BEGINS = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"log"\s*:\s*\{')  # and not docker's {"log": "…"}
_ENTRIES = re.compile(r'(?<!\\)"entries"\s*:\s*\[')
_CHUNK = 1 << 20  # bytes
_LARGEST = 64 << 20  # characters of one entry, with the body of its answer
_LOADED = {"image", "stylesheet", "script", "font", "media", "manifest"}  # by the page, not asked for by its code


def read_har(file: BinaryIO) -> Iterator[Request | None]:
    """Each entry's request; None for one that is none. What was cut off at the end is left out."""
    decoder, text = json.JSONDecoder(), ""
    entries = None
    while True:
        chunk = file.read(_CHUNK)
        text += chunk.decode("utf-8", "replace")
        if entries is None and (entries := _ENTRIES.search(text)):
            text = text[entries.end() :]
        elif entries is None:
            text = text[-100:]
        while entries:
            text = text.lstrip(" \t\r\n,")
            if text.startswith("]"):
                return
            try:
                entry, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                if len(text) > _LARGEST:
                    yield None
                    return
                break
            yield _request(entry)
            text = text[end:]
        if not chunk:
            return


def _request(entry: Any) -> Request | None:
    try:
        request, response = entry["request"], entry["response"]
        time = parse_time(entry["startedDateTime"])
        if time is None or not request["url"].startswith("http") or entry.get("_resourceType") in _LOADED:
            return None
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
            "/" + (request["url"].split("/", 3)[3:] or [""])[0],
            response["status"],
            sent or content.get("size", 0),
            max(0.0, entry.get("time", 0.0)) / 1_000,
            hash(content["text"]) if content.get("text") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
