"""Does a TLS handshake with a registry, through the proxy, show the proxy's CA?"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from regproxy.doctor.findings import Finding, error, ok, warning
from regproxy.doctor.proxy_requests import NoAnswer, ProxyTunnel, refusal
from regproxy.doctor.reachability import Reached

SUBJECT: Final = "interception"
CACHE: Final = "cache"
_STATUS: Final = "x-docker-registry-proxy-cache-upstream-status"


def examine(proxy: Reached, registry: tuple[str, int]) -> list[Finding]:
    """Return what is to be said of interception, and of the cache behind it.

    The handshake stays between this host and the proxy. To answer GET /v2/ the proxy asks the registry; no
    image is fetched.
    """
    name = f"{registry[0]}:{registry[1]}"
    try:
        with ProxyTunnel(proxy.address, registry) as tunnel:
            tunnel.start_tls(proxy.ca_pem)
            return [ok(SUBJECT, f"{name} shows a certificate by the proxy's CA"), _cache(tunnel, name)]
    except NoAnswer as reason:
        return [_why_not(proxy, registry, name, str(reason))]


def _why_not(proxy: Reached, registry: tuple[str, int], name: str, reason: str) -> Finding:
    if "Tunnel connection failed" in reason:
        unsaid = "name it in REGISTRIES at the proxy, with its port if that is not 443"
        fix = refusal(proxy.address, registry) or unsaid
        return error(SUBJECT, f"the proxy refuses to connect to {name} ({reason})", fix)
    try:
        with ProxyTunnel(proxy.address, registry) as tunnel:
            tunnel.start_tls(None)
            issuer = x509.load_der_x509_certificate(tunnel.certificate).issuer.rfc4514_string()
    except (NoAnswer, ValueError):
        fix = "look at the proxy's log"
        return error(SUBJECT, f"no TLS handshake with {name} through the proxy: {reason}", fix)
    names = {ca.subject.rfc4514_string() for ca in proxy.cas}
    if issuer in names or "CN=regproxy intermediate " in issuer:
        return error(
            SUBJECT, f"the certificate for {name} is not valid: {reason}", "look at this host's clock"
        )
    what = f"{name} is not intercepted: its certificate is by {issuer}"
    return error(SUBJECT, what, "name it in REGISTRIES at the proxy, or nothing of it is cached")


def _cache(tunnel: ProxyTunnel, name: str) -> Finding:
    """Return what GET /v2/ says: 200 or 401 come from the registry, through the proxy."""
    try:
        answer = tunnel.get("/v2/")
    except NoAnswer as reason:
        return error(CACHE, f"no answer to GET /v2/ of {name}: {reason}", "look at the proxy's log")
    if "cache-status" not in answer.fields:
        what = f"the answer of {name} has no Cache-Status field: it may not be regproxy's"
        return warning(CACHE, what, "look for another proxy on the way")
    if answer.fields.get(_STATUS) == "STALE":
        what = f"the proxy does not reach {name}: only what it holds is served"
        return warning(CACHE, what, "see its log for the reason, unless it is offline on purpose")
    if answer.status in (200, 401):
        return ok(CACHE, f"{name} is asked through it (status {answer.status})")
    what = f"the proxy answers {answer.status} to GET /v2/ of {name}"
    return error(CACHE, what, "see that the proxy reaches the registry: its log has the reason")
