"""Live views for tests of real servers. What they answer is kept in the process that serves them: tests have one."""

import threading
import time
from collections import Counter
from typing import Any

from django.contrib.auth import get_user_model, login, logout
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from events import live

_state: dict[str, str] = {"value": "0"}
_evaluations: Counter[str] = Counter()
_running: Counter[str] = Counter()
_lock = threading.Lock()


@live(every=0.2)
def status(request: HttpRequest) -> JsonResponse:
    _evaluations["status"] += 1
    return JsonResponse(_state["value"], safe=False)


@live(every=0.2)
async def status_async(request: HttpRequest) -> JsonResponse:
    return JsonResponse(_state["value"], safe=False)


@live(on=["live"])
def on_event(request: HttpRequest) -> JsonResponse:
    _evaluations["on"] += 1
    return JsonResponse(_state["value"], safe=False)


@live(every=0.2)
def me(request: HttpRequest) -> JsonResponse:
    """Whom it is for, and something that only those who are logged in may know."""
    user = request.user
    if not user.is_authenticated:
        return JsonResponse({"user": "", "value": ""})
    return JsonResponse({"user": user.get_username(), "value": _state["value"]})


@live(every=0.1)
def slow(request: HttpRequest) -> JsonResponse:
    key = request.GET["n"]
    with _lock:
        _running[key] += 1
        _evaluations[f"slow {key}"] += 1
        _evaluations["at once"] = max(_evaluations["at once"], _running[key])
    time.sleep(float(request.GET["seconds"]))
    with _lock:
        _running[key] -= 1
    return JsonResponse(_evaluations[f"slow {key}"], safe=False)


_released = threading.Event()


@live(every=0.1)
def held(request: HttpRequest) -> JsonResponse:
    """Does not return once the value is "hold", until it is released."""
    value = _state["value"]
    if value == "hold":
        _evaluations["held"] += 1
        _released.wait(20)
    return JsonResponse(value, safe=False)


def release(request: HttpRequest) -> HttpResponse:
    _released.set()
    return HttpResponse()


@live(every=0.1)
def exits(request: HttpRequest) -> JsonResponse:
    _evaluations["exits"] += 1
    if 1 < _evaluations["exits"] < 8:
        raise SystemExit
    return JsonResponse(_evaluations["exits"], safe=False)


@live(every=0.1)
def missing(request: HttpRequest) -> JsonResponse:
    """Not there once the value is "gone"."""
    if _state["value"] == "gone":
        raise Http404
    return JsonResponse(_state["value"], safe=False)


def set_value(request: HttpRequest) -> HttpResponse:
    _state["value"] = request.GET["value"]
    return HttpResponse()


def counts(request: HttpRequest) -> JsonResponse:
    return JsonResponse(_evaluations)


def enter(request: HttpRequest) -> HttpResponse:
    user, _ = get_user_model().objects.get_or_create(username=request.GET["name"])
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


urlpatterns: list[Any] = [
    path("status/", status),
    path("async/", status_async),
    path("on/", on_event),
    path("me/", me),
    path("slow/", slow),
    path("held/", held),
    path("release/", release),
    path("exits/", exits),
    path("missing/", missing),
    path("set/", set_value),
    path("counts/", counts),
    path("enter/", enter),
    path("leave/", leave),
]
