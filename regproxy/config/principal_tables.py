"""Parse the TOML file's [principal.NAME] tables: how clients are told apart, and what rules call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from regproxy.config.misspelt import key_hint
from regproxy.config.values.networks import Network, parse_network
from regproxy.core.errors import ConfigError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
# What a certificate says of its owner, in the order in which it is looked at.
CERTIFICATE_KINDS: Final = ("URI", "email", "DNS", "CN")
_WANT_CERTIFICATE: Final = (
    "CN:name (of the subject), DNS:name, URI:uri or email:address (of the subjectAltName),"
    " as the certificate has it"
)

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class PrincipalTables:
    """The tables' names by what tells clients apart. `certificates` are written as `kind:value`.

    `shown`: (name, text) of what was set.
    """

    names: tuple[str, ...] = ()
    addresses: Mapping[Network, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)


# Parsers of one entry; ValueError says what would be right.


def _user(text: str) -> str:
    if not text or ":" in text or not text.isprintable():
        raise ValueError("a user's name as in REGPROXY_HTPASSWD, without a colon (RFC 7617)")
    return text


def _certificate(text: str) -> str:
    kind, colon, value = text.partition(":")
    known = {each.lower(): each for each in CERTIFICATE_KINDS}.get(kind.strip().lower())
    if not colon or known is None or not value.strip():
        raise ValueError(_WANT_CERTIFICATE)
    return identity(known, value.strip())


def identity(kind: str, value: str) -> str:
    """Return what a certificate says in its normal form: host names are equal in any case (RFC 4343)."""
    return f"{kind}:{value.lower() if kind == 'DNS' else value}"


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "addresses": parse_network,
    "users": _user,
    "certificates": _certificate,
}


# The tables.


def parse_principals(raw: Any, file: str, errors: list[ConfigError]) -> PrincipalTables:
    """Return the tables in `principal` of a TOML file; errors are added to `errors`."""
    if not isinstance(raw, dict) or not all(isinstance(table, dict) for table in raw.values()):
        errors.append(ConfigError(f"{file}: principal", None, "tables, such as [principal.ci]"))
        return PrincipalTables()
    found: dict[str, dict[Any, str]] = {key: {} for key in _PARSERS}
    shown: list[tuple[str, str]] = []
    for name, table in raw.items():
        label = f"{file}: principal.{name}"
        if not _NAME.fullmatch(name):
            text = "a name of letters, digits and . _ @ - that begins with a letter or digit"
            errors.append(ConfigError(label, None, text))
            continue
        if not table:
            keys = " or ".join(_PARSERS)
            errors.append(ConfigError(label, None, f"{keys}: without them it is nobody"))
        for key, value in table.items():
            _take(name, key, value, found, file, errors)
            if isinstance(value, list):
                shown.append((f"principal.{name}.{key}", " ".join(map(str, value))))
    tables = (found["addresses"], found["users"], found["certificates"])
    return PrincipalTables(tuple(raw), *tables, tuple(shown))


def _take(
    name: str, key: str, value: Any, found: dict[str, dict[Any, str]], file: str, errors: list[ConfigError]
) -> None:
    """Add the entries of one key to `found`, which has all tables'."""
    label = f"{file}: principal.{name}.{key}"
    parse = _PARSERS.get(key)
    if parse is None:
        hint = key_hint(key, _PARSERS)
        errors.append(ConfigError(label, None, f"no such setting of a principal{hint}"))
        return
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        errors.append(ConfigError(label, None, 'an array of strings, such as ["..."]'))
        return
    for number, entry in enumerate(value, 1):
        try:
            _put(found[key], parse(entry), name)
        except ValueError as error:
            text = f"entry {number} of {len(value)} ({entry!r}) is not {error}"
            errors.append(ConfigError(label, None, text))


def _put(known: dict[_Key, str], entry: _Key, name: str) -> None:
    other = known.setdefault(entry, name)
    if other != name:
        raise ValueError(f"for one principal alone: {other} has it too")
