"""The app's settings: the one place that reads `settings.EVENTS`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


def _list(of: str, accepts: Callable[[str], bool]) -> Any:
    return field(default=(), metadata={"list": (of, accepts)})


def _secret(default: str, check: Callable[[str], str]) -> Any:
    """Text that may hold a password: never shown. `check` returns what is wrong with it, in words without it."""
    return field(default=default, repr=False, metadata={"secret": check})


def _wrong_broker(url: str) -> str:
    scheme, _, rest = url.partition(":")
    takes = "takes 'memory:', 'db:', 'db:alias', 'redis://…', 'rediss://…' or 'unix://…'"
    if not _BROKER.fullmatch(url):
        return f"{takes}, not {f'{scheme}:…' if rest and scheme.isascii() else 'this'!r}"
    try:
        parts = urlsplit(url)
        is_cut = "@" in parts.path + parts.query or parts.fragment or (parts.port or 0) < 0
    except ValueError:
        is_cut = True
    return "is not a whole URL: a / ? # or @ in a password is written as %2F %3F %23 %40" if is_cut else ""


_BROKER = re.compile(r"memory:|db:[^/@?]*|(?:rediss?|unix)://.*")


def _wrong_token(token: str) -> str:
    is_sent = token.isprintable() and token == token.strip()
    return "" if is_sent else "takes text that a header can carry: in one line, without blanks at its ends"


def _is_origin(text: str) -> bool:
    return bool(_ORIGIN.fullmatch(text))


# As a browser sends it: in lower case, without a path, and without the port that the scheme has anyway (RFC 6454, 6.2).
_ORIGIN = re.compile(
    r"(?!http:.*:80$|https:.*:443$)[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)

UNIX = "unix"  # in TRUSTED_PROXIES: whoever connects through a socket file, and so has no address


def _is_network(text: str) -> bool:
    try:
        return text == UNIX or bool(ip_network(text))
    except ValueError:
        return False


@dataclass(frozen=True)
class Config:
    """`settings.EVENTS`, checked. Every key has a default, its range, and the reason beside it."""

    # Needs no service, and every process on the database sees every event; others are for tests or many machines.
    BROKER: str = _secret("db:", _wrong_broker)

    # Events kept of each channel: who has missed more is better told to load afresh.
    HISTORY: int = _number(1_000, 1, 10_000_000)
    # That a process keeps in memory, however many channels and however long events there are; `memory:` has no more.
    HISTORY_BYTES: int = _number(67_108_864, 65_536, 2**40)
    # Seconds an event is kept where it outlives its process: who was away for a day starts afresh anyway.
    HISTORY_SECONDS: float = _number(86_400.0, 1, 31_536_000)
    # Seconds of silence: well under the 60 s idle limit of nginx and AWS load balancers.
    HEARTBEAT: float = _number(15.0, 0.1, 3_600)
    # Milliseconds until a browser reconnects: soon, and yet not while a server restarts.
    RETRY: int = _number(2_000, 0, 3_600_000)
    # Milliseconds, on top of RETRY, over which clients come back from a drain: 10,000 of them, 2,000 each second.
    SPREAD: int = _number(5_000, 0, 3_600_000)
    # Seconds, less up to a fifth (0: for ever): clients are authorized anew, and a new process gets its share of them.
    MAX_STREAM_AGE: float = _number(3_600.0, 0, 31_536_000)
    # Who may read a channel, as `(request, channel) -> bool`; may be async.
    AUTHORIZE: str = f"{__package__}.authorization.by_prefix"
    # Sites whose pages may read here with their visitors' cookies, as "https://app.example.org".
    ALLOWED_ORIGINS: Sequence[str] = _list(
        'origins such as "https://app.example.org", in lower case and without a path or a default port', _is_origin
    )
    # Whose X-Forwarded-For is believed: nobody's, as anybody can send one.
    TRUSTED_PROXIES: Sequence[str] = _list(
        f'addresses and networks such as "127.0.0.1" or "10.0.0.0/8", and {UNIX!r}', _is_network
    )
    # A process, where a stream holds no thread: half of a usual limit of open files.
    MAX_STREAMS: int = _number(10_000, 0, 1_000_000)
    # A process, where a stream holds a thread and the server does not limit its threads.
    MAX_THREAD_STREAMS: int = _number(32, 0, 10_000)
    # A process and a user whom AUTHORIZE has looked at: more tabs than anybody has; 0: no limit.
    MAX_STREAMS_PER_USER: int = _number(100, 0, 1_000_000)
    # A process and an address; 0: no limit, as behind a proxy that is not in TRUSTED_PROXIES all visitors have one.
    MAX_STREAMS_PER_ADDRESS: int = _number(0, 0, 1_000_000)
    # A process and a user, or an address where no user is known; 0: no limit, which is then left to the proxy.
    MAX_POLLS_PER_SECOND: float = _number(0.0, 0, 1_000)
    # A stream or a poll: a URL of 32 long names still fits every proxy's limit.
    MAX_CHANNELS: int = _number(32, 1, 1_000)
    # A poll's answer; its cursor tells a client that is further behind where to go on.
    MAX_POLL_EVENTS: int = _number(1_000, 1, 100_000)
    # Of an event's data as JSON, or of its text, in UTF-8: an update, not a file.
    MAX_EVENT_BYTES: int = _number(65_536, 1, 16_777_216)
    # What a program sends to publish over HTTP, as `Authorization: Bearer`; empty: no program may.
    PUBLISH_TOKEN: str = _secret("", _wrong_token)
    # What Prometheus sends to read the metrics, as `Authorization: Bearer`; empty: there are none.
    METRICS_TOKEN: str = _secret("", _wrong_token)

    def __post_init__(self) -> None:
        for key in fields(self):
            value = getattr(self, key.name)
            if "list" in key.metadata:
                of, accepts = key.metadata["list"]
                if not isinstance(value, list | tuple) or not all(
                    isinstance(one, str) and accepts(one) for one in value
                ):
                    raise ImproperlyConfigured(f"EVENTS[{key.name!r}] takes a list of {of}; not {value!r}.")
                continue
            if "range" not in key.metadata:
                if not isinstance(value, str):
                    raise ImproperlyConfigured(f"EVENTS[{key.name!r}] takes text, not {type(value).__name__}.")
                if "secret" in key.metadata and (wrong := key.metadata["secret"](value)):
                    raise ImproperlyConfigured(f"EVENTS[{key.name!r}] {wrong}.")
                continue
            low, high = key.metadata["range"]
            kind, types = ("a number", (int, float)) if isinstance(key.default, float) else ("a whole number", (int,))
            if not isinstance(value, types) or isinstance(value, bool) or not low <= value <= high:
                raise ImproperlyConfigured(
                    f"EVENTS[{key.name!r}] takes {kind} from {low:,} to {high:,}, not {value!r}."
                )


@cache
def get_config() -> Config:
    """The settings of this process. Raises ImproperlyConfigured for an unknown key or a value out of range."""
    given = getattr(settings, "EVENTS", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"EVENTS takes a dict, not {type(given).__name__}.")
    known = [key.name for key in fields(Config)]
    if unknown := sorted(set(given) - set(known), key=str):
        raise ImproperlyConfigured(f"EVENTS has no key {unknown[0]!r}; it takes {', '.join(known)}.")
    return Config(**given)


def is_set(key: str) -> bool:
    """Whether the project has set this key itself, if only to its default."""
    return key in getattr(settings, "EVENTS", {})


def _reread(*, setting: str, **_: Any) -> None:
    if setting == "EVENTS":
        get_config.cache_clear()


setting_changed.connect(_reread)  # sent by tests alone
