"""A request that notes what is looked at of who has sent it: so it is known for whom else its answer is.

What is noted are names of `META`; `cookie:NAME` for a cookie of that name, `HTTP_COOKIE` for a session, and EVERYTHING
where a look cannot be told to be at less.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http.request import HttpHeaders

EVERYTHING = "*"
COOKIE = "cookie:"


class Looks:
    """The names that were looked at, by whoever it is, but for Django's own middleware as a matter of course."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        # Who looks at what for each request. What comes of it is looked at in another way, which counts.
        self._usual = {
            (COOKIE + settings.SESSION_COOKIE_NAME, "django.contrib.sessions.middleware"),  # into request.session
            ("HTTP_COOKIE", "django.contrib.sessions.middleware"),  # that session: whether it is to be saved
            ("HTTP_COOKIE", "django.contrib.auth.middleware"),  # whether there is a session
            ("HTTP_COOKIE", "django.contrib.messages.storage.session"),  # and there; reading it counts by itself
            (COOKIE + settings.CSRF_COOKIE_NAME, "django.middleware.csrf"),  # into META["CSRF_COOKIE"]
            ("HTTP_USER_AGENT", "django.middleware.common"),  # for 403, which is never shared
        }

    def note(self, name: str) -> None:
        """To be called by what the one who looks has called."""
        if (name, sys._getframe(2).f_globals.get("__name__")) not in self._usual:
            self.names.add(name)


class _Watched(dict[str, Any]):
    """What has been sent, as `META` and `COOKIES` have it."""

    def __init__(self, items: dict[str, Any], looks: Looks, kind: str = "") -> None:
        super().__init__(items)
        self._looks, self._kind = looks, kind

    def __getitem__(self, key: str) -> Any:
        self._looks.note(f"{self._kind}{key}")
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._looks.note(f"{self._kind}{key}")
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._looks.note(f"{self._kind}{key}")
        return super().__contains__(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._looks.note(f"{self._kind}{key}")
        return super().pop(key, *default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._looks.note(f"{self._kind}{key}")
        return super().setdefault(key, default)


def _at_everything(method: Any) -> Callable[..., Any]:
    def watched(self: Any, *args: Any) -> Any:
        self._looks.names.add(EVERYTHING)
        return method(self, *args)

    return watched


class _WatchedHeaders(HttpHeaders):
    """The same as `headers` has it."""

    def __init__(self, environ: dict[str, Any], looks: Looks) -> None:
        super().__init__(environ)
        self._looks = looks

    def __getitem__(self, key: str) -> str:
        self._looks.note(self.to_wsgi_name(key))
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        self._looks.names.add(EVERYTHING)
        return super().__iter__()

    def __len__(self) -> int:
        self._looks.names.add(EVERYTHING)
        return super().__len__()


# Of an ASGI scope, what tells nothing of the visitor: where the request goes to is part of its URL.
_OF_NOBODY = {
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "server",
}


class _WatchedScope(dict[str, Any]):
    """An ASGI scope. What servers and outer applications put there beside the URL is of this visitor."""

    def __init__(self, items: dict[str, Any], looks: Looks) -> None:
        super().__init__(items)
        self._looks = looks

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def _note(self, key: str) -> None:
        if key not in _OF_NOBODY:
            self._looks.names.add(EVERYTHING)


for _class in (_Watched, _WatchedScope):
    for _name in ("__iter__", "__reversed__", "__len__", "__eq__", "__ne__", "__repr__", "__or__", "__ror__"):
        setattr(_class, _name, _at_everything(getattr(dict, _name)))
    for _name in ("__delitem__", "items", "keys", "values", "copy", "popitem"):
        setattr(_class, _name, _at_everything(getattr(dict, _name)))
for _name in ("__contains__", "pop", "setdefault"):
    setattr(_WatchedScope, _name, _at_everything(getattr(dict, _name)))


class _WatchedRequest:
    """Each way to what has been sent is watched, from the first middleware on."""

    looks: Looks

    def _watch(self) -> None:
        request: Any = self
        looks = self.looks = Looks()
        request.COOKIES = _Watched(request.COOKIES, looks, COOKIE)
        request.headers = _WatchedHeaders(request.META, looks)
        request.META = _Watched(request.META, looks)

    @property
    def session(self) -> Any:
        """Whoever has it in hand can read it in many ways, of which Django's sessions note most, but not all."""
        self.looks.note("HTTP_COOKIE")
        try:
            return vars(self)["session"]
        except KeyError:
            raise AttributeError("session") from None

    @session.setter
    def session(self, session: Any) -> None:
        vars(self)["session"] = session


class WatchedWSGIRequest(_WatchedRequest, WSGIRequest):
    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self._watch()
        self.environ = self.META


class WatchedASGIRequest(_WatchedRequest, ASGIRequest):
    def __init__(self, scope: dict[str, Any], body: Any) -> None:
        super().__init__(scope, body)
        self._watch()
        self.scope = _WatchedScope(scope, self.looks)
