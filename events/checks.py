"""System checks: what in a deployment would break streaming, or make it cost more than it has to.

docs/operations.md has them in a table.
"""

import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Warn
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.module_loading import import_string

from .apps import NAME
from .asgi import EventStreamHandler
from .authorization import get_rule
from .brokers import open_broker
from .conf import Config, get_config
from .cors import share
from .streams import HEADERS

MOUNTS = Path("/proc/self/mounts")  # on Linux; nowhere else is anything said of file systems

_IDLE_LIMIT = 60.0  # seconds of silence that nginx and AWS load balancers stand; Cloudflare: 100

# Where the locks of SQLite, or the memory that its write-ahead log is shared by, do not reach every process.
_NETWORKED = frozenset(
    {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"}
    | {"fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"}
)

_SHARING = re.compile(r"cors|cross_?origin|allow_?origin", re.IGNORECASE)
_SHARED = ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials")
_STRANGER = "https://a-stranger.invalid"  # RFC 6761, 6.4: an origin that no project lists

_COMPRESSING = re.compile(r"gzip|brotli|zstd|deflate|compress", re.IGNORECASE)


def check_settings(**_: Any) -> list[CheckMessage]:
    """What is wrong in development as well."""
    try:
        config = get_config()
    except ImproperlyConfigured as error:
        return [
            Error(
                str(error),
                hint=f"{NAME}.conf has every key, with its default and its reason.",
                id="events.E001",
            )
        ]
    return [
        *_broker(config),
        *_authorization(),
        *_metrics(config),
        *_pool(config),
        *_urls(),
        *_compression(),
        *_sharing(config),
        *_network_file_systems(),
        *_static_files(),
    ]


def check_deployment(**_: Any) -> list[CheckMessage]:
    """What only a deployment has: for `check --deploy`."""
    try:
        config = get_config()
    except ImproperlyConfigured:
        return []  # the other one has said so
    return [
        *_memory(config),
        *_application(),
        *_transactions(),
        *_persistent_connections(),
        *_middleware(),
        *_sessions(),
        *_heartbeat(config),
        *_open_channels(),
    ]


def _broker(config: Config) -> Iterator[CheckMessage]:
    try:
        database = open_broker(config.BROKER, config.HISTORY, config.HISTORY_SECONDS).database
    except ImproperlyConfigured as error:
        yield Error(str(error), hint='The default: EVENTS = {"BROKER": "db:"}.', id="events.E002")
        return
    if database not in list(connections):
        yield Error(
            f"EVENTS['BROKER'] needs the database {database!r}, and DATABASES has none of that name.",
            hint=f"DATABASES has {', '.join(connections)}: EVENTS = {{'BROKER': 'db:ALIAS'}} with one of them.",
            id="events.E002",
        )
    elif database != DEFAULT_DB_ALIAS:
        yield Warn(
            f"Events belong to the transactions of the database {database!r}: what is published within atomic() of "
            f"{DEFAULT_DB_ALIAS!r} alone is visible at once, and stays when that is rolled back.",
            hint=f"Use transaction.atomic(using={database!r}) around what is to be published with its data, or 'db:'; "
            "then add events.W016 to SILENCED_SYSTEM_CHECKS.",
            id="events.W016",
        )


def _authorization() -> Iterator[CheckMessage]:
    try:
        get_rule()
    except ImproperlyConfigured as error:
        yield Error(
            str(error),
            hint="A function (request, channel) -> bool, as docs/security.md shows one; without the key the default.",
            id="events.E005",
        )


def _metrics(config: Config) -> Iterator[CheckMessage]:
    if config.METRICS_TOKEN and not find_spec("prometheus_client"):
        yield Error(
            "EVENTS['METRICS_TOKEN'] is set, and the package prometheus-client is not installed.",
            hint="pip install prometheus-client",
            id="events.E003",
        )


def _pool(config: Config) -> Iterator[CheckMessage]:
    alias = _alias_of_the_log(config)
    pool = _database(alias).get("OPTIONS", {}).get("pool") if alias else None
    if pool and (largest := _pool_size(pool)) < 2:
        yield Warn(
            f"The pool of the database {alias!r} has room for {largest} connection, and each process "
            "keeps one for LISTEN: nothing else would ever get one.",
            hint='"OPTIONS": {"pool": {"min_size": 2, "max_size": 10}}',
            id="events.W006",
        )


def _alias_of_the_log(config: Config) -> str:
    """The database that the log is in; empty for a log that is in none."""
    if not config.BROKER.startswith("db:"):
        return ""
    return open_broker(config.BROKER, config.HISTORY, config.HISTORY_SECONDS).database


def _pool_size(pool: Any) -> int:
    options = pool if isinstance(pool, dict) else {}
    return int(options.get("max_size") or options.get("min_size", 4))  # as psycopg_pool has them


def _urls() -> Iterator[CheckMessage]:
    if getattr(settings, "ROOT_URLCONF", None) and not _path_of_the_stream():
        yield Warn(
            "No URL leads to the streams.",
            hint=f'urlpatterns += [path("events/", include("{NAME}.urls"))]',
            id="events.W013",
        )


def _compression() -> Iterator[CheckMessage]:
    for name, middleware in _all_middleware():
        if _COMPRESSING.search(name) and _compresses(middleware):
            yield Warn(
                f"{name} compresses streams, and so holds their events back until there is enough to compress.",
                hint="Let it leave alone every response that has a Content-Encoding, as django.middleware.gzip."
                "GZipMiddleware does: if response.has_header('Content-Encoding'): return response",
                id="events.W007",
            )


def _compresses(middleware: Callable[[Any], Any]) -> bool:
    """Whether it changes a stream that it is given."""
    if not getattr(middleware, "sync_capable", True):
        return False  # it would have to be awaited
    response = StreamingHttpResponse(iter([b"data: 1\n\n"]), headers=HEADERS)
    request = HttpRequest()
    request.method, request.META["HTTP_ACCEPT_ENCODING"] = "GET", "zstd, br, gzip, deflate"

    def stream(request: HttpRequest) -> HttpResponseBase:
        return response

    try:
        answer = middleware(stream)(request)
    except Exception:  # noqa: BLE001  it needs more than this
        return False
    return isinstance(answer, StreamingHttpResponse) and (
        answer.get("Content-Encoding") != HEADERS["Content-Encoding"] or b"".join(answer) != b"data: 1\n\n"
    )


def _sharing(config: Config) -> Iterator[CheckMessage]:
    for name, middleware in _all_middleware():
        if not _SHARING.search(name):
            continue
        stranger = _headers_through(middleware, _STRANGER)
        if stranger.get("Access-Control-Allow-Origin") in ("*", _STRANGER):
            cookies = stranger.get("Access-Control-Allow-Credentials") == "true"
            whose = "with their visitors' cookies" if cookies else "of all channels that need no user"
            yield Warn(
                f"{name} lets the pages of every site read the streams and polls {whose}, whatever "
                "EVENTS['ALLOWED_ORIGINS'] says.",
                hint=f"Keep it away from {_path_of_the_stream() or '/events/'}, which answers other origins by itself; "
                "django-cors-headers with CORS_URLS_REGEX, as in docs/security.md.",
                id="events.W015",
            )
        elif any(_headers_through(middleware, listed) != _shared(listed) for listed in config.ALLOWED_ORIGINS):
            yield Warn(
                f"{name} changes what EVENTS['ALLOWED_ORIGINS'] allows: browsers will not show these origins the "
                "streams and polls of their visitors.",
                hint=f"Keep it away from {_path_of_the_stream() or '/events/'}, which answers other origins by itself; "
                "django-cors-headers with CORS_URLS_REGEX, as in docs/security.md.",
                id="events.W015",
            )


def _shared(origin: str) -> dict[str, str]:
    request, response = _request_from(origin), HttpResponse()
    share(request, response)
    return {key: response[key] for key in _SHARED if response.has_header(key)}


def _headers_through(middleware: Callable[[Any], Any], origin: str) -> dict[str, str]:
    """What a page of this origin is told of a stream that has come through the middleware."""
    expected = _shared(origin)
    if not getattr(middleware, "sync_capable", True):
        return expected  # it would have to be awaited

    def view(request: HttpRequest) -> HttpResponseBase:
        response = HttpResponse()
        share(request, response)
        return response

    try:
        answer = middleware(view)(_request_from(origin))
    except Exception:  # noqa: BLE001  it needs more than this
        return expected
    return {key: answer[key] for key in _SHARED if answer.has_header(key)}


def _request_from(origin: str) -> HttpRequest:
    request = HttpRequest()
    request.method, request.path = "GET", _path_of_the_stream() or "/events/"
    request.path_info = request.path.removeprefix(get_script_prefix().rstrip("/"))
    request.META |= {"HTTP_ORIGIN": origin, "HTTP_HOST": "localhost", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    return request


def _network_file_systems() -> Iterator[CheckMessage]:
    for alias in connections:
        database = _database(alias)
        name = str(database.get("NAME") or "")
        if database.get("ENGINE") != "django.db.backends.sqlite3" or not name or ":" in name:
            continue  # ":memory:" and "file:…" among them
        kind = _file_system(Path(name), MOUNTS)
        if kind in _NETWORKED:
            yield Warn(
                f"The SQLite database {name} is on a file system of the kind {kind}: processes on several machines "
                "would not see each other's events, and can destroy it.",
                hint="Keep it on a disk of this machine, or use PostgreSQL.",
                id="events.W012",
            )


def _static_files() -> Iterator[CheckMessage]:
    if not settings.STORAGES.get(STATICFILES_STORAGE_ALIAS):
        return
    try:
        storage = storages[STATICFILES_STORAGE_ALIAS]
    except Exception:  # noqa: BLE001  collectstatic will say so
        return
    rewrites = getattr(storage, "support_js_module_import_aggregation", False)
    if getattr(storage, "keep_only_hashed_files", False) and not rewrites:
        yield Warn(
            f"{type(storage).__name__} removes the files without a hash in their names, and feed.js imports others by "
            "such names: in a browser it will not load.",
            hint="In a subclass of it, for STORAGES: support_js_module_import_aggregation = True. It rewrites imports.",
            id="events.W017",
        )


def _file_system(path: Path, mounts: Path) -> str:
    """The kind of the file system that holds the path; empty where nobody tells."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    path, found, kind = path.resolve(), Path(), ""
    for line in lines:
        _, place, this_kind, *_ = line.split(" ")
        # The kernel writes a blank in a name as \040.
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), place))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, this_kind  # of two at one place, the later one hides the other
    return kind


def _memory(config: Config) -> Iterator[CheckMessage]:
    if config.BROKER == "memory:":
        workers = os.environ.get("WEB_CONCURRENCY", "1")
        asked = "" if workers == "1" else f" $WEB_CONCURRENCY asks for {workers} of them."
        yield Warn(
            "EVENTS['BROKER'] is 'memory:', which is for one process: others do not see its events, and it forgets "
            f"them when it ends.{asked}",
            hint='EVENTS = {"BROKER": "db:"}. If there is only ever one process: '
            'SILENCED_SYSTEM_CHECKS = ["events.W001"].',
            id="events.W001",
        )


def _application() -> Iterator[CheckMessage]:
    """Loads the ASGI application, as the server will."""
    name = getattr(settings, "ASGI_APPLICATION", None)
    if not name:
        yield Warn(
            "There is no ASGI_APPLICATION: behind gunicorn's sync workers WSGI_APPLICATION has no streams at all, and "
            "behind threads each stream holds one.",
            hint='ASGI_APPLICATION = "mysite.asgi.application", and in mysite/asgi.py: '
            f"from {NAME}.asgi import get_event_stream_application; application = get_event_stream_application(). "
            'If threads are meant: SILENCED_SYSTEM_CHECKS = ["events.W002"].',
            id="events.W002",
        )
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is missing here, and will be there: they are not the subject
            application = import_string(name)
    except Exception as error:  # noqa: BLE001  whatever it is, the server will not start
        yield Error(
            f"ASGI_APPLICATION {name!r} cannot be loaded: {type(error).__name__}: {error}",
            hint=f"The module of a new project is made by: manage.py startproject. In it: from {NAME}.asgi import "
            "get_event_stream_application; application = get_event_stream_application().",
            id="events.E004",
        )
        return
    # It may be wrapped, by whatever serves static files for instance.
    if not any(issubclass(type(thing), EventStreamHandler) for thing in [application, *gc.get_objects()]):
        yield Warn(
            f"ASGI_APPLICATION {name!r} is made without EventStreamHandler: every stream holds a thread, "
            "and what its request has connected to.",
            hint=f"from {NAME}.asgi import get_event_stream_application; application = get_event_stream_application() "
            "instead of get_asgi_application().",
            id="events.W003",
        )


def _transactions() -> Iterator[CheckMessage]:
    atomic = {alias for alias in connections if _database(alias).get("ATOMIC_REQUESTS")}
    path = _path_of_the_stream()
    view = _view_at(path) if path else None
    if not atomic or not view:
        return
    if still := sorted(atomic - getattr(view, "_non_atomic_requests", set())):
        yield Warn(
            f"ATOMIC_REQUESTS of {', '.join(still)} opens a transaction for each stream, and so a connection, as the "
            f"view at {path} hides that streams do without.",
            hint="Decorate it with django.db.transaction.non_atomic_requests; functools.wraps on a decorator keeps it.",
            id="events.W004",
        )


def _persistent_connections() -> Iterator[CheckMessage]:
    if not getattr(settings, "ASGI_APPLICATION", None):
        return
    for alias in connections:
        if age := _database(alias).get("CONN_MAX_AGE", 0):
            yield Warn(
                f"CONN_MAX_AGE of the database {alias!r} is {age}: under ASGI a request runs in a thread of its own, "
                "and a connection that is kept for later requests is used by none.",
                hint='"CONN_MAX_AGE": 0. To save connecting, with PostgreSQL: "OPTIONS": {"pool": {"max_size": 10}}.',
                id="events.W005",
            )


def _middleware() -> Iterator[CheckMessage]:
    if not getattr(settings, "ASGI_APPLICATION", None):
        return
    path = _path_of_the_stream()
    is_marked = not path or hasattr(_view_at(path), "in_one_thread")
    for name, middleware in _all_middleware():
        if not getattr(middleware, "sync_capable", True):
            yield Warn(
                f"{name} is async only: opening a stream, and each poll, starts an event loop for it.",
                hint="Make it for both, with django.utils.decorators.sync_and_async_middleware.",
                id="events.W008",
            )
        elif not getattr(middleware, "async_capable", False):
            whose = "but for streams and polls, which run in one thread anyway" if is_marked else "streams included"
            yield Info(
                f"{name} is sync only: under ASGI each request goes to a thread and back for it, {whose}.",
                hint="Make it for both, with django.utils.decorators.sync_and_async_middleware"
                + ("." if is_marked else f", and decorate the view at {path} with {NAME}.asgi.in_one_thread."),
                id="events.I009",
            )


def _sessions() -> Iterator[CheckMessage]:
    engine = settings.SESSION_ENGINE
    is_used = any("Session" in name for name, _ in _all_middleware()) and not engine.endswith(".signed_cookies")
    if settings.SESSION_SAVE_EVERY_REQUEST and is_used:
        yield Warn(
            f"SESSION_SAVE_EVERY_REQUEST: each poll, and each stream that is opened, writes a session ({engine}).",
            hint="SESSION_SAVE_EVERY_REQUEST = False. To keep sessions from expiring, save them where a user acts.",
            id="events.W010",
        )


def _heartbeat(config: Config) -> Iterator[CheckMessage]:
    if config.HEARTBEAT >= _IDLE_LIMIT:
        yield Warn(
            f"EVENTS['HEARTBEAT'] is {config.HEARTBEAT:g} seconds: nginx and AWS load balancers cut a connection that "
            f"is silent for {_IDLE_LIMIT:g}, Cloudflare for 100.",
            hint='EVENTS = {"HEARTBEAT": 15}',
            id="events.W011",
        )


def _open_channels() -> Iterator[CheckMessage]:
    if "AUTHORIZE" not in getattr(settings, "EVENTS", {}):
        yield Warn(
            f"EVENTS['AUTHORIZE'] is not set, so {Config.AUTHORIZE} decides: whoever can reach this site may read any "
            "channel whose name does not begin with user: or private:.",
            hint=f'If that is meant: EVENTS = {{"AUTHORIZE": "{Config.AUTHORIZE}"}}. If not: the dotted path of a '
            "function of yours, (request, channel) -> bool.",
            id="events.W014",
        )


def _database(alias: str) -> dict[str, Any]:
    return dict(connections.settings.get(alias, {}))


def _all_middleware() -> Iterator[tuple[str, Any]]:
    for name in settings.MIDDLEWARE:
        try:
            yield name, import_string(name)
        except ImportError:  # Django says so
            continue


def _path_of_the_stream() -> str:
    from .urls import find_namespace  # whose views need settings, and these may import this module

    try:
        return reverse(f"{find_namespace()}:stream")
    except NoReverseMatch:
        return ""


def _view_at(path: str) -> Any:
    try:
        return resolve(path.removeprefix(get_script_prefix().rstrip("/"))).func
    except Resolver404:
        return None
