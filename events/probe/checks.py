"""From what was seen to what it means, and what to change. No I/O here."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import partial

from . import remedies
from .remedies import Remedies
from .survey import FIRST_EVENT, REFUSALS, Survey
from .watch import Watch

PROMPT = 2.0  # seconds; the far side of the world and a slow phone are within it
SPREAD = 0.8  # seconds between the least and the most delayed event; jitter is under it, a buffer is not
PROXY_LIMIT = 60.0  # seconds of silence; the default of nginx's proxy_read_timeout and of AWS load balancers


class Level(Enum):
    OK = "ok"
    NOTE = "note"  # worth knowing, and no reason to change anything
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What one check saw, what that means, and the lines that put it right, by where they go."""

    level: Level
    check: str
    seen: str
    means: str = ""
    remedies: Remedies = field(default_factory=dict)


fine = partial(Finding, Level.OK)
note = partial(Finding, Level.NOTE)
problem = partial(Finding, Level.PROBLEM)


def judge(seen: Survey) -> list[Finding]:
    """The findings, in the order in which a request meets their causes."""
    in_the_way = intermediaries(seen)
    findings = [
        *_way(seen),
        *_answer(seen),
        *_headers(seen),
        *_delay(seen),
        *_compression(seen),
        *_silence(seen),
        *_resume(seen),
        *_crowd(seen),
        *_polls(seen),
    ]
    return [_addressed(finding, seen, in_the_way) for finding in findings]


def intermediaries(seen: Survey) -> list[str]:
    """Who has left a mark in the headers of the answers."""
    headers = [seen.stream.headers, *(poll.headers for poll in seen.polls[:1])]
    return [
        name
        for name in dict.fromkeys(name for _, _, name in remedies.MARKS)
        if any(
            mark in found and part in found[mark].lower()
            for mark, part, whose in remedies.MARKS
            if whose == name
            for found in headers
        )
    ]


def _addressed(finding: Finding, seen: Survey, in_the_way: list[str]) -> Finding:
    """With this stream's path in the remedies, and first those of whoever is known to be in the way."""
    order = sorted(finding.remedies, key=lambda place: place not in in_the_way)
    path, _, _ = seen.target.path.partition("?")
    return replace(finding, remedies={at: finding.remedies[at].replace(remedies.STREAM, path) for at in order})


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _way(seen: Survey) -> Iterator[Finding]:
    way = seen.reach
    parts = f"{way.address} in {_ms(way.dns + way.tcp)} (DNS {_ms(way.dns)}, TCP {_ms(way.tcp)}"
    if way.tls is None:
        yield fine("Reached", f"{parts}); not encrypted")
        return
    yield fine("Reached", f"{parts}, TLS {_ms(way.tls)}); {way.tls_version}")
    if not way.offers_http_2:
        yield note(
            "HTTP/2",
            "not offered",
            "Over HTTP/1.1 a browser opens six connections to a site, for all its tabs together; the seventh waits.",
            remedies.NO_HTTP_2,
        )


def _answer(seen: Survey) -> Iterator[Finding]:
    stream = seen.stream
    if stream.status in REFUSALS:
        yield _refusal(stream, "Stream", f"the stream was answered {stream.status}")
        return
    if not stream.status or not stream.reads:
        poll = next((poll for poll in seen.polls if poll.status == 200), None)
        beside = f", while a poll was answered in {_ms(poll.seconds)}" if poll else ""
        head = f"the head after {_ms(stream.head_after)}, but no event" if stream.head_after else "not one byte"
        yield problem(
            "Buffering",
            f"{head} in {max(seen.patience, FIRST_EVENT):.0f} s{beside}",
            "Something between the server and here collects the stream instead of passing it on"
            + (", or the server sends nothing." if not poll else "."),
            remedies.BUFFERED,
        )
        return
    first = stream.reads[0]
    if first > PROMPT:
        yield problem(
            "Buffering",
            f"the first bytes came after {_ms(first)}, {len(stream.events)} events in {len(stream.reads)} pieces",
            "Something between the server and here collects the stream, and passes it on in lumps.",
            remedies.BUFFERED,
        )
        return
    greeting = "hello" if stream.hello else "the first bytes"
    yield fine("First bytes", f"head after {_ms(stream.head_after or 0)}, {greeting} after {_ms(first)}")


def _refusal(stream: Watch, check: str, what: str) -> Finding:
    """A refusal is the server's own when it speaks as the contract has it, a proxy's otherwise."""
    own = "retry-after" in stream.headers and b'"error"' in stream.body
    if own:
        return problem(
            check,
            f"{what} by the server itself, with Retry-After",
            "The server holds as many streams as it may. Clients that know the contract poll instead.",
            remedies.NO_ROOM,
        )
    return problem(
        check,
        f"{what}, not in the server's words",
        "A proxy limits requests or connections from one address (429, 503) or did not get an answer in time "
        "(502, 504). Everybody behind one address, an office or a mobile carrier, shares such a limit.",
        remedies.CROWDED,
    )


def _headers(seen: Survey) -> Iterator[Finding]:
    stream = seen.stream
    if stream.status != 200:
        return
    caching = stream.headers.get("cache-control", "").lower()
    if not any(word in caching for word in ("no-cache", "no-store")):
        yield problem(
            "Headers",
            f"Cache-Control: {caching or 'none'}",
            "A cache may keep the stream, or hand one visitor's to another.",
            remedies.NO_CACHE_CONTROL,
        )
    elif "no-transform" not in caching:
        yield note(
            "Headers",
            f"Cache-Control: {caching}, without no-transform",
            "A proxy may compress the stream (RFC 9111, 5.2.2.6), and so hold events back.",
            remedies.NO_CACHE_CONTROL,
        )
    else:
        yield fine("Headers", f"text/event-stream; {caching}")
    if stream.http_version == 10:
        yield problem(
            "HTTP/1.0",
            "the stream was answered in HTTP/1.0",
            "Nothing marks the end of what was sent, so a cut looks like an end, and no connection is used twice.",
            remedies.OLD_HTTP,
        )


def _delay(seen: Survey) -> Iterator[Finding]:
    """By the time that events carry, as the clock's do: the least delayed one tells how far the clocks are apart."""
    stream = seen.stream
    if not stream.reads or stream.reads[0] > PROMPT:
        return
    delays = [stream.began_at + at - stamp for at, event in stream.events if (stamp := _stamp(event.data)) is not None]
    # A greeting may bring an old event along; what follows is live.
    delays = delays[1:]
    if len(delays) < 2:
        return
    spread = max(delays) - min(delays)
    if spread > SPREAD:
        yield problem(
            "Buffering",
            f"of {len(delays)} events some came {_ms(spread)} later than others, in {len(stream.reads)} pieces",
            "Events arrive in clumps: something collects a few before it passes them on.",
            remedies.BUFFERED,
        )
    else:
        yield fine("Events", f"{len(delays)} came as they were sent, their delays within {_ms(spread)} of each other")


def _stamp(data: str) -> float | None:
    try:
        return datetime.fromisoformat(data).timestamp()
    except ValueError:
        return None


def _compression(seen: Survey) -> Iterator[Finding]:
    encoding = seen.stream.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return
    late = not seen.stream.reads or seen.stream.reads[0] > PROMPT
    yield problem(
        "Compression",
        f"the stream is compressed ({encoding})" + (", and came late" if late else ""),
        "A compressor waits for more to compress unless it is told to flush after each event, and keeps some "
        "250 KB of memory for each open stream.",
        remedies.COMPRESSED,
    )


def _silence(seen: Survey) -> Iterator[Finding]:
    watched = seen.quiet if seen.quiet and seen.quiet.status == 200 and seen.quiet.reads else seen.stream
    if watched.status != 200 or not watched.reads:
        return
    hello = watched.hello
    heartbeat = float(json.loads(hello.data).get("heartbeat", 0)) if hello else 0.0
    pauses = [later - earlier for earlier, later in zip(watched.reads, watched.reads[1:], strict=False)]
    longest = max(pauses, default=0.0)
    if watched.ended_after is not None:
        yield from _end(watched, heartbeat, longest)
        return
    lasted = f"{seen.patience:.0f} s"
    beats = watched.types().count("heartbeat")
    if beats or longest:
        what = f"{beats} heartbeats" if beats else f"{len(pauses)} signs of life"
        level = Level.OK if longest < PROXY_LIMIT else Level.NOTE
        yield Finding(level, "Open", f"after {lasted}, with {what}; the longest silence {_ms(longest)}")
    elif heartbeat and seen.patience > 2 * heartbeat:
        yield problem(
            "Heartbeat",
            f"none in {lasted}, though the server announces one each {heartbeat:g} s",
            "Something swallows or collects them; a silent stream is cut by the first proxy whose patience ends.",
            remedies.BUFFERED,
        )
    elif heartbeat >= PROXY_LIMIT:
        yield problem(
            "Heartbeat",
            f"one each {heartbeat:g} s",
            f"nginx and AWS load balancers cut what is silent for {PROXY_LIMIT:.0f} s.",
            remedies.NO_HEARTBEAT,
        )
    elif heartbeat:
        yield note("Open", f"after {lasted}; the first heartbeat is due at {heartbeat:g} s (see --patience)")
    else:
        yield note(
            "Open",
            f"after {lasted} of silence, without a heartbeat",
            "Wait longer (--patience 70) to see whether a silent stream is cut, and whether anything keeps it alive.",
            remedies.NO_HEARTBEAT,
        )


def _end(stream: Watch, heartbeat: float, longest: float) -> Iterator[Finding]:
    age = stream.ended_after or 0.0
    silence = age - stream.reads[-1]
    drained = stream.ended_properly and stream.body.count(b"retry:") > 1
    if drained:
        yield fine("Drained", f"the server ended the stream on purpose after {_ms(age)}, and said so")
    elif silence > max(0.5, longest):
        limit = math.floor(silence * 10 + 0.5) / 10
        yield problem(
            "Idle timeout",
            f"cut after {limit:g} s of silence" + (f", before the heartbeat at {heartbeat:g} s" if heartbeat else ""),
            "Something between the server and here gives up on a silent connection. "
            + ("Clients reconnect each time; what they miss meanwhile is late."),
            remedies.idle(timeout=max(60, math.ceil(2.5 * heartbeat)), heartbeat=max(0.1, silence * 0.4)),
        )
    else:
        how = "ended" if stream.ended_properly else "cut"
        yield problem(
            "Short life",
            f"{how} after {_ms(age)}, {_ms(silence)} after the last bytes",
            "Something limits the age of a response, or the server went away. Clients reconnect each time.",
            remedies.AGED,
        )


def _resume(seen: Survey) -> Iterator[Finding]:
    if not (seen.resumed and seen.foreign_header and seen.foreign_query):
        return
    if not (seen.resumed.hello and seen.foreign_header.hello and seen.foreign_query.hello):
        return  # refused, or cut: other checks say so
    told = "reset" in seen.foreign_query.types()
    if told and "reset" not in seen.foreign_header.types():
        yield problem(
            "Resume",
            "the header Last-Event-ID does not reach the server; the query parameter does",
            "A browser that reconnects sends the header, so it loses what happened while it was away.",
            remedies.CURSOR_STRIPPED,
        )
    elif "reset" in seen.resumed.types() or not told:
        yield problem(
            "Resume",
            "a cursor of a moment ago was not accepted" if told else "a foreign cursor was taken without a word",
            "A client that reconnects to another process cannot go on where it was.",
            remedies.RESUME_BROKEN,
        )
    else:
        yield fine("Resume", "a client that comes back goes on after its Last-Event-ID")


def _crowd(seen: Survey) -> Iterator[Finding]:
    if not seen.crowd:
        return
    count = len(seen.crowd)
    statuses = Counter(stream.status for stream in seen.crowd)
    if statuses[200] == count:
        yield fine("Many streams", f"{count} at once from one address, all open in {_ms(seen.crowd_wait)}")
        return
    refused = [stream for stream in seen.crowd if stream.status in REFUSALS]
    shown = ", ".join(f"{n} times {status or 'no answer'}" for status, n in sorted(statuses.items()))
    if refused:
        yield _refusal(refused[0], "Many streams", f"of {count} at once: {shown}; the failures were answered")
    else:
        yield problem(
            "Many streams",
            f"of {count} at once: {shown}, within {FIRST_EVENT:.0f} s",
            "The server has no thread or worker left once some streams are open, and then serves nobody.",
            remedies.NO_ROOM,
        )


def _polls(seen: Survey) -> Iterator[Finding]:
    if not seen.polls:
        return
    if not seen.speaks_the_contract:
        return  # another kind of site: what lies at poll/ is no business of ours
    first = seen.polls[0]
    statuses = Counter(poll.status for poll in seen.polls)
    refused = sum(statuses[status] for status in REFUSALS)
    if not statuses[200]:
        yield problem(
            "Polling",
            f"{seen.target.poll().url} answers {first.status or 'nothing'}",
            "A client whose stream fails has nothing to fall back to.",
            remedies.NO_POLL if not refused else remedies.LIMITED,
        )
        return
    if refused:
        status = max(REFUSALS, key=lambda status: statuses[status])
        at = next(n for n, poll in enumerate(seen.polls, 1) if poll.status in REFUSALS)
        seconds = sum(poll.seconds for poll in seen.polls)
        yield problem(
            "Rate limit",
            f"{status} at poll {at}: {refused} of {len(seen.polls)} refused, asked within {_ms(seconds)}",
            "Clients that poll meet this limit together when they share an address, and streams when they reconnect.",
            remedies.LIMITED,
        )
    times = [poll.content.get("server_time") for poll in seen.polls if poll.status == 200]
    held = "age" in first.headers or "hit" in first.headers.get("x-cache", "").lower()
    if held or (len(times) > 2 and len(set(times)) == 1):
        yield problem(
            "Caching",
            f"{len(times)} polls were all answered with the server's time {times[0]}",
            "A cache answers in the server's place, so polling shows old events.",
            remedies.CACHED,
        )
    elif not refused:
        spent = sorted(poll.seconds for poll in seen.polls)[len(seen.polls) // 2]
        unchanged = seen.not_modified is not None and seen.not_modified.status == 304
        yield fine("Polling", f"answers in {_ms(spent)}" + ("; 304 while nothing has happened" if unchanged else ""))
    if seen.poll_connections > 2:  # one for the first look, one for the many
        yield problem(
            "Keep-alive",
            f"{len(seen.polls)} polls took {seen.poll_connections} connections",
            "Each poll pays for a new connection, and under https for a new handshake.",
            remedies.NOT_KEPT,
        )
