"""What an origin has said of a tag, told to other processes; which requests for it are equal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from regproxy.core.errors import Busy, UpstreamError
from regproxy.fill.fill import CacheRequest, UpstreamAnswer
from regproxy.http.messages import Framing, Response, parse_request
from regproxy.http.origin import Origin
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import parse_target
from regproxy.tags.answers import (
    SharedAnswer,
    TagAnswer,
    TagContent,
    TagFailure,
    TagRefusal,
    failed_answer,
    from_json,
    to_json,
)
from regproxy.tags.keys import RequestKey, fetch_key, look_key

ORIGIN = Origin("https", "reg.test", 443)
DIGEST = "sha256:" + "1" * 64
HEADERS = ((b"content-type", b"text/plain"), (b"x-odd", b"\xff"))


def response(status: int, length: int | None = None) -> Response:
    framing = Framing("none", 0) if length is None else Framing("length", length)
    return Response(status, b"", 1, HEADERS, framing, True)


SEEN = TagAnswer(response(200), "192.0.2.1:443", 0.25, 12.5, True, "mark")
CONTENT = TagContent(DIGEST, "application/json", "192.0.2.1:443", 0.25, 12.5)
REFUSAL = TagRefusal(response(404, 3), b"\x00no", 12.5, "mark")
FAILURE = TagFailure("timeout", "no answer", 12.5)
# As workers before these classes have written them, and will read them.
FIELDS = {"status": 200, "headers": [["content-type", "text/plain"], ["x-odd", "\xff"]]}
ON_DISK: list[tuple[SharedAnswer, dict[str, Any]]] = [
    (
        SEEN,
        FIELDS
        | {"address": "192.0.2.1:443", "seconds": 0.25, "began": 12.5, "direct": True, "asker": "mark"},
    ),
    (
        CONTENT,
        {
            "digest": DIGEST,
            "type": "application/json",
            "address": "192.0.2.1:443",
            "seconds": 0.25,
            "began": 12.5,
        },
    ),
    (REFUSAL, FIELDS | {"status": 404, "body": "AG5v", "began": 12.5, "asker": "mark"}),
    (FAILURE, {"word": "timeout", "reason": "no answer", "began": 12.5}),
]


@pytest.mark.parametrize("answer, said", ON_DISK, ids=lambda each: type(each).__name__)
def test_the_form_on_disk(answer: SharedAnswer, said: dict[str, Any]) -> None:
    assert to_json(answer) == said
    assert from_json(json.loads(json.dumps(said))) == answer


@pytest.mark.parametrize("answer, said", ON_DISK, ids=lambda each: type(each).__name__)
def test_what_lacks_something_is_no_answer(answer: SharedAnswer, said: dict[str, Any]) -> None:
    for name in said:
        less = from_json({key: value for key, value in said.items() if key != name})
        assert less is None or type(less) is not type(answer)


@pytest.mark.parametrize("said", [None, {}, [], ["word"], {"word": 1}, {"status": 200, "headers": [[1, 2]]}])
def test_what_can_not_be_read(said: Any) -> None:
    assert from_json(said) is None


def test_cookies_stay() -> None:
    answered = Response(401, b"", 1, ((b"set-cookie", b"secret"), (b"x", b"y")), Framing("none", 0), True)
    assert to_json(TagRefusal(answered, b"", 0.0, ""))["headers"] == [["x", "y"]]


def test_failures() -> None:
    refused = UpstreamAnswer(response(403, 2), b"no", ORIGIN)
    told = failed_answer(refused, 1.0, "mark")
    assert told == TagRefusal(refused.response, b"no", 1.0, "mark")
    assert isinstance(told, TagRefusal)
    again = told.error(ORIGIN)
    assert isinstance(again, UpstreamAnswer)
    assert (again.response, again.body, again.origin) == (refused.response, b"no", ORIGIN)
    assert isinstance(failed_answer(UpstreamError("reset"), 1.0, "mark"), TagFailure)
    assert failed_answer(Busy("full"), 1.0, "mark") is None


def wanted(
    accept: str = "a/b, c/d", who: str = "Basic x", path: str = "/v2/app/manifests/v1"
) -> CacheRequest:
    head = f"GET {path} HTTP/1.1\r\nHost: reg.test\r\nAccept: {accept}\r\nAuthorization: {who}\r\n\r\n"
    request = parse_request(head.encode())
    return CacheRequest(ORIGIN, request, parse_target(request.path))


def keys(want: CacheRequest) -> tuple[RequestKey, RequestKey, RequestKey]:
    accept = parse_accept(want.request.all(b"accept"))
    return fetch_key(want, accept), look_key(want, accept, "mark"), look_key(want, accept, "")


def test_equal_requests_have_equal_keys() -> None:
    mine, same = keys(wanted()), keys(wanted(accept="c/d;q=0.5,  A/B"))
    assert mine == same
    assert [key.text() for key in mine] == [key.text() for key in same]
    assert len({*mine}) == len({key.text() for key in mine}) == 3


def test_what_makes_requests_different() -> None:
    mine = keys(wanted())
    for other in (
        wanted(accept="a/b"),
        wanted(path="/v2/app/manifests/v2"),
        wanted(path="/v2/b/manifests/v1"),
    ):
        for one, another in zip(mine, keys(other), strict=True):
            assert one != another
            assert one.text() != another.text()
    others = keys(wanted(who="Basic y"))
    assert mine[0] != others[0]
    assert mine[0].text() != others[0].text()
    assert mine[1:] == others[1:]  # the mark stands for who asks
