"""`{% load events %}`: what a page's feed needs, as attributes, so that a strict Content-Security-Policy holds."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.template import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..apps import NAME
from ..conf import get_config
from ..process import current_cursor
from ..publishing import InvalidEvent, check_channels
from ..urls import app_name, find_namespace

register = template.Library()


@register.simple_tag
def events_cursor() -> str:
    """The cursor of this moment; empty while the broker cannot be reached."""
    return current_cursor() or ""


@register.simple_tag(takes_context=True)
def events_feed(
    context: Context,
    *channels: str | Iterable[str],
    cursor: str | None = None,
    share: bool = False,
    interval: int | None = None,
    namespace: str = "",
    id: str = "",
    nonce: object = "",
) -> SafeString:
    """A script element that loads page.js and carries what describes a feed of these channels, or lists of channels.

    `cursor` is where the feed begins: this moment, unless the view took one earlier. `share` and `interval` are options
    of `openFeed`. `namespace` is that of the app's URLs, where they are included more than once. `id` and `nonce` are
    attributes of the element.
    Raises InvalidEvent for channels that cannot be read, and ImproperlyConfigured when the app has no URLs.
    """
    names = [name for given in channels for name in ([given] if isinstance(given, str) else given)]
    _check(names)
    attributes: dict[str, object] = {
        "src": static("events/page.js"),
        "id": id,
        "nonce": nonce,
        "data-channels": " ".join(names),  # no name has a blank in it
        "data-stream": _url(context, namespace, "stream"),
        "data-poll": _url(context, namespace, "poll"),
        "data-cursor": cursor or current_cursor(),
        "data-share": "true" if share else "",
        "data-interval": interval,
    }
    # What is not given is left out, and openFeed's default counts.
    given = [(name, text) for name, value in attributes.items() if (text := "" if value is None else str(value))]
    return format_html('<script type="module"{} data-events></script>', format_html_join("", ' {}="{}"', given))


def _check(channels: list[str]) -> None:
    if not channels:
        raise InvalidEvent('events_feed needs a channel, such as {% events_feed "orders" %}.')
    check_channels(channels)
    limit = get_config().MAX_CHANNELS
    if len(channels) > limit:
        raise InvalidEvent(f"At most {limit} channels fit in one request; this feed names {len(channels)}.")


def _url(context: Context, namespace: str, name: str) -> str:
    """As `{% url %}` has it: of the instance of the app that this request is for, where there are several."""
    request: Any = getattr(context, "request", None)
    match = getattr(request, "resolver_match", None)
    current_app = getattr(request, "current_app", None) or (match.namespace if match else None)
    for one in [namespace] if namespace else [app_name, find_namespace()]:
        with suppress(NoReverseMatch):
            return reverse(f"{one}:{name}", current_app=current_app)
    raise ImproperlyConfigured(
        f"events_feed finds no URL named {namespace or app_name}:{name}. In the URLs of the project: "
        f'urlpatterns += [path("events/", include("{NAME}.urls"))].'
    )
