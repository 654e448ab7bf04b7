"""The exact lines that put a finding right, by where they go; STREAM stands for the path of the stream probed."""

from collections.abc import Mapping

from ..apps import NAME

# Whose mark in a response's headers says that it is in the way: header, a part of its value, the name below.
MARKS = [
    ("cf-ray", "", "Cloudflare"),
    ("x-amz-cf-id", "", "CloudFront"),
    ("server", "awselb", "AWS ALB"),
    ("server", "nginx", "nginx"),
    ("server", "openresty", "nginx"),
    ("server", "apache", "Apache"),
    ("via", "varnish", "Varnish"),
    ("x-varnish", "", "Varnish"),
]
STREAM = "/events/"

Remedies = Mapping[str, str]


def _nginx(lines: str, note: str = "") -> str:
    return f"{lines}   # where it passes {STREAM} on" + (f", {note}" if note else "")


UNLIMITED: Remedies = {
    "Cloudflare": "Security > WAF > Rate limiting rules: exclude http.request.uri.path starts with /events/",
    "AWS": "AWS WAF: exclude /events/ from the rate-based rule",
}
BUFFERED: Remedies = {
    "nginx": _nginx("proxy_http_version 1.1; proxy_buffering off;", "and no proxy_ignore_headers X-Accel-Buffering"),
    "Apache": "ProxyPass /events/ http://127.0.0.1:8000/events/ flushpackets=on",
    "Cloudflare": "Rules > Configuration Rules for /events/: Response Buffering off",
    "Varnish": 'sub vcl_backend_response { if (bereq.url ~ "^/events/") { set beresp.do_stream = true; } }',
    "AWS": "an ALB passes streams on at once; API Gateway and Lambda collect them: route /events/ past these",
    "Django": 'response["X-Accel-Buffering"] = "no"   # and no middleware that reads response.content',
}
COMPRESSED: Remedies = {
    "nginx": _nginx("gzip off;", "or leave text/event-stream out of gzip_types"),
    "Cloudflare": "Rules > Compression Rules for /events/: Disable compression",
    "CloudFront": "the behaviour for /events/: Compress objects automatically: No",
    "Django": 'response["Content-Encoding"] = "identity"   # GZipMiddleware leaves alone what has an encoding',
}
AGED: Remedies = {
    "gunicorn": "gunicorn PROJECT.asgi   # the sync worker kills a stream after --timeout seconds",
    "nginx": "worker_shutdown_timeout 1h;   # at the top: what a reload grants to open streams",
    "AWS": "Lambda, App Runner and API Gateway limit a response's age: route /events/ to a service behind an ALB",
}
NO_HEARTBEAT: Remedies = {
    "Django": 'EVENTS = {"HEARTBEAT": 15}   # seconds; elsewhere: send a line ":" after each 15 s of silence',
}
CURSOR_STRIPPED: Remedies = {
    "nginx": _nginx("proxy_set_header Last-Event-ID $http_last_event_id;"),
    "CloudFront": "the behaviour's origin request policy: AllViewer",
    "Apache": "RequestHeader unset Last-Event-ID   # remove this line",
}
RESUME_BROKEN: Remedies = {
    "Django": 'EVENTS = {"BROKER": "db:"}   # memory: knows the events of one process only',
}
CROWDED: Remedies = {
    "nginx": _nginx(
        "limit_conn ZONE 200; limit_req zone=ZONE burst=200 nodelay;", "whichever is there; ZONE as it is now"
    ),
    **UNLIMITED,
}
NO_ROOM: Remedies = {
    "gunicorn": "gunicorn PROJECT.asgi   # under gthread a stream holds a thread, under sync there are none",
    "Django": 'EVENTS = {"MAX_STREAMS": 10000}   # a process',
}
LIMITED: Remedies = {
    "nginx": _nginx("limit_req zone=ZONE burst=200 nodelay;", "ZONE as it is now"),
    **UNLIMITED,
}
NO_POLL: Remedies = {
    "Django": f'path("events/", include("{NAME}.urls"))',
    "nginx": "location /events/ {   # not location = /events/",
}
CACHED: Remedies = {
    "nginx": _nginx("proxy_cache off;", "or no proxy_ignore_headers Cache-Control"),
    "Cloudflare": "Caching > Cache Rules for /events/: Bypass cache",
    "CloudFront": "the behaviour's cache policy: CachingDisabled",
}
NO_CACHE_CONTROL: Remedies = {
    "Django": 'response["Cache-Control"] = "no-cache, no-transform"',
    "nginx": _nginx('proxy_hide_header Cache-Control; add_header Cache-Control "no-cache, no-transform";'),
}
NOT_KEPT: Remedies = {
    "nginx": 'keepalive_timeout 75s;   # and to the server: proxy_http_version 1.1; proxy_set_header Connection "";',
    "gunicorn": "gunicorn -k gthread --keep-alive 75 PROJECT.wsgi   # the sync worker keeps none",
}
OLD_HTTP: Remedies = {
    "nginx": _nginx('proxy_http_version 1.1; proxy_set_header Connection "";'),
    "Apache": "BrowserMatch / downgrade-1.0 force-response-1.0   # remove lines such as this",
}
NO_HTTP_2: Remedies = {
    "nginx": "listen 443 ssl; http2 on;",
    "AWS ALB": "aws elbv2 modify-load-balancer-attributes --load-balancer-arn ARN "
    "--attributes Key=routing.http2.enabled,Value=true",
}


def idle(timeout: int, heartbeat: float) -> Remedies:
    """For who waits less than a heartbeat: wait `timeout` seconds, or send one after each `heartbeat` seconds."""
    return {
        "nginx": _nginx(f"proxy_read_timeout {timeout}s;"),
        "AWS ALB": "aws elbv2 modify-load-balancer-attributes --load-balancer-arn ARN "
        f"--attributes Key=idle_timeout.timeout_seconds,Value={timeout}",
        "Cloudflare": "its limit of 100 s is fixed: send heartbeats, as below",
        "Django": f'EVENTS = {{"HEARTBEAT": {heartbeat:.2g}}}   # seconds, less than half of what was cut',
    }
