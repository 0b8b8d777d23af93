"""Limit a CA to some names: X.509 name constraints (RFC 5280 4.2.1.10), written, read and compared.

A constraint on DNS names is a domain: that name and every name below it, whatever the port. A constraint on
addresses is a network. A form that has no constraint at all is free, so "no addresses" is written as the
exclusion of all of them (CA/Browser Forum BR 7.1.2.5.2).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from msgspec import Struct

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_EVERY_ADDRESS: Final[tuple[Network, ...]] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)
# A domain without names (RFC 6761 6.4): without any domain at all, the form would be free.
_NOBODY: Final = "invalid"


class SigningScope(Struct, frozen=True):
    """The names that a CA may sign. `domains`, `networks`: those that it is limited to; None: it is not.

    `not_domains`, `not_networks`: excluded from these.
    """

    domains: frozenset[str] | None = None
    networks: frozenset[Network] | None = None
    not_domains: frozenset[str] = frozenset()
    not_networks: frozenset[Network] = frozenset()

    @classmethod
    def of_names(cls, names: Iterable[str], *, every_domain: bool, every_address: bool) -> SigningScope:
        """Return the scope of domains and IP literals, and of all of a kind that can't be limited."""
        domains, networks = set(), set()
        for name in names:
            network = _network(name)
            if network is None:
                domains.add(name)
            else:
                networks.add(network)
        return cls(
            None if every_domain else frozenset(domains), None if every_address else frozenset(networks)
        )

    @classmethod
    def of_certificate(cls, certificate: x509.Certificate) -> SigningScope:
        """Return the scope that a CA's certificate states; names of other kinds do not matter here."""
        try:
            stated = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            return cls()
        permitted, excluded = stated.permitted_subtrees or (), stated.excluded_subtrees or ()
        not_networks = frozenset(_networks(excluded))
        closed = not_networks.issuperset(_EVERY_ADDRESS)
        return cls(
            frozenset(_domains(permitted)) if any(_is_dns(name) for name in permitted) else None,
            frozenset(_networks(permitted))
            if closed or any(isinstance(name, x509.IPAddress) for name in permitted)
            else None,
            frozenset(_domains(excluded)),
            frozenset() if closed else not_networks,
        )

    @property
    def is_limited(self) -> bool:
        """Whether there is any name that it does not take."""
        return self.domains is not None or self.networks is not None or bool(self._excluded)

    @property
    def _excluded(self) -> tuple[object, ...]:
        return (*self.not_domains, *self.not_networks)

    def covers(self, name: str) -> bool:
        """Tell whether a host, an IP literal or a whole domain is in it."""
        network = _network(name)
        if network is not None:
            within = self.networks is None or any(_holds(each, network) for each in self.networks)
            return within and not any(_holds(each, network) for each in self.not_networks)
        within = self.domains is None or any(_is_below(name, domain) for domain in self.domains)
        return within and not any(_is_below(name, domain) for domain in self.not_domains)

    def joined(self, other: SigningScope) -> SigningScope:
        """Return the scope of the names of both. Exclusions are not kept: it takes more, never less."""
        return SigningScope(
            None if self.domains is None or other.domains is None else self.domains | other.domains,
            None if self.networks is None or other.networks is None else self.networks | other.networks,
        )

    def within(self, other: SigningScope) -> SigningScope:
        """Return the scope of the names that are in both."""
        domains, networks = self.domains, self.networks
        if domains is None or other.domains is None:
            domains = other.domains if domains is None else domains
        else:
            domains = frozenset(filter(other.covers, domains)) | frozenset(filter(self.covers, other.domains))
        if networks is None or other.networks is None:
            networks = other.networks if networks is None else networks
        else:
            mine = (network for network in networks if other.covers(str(network)))
            networks = frozenset((*mine, *(n for n in other.networks if self.covers(str(n)))))
        excluded = self.not_domains | other.not_domains, self.not_networks | other.not_networks
        return SigningScope(domains, networks, *excluded)

    def names(self) -> list[str]:
        """Return the domains and networks that it is limited to, without those within others."""
        domains, networks = self.domains or frozenset(), self.networks or frozenset()
        found = [name for name in domains if not any(_is_below(name, other) for other in domains - {name})]
        outer = [network for network in networks if not any(_holds(o, network) for o in networks - {network})]
        return [*sorted(found), *sorted(map(_written, outer))]

    def extension(self) -> x509.NameConstraints | None:
        """Return the constraint, to be marked as critical; None where nothing is limited."""
        named = [_general_name(name) for name in self.names()]
        if self.domains is not None and not self.domains:
            named.append(x509.DNSName(_NOBODY))
        excluded: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(self.not_domains)]
        closed = self.networks is not None and not self.networks
        hidden = _EVERY_ADDRESS if closed else tuple(self.not_networks)
        excluded += [x509.IPAddress(network) for network in hidden]
        if not named and not excluded:
            return None
        return x509.NameConstraints(named or None, excluded or None)

    def __str__(self) -> str:
        if not self.is_limited:
            return "every name"
        parts = ["every DNS name"] if self.domains is None else []
        parts += ["every address"] if self.networks is None else []
        parts += self.names()
        parts += [f"not {name}" for name in (*sorted(self.not_domains), *map(str, self.not_networks))]
        return " ".join(parts)


def _network(name: str) -> Network | None:
    try:
        return ipaddress.ip_network(name)
    except ValueError:
        return None


def _written(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _general_name(name: str) -> x509.GeneralName:
    network = _network(name)
    return x509.DNSName(name) if network is None else x509.IPAddress(network)


def _is_dns(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.DNSName)


def _domains(names: Iterable[x509.GeneralName]) -> Iterable[str]:
    # A dot ahead is not RFC 5280's for DNS names, but is seen, and means what is below alone.
    return (name.value.lower() for name in names if isinstance(name, x509.DNSName))


def _networks(names: Iterable[x509.GeneralName]) -> Iterable[Network]:
    for name in names:
        if isinstance(name, x509.IPAddress) and isinstance(
            name.value, ipaddress.IPv4Network | ipaddress.IPv6Network
        ):
            yield name.value


def _holds(outer: Network, inner: Network) -> bool:
    if isinstance(outer, ipaddress.IPv4Network):
        return isinstance(inner, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _is_below(name: str, domain: str) -> bool:
    """Tell whether a name is a domain, or below it; the empty domain has every name."""
    if not domain or name == domain:
        return True
    return name.endswith(domain if domain.startswith(".") else f".{domain}")
