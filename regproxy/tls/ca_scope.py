"""The names that a configuration's certificates are for, as far as name constraints can say it.

A constraint has domains and networks alone: no ports, no single name without those below it, no beginnings
of names, no expressions. What can't be said exactly is widened to what can, or to everything, and `notes`
say so.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from regproxy.config.settings import Config
from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.pcre import nginx_unescaped
from regproxy.core.addresses import as_address
from regproxy.tls.ca_files import CaPair
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import is_host

# What a regular expression ends with: `.` and labels, nothing of it optional or repeated, then its end.
_TAIL: Final = re.compile(r"\\\.((?:[a-z0-9_-]|\\\.|\\-)+)(?:\$|\\z)\Z", re.IGNORECASE)
_ATOM: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|.", re.DOTALL)


class WantedNames(Struct, frozen=True):
    """`scope`: of all that leaves are made for, which a new CA gets. `names`: what has to be in a CA.

    `open_rules`: rules that take names that no domain or network holds, so that they need a CA without
    limits. `extra`: names that a new CA gets too, but that are no reason to make one.
    """

    names: tuple[str, ...]
    open_rules: tuple[str, ...]
    extra: tuple[str, ...]
    scope: SigningScope
    notes: tuple[str, ...]

    def lacking(self, ca: CaPair) -> list[str]:
        """Return the names and rules that a CA does not take."""
        found = [name for name in self.names if not ca.covers(name)]
        return found + (list(self.open_rules) if ca.is_limited else [])

    def unsigned(self, cas: Iterable[CaPair]) -> list[str]:
        """Return the names and rules that none of the CAs takes: no certificate is made for these."""
        each = [self.lacking(ca) for ca in cas]
        return [name for name in each[0] if all(name in lacking for lacking in each)] if each else []


def wanted(config: Config) -> WantedNames:
    """Return what the CA of this configuration has to sign. No name server is asked."""
    rules = [*config.registries, *config.ca_names]
    extra: list[str] = []
    if config.tls_listen and config.tls_cert_file is None:
        rules += config.tls_names or map(HostRule, listened_names(config))
        # In a container it is another one with each start, and nobody's name for this machine.
        extra += [name for name in (machine_name(),) if not config.tls_names and is_host(name)]
    names, open_rules, notes = [], [], []
    for rule in rules:
        name = domain_of(rule.pattern)
        if name is None:
            open_rules.append(str(rule))
            notes.append(f"{rule} can't be said by a name constraint: the CA may sign every name")
            continue
        names.append(name)
        if rule.pattern.startswith("~"):
            notes.append(f"{rule} is widened to all of {name}")
    every = bool(open_rules)
    scope = SigningScope.of_names([*names, *extra], every_domain=every, every_address=every)
    if not config.ca_constraints:
        scope, notes = SigningScope(), []
    return WantedNames(tuple(dict.fromkeys(names)), tuple(open_rules), tuple(extra), scope, tuple(notes))


def listened_names(config: Config) -> tuple[str, ...]:
    """Return the addresses that REGPROXY_TLS_LISTEN names, and what every machine calls itself."""
    hosts = (address.host for address in config.tls_listen)
    return (*dict.fromkeys(host for host in hosts if host not in ("", "::", "0.0.0.0")), "localhost")


def machine_name() -> str:
    """Return what this machine calls itself, as it is written in a certificate."""
    return socket.gethostname().lower()


def domain_of(pattern: str) -> str | None:
    """Return the domain or address that has all hosts of a HostRule's pattern; None: there is none."""
    if pattern.startswith("~"):
        domain = _domain_of_regex(nginx_unescaped(pattern.removeprefix("~").removeprefix("*")))
    elif pattern.endswith(".*"):
        domain = None
    elif pattern.startswith(("*.", ".")):
        domain = pattern.removeprefix("*").removeprefix(".")
    else:
        return pattern
    # Masks and expressions take addresses too, as texts: 127.0.0.1 is "below" 0.1.
    if domain is None or domain.rpartition(".")[2].isdigit() or as_address(domain) is not None:
        return None
    return domain


def _domain_of_regex(regex: str) -> str | None:
    found = _TAIL.search(regex)
    if found is None or r"\Q" in regex or _has_alternatives(regex):
        return None
    return found[1].replace("\\", "").lower().strip(".") or None


def _has_alternatives(regex: str) -> bool:
    r"""Tell whether it has a `|` outside of all groups: then its end is not the end of all that it takes."""
    depth = 0
    for atom in _atoms(regex):
        depth += {"(": 1, ")": -1}.get(atom, 0)
        if atom == "|" and depth == 0:
            return True
    return False


def _atoms(regex: str) -> Iterator[str]:
    return (found[0] for found in _ATOM.finditer(regex))
