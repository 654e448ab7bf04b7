"""What is sent: requests that are nearly right, and wrong in any place."""

import json
from urllib.parse import quote_from_bytes

from hypothesis import strategies as st

from events.urls import urlpatterns
from sse_demo.faults import COOKIE, Fault

TOKEN = "fuzz"

# All that the app answers, also what is added to it later; and the page.
ENDPOINTS = ["/", *(f"/events/{pattern.pattern}" for pattern in urlpatterns)]

# Would be a header of an answer, or a field of a stream, if it got through.
CANARY = "x-injected: yes"
SPLITS = [f"a{end}{CANARY}" for end in ("\r\n", "\n", "\r", "\0", "\u2028", "\r\n\r\n")]

NUMBERS = [
    "0",
    "1",
    "-1",
    "1-1",
    "0-0",
    "9" * 20,
    f"{'9' * 20}-{'9' * 20}",
    f"{2**63}-{2**63}",
    "9" * 5000,
    "\u0661-\u0661",
    "NaN",
]


def quoted(value: bytes) -> bytes:
    return quote_from_bytes(value).encode()


words = st.sampled_from([*SPLITS, *NUMBERS, "", "clock", "a", "user:1:a", "private:a", "../..", "%00", "{{7*7}}"])
anything = words | st.text(max_size=50)
octets = anything.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=50)

methods = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"]
)

paths = st.sampled_from(ENDPOINTS) | st.builds(
    lambda endpoint, more: endpoint + quote_from_bytes(more), st.sampled_from(ENDPOINTS), octets
)

parameters = st.sampled_from(["channel", "since", "last_event_id", "channels", ""])
queries = st.lists(st.tuples(parameters, octets), max_size=40).map(
    lambda pairs: b"&".join(name.encode() + b"=" + quoted(value) for name, value in pairs)
) | st.binary(max_size=50)

cookies = st.builds(
    lambda name, value: f"{name}={value}".encode("utf-8", "surrogatepass"),
    st.sampled_from([COOKIE, "sessionid", "csrftoken", ""]),
    st.sampled_from([fault for fault in Fault if fault is not Fault.HANG])  # it is silent for long
    | st.just('"\\000\\377aaaaaaaa"')
    | anything,
)
authorizations = st.sampled_from([b"Bearer", b"bearer " + TOKEN.encode(), b"Basic Og==", b"Bearer \xff"]) | octets
types = (
    st.sampled_from([b"application/json", b"text/plain; charset=x", b"multipart/form-data; boundary=x"])
    | st.sampled_from([b"text/plain; charset=base64", b"text/plain; charset=undefined", b"a/b; charset*=x'%ff"])
    | octets
)
HEADERS = {
    b"accept": octets | st.just(b"text/event-stream"),
    b"accept-encoding": octets | st.just(b"gzip"),
    b"authorization": authorizations,
    b"content-type": types,
    b"cookie": cookies,
    b"if-match": octets,
    b"if-modified-since": octets,
    b"if-none-match": octets | st.sampled_from([b"*", b'W/"', b'W/"1-1", "x"']),
    b"last-event-id": octets,
    b"origin": octets | st.sampled_from([b"null", b"https://example.com"]),
    b"range": octets,
    b"referer": octets,
    b"x-csrftoken": octets,
    b"x-forwarded-for": octets | st.sampled_from([b"127.0.0.1", b"::1, 10.0.0.1", b"unknown", b"1" * 5000]),
    b"x-forwarded-host": octets,
    b"x-forwarded-proto": octets,
}


# A server takes no header of more than one line (RFC 9110, 5.5).
headers = st.lists(
    st.sampled_from(sorted(HEADERS)).flatmap(
        lambda name: st.tuples(st.just(name), HEADERS[name].map(lambda value: value.translate(None, b"\r\n\0")))
    ),
    max_size=8,
)

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(anything, children, max_size=4),
    max_leaves=10,
)
events = st.fixed_dictionaries(
    {"channel": st.just("a") | trees, "data": trees},
    optional={"type": st.just("paid") | trees, "id": trees},
)
bodies = (
    events.map(lambda event: json.dumps(event).encode()) | trees.map(lambda tree: json.dumps(tree).encode()) | octets
)
