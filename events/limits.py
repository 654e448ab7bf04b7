"""Whom a request counts for, and how often they may ask."""

import math
import threading
from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from time import monotonic
from typing import TYPE_CHECKING

from django.http import HttpRequest

from .conf import UNIX, Config, get_config
from .metrics import counters

if TYPE_CHECKING:
    from .subscription import Subscription

_BURST = 10.0  # seconds' worth that may be asked at once: what was missed comes in several answers
_VISITORS = 10_000  # whose polls are counted at a time; a few megabytes
_IPV6_PREFIX = 64  # bits; whoever has one address of such a network has all of them

Address = IPv4Address | IPv6Address


def address_of(request: HttpRequest) -> str:
    """The address that this request came from, or the network of it in IPv6; empty when that cannot be told.

    Where the peer is one of EVENTS["TRUSTED_PROXIES"], it is the last one in X-Forwarded-For that is not: each proxy
    adds the peer that it has seen at the right end, and what stands further left anybody can have written.
    """
    peer = request.META.get("REMOTE_ADDR") or UNIX
    address = _parse(peer)
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and _is_trusted(address or peer):
        if not (further := _parse(hops.pop())):
            break
        address = further
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
    return str(address or "")


def _parse(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # some proxies add the port
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _is_trusted(peer: Address | str) -> bool:
    proxies = tuple(get_config().TRUSTED_PROXIES)
    if isinstance(peer, str):
        return peer == UNIX and UNIX in proxies
    return any(peer in network for network in _networks(proxies))


@lru_cache(maxsize=1)
def _networks(proxies: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    return [ip_network(proxy) for proxy in proxies if proxy != UNIX]


class Rates:
    """How often visitors have asked lately, in this process. Of too many visitors the idlest are forgotten.

    Of each it keeps the time until which it has used up its share: asking moves it on by the time that one request
    is worth, and no further than a burst ahead.
    """

    def __init__(self) -> None:
        self._used_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask(self, visitor: str, per_second: float) -> int:
        """0 when the visitor may ask now, or else in how many seconds it may."""
        now = monotonic()
        with self._lock:
            used_until = max(now, self._used_until.pop(visitor, 0.0))
            early = used_until + 1 / per_second - now - max(_BURST, 1 / per_second)
            self._used_until[visitor] = used_until if early > 0 else used_until + 1 / per_second
            if len(self._used_until) > _VISITORS:
                del self._used_until[next(iter(self._used_until))]
        return math.ceil(early) if early > 0 else 0


polls = Rates()


class Full(Exception):
    """No more subscriptions fit."""


class TooMany(Exception):
    """One user, or one address, has as many subscriptions as they may; the text says so."""


class Slots:
    """The subscriptions that are open in this process, and whose they are. The hub's lock guards it."""

    def __init__(self) -> None:
        self.open: set[Subscription] = set()
        self._users: defaultdict[str, set[Subscription]] = defaultdict(set)  # without those of unknown visitors
        self._addresses: defaultdict[str, int] = defaultdict(int)

    def check(self, limit: int, user: str, address: str, config: Config) -> None:
        """Raises Full when `limit` of them are open, and TooMany when too many are of this user or address."""
        try:
            if len(self.open) >= limit:
                raise Full
            _refuse_more(len(self._users.get(user, ())), config.MAX_STREAMS_PER_USER, "user")
            _refuse_more(self._addresses.get(address, 0), config.MAX_STREAMS_PER_ADDRESS, "address")
        except (Full, TooMany):
            counters.refused += 1
            raise

    def add(self, subscription: "Subscription") -> None:
        self.open.add(subscription)
        if subscription.user:
            self._users[subscription.user].add(subscription)
        if subscription.address:
            self._addresses[subscription.address] += 1
        counters.opened += 1
        counters.streams = len(self.open)

    def remove(self, subscription: "Subscription") -> bool:
        """False when it was not open any more."""
        if subscription not in self.open:
            return False
        self.open.remove(subscription)
        if theirs := self._users.get(subscription.user):
            theirs.discard(subscription)
            if not theirs:
                del self._users[subscription.user]
        if subscription.address:
            self._addresses[subscription.address] -= 1
            if not self._addresses[subscription.address]:
                del self._addresses[subscription.address]
        counters.end(subscription.ending)
        counters.streams = len(self.open)
        return True

    def of_user(self, user: str) -> "Collection[Subscription]":
        return self._users.get(user, ())


def _refuse_more(taken: int, most: int, kind: str) -> None:
    if 0 < most <= taken:
        raise TooMany(f"At most {most:,} streams are open here for one {kind}")
