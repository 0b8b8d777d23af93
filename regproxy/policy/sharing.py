"""Decide which parts of a client's request may influence an answer that other clients share.

A shared fetch sends only the fields in SENT. Path and Accept are rewritten from their parsed values, so
clients that share an answer have asked the same. Any other field is either NEUTRAL (it doesn't select the
content) and left out, or it may select the content, as JFrog's key in its own header or a query may. That
makes it a request of the client's own; `Shared.own` says why.

    own, content by digest   fetched without the field; if refused, passed on as it came, uncached
    own, a tag               passed on as it came, uncached: the cached copy answered another request
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from regproxy.http.messages import NONE, Request
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import Kind, Target

# Accept and Authorization are in the keys of shared fetches, all three fields in those of refusals.
SENT: Final = frozenset(b"accept authorization user-agent".split())

# A range selects the bytes of a blob that are fetched first; it is not sent.
_KEPT: Final = SENT - {b"accept"} | {b"range"}

# Matched by name, or (NEUTRAL_BEGINNINGS) by prefix.
NEUTRAL: Final = frozenset(
    # The connection, the host, which is known already, framing (RFC 9110 7.2, 7.6; RFC 9112)
    b"connection content-length expect host http2-settings keep-alive max-forwards te trailer"
    b" transfer-encoding upgrade via"
    # Handled by the proxy itself, or sent with its own values
    b" accept-encoding cache-control if-match if-modified-since if-none-match if-range if-unmodified-since"
    b" pragma range"
    # Sent by browsers (the proxy sets no cookies); the type of a body that isn't there
    b" accept-charset accept-language content-type cookie date dnt from origin priority referer"
    b" upgrade-insecure-requests"
    # The client's address and host as added by other proxies: not to be disclosed upstream
    b" cdn-loop forwarded true-client-ip x-client-ip x-forwarded-for x-forwarded-host x-forwarded-port"
    b" x-forwarded-prefix x-forwarded-proto x-forwarded-scheme x-forwarded-server x-forwarded-ssl x-host"
    b" x-real-ip"
    # Method and path overrides: left out, so that no client changes what is fetched for all
    b" x-http-method x-http-method-override x-method-override x-original-url x-rewrite-url"
    # Tracing (W3C, B3, Jaeger, cloud vendors); Docker's own
    b" b3 baggage grpc-trace-bin sentry-trace traceparent tracestate uber-trace-id x-amzn-trace-id"
    b" x-cloud-trace-context x-client-trace-id x-correlation-id x-ot-span-context x-request-id"
    b" docker-distribution-api-version x-meta-source-client".split()
)
NEUTRAL_BEGINNINGS: Final = (b"cf-", b"proxy-", b"sec-", b"x-b3-", b"x-datadog-", b"x-envoy-")

# The query that containerd adds for a mirror, naming the actual registry. It is part of the repository's key.
_NAMESPACE: Final = re.compile(r"ns=[A-Za-z0-9.:%_-]{1,255}")
_SECTIONS: Final = {Kind.BLOB: "blobs", Kind.MANIFEST: "manifests", Kind.TAG: "manifests"}


class Shared(Struct, frozen=True):
    """`request`: to send for all clients; `repository`: its name with the namespace, for keys.

    `own`: why the client's request must not share its answer, "" if it may.
    """

    request: Request
    repository: str
    own: str


def shared(request: Request, target: Target, ignored: Iterable[bytes] = ()) -> Shared:
    """Return the shareable form of a request for content by digest or a tag; others are left as they are.

    `ignored`: more neutral fields' names (lower case); a `*` at the end matches any suffix.
    """
    section = _SECTIONS.get(target.kind)
    if section is None:
        return Shared(request, target.repository, "")
    query = request.path.partition("?")[2]
    namespace = query if _NAMESPACE.fullmatch(query) is not None else ""
    path = f"/v2/{target.repository}/{section}/{target.reference}"
    own = "a query" if query and not namespace else ""
    odd = next((name for name, _ in request.headers if not is_neutral(name, ignored)), None)
    if odd is not None:
        own = f"the header {odd.decode('latin-1')}"
    suffix = "?" + namespace if namespace else ""
    headers = tuple(field for field in request.headers if field[0] in _KEPT)
    # Rewritten from the parsed members: a client's weights or parameters must not change a shared answer.
    sent = request.all(b"accept")
    members = parse_accept(sent).members
    lines = [b", ".join(members)] if len(sent) == 1 and members else members
    headers = (*((b"accept", line) for line in lines), *headers)
    asked = replace(request, target=path + suffix, headers=headers, body=NONE)
    return Shared(asked, target.repository + suffix, own)


def is_neutral(name: bytes, ignored: Iterable[bytes] = ()) -> bool:
    """Return whether a field leaves open who may share the answer: it is in the key, or selects nothing."""
    if name in SENT or name in NEUTRAL or name.startswith(NEUTRAL_BEGINNINGS):
        return True
    return any(name.startswith(mask[:-1]) if mask.endswith(b"*") else name == mask for mask in ignored)


def namespace_of(request: Request) -> str:
    """Return `?ns=...` of a request that shared() has made, "" if it has none."""
    _, mark, query = request.path.partition("?")
    return mark + query
