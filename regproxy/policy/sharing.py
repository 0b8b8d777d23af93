"""Decide which parts of a client's request may affect an answer that other clients get.

A shared fetch sends only the fields in SENT. Path and Accept are rewritten from their meaning: two clients
that share an answer have asked for the same. Other fields of a client are of two kinds. NEUTRAL ones do not
affect the answer, and are left out. Any other may, such as a key of JFrog's in its own header or a query, and
makes the request the client's own; `Shared.own` says why.

    own, content by digest   asked for without the fields; if that is refused, sent as it came, uncached
    own, a tag               passed on as it came, uncached: the cached copy was the answer to another request
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from regproxy.http.messages import NONE, Request
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import Kind, Target

# Accept and Authorization are in the cache keys of shared content, and all three in those of refusals.
SENT: Final = frozenset(b"accept authorization user-agent".split())

# A range selects the bytes of a blob that are fetched first; it is not sent.
_KEPT: Final = SENT - {b"accept"} | {b"range"}

# By name, or by its beginning.
NEUTRAL: Final = frozenset(
    # The connection, the host, which is known already, framing (RFC 9110 7.2, 7.6; RFC 9112)
    b"connection content-length expect host http2-settings keep-alive max-forwards te trailer"
    b" transfer-encoding upgrade via"
    # Handled by the proxy itself, or sent in its own form
    b" accept-encoding cache-control if-match if-modified-since if-none-match if-range if-unmodified-since"
    b" pragma range"
    # From people and browsers: the proxy gives no client a cookie. No body is sent
    b" accept-charset accept-language content-type cookie date dnt from origin priority referer"
    b" upgrade-insecure-requests"
    # Client identity, as added by other proxies: not for the origin
    b" cdn-loop forwarded true-client-ip x-client-ip x-forwarded-for x-forwarded-host x-forwarded-port"
    b" x-forwarded-prefix x-forwarded-proto x-forwarded-scheme x-forwarded-server x-forwarded-ssl x-host"
    b" x-real-ip"
    # Another method or path: left out, so that no client changes a fetch that is shared
    b" x-http-method x-http-method-override x-method-override x-original-url x-rewrite-url"
    # Tracing (W3C, B3, Jaeger, clouds); Docker's fields about itself
    b" b3 baggage grpc-trace-bin sentry-trace traceparent tracestate uber-trace-id x-amzn-trace-id"
    b" x-cloud-trace-context x-client-trace-id x-correlation-id x-ot-span-context x-request-id"
    b" docker-distribution-api-version x-meta-source-client".split()
)
NEUTRAL_BEGINNINGS: Final = (b"cf-", b"proxy-", b"sec-", b"x-b3-", b"x-datadog-", b"x-envoy-")

# containerd adds this for a mirror: the registry that is meant. It is part of the repository's name in keys.
_NAMESPACE: Final = re.compile(r"ns=[A-Za-z0-9.:%_-]{1,255}")
_SECTIONS: Final = {Kind.BLOB: "blobs", Kind.MANIFEST: "manifests", Kind.TAG: "manifests"}


@dataclass(frozen=True, slots=True)
class Shared:
    """A request in its shared form. `request`: what a shared fetch asks; `repository`: its name in keys, with
    the namespace.

    `own`: why the client's request is its own, "" if it is not.
    """

    request: Request
    repository: str
    own: str


def shared(request: Request, target: Target, ignored: Iterable[bytes] = ()) -> Shared:
    """Return the shared form of a request; changed only for content by digest, or a tag.

    `ignored`: more names of fields (lower case) that do not affect the answer; a `*` stands for any ending.
    """
    section = _SECTIONS.get(target.kind)
    if section is None:
        return Shared(request, target.repository, "")
    query = request.path.partition("?")[2]
    namespace = query if _NAMESPACE.fullmatch(query) is not None else ""
    path = f"/v2/{target.repository}/{section}/{target.reference}"
    own = "a query" if query and not namespace else ""
    odd = next((name for name, _ in request.headers if not _is_known(name, ignored)), None)
    if odd is not None:
        own = f"the header {odd.decode('latin-1')}"
    suffix = "?" + namespace if namespace else ""
    headers = tuple(field for field in request.headers if field[0] in _KEPT)
    # Rewritten from the key: weights, parameters and order must not change the answer.
    sent = request.all(b"accept")
    members = parse_accept(sent).members
    lines = [b", ".join(members)] if len(sent) == 1 and members else members
    headers = (*((b"accept", line) for line in lines), *headers)
    asked = replace(request, target=path + suffix, headers=headers, body=NONE)
    return Shared(asked, target.repository + suffix, own)


def _is_known(name: bytes, ignored: Iterable[bytes]) -> bool:
    if name in SENT or name in NEUTRAL or name.startswith(NEUTRAL_BEGINNINGS):
        return True
    return any(name.startswith(mask[:-1]) if mask.endswith(b"*") else name == mask for mask in ignored)


def namespace_of(request: Request) -> str:
    """Return `?ns=...` of a request that shared() has returned, "" if it has none."""
    _, mark, query = request.path.partition("?")
    return mark + query
