"""One view, polled in one lane of the page and live in the other; and the two lines of code between them."""

import inspect
import os
from functools import cache
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, JsonResponse

from events import live

SCRIPT = Path("static/js/status.js")


@live(every=1)
def status(request: HttpRequest) -> JsonResponse:
    """How busy this machine is, as its kernel averages it: over 1, 5 and 15 minutes."""
    return JsonResponse({"load": [round(load, 2) for load in os.getloadavg()]})


@cache
def lines_that_differ() -> dict[str, str]:
    """Both lines, and what they stand beside, from the files that run. Raises ValueError when one is not there."""
    decorator, view = inspect.getsource(status).splitlines()[:2]
    script = (settings.BASE_DIR / SCRIPT).read_text(encoding="utf-8").splitlines()
    [polled] = (line.strip() for line in script if "setInterval(" in line)
    [streamed] = (line.strip() for line in script if "new FeedSource(" in line)
    return {
        "view_file": Path(__file__).relative_to(settings.BASE_DIR).as_posix(),
        "decorator": decorator,
        "view": view,
        "script_file": SCRIPT.as_posix(),
        "polled": polled,
        "streamed": streamed,
    }
