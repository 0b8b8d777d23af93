"""Tell which hosts belong to one site: those below one registrable domain (Public Suffix List).

The list is the one shipped with the package, as of its release; nothing is fetched. Unknown suffixes, such as
`.internal`, count as public, by the list's own default rule. Multi-tenant registry domains that the list
lacks are added here.
"""

from __future__ import annotations

import ipaddress
from functools import cache, lru_cache
from typing import Final

from publicsuffixlist import PublicSuffixList

# Names below one of these may belong to different tenants. Kubernetes: <service>.<namespace>.svc.<domain>.
_TENANTS: Final = ("svc.cluster.local", "azurecr.io", "cloudsmith.io", "jfrog.io", "ocir.io", "pkg.dev")


@cache
def _suffixes() -> PublicSuffixList:
    """Load the list, when first needed: it takes 30 ms."""
    return PublicSuffixList()


@lru_cache(maxsize=4096)
def registrable(host: str) -> str | None:
    """Return the registrable domain of a host, such as docker.io for auth.docker.io.

    None if it has none: an IP address, a name of one label, a public suffix itself.
    """
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        name = host.rstrip(".").lower()
        for suffix in _TENANTS:
            if name == suffix:
                return None
            if name.endswith(f".{suffix}"):
                return f"{name.removesuffix(f'.{suffix}').rpartition('.')[2]}.{suffix}"
        domain: str | None = _suffixes().privatesuffix(name)
        return domain
    return None


def same_site(one: str, other: str) -> bool:
    """Return whether two hosts are the same, or below the same registrable domain."""
    if one == other:
        return True
    domain = registrable(one)
    return domain is not None and domain == registrable(other)
