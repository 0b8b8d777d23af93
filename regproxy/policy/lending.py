"""Decide which client requests may carry the operator's login, and which scopes its tokens may have.

Clients without credentials of their own share that login, so it is only sent with what a pull needs (with
`pushes`, a push too): by an allow-list, matched against the exact bytes of the path. Origins decode and
normalise paths in different ways, hence only spellings that leave nothing to decode or normalise match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import parse_qsl

from msgspec import Struct
from msgspec.structs import replace

from regproxy.http.messages import READS, Request
from regproxy.registry.targets import is_repository

FORM_MAX: Final = 65_536  # bytes of an OAuth2 form
SCOPES_MAX: Final = 32  # of one request for a token
_FIELDS_MAX: Final = 64

PULL: Final = frozenset({"pull"})
PUSH: Final = frozenset({"pull", "push", "delete"})

Endpoint = Literal["ping", "content", "tags", "referrers", "upload", "manifest"]

# OCI distribution spec, "Endpoints". A digest's colon is the one character that clients escape.
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*(?::|%3[Aa])[A-Za-z0-9=_-]+"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_PULLED: Final[tuple[tuple[Endpoint, re.Pattern[str]], ...]] = (
    ("ping", re.compile(r"/v2/?()")),
    ("content", re.compile(rf"/v2/(.+)/(?:manifests/(?:{_DIGEST}|{_TAG})|blobs/{_DIGEST})")),
    ("tags", re.compile(r"/v2/(.+)/tags/list")),
    ("referrers", re.compile(rf"/v2/(.+)/referrers/{_DIGEST}")),
)
_UPLOADS = re.compile(r"/v2/(.+)/blobs/uploads/?")
# The registry makes up the last part (in its Location): any one segment that isn't dots alone.
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/(?!\.+\Z)[A-Za-z0-9._~=+:@,-]+")
_MANIFEST = re.compile(rf"/v2/(.+)/manifests/(?:{_DIGEST}|{_TAG})")
_QUERY = re.compile(r"(?:(?:n|last|next_page|orderby|artifactType|ns)=[^&;]*(?:&(?!\Z)|\Z))*")

# Nothing, or base64 of a colon.
_EMPTY_LOGIN = re.compile(rb"[Bb][Aa][Ss][Ii][Cc](?: *| +Og(?:==)?)")
_PLAIN_PATH = re.compile(r"(?:/(?!\.+(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?|/")

# The only fields that are sent with the login (which replaces any Authorization). None of them can name a
# method, a path, a host or a session.
_CARRIED: Final = frozenset(
    b"accept accept-encoding accept-language authorization cache-control content-encoding content-range"
    b" content-type expect if-match if-modified-since if-none-match if-range if-unmodified-since pragma range"
    b" user-agent traceparent tracestate".split()
)
# Connection and framing fields; they are rewritten or dropped when the request is sent.
_FRAMED: Final = frozenset(
    b"host connection keep-alive content-length transfer-encoding te trailer upgrade".split()
)
_KEPT: Final = _CARRIED | _FRAMED
# A token request with one of these parameters has credentials of its own (RFC 6749 4, 6; RFC 7521 4).
_OWN: Final = frozenset(
    {"username", "password", "refresh_token", "client_secret", "assertion", "client_assertion", "code"}
    | {"access_token", "token"}
)


class Loan(Struct, frozen=True):
    """The endpoint and repository of a request that may carry the login. `repository` is "" for a ping."""

    endpoint: Endpoint
    repository: str = ""


def loan(method: str, path: str, *, pushes: bool) -> Loan | None:
    """Return the Loan of a request that may carry the login, else None. `path`: with its query, as sent.

    GET and HEAD of the ping, manifests, blobs, tags/list and referrers; with `pushes` uploads (POST, PATCH,
    PUT, GET, DELETE) and PUT and DELETE of manifests too.
    """
    path, _, query = path.partition("?")
    if method in READS and _QUERY.fullmatch(query) is not None and not (query and path in ("/v2", "/v2/")):
        for endpoint, pattern in _PULLED:
            found = _of(endpoint, pattern.fullmatch(path))
            if found is not None:
                return found
    return _push_loan(method, path) if pushes else None


def _push_loan(method: str, path: str) -> Loan | None:
    if method == "POST":
        return _of("upload", _UPLOADS.fullmatch(path))
    if method in ("PATCH", "PUT", "GET", "DELETE"):
        found = _of("upload", _UPLOAD.fullmatch(path))
        if found is not None:
            return found
    return _of("manifest", _MANIFEST.fullmatch(path)) if method in ("PUT", "DELETE") else None


def _of(endpoint: Endpoint, match: re.Match[str] | None) -> Loan | None:
    if match is None or (match[1] and not is_repository(match[1])):
        return None
    # An origin that matches names non-greedily may take `blobs/uploads/` within a name for an upload.
    if endpoint != "upload" and "/blobs/uploads/" in f"/{match[1]}/":
        return None
    return Loan(endpoint, match[1])


def mount_sources(path: str) -> list[str]:
    """Return the repositories from which a push may have content mounted, however an origin reads the query
    (OCI distribution spec, "Mounting a blob from another repository"). `path`: with its query, as sent.
    """
    query = path.partition("?")[2].replace(";", "&")
    return [value for name, value in parse_qsl(query, keep_blank_values=True) if name.lower() == "from"]


def is_plain(path: str) -> bool:
    """Return whether `path` (without a query) is unambiguous: no segment is encoded, empty, or dots alone,
    and only "/" separates them.
    """
    return _PLAIN_PATH.fullmatch(path) is not None


def cannot_be_push(path: str) -> bool:
    """Return whether a POST to an unknown path can't be a push, however an origin reads the path."""
    return is_plain(path) and all(segment.lower() not in ("v1", "v2") for segment in path.split("/"))


def overrides(request: Request) -> bool:
    """Return whether a field may name another method: X-HTTP-Method-Override, X-HTTP-Method, X-Method..."""
    return any(b"method" in name.replace(b"_", b"-") for name, _ in request.headers)


def trimmed(request: Request) -> Request:
    """Return the request with only the fields that may be sent with our login."""
    if not is_shaped(request):
        return request
    return replace(request, headers=tuple(field for field in request.headers if field[0] in _KEPT))


def without_empty_login(request: Request) -> Request:
    """Return the request without a Basic login that has neither user nor password: skopeo 1.9 sends such."""
    value = request.get(b"authorization")
    if value is None or _EMPTY_LOGIN.fullmatch(value) is None:
        return request
    return replace(request, headers=tuple(field for field in request.headers if field[0] != b"authorization"))


def is_shaped(request: Request) -> bool:
    """Return whether the client's fields may influence the answer, so that nothing may be learned from it.

    Artifactory, for example, derives its realm from X-JFrog-Override-Base-Url.
    """
    return any(name not in _KEPT for name, _ in request.headers)


def cut_scope(scope: str, allowed: frozenset[str] = PULL) -> str | None:
    """Return a scope `repository:NAME:ACTIONS` with only the allowed actions, None if none is left.

    The action `*` stands for all allowed ones.
    """
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    if kind != "repository" or not is_repository(name):
        return None
    asked = actions.split(",")
    kept = [action for action in ("pull", "push", "delete") if action in allowed]
    if "*" not in asked:
        kept = [action for action in kept if action in asked]
    return f"repository:{name}:{','.join(kept)}" if kept else None


def cut_scopes(scopes: Iterable[str], allowed: frozenset[str] = PULL) -> tuple[str, ...]:
    """Apply cut_scope() to all scopes in order, dropping duplicates. One text may have several, by blanks."""
    cut = (cut_scope(scope, allowed) for text in scopes for scope in text.split())
    return tuple(dict.fromkeys(scope for scope in cut if scope is not None))


class TokenAsk(Struct, frozen=True):
    """A token request of a client without credentials. `fields`: its query, used to find the realm."""

    fields: tuple[tuple[str, str], ...]
    service: str
    scopes: tuple[str, ...]


def may_ask(request: Request) -> bool:
    """Return whether a request, judged by its head, may get a token by our login: see parse_token_ask."""
    if request.get(b"authorization") is not None or overrides(request):
        return False
    if not is_plain(request.path.partition("?")[0]):
        return False
    if request.method == "GET":
        return request.body.empty
    body, form = request.body, request.all(b"content-type")
    is_form = [value.partition(b";")[0].strip().lower() for value in form] == [
        b"application/x-www-form-urlencoded"
    ]
    return (
        request.method == "POST"
        and is_form
        and body.kind == "length"
        and 0 < body.length <= FORM_MAX
        and request.get(b"content-encoding") is None
    )


def parse_token_ask(query: str, form: bytes, *, pushes: bool) -> TokenAsk | None:
    """Return the token request in a query or an OAuth2 form; None if our login must not be used for it.

    None: it has credentials of its own, more than one service, no allowed repository scope, or can't be
    parsed. Other parameters are dropped: `offline_token` and `access_type=offline` ask for a long-lived
    token, `account` for another user's.
    """
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_FIELDS_MAX)
        # A form is ASCII by definition; servers would decode other bytes in different ways.
        posted = parse_qsl(form.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:
        return None
    given = fields + posted
    if any(name.lower() in _OWN and value for name, value in given):
        return None
    services = {value for name, value in given if name == "service"}
    scopes = cut_scopes((value for name, value in given if name == "scope"), PUSH if pushes else PULL)
    if len(services) > 1 or not scopes or len(scopes) > SCOPES_MAX:
        return None
    return TokenAsk(tuple(fields), "".join(services), scopes)


def is_realms(ask: TokenAsk, target: str, service: str) -> bool:
    """Return whether a token request is for the realm with this target (path and query) and service."""
    own = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    return ask.service in ("", service) and all(field in ask.fields for field in own)
