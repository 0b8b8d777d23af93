"""Say who a client is, for rules that name clients.

A client is known by what it shows: a user with a password, or a certificate. Else by its address: the longest
network that has it decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from regproxy.config.principal_tables import CERTIFICATE_KINDS, PrincipalTables, identity
from regproxy.config.values.networks import Prefixes

# How a client was told apart: not at all, by its address, by a user name and password, by its certificate.
Kind = Literal["anonymous", "address", "user", "certificate"]


class Principal(Struct, frozen=True):
    """A client as rules call it. `name`: its configured name, "" for one that is not known."""

    name: str
    kind: Kind

    @property
    def proven(self) -> bool:
        """Whether the client has shown something that others can't: a password, or a key."""
        return self.kind in ("user", "certificate")


ANONYMOUS: Final = Principal("", "anonymous")


class Principals:
    """The principals of one configuration."""

    __slots__ = ("_addresses", "_certificates", "_users")

    def __init__(self, tables: PrincipalTables) -> None:
        self._addresses = Prefixes(
            {network: Principal(name, "address") for network, name in tables.addresses.items()}
        )
        self._users = {user: Principal(name, "user") for user, name in tables.users.items()}
        self._certificates = {
            text: Principal(name, "certificate") for text, name in tables.certificates.items()
        }

    def of_address(self, address: str) -> Principal:
        """Return who has this IP address; "" is nobody's. IPv4 mapped into IPv6 is IPv4."""
        return self._addresses.of(address) or ANONYMOUS

    def of_user(self, user: str) -> Principal:
        """Return who a user is that has shown its password: without a table, that very name."""
        return self._users.get(user) or Principal(user, "user")

    def of_certificate(self, said: Iterable[tuple[str, str]]) -> Principal:
        """Return whose certificate it is, by what it says: pairs of one of CERTIFICATE_KINDS and a value.

        Among several that have a table, the first kind decides; without a table the first of what it says is
        the name, such as `CN:builder`, which can be no user's. A certificate that says nothing is nobody's.
        """
        ranked = sorted(said, key=lambda pair: CERTIFICATE_KINDS.index(pair[0]))
        names = [identity(kind, value) for kind, value in ranked]
        for name in names:
            found = self._certificates.get(name)
            if found is not None:
                return found
        return Principal(names[0], "certificate") if names else ANONYMOUS
