"""Parse AUTH_REGISTRIES: hosts, users and passwords in one text.

No error repeats what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from regproxy.config.values.host_rules import HostRule, parse_rule
from regproxy.config.values.lists import Raw


@dataclass(frozen=True, slots=True)
class Credential:
    """The Basic pair (RFC 7617) of one host, or of those of a mask; port None is any port.

    Its repr shows no secret.
    """

    host: str
    port: int | None
    username: str = field(repr=False)
    password: str = field(repr=False)


def split_entries(raw: Raw, outer: str) -> Iterator[str]:
    """Yield the entries of AUTH_REGISTRIES; `outer` separates them (a single space: any blanks)."""
    if isinstance(raw, str):
        raw = tuple(raw.split(None if outer == " " else outer))
    yield from (entry.strip() for entry in raw if entry.strip())


def parse_credentials(
    raw: Raw, outer: str, inner: str, parse_site: Callable[[str], HostRule | None] = parse_rule
) -> tuple[tuple[Credential, ...], list[str]]:
    """Return the credentials of AUTH_REGISTRIES, and warnings about entries that may be misread, one text
    each.

    `outer`: see split_entries. `inner` separates host, user and password; the password is the rest and may
    contain `inner`, blanks and line breaks. Entries for whose host `parse_site` returns None are left out.
    No error names a part.
    """
    entries = list(split_entries(raw, outer))
    taken: dict[tuple[str, int | None], Credential] = {}
    doubts: list[str] = []
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} of {len(entries)}"
        try:
            credential, doubtful = _credential(entry, inner, parse_site)
        except ValueError as error:
            raise ValueError(f"{where} is not {error}") from None
        if credential is None:
            doubts.append(f"{where} is for nothing that can be a host; left out")
            continue
        if (credential.host, credential.port) in taken:
            raise ValueError(f"one entry per host; {where} names a host for the second time")
        taken[credential.host, credential.port] = credential
        if doubtful:
            doubts.append(
                f"{where} is read as host:port:user:password; AUTH_REGISTRY_DELIMITER keeps a number a user"
            )
    return tuple(taken.values()), doubts


def _credential(
    entry: str, inner: str, parse_site: Callable[[str], HostRule | None]
) -> tuple[Credential | None, bool]:
    """Return the Credential of one entry, None where it has no host, and whether its port is a guess."""
    # An IPv6 address has colons of its own.
    start = entry.find("]") + 1 if entry.startswith("[") else 0
    cut = entry.find(inner, start)
    site, rest = (entry[:cut], entry[cut + len(inner) :]) if cut >= 0 else (entry, "")
    username, _, password = rest.partition(inner)
    doubtful = inner == ":" and inner in password and username.isascii() and username.isdigit()
    if doubtful and len(username) <= 5 and 0 < int(username) < 65_536:
        site = f"{site}:{username}"
        username, _, password = password.partition(inner)
    else:
        doubtful = False
    if not (username and password):
        raise ValueError(
            "host, user and password, none of them empty; where a part holds a delimiter, as JSON keys do,"
            " set AUTH_REGISTRIES_DELIMITER=';;;' and AUTH_REGISTRY_DELIMITER=':::'"
        )
    if ":" in username:
        raise ValueError("usable for Basic authentication: its user holds a colon (RFC 7617)")
    try:
        (username + password).encode()
    except UnicodeEncodeError:
        raise ValueError("valid UTF-8") from None
    rule = parse_site(site)
    if rule is None:
        return None, doubtful
    return Credential(rule.pattern, rule.port, username, password), doubtful
