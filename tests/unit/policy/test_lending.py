"""Which requests may carry the operator's login: a table, and whatever else may come."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regproxy.http.messages import parse_request
from regproxy.policy.lending import (
    PULL,
    PUSH,
    cannot_be_push,
    cut_scope,
    cut_scopes,
    is_plain,
    is_shaped,
    loan,
    mount_sources,
    overrides,
    parse_token_ask,
    trimmed,
)
from regproxy.registry.targets import parse_target

D = "sha256:" + "a" * 64
PULLS = [
    *("/v2/", "/v2"),
    *("/v2/app/manifests/v1", "/v2/a/b/c/manifests/v1.2_x-y", f"/v2/app/manifests/{D}"),
    *(f"/v2/app/blobs/{D}", f"/v2/app/blobs/{D}?ns=docker.io", "/v2/app/blobs/sha512:" + "a" * 128),
    f"/v2/app/blobs/sha256%3A{'a' * 64}",
    *("/v2/app/tags/list", "/v2/app/tags/list?n=10&last=v1", "/v2/app/tags/list?n=1&next_page=g%3D"),
    *(f"/v2/app/referrers/{D}", f"/v2/app/referrers/{D}?artifactType=a%2Fb"),
    *("/v2/blobs/manifests/v1", "/v2/manifests/tags/list"),
]
NEVER = [
    *("", "*", "/", "/token", "/v2x", "/v2//", "/V2/", "/v1/", "/v2/_catalog"),
    *("/v2/token", "/api/v2.0/users", "/v2/app", "/v2/app/", "/v2/app/tags", "/v2/app/tags/list/"),
    *("/v2/app/manifests/", "/v2/app/manifests/.", "/v2/app/manifests/..", "/v2/app/manifests/a/b"),
    *("/v2/App/tags/list", "/v2/app//tags/list", "//v2/app/tags/list", "/./v2/app/tags/list"),
    *("/v2/../v2/app/tags/list", "/v2/app/../b/tags/list", "/v2/%2e%2e/app/tags/list"),
    *("/v2/app/%2E%2E/tags/list", "/v2/app%2fb/tags/list", "/v2/app%5cb/tags/list", "/v2/app\\b/tags/list"),
    *("/v2/app;a=b/tags/list", "/v2/app/tags/list;x", "/v2/app/tags/list%00", "/v2/app/tags/list%0a"),
    *("/%76%32/app/tags/list", "/v2/%61pp/tags/list", "/v2/app/tags/list%3Fn=1", "/v2/app/%74ags/list"),
    *("/v2/app/tags/list?_method=PUT", "/v2/app/tags/list?n=1;_method=PUT", "/v2/app/tags/list?n=1&&n=2"),
    *("/v2/app/tags/list?%6E=1", "/v2/app/tags/list?N=1", "/v2/app/tags/list?X-HTTP-Method=PUT"),
    *("/v2/app/blobs/", "/v2/app/blobs/v1", "/v2/app/blobs/uploads/manifests/v1", "/x/v2/app/tags/list"),
    *("http://reg.test/v2/app/tags/list", "/v2/app/manifests/v1\n", "/v2/" + "a" * 300 + "/tags/list"),
]
PUSHES = [
    *(
        ("POST", "/v2/app/blobs/uploads/"),
        ("POST", "/v2/app/blobs/uploads"),
        ("POST", "/v2/a/blobs/uploads/?from=b"),
    ),
    *((method, "/v2/app/blobs/uploads/1-a.b~c=?_state=x") for method in ("PATCH", "PUT", "GET", "DELETE")),
    *((method, f"/v2/app/manifests/{what}") for method in ("PUT", "DELETE") for what in ("v1", D)),
]
NO_PUSHES = [
    *(
        ("POST", "/v2/app/blobs/uploads/1"),
        ("POST", "/v2/app/manifests/v1"),
        ("POST", "/x/../v2/app/blobs/uploads/"),
    ),
    *(
        ("PUT", "/v2/app/blobs/uploads/"),
        ("PUT", "/v2/app/blobs/uploads/.."),
        ("PUT", "/v2/app/blobs/uploads/a/b"),
    ),
    *(("PUT", "/v2/app/blobs/uploads/%2e%2e"), ("PATCH", "/v2/app/blobs/uploads/a;b"), ("PUT", "/v2/")),
    *(("DELETE", f"/v2/app/blobs/{D}"), ("DELETE", "/v2/app/tags/list"), ("PATCH", "/v2/app/manifests/v1")),
    *(("GET", "/v2/?n=1"), ("HEAD", "/v2/?ns=evil"), ("GET", "/v2?n=1")),
    *(("OPTIONS", "/v2/"), ("TRACE", "/v2/"), ("get", "/v2/"), ("HEAD", "/v2/app/blobs/uploads/1")),
]


@pytest.mark.parametrize("path", PULLS)
def test_pulls(path: str) -> None:
    for pushes in (False, True):
        assert loan("GET", path, pushes=pushes) == loan("HEAD", path, pushes=pushes) is not None
        assert loan("POST", path, pushes=pushes) is None
        assert loan("OPTIONS", path, pushes=pushes) is None


@pytest.mark.parametrize("path", NEVER)
def test_never(path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert loan(method, path, pushes=False) is None
        assert loan(method, path, pushes=True) is None


@pytest.mark.parametrize("method, path", PUSHES)
def test_pushes(method: str, path: str) -> None:
    assert loan(method, path, pushes=False) is None
    found = loan(method, path, pushes=True)
    assert found is not None and found.repository in ("app", "a")


@pytest.mark.parametrize("method, path", NO_PUSHES)
def test_no_pushes(method: str, path: str) -> None:
    assert loan(method, path, pushes=True) is None


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "/",
                "v2",
                "app",
                "tags",
                "list",
                "manifests",
                "blobs",
                "uploads",
                "referrers",
                "v1",
                D,
                "..",
                ".",
            ),
            *(
                "%2e",
                "%2F",
                "%5c",
                "\\",
                ";",
                "?",
                "&",
                "n=1",
                "_method=PUT",
                "//",
                "token",
                "_catalog",
                "%00",
            ),
        ]
    ),
    max_size=12,
).map("".join)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]), PIECES | st.text(max_size=30), st.booleans()
)
@example("GET", "/v2/app/tags/list", False)
def test_whatever_is_lent_is_read_the_same_by_all(method: str, path: str, pushes: bool) -> None:
    found = loan(method, path, pushes=pushes)
    if found is None:
        return
    bare = path.partition("?")[0]
    assert bare.startswith("/v2")
    decoded = unquote(bare)
    assert decoded == bare.replace("%3A", ":").replace("%3a", ":")
    assert posixpath.normpath(decoded) == decoded.rstrip("/")
    assert not set(decoded) & set("\\;?#% ")
    assert found.repository in decoded
    if not pushes:
        assert method in ("GET", "HEAD") and "uploads/" not in bare


@given(PIECES | st.text(max_size=30))
@example("/x/../v2/app/blobs/uploads/")
def test_what_may_be_written_is_no_push(path: str) -> None:
    if cannot_be_push(path):
        assert is_plain(path)
        assert unquote(path) == path
        assert posixpath.normpath(path) == (path.rstrip("/") or "/")
        assert path.lower().split("/")[1] != "v2"


@given(PIECES)
def test_content_that_is_fetched_is_a_pull(path: str) -> None:
    """What goes the way of content gets the login by its target: it is never more than this would allow."""
    target = parse_target(path)
    if target.reference:
        kind = "blobs" if target.kind.value.startswith("blob") else "manifests"
        assert loan("GET", f"/v2/{target.repository}/{kind}/{target.reference}", pushes=False) is not None


SCOPES = [
    ("repository:app:pull", "repository:app:pull", "repository:app:pull"),
    ("repository:a/b-c:push,pull,pull", "repository:a/b-c:pull", "repository:a/b-c:pull,push"),
    ("repository:app:*", "repository:app:pull", "repository:app:pull,push,delete"),
    ("repository:app:push", None, "repository:app:push"),
    ("repository:app:delete,admin", None, "repository:app:delete"),
    ("repository:app:Pull", None, None),
    ("repository:app: pull", None, None),
    ("repository:app:", None, None),
    ("repository:app", None, None),
    ("repository::pull", None, None),
    ("repository:App:pull", None, None),
    ("repository:../x:pull", None, None),
    ("repository:a%2fb:pull", None, None),
    ("repository(plugin):app:pull", None, None),
    ("Repository:app:pull", None, None),
    ("registry:catalog:*", None, None),
    ("aws", None, None),
    ("*", None, None),
    ("", None, None),
]


@pytest.mark.parametrize("scope, pull, push", SCOPES)
def test_cut_scope(scope: str, pull: str | None, push: str | None) -> None:
    assert cut_scope(scope) == pull
    assert cut_scope(scope, PUSH) == push


@given(st.text(alphabet="repository:abpul,sh*/ .%", max_size=40))
def test_a_scope_that_was_cut_is_for_pulls(text: str) -> None:
    for scope in cut_scopes([text], PULL):
        kind, name, actions = scope.split(":")
        assert (kind, actions) == ("repository", "pull") and name and name in text


ASKS = [
    ("service=s&scope=repository:a:pull", b"", ("s", ["repository:a:pull"])),
    ("scope=repository:a:pull+repository:b:pull,push", b"", ("", ["repository:a:pull", "repository:b:pull"])),
    ("service=s&service=s&scope=repository:a:pull", b"", ("s", ["repository:a:pull"])),
    ("", b"service=s&scope=repository%3Aa%3Apull%20x&account=me", ("s", ["repository:a:pull"])),
    ("service=s&service=t&scope=repository:a:pull", b"", None),
    ("scope=repository:a:pull&Refresh_Token=x", b"", None),
    ("scope=repository:a:pull", b"password=x", None),
    ("scope=repository:a:pull", b"client_assertion=x", None),
    ("scope=repository:a:pull;refresh_token=x", b"", None),
    ("scope=" + "+".join(f"repository:a{n}:pull" for n in range(33)), b"", None),
    ("&".join(f"a{n}=" for n in range(65)) + "&scope=repository:a:pull", b"", None),
    ("scope=repository:a:pull", b"\xff", None),
    ("", b"", None),
]


@pytest.mark.parametrize("query, form, want", ASKS)
def test_parse_token_ask(query: str, form: bytes, want: tuple[str, list[str]] | None) -> None:
    ask = parse_token_ask(query, form, pushes=False)
    assert (None if ask is None else (ask.service, list(ask.scopes))) == want


@given(st.text(max_size=60), st.binary(max_size=60))
def test_parse_token_ask_raises_nothing(query: str, form: bytes) -> None:
    parse_token_ask(query, form, pushes=True)


@pytest.mark.parametrize(
    ("query", "sources"),
    [
        ("", []),
        ("?mount=sha256:00", []),
        ("?mount=sha256:00&from=a/b", ["a/b"]),
        ("?from=a%2Fb&from=c", ["a/b", "c"]),
        ("?From=a;%66rom=b", ["a", "b"]),
        ("?from=", [""]),
    ],
)
def test_mount_sources(query: str, sources: list[str]) -> None:
    assert mount_sources(f"/v2/app/blobs/uploads/{query}") == sources


OVERRIDES = [
    "X-HTTP-Method-Override",
    "x-http-method",
    "X-Method-Override",
    "X_HTTP_METHOD",
    "_method",
    "X-Method",
]


@pytest.mark.parametrize("name", OVERRIDES)
def test_fields_that_name_a_method(name: str) -> None:
    request = parse_request(f"GET /v2/ HTTP/1.1\r\nHost: a\r\n{name}: PUT\r\n\r\n".encode())
    assert overrides(request) and is_shaped(request)
    assert trimmed(request).headers == ((b"host", b"a"),)
