"""Everything that is asked of a site, in the order in which it disturbs least: about `patience` seconds in all."""

import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from .watch import Reach, Target, Watch, reach

REFUSALS = (429, 502, 503, 504)  # what proxies, and servers without room, answer
REDIRECTS = 5  # browsers follow 20; a stream that needs more than a few has another problem
FIRST_EVENT = 5.0  # seconds; what streams has said something by then
POLLS = 20  # in a row: what a page does in a minute at 3 s, and a small office in a second
FOREIGN_CURSOR = "no-cursor"  # never one of ours: an honest server says that it cannot resume there


class NotAStream(Exception):
    """The URL answers, but not with an event stream; the text says what came instead."""


@dataclass(frozen=True)
class Poll:
    """One answer to a poll; status 0 when there was none."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def content(self) -> dict[str, object]:
        try:
            content = json.loads(self.body)
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}


@dataclass
class Survey:
    """What was seen. None or empty: not asked, because something before it failed."""

    target: Target
    patience: float  # seconds that it was watched for
    reach: Reach
    stream: Watch  # as a browser would ask for it, at the URL as given
    quiet: Watch | None = None  # a channel on which nothing happens, uncompressed
    resumed: Watch | None = None  # at the cursor that the first hello named
    foreign_header: Watch | None = None  # at a cursor that is none, by header
    foreign_query: Watch | None = None  # the same by query
    crowd: list[Watch] = field(default_factory=list)
    crowd_wait: float = 0.0
    polls: list[Poll] = field(default_factory=list)  # each on the connection of the one before, if that is kept
    poll_connections: int = 0
    not_modified: Poll | None = None
    interrupted: bool = False

    @property
    def speaks_the_contract(self) -> bool:
        return self.stream.hello is not None or bool(self.polls and "cursor" in self.polls[0].content)


def survey(
    target: Target, patience: float, connections: int, progress: Callable[[str], None] = lambda step: None
) -> Survey:
    """Look at the stream from every side for about `patience` seconds, with at most `connections` streams at once.

    Raises OSError when the site cannot be reached, NotAStream when it can but no stream is there.
    KeyboardInterrupt ends the looking, not the survey.
    """
    progress("connecting")
    way = reach(target)
    began = time.monotonic()
    with _watches() as watch:
        target, stream = _find(target, patience, watch)
        seen = Survey(target, patience, way, stream)
        try:
            _look(seen, connections, watch, progress)
        except KeyboardInterrupt:
            seen.interrupted = True
            seen.patience = min(patience, time.monotonic() - began)
        return seen


Watcher = Callable[..., Watch]


@contextmanager
def _watches() -> Iterator[Watcher]:
    """Makes watches, and ends them all."""
    started: list[Watch] = []

    def watch(target: Target, patience: float, **headers: str) -> Watch:
        started.append(Watch(target, patience, {name.replace("_", "-"): value for name, value in headers.items()}))
        started[-1].start()
        return started[-1]

    try:
        yield watch
    finally:
        for each in started:
            each.stop()
        for each in started:
            each.join()


def _find(target: Target, patience: float, watch: Watcher) -> tuple[Target, Watch]:
    """The stream, at the end of the redirects."""
    for _ in range(REDIRECTS):
        stream = watch(target, max(patience, FIRST_EVENT))
        stream.wait_for(lambda seen: seen.status, FIRST_EVENT)
        if not stream.status or stream.status in REFUSALS:
            if stream.error:
                raise OSError(stream.error)
            return target, stream
        location = stream.headers.get("location", "")
        if stream.status in (301, 302, 303, 307, 308) and location:
            target = target.redirected(location)
            continue
        if stream.status == 400 and not target.names("channel"):  # there is no default channel
            target = target.with_query(channel="probe")
            continue
        if stream.status != 200:
            raise NotAStream(f"{target.url} answers {stream.status}, not with a stream.")
        if stream.media_type != "text/event-stream":
            raise NotAStream(
                f"{target.url} answers {stream.media_type or 'without a Content-Type'}, which is no event stream "
                f"(text/event-stream). Give the URL of the stream itself, such as https://example.com/events/."
            )
        return target, stream
    raise NotAStream(f"{target.url}: more than {REDIRECTS} redirects.")


def _look(seen: Survey, connections: int, watch: Watcher, progress: Callable[[str], None]) -> None:
    progress("first events")
    begins = seen.stream.wait_for(lambda stream: stream.events, FIRST_EVENT)
    progress("polling")
    _poll(seen, 2)
    contract = seen.speaks_the_contract
    if contract and seen.stream.status == 200:
        quiet = seen.target.with_query(channel=f"probe-{secrets.token_hex(4)}")
        seen.quiet = watch(quiet, seen.patience, Accept_Encoding="identity")
    if begins and contract:
        progress("resuming")
        _resume(seen, watch)
    if begins:
        progress(f"{connections} streams at once")
        _gather(seen, connections, watch)
    if contract:
        progress(f"{POLLS} polls in a row")
        _poll(seen, POLLS)
    progress(f"waiting {seen.patience:.0f} s to see what cuts the stream")
    for each in (seen.stream, seen.quiet):
        if each:
            each.join()


def _resume(seen: Survey, watch: Watcher) -> None:
    hello = seen.stream.hello
    cursor = str(json.loads(hello.data).get("cursor", "")) if hello else ""
    seen.resumed = watch(seen.target, FIRST_EVENT, Last_Event_ID=cursor)
    seen.foreign_header = watch(seen.target, FIRST_EVENT, Last_Event_ID=FOREIGN_CURSOR)
    seen.foreign_query = watch(seen.target.with_query(last_event_id=FOREIGN_CURSOR), FIRST_EVENT)
    for each in (seen.resumed, seen.foreign_header, seen.foreign_query):
        each.wait_for(lambda stream: stream.events, FIRST_EVENT)  # a reset leaves in one write with the hello
        each.stop()


def _gather(seen: Survey, connections: int, watch: Watcher) -> None:
    start = time.monotonic()
    seen.crowd = [watch(seen.target, FIRST_EVENT) for _ in range(connections)]
    for each in seen.crowd:
        each.wait_for(lambda stream: stream.status, max(0.0, FIRST_EVENT + start - time.monotonic()))
    seen.crowd_wait = time.monotonic() - start
    for each in seen.crowd:
        each.stop()


def _poll(seen: Survey, count: int) -> None:
    """Poll, as a good client does: on one connection for as long as the server keeps it."""
    target = seen.target.poll()
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **target.headers}
    connection = None
    try:
        for _ in range(count):
            if connection is None:
                connection = target.connect()
                seen.poll_connections += 1
            poll = _ask(connection, target.path, headers)
            seen.polls.append(poll)
            if connection.sock is None:  # the answer said Connection: close
                connection = None
        if connection and seen.not_modified is None and (etag := seen.polls[-1].headers.get("etag")):
            cursor = str(seen.polls[-1].content.get("cursor", ""))
            path = target.with_query(since=cursor).path
            seen.not_modified = _ask(connection, path, {**headers, "If-None-Match": etag})
    except (OSError, http.client.HTTPException):
        seen.polls.append(Poll(0, {}, b"", 0.0))
    finally:
        if connection:
            connection.close()


def _ask(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> Poll:
    start = time.monotonic()
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    body = response.read()
    seconds = time.monotonic() - start
    return Poll(response.status, {name.lower(): value for name, value in response.getheaders()}, body, seconds)
