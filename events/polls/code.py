"""The code to write for an endpoint: above which view, and in the page."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404
from django.urls import ResolverMatch, resolve

from ..apps import NAME
from .recognising import Polled

_PACES = (0.5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 45, 60, 120, 300, 600, 900, 1_800, 3_600)  # that people choose
_OWN_POLL = re.compile(r"/events/poll/?$")


@dataclass(frozen=True)
class Code:
    """`where` is the view's file and name, empty where this project has none at the path."""

    where: str
    server: tuple[str, ...]
    page: tuple[str, ...]
    hints: tuple[str, ...] = ()


def code_for(one: Polled) -> Code:
    match = _resolve(one.example)
    view = inspect.unwrap(match.func) if match else None
    if getattr(view, "__module__", "") == f"{NAME}.views" or _OWN_POLL.search(one.path):
        return Code(
            "",
            (),
            (f'new EventSource("{re.sub("poll/?$", "", one.example)}")',),
            (
                "This is this app's own: it streams already, and is polled by pages that are told to poll, or "
                "whose stream does not get through. `manage.py probe` with the stream's URL says why.",
            ),
        )
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    page = (f'new FeedSource("{one.example}")',)
    if match and (hasattr(match.func, "is_live") or hasattr(getattr(kind, "dispatch", None), "is_live")):
        hint = "It is a live view already, which these clients still poll: the page is what remains to be changed."
        return Code(_place(kind or view), (), page, (hint,))
    every = f"live(every={pace(one.interval):g})" if one.interval else "live(every=SECONDS)"
    decorator = f'@method_decorator({every}, name="dispatch")' if kind else f"@{every}"
    method = ["from django.utils.decorators import method_decorator", ""] if kind else []
    hints = []
    if one.path.startswith("http"):
        hints.append("Another host than the page's answers it; where that is yours, it is the one to change.")
    if one.method not in ("GET", "HEAD"):
        hints.append(f"It is polled with {one.method}: a live view is one that answers GET, so make it that first.")
    if one.by == "program":
        hints.append("It is programs that ask, not pages: any EventSource client in their language reads the stream.")
    return Code(
        _place(kind or view),
        (*method[:1], f"from {NAME}.live import live", "", decorator),
        page,
        tuple(hints),
    )


def pace(interval: float) -> float:
    """The interval that was meant, where the measured one is near to what people choose."""
    near = min(_PACES, key=lambda pace: abs(pace - interval))
    return near if abs(near - interval) <= 0.15 * near else float(f"{interval:.2g}")


def _resolve(path: str) -> ResolverMatch | None:
    """The view of this project, if it is this project's log."""
    try:
        return resolve(path)
    except (Http404, ImproperlyConfigured, ImportError, AttributeError, ValueError):
        return None


def _place(view: object) -> str:
    if view is None:
        return ""
    try:
        file = Path(inspect.getsourcefile(view) or "")  # type: ignore[arg-type]
        _, line = inspect.getsourcelines(view)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
    for root in (Path.cwd(), Path(getattr(settings, "BASE_DIR", "") or ".")):
        if file.is_relative_to(root):
            file = file.relative_to(root)
            break
    return f"{file}:{line}, {getattr(view, '__qualname__', view)}"
