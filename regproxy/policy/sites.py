"""Tell which hosts belong together: those below one registrable domain (the Public Suffix List).

The list comes with the package, as of its release; nothing is fetched. Suffixes that it doesn't know, such as
`.internal`, count as public, by the list's own default rule. Domains that host many tenants' registries, and
that the list lacks, are here.
"""

from __future__ import annotations

import ipaddress
from functools import cache, lru_cache
from typing import Final

from publicsuffixlist import PublicSuffixList

# Each name below one of these may belong to another party. Kubernetes: <service>.<namespace>.svc.<domain>.
_TENANTS: Final = ("svc.cluster.local", "azurecr.io", "cloudsmith.io", "jfrog.io", "ocir.io", "pkg.dev")


@cache
def _suffixes() -> PublicSuffixList:
    """Return the list, which is read on first use: that takes 30 ms."""
    return PublicSuffixList()


@lru_cache(maxsize=4096)
def registrable(host: str) -> str | None:
    """Return the registered domain of a host, such as docker.io of auth.docker.io.

    None if there is none: an IP address, a name of one label, a public suffix itself.
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
    """Tell whether two hosts are the same, or below the same registered domain."""
    if one == other:
        return True
    domain = registrable(one)
    return domain is not None and domain == registrable(other)
