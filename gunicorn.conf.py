"""gunicorn reads this by itself when it is started here: `gunicorn sse_demo.asgi` is the whole deployment command.

What is not set here has gunicorn's own default; a flag on the command line wins over both.
"""

import os
import sys
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

from gunicorn import __version__
from gunicorn.arbiter import Arbiter

if int(__version__.partition(".")[0]) < 27:  # EventWorker builds on what 27 has; every other worker runs with less
    sys.exit(f"gunicorn.conf.py needs gunicorn 27 or newer, and this is {__version__}: pip install 'gunicorn>=27'")

# Whatever needs more is imported where it is needed: gevent patches what is imported after it, in its workers.

APP = "events"  # the name under which it is imported: `live_events`, where pip has installed it

# An open stream costs a transport and a set entry: no thread, no task.
worker_class = f"{APP}.worker.EventWorker"

# One for each core: a worker is one event loop. With a broker of `memory:` there can be one only, as no other process
# would see what it is told.
workers = int(os.environ.get("WEB_CONCURRENCY", 1))

# Connections that the kernel holds until the worker accepts them: a crowd that comes back from a deploy fits in.
# The kernel's own limit, net.core.somaxconn, is 4096 since Linux 5.4.
backlog = 4096

# Seconds that requests have to end in when a worker is told to stop. Streams need none of them: they are ended at
# once, and whoever runs this process rarely waits longer than this before it kills it (Docker: 10, Kubernetes: 30).
graceful_timeout = 8

# Seconds for which an idle connection is kept: longer than from one poll to the next, so that a client that polls
# connects once; and than the 60 of a load balancer, which must not send a request into a connection that closes.
keepalive = 75


_WSGI_WORKERS = {f"gunicorn.workers.{kind}" for kind in ("sync", "gthread", "base_async", "gtornado")}


def on_starting(server: Any) -> None:
    """Have the workers, of whatever kind, count together: see docs/operations.md."""
    _require_settings(server)
    from gunicorn.workers.base_async import AsyncWorker

    if not issubclass(server.worker_class, AsyncWorker):
        import_module(f"{APP}.metrics").counters.share()
    elif server.cfg.preload_app:
        server.log.critical("--preload imports Django before this worker class patches it, and streams would fail.")
        server.log.critical("Leave --preload out; or the worker class, and serve the ASGI application instead.")
        raise SystemExit(Arbiter.APP_LOAD_ERROR)
    else:
        server.log.warning("The metrics are those of the one worker that is asked: this worker class shares none.")


def _require_settings(server: Any) -> None:
    """Refuse, in as many lines, what would make every request fail."""
    is_ours = str(getattr(server.app, "app_uri", "")).startswith("sse_demo.")
    if not is_ours or os.environ.get("DJANGO_SETTINGS_MODULE", "sse_demo.settings") != "sse_demo.settings":
        return  # a project of one's own has settings of its own
    if os.environ.get("DJANGO_DEBUG") == "1":
        return
    if not os.environ.get("DJANGO_SECRET_KEY"):
        server.log.critical("DJANGO_SECRET_KEY is not set. Set it to a long random string, such as this prints:")
        server.log.critical("  python -c 'import secrets; print(secrets.token_urlsafe(50))'")
        raise SystemExit(Arbiter.APP_LOAD_ERROR)
    if not os.environ.get("DJANGO_ALLOWED_HOSTS"):
        server.log.critical("DJANGO_ALLOWED_HOSTS is not set, so every request would be answered 400.")
        server.log.critical("Set it to the names that visitors use, such as example.org,www.example.org.")
        raise SystemExit(Arbiter.APP_LOAD_ERROR)


def post_worker_init(worker: Any) -> None:
    """Refuse what would make every request fail: an application of the other kind, a broker that cannot be opened."""
    application = worker.app.callable
    is_asgi = iscoroutinefunction(application) or iscoroutinefunction(type(application).__call__)
    kinds = {kind.__module__ for kind in type(worker).__mro__}
    serves_wsgi = not kinds.isdisjoint(_WSGI_WORKERS)
    serves_asgi = any(kind == "gunicorn.workers.gasgi" or kind.startswith("uvicorn") for kind in kinds)
    module = worker.app.app_uri.partition(":")[0]
    package, dot, _ = module.rpartition(".")
    if is_asgi and serves_wsgi:
        worker.log.critical(f"{module} is an ASGI application, and this worker serves WSGI.")
        worker.log.critical(f"Leave the worker class out; or keep it, and serve {package}{dot}wsgi.")
    elif not is_asgi and serves_asgi:
        worker.log.critical(f"{module} is a WSGI application, and this worker serves ASGI.")
        worker.log.critical(f"Serve {package}{dot}asgi; or, if it has to be WSGI, add -k gthread --threads 32.")
    elif trouble := _trouble():
        worker.log.critical(trouble.msg)
        worker.log.critical(trouble.hint)
    else:
        return
    raise SystemExit(Arbiter.APP_LOAD_ERROR)


def _trouble() -> Any:
    """The first error of the app's own system checks: each of them would fail every request for events."""
    from django.conf import settings
    from django.core.checks import ERROR

    found = import_module(f"{APP}.checks").check_settings() if settings.configured else []
    return next((message for message in found if message.level >= ERROR), None)
