"""What of a client's request may reach an answer that other clients get.

A fetch that is shared sends the fields in SENT alone. Path and Accept are written anew from what they mean:
two clients who share an answer have asked the same. What else a client sends is one of two. It says nothing
of what is wanted (NEUTRAL), and is left out. Or it may, as a key of JFrog's in a header of its own or a query
may, and makes the request its own; `Shared.own` says why.

    own, content by digest   asked for without it; as it came, uncached, where that is refused
    own, a tag               passed on as it came, uncached: what is held was the answer to something else
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from regproxy.http.messages import NONE, Request
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import Kind, Target

# Accept and Authorization are in the keys of what is shared, and all three in those of refusals.
SENT: Final = frozenset(b"accept authorization user-agent".split())

# A range says which bytes of a blob are fetched first; it is not sent.
_KEPT: Final = SENT - {b"accept"} | {b"range"}

# By name, or by the beginning of it.
NEUTRAL: Final = frozenset(
    # The connection, the host that is known already, framing (RFC 9110 7.2, 7.6; RFC 9112)
    b"connection content-length expect host http2-settings keep-alive max-forwards te trailer"
    b" transfer-encoding upgrade via"
    # What the proxy answers itself, or sends in words of its own
    b" accept-encoding cache-control if-match if-modified-since if-none-match if-range if-unmodified-since"
    b" pragma range"
    # Of people and browsers: the proxy gives nobody a cookie. A body that isn't there
    b" accept-charset accept-language content-type cookie date dnt from origin priority referer"
    b" upgrade-insecure-requests"
    # Who asks, by what name, as other proxies have it: nobody's business upstream
    b" cdn-loop forwarded true-client-ip x-client-ip x-forwarded-for x-forwarded-host x-forwarded-port"
    b" x-forwarded-prefix x-forwarded-proto x-forwarded-scheme x-forwarded-server x-forwarded-ssl x-host"
    b" x-real-ip"
    # Another method or path: left out, so that no client changes what is asked for everybody
    b" x-http-method x-http-method-override x-method-override x-original-url x-rewrite-url"
    # Tracing (W3C, B3, Jaeger, the clouds'); what Docker says of itself
    b" b3 baggage grpc-trace-bin sentry-trace traceparent tracestate uber-trace-id x-amzn-trace-id"
    b" x-cloud-trace-context x-client-trace-id x-correlation-id x-ot-span-context x-request-id"
    b" docker-distribution-api-version x-meta-source-client".split()
)
NEUTRAL_BEGINNINGS: Final = (b"cf-", b"proxy-", b"sec-", b"x-b3-", b"x-datadog-", b"x-envoy-")

# What containerd adds for a mirror: the registry that is meant. It is part of the name of what is asked for.
_NAMESPACE: Final = re.compile(r"ns=[A-Za-z0-9.:%_-]{1,255}")
_SECTIONS: Final = {Kind.BLOB: "blobs", Kind.MANIFEST: "manifests", Kind.TAG: "manifests"}


@dataclass(frozen=True, slots=True)
class Shared:
    """`request`: what a fetch for everybody asks; `repository`: its name there, for keys, with the namespace.

    `own`: why the client's request is its own, "" where it is not.
    """

    request: Request
    repository: str
    own: str


def shared(request: Request, target: Target, ignored: Iterable[bytes] = ()) -> Shared:
    """Return what of a request may be asked for everybody; for content by digest, or a tag, alone.

    `ignored`: more names of fields (lower case) that say nothing of what is wanted; a `*` is any end.
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
    # Written anew from the key: weights, parameters and order must not make another answer of it.
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
    """Return `?ns=...` of a request that shared() has made, "" without."""
    _, mark, query = request.path.partition("?")
    return mark + query
