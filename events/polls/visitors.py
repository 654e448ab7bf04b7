"""What a path and a user agent say by themselves: which view is asked, and who asks."""

import re
from enum import StrEnum


class Agent(StrEnum):
    BROWSER = "browser"
    PROGRAM = "program"  # an application, or a script
    CRAWLER = "crawler"
    MONITOR = "monitor"


class Place(StrEnum):
    VIEW = "view"
    ASSET = "asset"
    HEALTH = "health"


_CRAWLER = re.compile(
    r"(?<!cu)bot\b|bot[/_-]|crawl|spider|slurp|scrap|archiver|facebookexternalhit|embedly|preview|mediapartners|"
    r"feed(ly|fetcher|burner|bin|er)|rss|newsblur|miniflux|inoreader|lighthouse|pagespeed|headlesschrome/.*rendertron",
    re.IGNORECASE,
)
_MONITOR = re.compile(
    r"kube-probe|healthcheck|health-check|\bELB-|GoogleHC|uptime|pingdom|statuscake|site24x7|nagios|check_http|zabbix|"
    r"icinga|prometheus|blackbox|haproxy|consul|datadog|newrelic|monit/|monitor|better ?stack|checkly|updown\.io|"
    r"traefik|envoy/hc|amazon-route53|cloudflare-(healthchecks|traffic-manager)|azure traffic",
    re.IGNORECASE,
)
_BROWSER = re.compile(r"^(Mozilla|Opera)/")

_ASSET = re.compile(
    r"\.(css|m?js|map|png|jpe?g|gif|webp|avif|svg|ico|bmp|woff2?|ttf|otf|eot|mp[34]|m4[asv]|webm|og[gv]|wav|"
    r"ts|m3u8|mpd|pdf|zip|wasm|webmanifest)$|/(robots|ads|security)\.txt$|/sitemap[^/]*\.xml(\.gz)?$",
    re.IGNORECASE,
)
_HEALTH = re.compile(
    r"/(_*health_*|health-?_?checks?|healthz|_?live(ness|z)?|_?read(y|iness|yz)|ping|up|_*heartbeat_*|_?metrics|"
    r"ht|nginx_status|server-status|stub_status)/?$",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_ID = re.compile(
    r"\d+|[0-9a-f]{8}-[0-9a-f]{4}-.*|(?=.*\d)[0-9a-f]{8,}|(?=.*\d)[\w~-]{20,}|[a-z]{0,8}[-_]?\d{2,}([-_]\d+)*|"
    r"(?=(?:.*\d){3})(?=.*[a-z])[\w-]{8,}",
    re.IGNORECASE,
)
_PAGED = re.compile(r"(?:^|&)((?:page|p|offset|start|pk|id)=[^&]*)")


def agent_of(text: str) -> Agent:
    """Who asks. A log without user agents may be of anybody: browsers."""
    if _MONITOR.search(text):
        return Agent.MONITOR
    if _CRAWLER.search(text):
        return Agent.CRAWLER
    return Agent.BROWSER if not text or text == "-" or _BROWSER.match(text) else Agent.PROGRAM


def place_of(path: str) -> Place:
    if _ASSET.search(path):
        return Place.ASSET
    return Place.HEALTH if _HEALTH.search(path) else Place.VIEW


def view_of(path: str) -> str:
    """The path with … in place of what differs from object to object: numbers, UUIDs, hashes, tokens."""
    if not _DIGIT.search(path):
        return path
    return "/".join("…" if part and _ID.fullmatch(part) else part for part in path.split("/"))


def object_of(path: str, query: str) -> str:
    """What of a target stays the same from poll to poll, unlike ?since=: the path, and what names an object."""
    named = _PAGED.findall(query) if "=" in query else None
    return f"{path}?{'&'.join(named)}" if named else path
