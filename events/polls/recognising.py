"""Which endpoints are polled: by whom, how often, and for how little."""

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

from .request import Request
from .rhythm import FEWEST, SHORT, Rhythm, find_rhythm
from .visitors import Agent, Place, agent_of, object_of, place_of, view_of

_TIMES = 96  # of one client for one thing, judged together
_SERIES = 150_000  # clients and what they ask for, kept at once: some 150 MB at most
_ENDPOINTS = 20_000
_PATHS = 50_000
_CLIENTS = 100_000  # of one endpoint that are told apart
_MINUTES = 20_000  # of one endpoint, two weeks; of more, those with the most polls
_LONG = 400  # characters of a path or a user agent that are looked at
_FEW = 100  # requests for one thing, less than a crowd
_SHORT_VISITS = 1_000  # of one endpoint
_AGREE = 5  # short visits of one pace that make a timer
_NEAR = 0.3  # as much of the interval may those differ
_WINDOWS = (10.0, 60.0)  # seconds
_EVEN = (20, 5.0, 0.4)  # windows, requests in each, and the share of chance in their variance that shows timers
_NO_LOAD = 0.05  # of all requests; what one program asks for is told from there on


class _Tally:
    """Of some requests: how many, and what they took."""

    __slots__ = ("errors", "requests", "same", "seconds", "size", "timed")

    def __init__(self) -> None:
        self.requests = self.same = self.size = self.timed = self.errors = 0
        self.seconds = 0.0

    def add(self, other: "_Tally") -> None:
        self.requests += other.requests
        self.same += other.same
        self.size += other.size
        self.timed += other.timed
        self.errors += other.errors
        self.seconds += other.seconds


class _Series(_Tally):
    """One client's requests for one thing, as far as they have not been judged."""

    __slots__ = ("agent", "body", "client", "endpoint", "last", "rhythm", "status", "sum", "times")

    def __init__(self, endpoint: "_Endpoint", client: int, agent: Agent) -> None:
        super().__init__()
        self.endpoint, self.client, self.agent = endpoint, client, agent
        self.times = array("d")
        self.status = self.sum = self.last = 0.0
        self.body: int | None = None
        self.rhythm: Rhythm | None = None  # of the times before

    def clear(self) -> None:
        self.requests = self.same = self.size = self.timed = self.errors = 0
        self.seconds = 0.0
        self.times = array("d")


class _Polls(_Tally):
    """Those of an endpoint that a timer made."""

    __slots__ = ("by", "clients", "minutes", "paces")

    def __init__(self) -> None:
        super().__init__()
        self.clients: set[int] = set()
        self.paces: Counter[float] = Counter()  # polls, by the interval
        self.by: Counter[Agent] = Counter()
        self.minutes: Counter[int] = Counter()  # polls

    def absorb(self, tally: _Tally, times: "array[float]", client: int, agent: Agent, interval: float) -> None:
        self.add(tally)
        self.by[agent] += tally.requests
        self.paces[float(f"{interval:.2g}") if interval < 10 else float(round(interval))] += tally.requests
        if len(self.clients) < _CLIENTS:
            self.clients.add(client)
        self.minutes.update(int(time // 60) for time in times)
        if len(self.minutes) > _MINUTES:
            self.minutes = Counter(dict(self.minutes.most_common(_MINUTES // 2)))

    @property
    def interval(self) -> float | None:
        return _median(self.paces)

    def busiest(self, interval: float) -> tuple[float, int]:
        """Polls a second in the busiest minute, or the busiest minutes that are as long as the interval; and when."""
        length = max(1, ceil(interval / 60))
        most = (0, 0)
        inside, polls = deque[int](), 0
        for minute in sorted(self.minutes):
            inside.append(minute)
            polls += self.minutes[minute]
            while inside[0] <= minute - length:
                polls -= self.minutes[inside.popleft()]
            most = max(most, (polls, inside[0]))
        return most[0] / (60 * length), most[1]


class _Crowd:
    """Whether many clients that cannot be told apart ask more evenly than people do.

    The numbers of random requests in one window and in the next differ by their mean (Poisson); those of timers hardly
    differ, once a window is as long as their interval.
    """

    __slots__ = ("minutes", "windows")

    def __init__(self) -> None:
        self.windows = [[0.0, 0, -1, 0.0, 0, 0] for _ in _WINDOWS]  # which, count, last, squares, windows, sum
        self.minutes = [0, 0, 0, 0]  # which, requests, the most, when

    def count(self, time: float) -> None:
        which = int(time // 60)
        minutes = self.minutes
        if which != minutes[0]:
            minutes[:2] = which, 0
        minutes[1] += 1
        if minutes[1] > minutes[2]:
            minutes[2:] = minutes[1], which
        for length, window in zip(_WINDOWS, self.windows, strict=True):
            number = time // length
            if number == window[0]:
                window[1] += 1
            elif number > window[0]:
                if number == window[0] + 1:
                    if window[2] >= 0:
                        squares = (window[1] - window[2]) ** 2 / 2
                        window[3] += min(squares, 2 * (window[1] + window[2]))  # a rush, or its end, counts as four
                        window[4] += 1
                        window[5] += window[1]
                    window[2] = window[1]
                else:
                    window[2] = -1
                window[0], window[1] = number, 1

    @property
    def is_even(self) -> bool:
        windows, each, share = _EVEN
        return any(
            window[4] >= windows and window[5] >= each * window[4] and window[3] < share * window[5]
            for window in self.windows
        )


class _Endpoint:
    __slots__ = (
        "crowd",
        "example",
        "judged",
        "method",
        "not_polls",
        "parameters",
        "polls",
        "requests",
        "short",
        "view",
    )

    def __init__(self, method: str, view: str, example: str) -> None:
        self.method, self.view, self.example = method, view, example
        self.requests = 0
        self.judged = _Tally()
        self.not_polls = 0  # requests of clients that ask often, and at random
        # Most endpoints never have these.
        self.polls: _Polls | None = None
        self.crowd: _Crowd | None = None
        self.short: _ShortVisits | None = None
        self.parameters: set[str] | None = None

    def count(self, time: float, query: str) -> None:
        self.requests += 1
        if self.crowd:
            self.crowd.count(time)
        elif self.requests > _FEW:
            self.crowd = _Crowd()
        if query:
            if self.parameters is None:
                self.parameters = set()
            if len(self.parameters) < 4:
                self.parameters.add(query.partition("=")[0][:20])

    def absorb(self, tally: _Tally, times: "array[float]", client: int, agent: Agent, interval: float) -> None:
        if self.polls is None:
            self.polls = _Polls()
        self.polls.absorb(tally, times, client, agent, interval)

    def add_short_visits(self) -> None:
        """Visits too short to tell are polls where most are even, and of one pace, or of that of those who stayed."""
        if not self.short:
            return
        visits = Counter({pace: len(short) for pace, short in self.short.kept.items()})
        pace = self.polls.interval if self.polls else _median(visits)
        near = [p for p in visits if pace and abs(p - pace) <= _NEAR * pace]
        agreeing = sum(visits[p] for p in near)
        if (self.polls or agreeing >= _AGREE) and agreeing >= min(self.short.all, _SHORT_VISITS) / 2:
            for p in near:
                for visit in self.short.kept[p]:
                    self.absorb(*visit, p)


class _ShortVisits:
    __slots__ = ("all", "kept", "many")

    def __init__(self) -> None:
        self.all = self.many = 0
        self.kept: dict[float, list[tuple[_Tally, array[float], int, Agent]]] = defaultdict(list)  # by the interval

    def add(self, series: _Series) -> None:
        self.all += 1
        if self.many < _SHORT_VISITS and (rhythm := find_rhythm(series.times, SHORT)):
            tally = _Tally()
            tally.add(series)
            self.many += 1
            self.kept[rhythm.interval].append((tally, series.times, series.client, series.agent))


@dataclass
class Polled:
    """An endpoint that is polled."""

    method: str
    path: str  # … in place of what differs from object to object
    example: str
    parameters: list[str]
    clients: int
    interval: float | None  # seconds; None where clients cannot be told apart
    polls: int
    share: float  # of all requests in the log
    same: int
    errors: int
    size: int  # bytes of all answers
    seconds: float | None  # that all answers took; None where the log has no times
    timed: int
    peak: float  # polls a second, in the busiest minute, or as many as the interval has
    peak_at: float
    by: str  # "browser" or "program"

    @property
    def changes(self) -> float:
        """Answers that told something, a second, to one client."""
        return (self.polls - self.same) / self.polls / self.interval if self.interval else 0.0

    @property
    def pages(self) -> float:
        """Pages that were open at once, in the busiest minute."""
        return max(1.0, self.peak * self.interval) if self.interval else 0.0


@dataclass
class Findings:
    polled: list[Polled] = field(default_factory=list)
    requests: int = 0
    first: float = 0.0
    last: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)
    is_interrupted: bool = False

    @property
    def span(self) -> float:
        return self.last - self.first


def recognise(requests: Iterable[Request], fewest: int = FEWEST) -> Findings:
    """What is polled, the endpoint with the most polls first. `fewest` polls make a poller.

    KeyboardInterrupt ends the reading, and what was read until then is judged; before anything was, it is raised.
    """
    recogniser = _Recogniser(fewest)
    is_interrupted = False
    try:
        for request in requests:
            recogniser.add(request)
    except KeyboardInterrupt:
        if not recogniser.requests:
            raise
        is_interrupted = True
    findings = recogniser.finish()
    findings.is_interrupted = is_interrupted
    return findings


class _Recogniser:
    def __init__(self, fewest: int) -> None:
        self.fewest = fewest
        self.requests = 0
        self.first, self.last = float("inf"), float("-inf")
        self.left_out: Counter[str] = Counter()
        self.agents: dict[str, Agent] = {}
        self.paths: dict[str, tuple[Place, str]] = {}
        self.endpoints: dict[tuple[str, str], _Endpoint] = {}
        self.series: dict[int, _Series] = {}

    def add(self, request: Request) -> None:
        time, address, agent_text, method, target, status, size, seconds, body = request
        if len(agent_text) > _LONG:
            agent_text = agent_text[:_LONG]
        self.requests += 1
        if time < self.first:
            self.first = time
        if time > self.last:
            self.last = time
        agent = self.agents.get(agent_text) or self._agent(agent_text)
        path, _, query = target.partition("?")
        if len(path) > _LONG:
            path = path[:_LONG]
        place, view = self.paths.get(path) or self._path(path)
        if agent is Agent.CRAWLER:
            self.left_out["crawlers"] += 1
        elif agent is Agent.MONITOR or (place is Place.HEALTH and agent is Agent.PROGRAM):
            self.left_out["health checks"] += 1
        elif place is Place.ASSET:
            self.left_out["assets"] += 1
        elif path and status != 101:
            key = hash((address, agent_text, method, object_of(path, query) if query else path))
            series = self.series.get(key)
            if series is None:
                series = self._new_series(key, request, agent, path, view)
            endpoint = series.endpoint
            endpoint.count(time, query)
            series.requests += 1
            series.size += size
            if status == 304 or (
                status == series.status and status < 400 and size == series.sum and body == series.body
            ):
                series.same += 1
            elif status >= 400:
                series.errors += 1
            series.status, series.sum, series.body, series.last = status, size, body, time
            if seconds is not None:
                series.timed += 1
                series.seconds += seconds
            series.times.append(time)
            if len(series.times) >= _TIMES:
                self._judge(series)

    def _agent(self, text: str) -> Agent:
        if len(self.agents) >= _PATHS:
            self.agents.clear()
        agent = self.agents[text] = agent_of(text)
        return agent

    def _path(self, path: str) -> tuple[Place, str]:
        if len(self.paths) >= _PATHS:
            self.paths.clear()
        found = self.paths[path] = (place_of(path), view_of(path))
        return found

    def _new_series(self, key: int, request: Request, agent: Agent, path: str, view: str) -> _Series:
        if len(self.series) >= _SERIES:
            self._forget()
        endpoint = self.endpoints.get((request.method, view))
        if endpoint is None:
            endpoint = self.endpoints[request.method, view] = _Endpoint(request.method, view, path)
        client = hash((request.address, request.agent))
        series = self.series[key] = _Series(endpoint, client, agent)
        return series

    def _forget(self) -> None:
        """Judge the half that has been silent for longest, and the endpoints that nobody polls."""
        lasts = sorted(series.last for series in self.series.values())
        middle = lasts[len(lasts) // 2]
        for key, series in list(self.series.items()):
            if series.last <= middle:
                self._judge(series)
                del self.series[key]
        if len(self.endpoints) > _ENDPOINTS:
            used = {id(series.endpoint) for series in self.series.values()}
            for name, endpoint in list(self.endpoints.items()):
                if id(endpoint) not in used and not endpoint.polls and endpoint.requests < 1_000:
                    del self.endpoints[name]

    def _judge(self, series: _Series) -> None:
        endpoint, size = series.endpoint, len(series.times)
        rhythm = find_rhythm(series.times, self.fewest)
        if not rhythm and series.rhythm and size < self.fewest * series.rhythm.timers:  # too few to judge
            rhythm = series.rhythm
        if rhythm:
            series.rhythm = rhythm
            endpoint.absorb(series, series.times, series.client, series.agent, rhythm.interval)
        elif size >= self.fewest:
            endpoint.not_polls += size
            series.rhythm = None
        elif size >= SHORT:
            if endpoint.short is None:
                endpoint.short = _ShortVisits()
            endpoint.short.add(series)
        endpoint.judged.add(series)
        series.clear()

    def finish(self) -> Findings:
        for series in self.series.values():
            if series.times:
                self._judge(series)
        self.series.clear()
        polled = []
        for endpoint in self.endpoints.values():
            endpoint.add_short_visits()
            if found := self._polled(endpoint):
                polled.append(found)
        polled = sorted(_together(polled), key=lambda one: -one.polls)
        if not self.requests:
            return Findings()
        return Findings(polled, self.requests, self.first, self.last, dict(self.left_out))

    def _polled(self, endpoint: _Endpoint) -> Polled | None:
        polls, by = endpoint.polls, Agent.BROWSER
        if polls and polls.requests >= max(self.fewest, endpoint.not_polls):
            tally: _Tally = polls
            clients, interval = len(polls.clients), polls.interval
            peak, minute = polls.busiest(interval or 0)
            if polls.by[Agent.PROGRAM] > polls.by[Agent.BROWSER]:
                by = Agent.PROGRAM
        elif endpoint.crowd and endpoint.crowd.is_even and "…" not in endpoint.view:
            tally = endpoint.judged
            clients, interval = 0, None
            peak, minute = endpoint.crowd.minutes[2] / 60, endpoint.crowd.minutes[3]
        else:
            return None
        share = tally.requests / self.requests
        is_monitor = by is Agent.PROGRAM or place_of(endpoint.example) is Place.HEALTH
        if clients <= 2 and is_monitor and share < _NO_LOAD:
            self.left_out["health checks"] += tally.requests
            return None
        return Polled(
            method=endpoint.method,
            path=endpoint.view,
            example=endpoint.example,
            parameters=sorted(endpoint.parameters or ()),
            clients=clients,
            interval=interval,
            polls=tally.requests,
            share=share,
            same=tally.same,
            errors=tally.errors,
            size=tally.size,
            seconds=tally.seconds if tally.timed else None,
            timed=tally.timed,
            peak=peak,
            peak_at=minute * 60,
            by=by,
        )


def _median(counts: Counter[float]) -> float | None:
    half = sum(counts.values()) / 2
    for value in sorted(counts):
        half -= counts[value]
        if half <= 0:
            return value
    return None


def _together(polled: list[Polled]) -> list[Polled]:
    """One for those that differ in one part of the path only, which is a name: /rooms/blue/messages/ and others."""
    groups: dict[tuple[str, str, int], list[Polled]] = defaultdict(list)
    for one in polled:
        parts = one.path.rstrip("/").split("/")
        for i in range(1, len(parts) - 1):
            rest = "/".join([*parts[:i], "…", *parts[i + 1 :]]) + ("/" if one.path.endswith("/") else "")
            groups[one.method, rest, i].append(one)
    merged: set[int] = set()
    result: list[Polled] = []
    for (_, path, _), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        if len(group) >= 3 and not merged & {id(one) for one in group}:
            merged |= {id(one) for one in group}
            result.append(_sum(path, group))
    return result + [one for one in polled if id(one) not in merged]


def _sum(path: str, group: list[Polled]) -> Polled:
    most = max(group, key=lambda one: one.polls)
    times = [one.seconds for one in group if one.seconds is not None]
    return Polled(
        method=most.method,
        path=path,
        example=most.example,
        parameters=most.parameters,
        clients=sum(one.clients for one in group),
        interval=most.interval,
        polls=sum(one.polls for one in group),
        share=sum(one.share for one in group),
        same=sum(one.same for one in group),
        errors=sum(one.errors for one in group),
        size=sum(one.size for one in group),
        seconds=sum(times) if times else None,
        timed=sum(one.timed for one in group),
        peak=sum(one.peak for one in group),
        peak_at=most.peak_at,
        by=most.by,
    )
