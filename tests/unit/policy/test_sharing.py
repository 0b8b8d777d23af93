"""Which requests may share an answer, from values alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.http.messages import parse_request
from regproxy.policy.sharing import NEUTRAL, NEUTRAL_BEGINNINGS, SENT, namespace_of, shared
from regproxy.registry.targets import parse_target

DIGEST = "sha256:" + "a" * 64
TAG, CONTENT = "/v2/lib/app/manifests/latest", f"/v2/lib/app/manifests/{DIGEST}"


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: reg.test", *lines, "", ""]).encode()


def share(path: str, *lines: str, ignored: tuple[bytes, ...] = ()) -> Any:
    request = parse_request(head(path, *lines))
    return shared(request, parse_target(request.path), ignored)


# --- the rules, without a socket ----------------------------------------------------------------------------

OWN = [
    ("X-JFrog-Art-Api: k", "the header x-jfrog-art-api"),
    ("PRIVATE-TOKEN: t", "the header private-token"),
    ("Job-Token: t", "the header job-token"),
    ("X-Dragonfly-Registry: https://two", "the header x-dragonfly-registry"),
    ("X-JFrog-Override-Base-Url: https://evil.example", "the header x-jfrog-override-base-url"),
    ("X-Registry-Auth: e30=", "the header x-registry-auth"),
]


@pytest.mark.parametrize("line, why", OWN)
@pytest.mark.parametrize("path", [TAG, CONTENT, f"/v2/lib/app/blobs/{DIGEST}"])
def test_what_may_matter_makes_a_request_its_own(path: str, line: str, why: str) -> None:
    assert share(path, line).own == why
    name = line.partition(":")[0].lower().encode()
    assert share(path, line, ignored=(name,)).own == ""
    assert share(path, line, ignored=(name[:4] + b"*",)).own == ""


@pytest.mark.parametrize(
    "path, repository, own",
    [
        (TAG, "lib/app", ""),
        (f"{TAG}?", "lib/app", ""),
        (f"{TAG}?ns=docker.io", "lib/app?ns=docker.io", ""),
        (f"{TAG}?ns=registry.example%3A5002", "lib/app?ns=registry.example%3A5002", ""),
        (f"{TAG}?ns=one&ns=two", "lib/app", "a query"),
        (f"{TAG}?ns=", "lib/app", "a query"),
        (f"{TAG}?platform=arm64", "lib/app", "a query"),
        (f"{TAG}?NS=one", "lib/app", "a query"),
        (f"{TAG}?private_token=abc", "lib/app", "a query"),
    ],
)
def test_queries(path: str, repository: str, own: str) -> None:
    found = share(path)
    assert (found.repository, found.own) == (repository, own)
    assert namespace_of(found.request) == repository.removeprefix("lib/app")


@pytest.mark.parametrize(
    "path", ["/v2/lib/app/manifests/l%61test", "https://reg.test/v2/lib/app/manifests/latest"]
)
def test_one_spelling_is_asked_for(path: str) -> None:
    """An origin may read another one otherwise than we do."""
    assert share(path).request.path == TAG


@given(st.sampled_from(sorted(NEUTRAL | SENT)) | st.sampled_from(NEUTRAL_BEGINNINGS).map(lambda b: b + b"x"))
def test_known_fields_leave_a_request_shared(name: bytes) -> None:
    if name in (b"host", b"transfer-encoding", b"content-length", b"expect"):
        return
    assert share(TAG, f"{name.decode()}: 1").own == ""


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True))
def test_any_other_field_makes_it_its_own(name: str) -> None:
    known = name.encode() in NEUTRAL | SENT or name.encode().startswith(NEUTRAL_BEGINNINGS)
    if name in ("host", "transfer-encoding", "content-length", "expect"):
        return
    assert bool(share(TAG, f"{name}: x").own) != known
