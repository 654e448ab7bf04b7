"""Static files in production: hashed names, served by the application server itself."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from servestatic.storage import CompressedManifestStaticFilesStorage

logger = logging.getLogger(__name__)


class HashedStaticFilesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped
    """Hashes the names of JavaScript modules as well, and rewrites the imports between them."""

    support_js_module_import_aggregation = True


def with_static_files(application: Any, finding: Callable[..., Any], serving: Callable[..., Any]) -> Any:
    """The application with its static files: as they are found while debugging, or else as they were collected."""
    if settings.DEBUG:
        return finding(application)
    _collect_once()
    return serving(application, root=settings.STATIC_ROOT, prefix=urlsplit(settings.STATIC_URL).path)


def _collect_once() -> None:
    """Collect the static files where nobody has yet: after that, `manage.py collectstatic` is what a deploy does.

    Processes that start together wait for the one that collects.
    """
    if sys.argv[1:2] == ["check"]:
        return  # which looks at the application, and serves nothing
    root = Path(settings.STATIC_ROOT)
    if (root / HashedStaticFilesStorage.manifest_name).exists():
        return
    import fcntl  # not on Windows, where this is for development alone

    root.mkdir(parents=True, exist_ok=True)
    with (root / ".collecting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / HashedStaticFilesStorage.manifest_name).exists():
            logger.info("Collecting static files into %s, as there are none", root)
            call_command("collectstatic", interactive=False, verbosity=0)
