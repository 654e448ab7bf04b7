"""The exact lines that put a finding right, by where they go. `{path}` is the stream's path, `{...}` what was seen."""

from collections.abc import Mapping

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

Remedies = Mapping[str, str]

BUFFERED: Remedies = {
    "nginx": "location {path} {{ proxy_http_version 1.1; proxy_buffering off; }}"
    "   # and no proxy_ignore_headers X-Accel-Buffering",
    "Apache": "ProxyPass {path} http://127.0.0.1:8000{path} flushpackets=on",
    "Cloudflare": "Rules > Configuration Rules for {path}: Response Buffering off",
    "Varnish": 'sub vcl_backend_response {{ if (bereq.url ~ "^{path}") {{ set beresp.do_stream = true; }} }}',
    "AWS": "an ALB passes streams on at once; API Gateway and Lambda collect them: route {path} past these",
    "Django": 'response["X-Accel-Buffering"] = "no"   # and no middleware that reads response.content',
}
COMPRESSED: Remedies = {
    "nginx": "location {path} {{ gzip off; }}   # or leave text/event-stream out of gzip_types",
    "Cloudflare": "Rules > Compression Rules for {path}: Disable compression",
    "CloudFront": "the behaviour for {path}: Compress objects automatically: No",
    "Django": 'response["Content-Encoding"] = "identity"   # GZipMiddleware leaves alone what has an encoding',
}
IDLE: Remedies = {
    "nginx": "location {path} {{ proxy_read_timeout {timeout}s; }}",
    "AWS ALB": "aws elbv2 modify-load-balancer-attributes --load-balancer-arn ARN "
    "--attributes Key=idle_timeout.timeout_seconds,Value={timeout}",
    "Cloudflare": "its limit of 100 s is fixed: send heartbeats, as below",
    "Django": 'EVENTS = {{"HEARTBEAT": {heartbeat}}}   # seconds, less than half of what was cut',
}
AGED: Remedies = {
    "gunicorn": "gunicorn sse_demo.asgi   # the sync worker kills a stream after --timeout seconds",
    "nginx": "worker_shutdown_timeout 1h;   # what a reload grants to open streams",
    "AWS": "Lambda, App Runner and API Gateway limit a response's age: route {path} to a service behind an ALB",
}
NO_HEARTBEAT: Remedies = {
    "Django": 'EVENTS = {{"HEARTBEAT": 15}}   # seconds; elsewhere: send a line ":" after each 15 s of silence',
}
CURSOR_STRIPPED: Remedies = {
    "nginx": "location {path} {{ proxy_set_header Last-Event-ID $http_last_event_id; }}",
    "CloudFront": "the behaviour's origin request policy: AllViewer",
    "Apache": "RequestHeader unset Last-Event-ID   # remove this line",
}
RESUME_BROKEN: Remedies = {
    "Django": 'EVENTS = {{"BROKER": "db:"}}   # memory: knows the events of one process only',
}
CROWDED: Remedies = {
    "nginx": "location {path} {{ limit_conn ZONE 200; limit_req zone=ZONE burst=200 nodelay; }}   # ZONE: as it is now",
    "Cloudflare": "Security > WAF > Rate limiting rules: exclude http.request.uri.path starts with {path}",
    "AWS": "AWS WAF: exclude {path} from the rate-based rule",
}
NO_ROOM: Remedies = {
    "gunicorn": "gunicorn sse_demo.asgi   # under gthread a stream holds a thread, under sync there are none",
    "Django": 'EVENTS = {{"MAX_STREAMS": 10000}}   # a process',
}
LIMITED: Remedies = {
    "nginx": "location {path}poll/ {{ limit_req zone=ZONE burst=200 nodelay; }}   # ZONE: as it is now",
    "Cloudflare": "Security > WAF > Rate limiting rules: exclude http.request.uri.path starts with {path}",
    "AWS": "AWS WAF: exclude {path} from the rate-based rule",
}
NO_POLL: Remedies = {
    "Django": 'path("events/", include("events.urls"))',
    "nginx": "location {path} {{ proxy_pass http://127.0.0.1:8000; }}   # not `location = {path}`",
}
CACHED: Remedies = {
    "nginx": "location {path} {{ proxy_cache off; }}   # or no proxy_ignore_headers Cache-Control",
    "Cloudflare": "Caching > Cache Rules for {path}: Bypass cache",
    "CloudFront": "the behaviour's cache policy: CachingDisabled",
}
NO_CACHE_CONTROL: Remedies = {
    "Django": 'response["Cache-Control"] = "no-cache, no-transform"',
    "nginx": "location {path} {{ proxy_hide_header Cache-Control; "
    'add_header Cache-Control "no-cache, no-transform"; }}   # where a proxy has replaced it',
}
NOT_KEPT: Remedies = {
    "nginx": 'keepalive_timeout 75s;   # and to the server: proxy_http_version 1.1; proxy_set_header Connection "";',
    "gunicorn": "gunicorn -k gthread --keep-alive 75 sse_demo.wsgi   # the sync worker keeps none",
}
OLD_HTTP: Remedies = {
    "nginx": 'location {path} {{ proxy_http_version 1.1; proxy_set_header Connection ""; }}',
    "Apache": "BrowserMatch / downgrade-1.0 force-response-1.0   # remove lines such as this",
}
NO_HTTP_2: Remedies = {
    "nginx": "listen 443 ssl; http2 on;",
    "AWS ALB": "aws elbv2 modify-load-balancer-attributes --load-balancer-arn ARN "
    "--attributes Key=routing.http2.enabled,Value=true",
}
