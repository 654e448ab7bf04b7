"""Who may read what: asked when a stream opens and on every poll, and taken back from streams that are open."""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from inspect import isawaitable
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty
from django.utils.module_loading import import_string

from .conf import get_config
from .hub import revocation
from .log import Cursor
from .process import get_hub
from .publishing import check_channels, send

Rule = Callable[[HttpRequest, str], bool | Awaitable[bool]]


class Refused(Exception):
    """This channel may not be read by whoever asks; the text says so."""


def by_prefix(request: HttpRequest, channel: str) -> bool:
    """The default rule: `user:<id>` and `user:<id>:…` are for that user, `private:…` for users, the rest for all.

    A user is one who is logged in and active. The prefixes count in any case, so that a name that is nearly theirs
    is not open to all.
    """
    prefix, is_name_longer, rest = channel.partition(":")
    prefix = prefix.lower()
    # request.user is not looked at for an open channel: that would load the session.
    if not is_name_longer or prefix not in ("user", "private"):
        return True
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or not user.is_active:
        return False
    return prefix == "private" or rest.partition(":")[0] == str(user.pk)


def authorize(request: HttpRequest, channels: Sequence[str]) -> Cursor:
    """Ask EVENTS["AUTHORIZE"] about each channel. Raises Refused for the first that may not be read.

    Returns where the log was before, for a stream that may be opened now: what is revoked in between ends it.
    """
    place = get_hub().log.head
    rule = get_rule()
    for channel in channels:
        allowed = rule(request, channel)
        if isawaitable(allowed):
            allowed = async_to_sync(_result)(allowed)
        if not allowed:
            raise Refused(f"The channel {channel!r} is not for you to read.")
    return place


async def _result(allowed: Awaitable[bool]) -> bool:
    return await allowed


def get_rule() -> Rule:
    """EVENTS["AUTHORIZE"]. Raises ImproperlyConfigured when there is no such function."""
    return _import(get_config().AUTHORIZE)


@lru_cache(maxsize=1)
def _import(path: str) -> Rule:
    try:
        rule = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"EVENTS['AUTHORIZE'] cannot be imported: {error}") from error
    if not callable(rule):
        raise ImproperlyConfigured(f"EVENTS['AUTHORIZE'] takes the path of a function, and {path} is {rule!r}.")
    return rule  # type: ignore[no-any-return]


def user_of(request: HttpRequest) -> str:
    """The primary key, as text, of the user whom the request is known to come from.

    Empty for a visitor who is not logged in, and when nobody has looked: then what was read is open to all.
    """
    user: Any = getattr(request, "user", None)
    if isinstance(user, LazyObject) and user._wrapped is empty:
        user = getattr(request, "_acached_user", None)  # where request.auser() keeps it, for an async rule
    return str(user.pk) if user is not None and user.is_authenticated else ""


def revoke(user: Any, channel: str | None = None) -> None:
    """End the streams that this user has open on the channel (None: all of theirs), in every process.

    `user` is a user or a primary key. Take the permission away before: the clients come back and are asked anew.
    Inside `transaction.atomic()` it happens when the transaction commits. Streams on channels that AUTHORIZE allows
    without looking at the user are nobody's, and stay.
    Raises ValueError for a user without a primary key, InvalidEvent for what is not the name of a channel, and
    events.brokers.Unavailable when the broker cannot be reached.
    """
    key = getattr(user, "pk", user)
    if key in (None, ""):
        raise ValueError(f"revoke() takes a saved user or the primary key of one, not {user!r}.")
    if channel is not None:
        check_channels([channel])
    send(revocation(str(key), channel))


async def arevoke(user: Any, channel: str | None = None) -> None:
    """As `revoke`, for async code."""
    await sync_to_async(revoke)(user, channel)
