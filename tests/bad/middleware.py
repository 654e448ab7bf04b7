import gzip
from collections.abc import Awaitable, Callable, Iterator

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import async_only_middleware, sync_only_middleware

Answer = Callable[[HttpRequest], HttpResponseBase]


class CompressEverything:
    sync_capable = async_capable = True

    def __init__(self, get_response: Answer) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self._get_response(request)
        if isinstance(response, StreamingHttpResponse):
            response.streaming_content = _compressed(response)
            response.headers["Content-Encoding"] = "gzip"
        return response


def _compressed(content: StreamingHttpResponse) -> Iterator[bytes]:
    yield gzip.compress(b"".join(content))


@sync_only_middleware
def sync_only(get_response: Answer) -> Answer:
    return get_response


@async_only_middleware
def async_only(get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> object:
    return get_response


@sync_only_middleware
def cors_for_all(get_response: Answer) -> Answer:
    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    return answer


@sync_only_middleware
def cors_for_one(get_response: Answer) -> Answer:
    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.headers.get("Origin") == "https://listed.example":
            response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    return answer
