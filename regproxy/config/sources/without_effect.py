"""Find what a configuration says of clients to no effect: names that nobody has, and ways to be told apart
that are not switched on. An error would be too much: a name may be one of the htpasswd file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regproxy.config.image_rules import ANONYMOUS_WORD, RuleSet
from regproxy.config.origin_tables import Tables, label_of
from regproxy.config.principal_tables import PrincipalTables


def without_effect(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each such thing. `fields`: those of a Config."""
    principals: PrincipalTables = fields["principals"]
    yield from _ways(principals, fields)
    if fields["htpasswd"]:
        return  # whose users have names of their own
    for where, name in _named(fields["origin_tables"], fields["image_rules"]):
        # A certificate without a table is called by what it says, such as CN:builder.
        if name not in principals.names and not set(name) & set("*?[:") and name != ANONYMOUS_WORD:
            yield f"{where}: no client is called {name!r}: no [principal.{name}], and no htpasswd file"


def _ways(principals: PrincipalTables, fields: Mapping[str, Any]) -> Iterator[str]:
    if principals.users and not fields["htpasswd"]:
        names = ", ".join(sorted(set(principals.users.values())))
        yield f"principal: users of {names} have no effect without REGPROXY_HTPASSWD"
    if principals.certificates and not fields["client_ca_file"]:
        names = ", ".join(sorted(set(principals.certificates.values())))
        yield f"principal: certificates of {names} have no effect without REGPROXY_CLIENT_CA_FILE"


def _named(tables: Tables, rules: RuleSet) -> Iterator[tuple[str, str]]:
    for key, settings in tables.own.items():
        source = settings.credentials
        for name in (source.principals or ()) if source is not None else ():
            yield f"{label_of(key)}.credentials", name
    for rule in rules.rules:
        for name in rule.principal:
            yield f"rule {rule.name!r}", name
