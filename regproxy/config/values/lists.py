"""Parse lists: entries between blanks or commas, or those of a TOML list.

Errors name the entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from regproxy.config.values.host_rules import (
    Address,
    HostRule,
    parse_address,
    parse_host,
    parse_listen,
    parse_rule,
)
from regproxy.config.values.networks import Network, parse_network
from regproxy.config.values.numbers import FALSE, TRUE, parse_port

# A list as written: one text, or the entries of a TOML list.
Raw = str | tuple[str, ...]

ANY_PORT: Final = 0  # among ports that are allowed: so is every other

_HEADER_MASK = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+\*?")


_Value = TypeVar("_Value")


def _words(raw: Raw) -> list[str]:
    """Return the entries of a list: separated by blanks or commas, or those of the TOML list."""
    return raw.replace(",", " ").split() if isinstance(raw, str) else [word.strip() for word in raw]


def _each(words: Iterable[str], parse: Callable[[str], _Value]) -> Iterator[_Value]:
    """Yield the value of each word. Raises ValueError, which names the word."""
    for word in words:
        try:
            yield parse(word)
        except ValueError as error:
            raise ValueError(f"{word!r} is not {error}") from None


def parse_listens(raw: Raw) -> tuple[Address, ...]:
    """Return the Addresses of a list, each once."""
    return tuple(dict.fromkeys(_each(_words(raw), parse_listen)))


def parse_rules(raw: Raw) -> tuple[HostRule, ...]:
    """Return the HostRules of a list, each once."""
    return tuple(dict.fromkeys(_each(_words(raw), parse_rule)))


def parse_ca_names(raw: Raw) -> tuple[HostRule, ...]:
    """Return the HostRules of a list: names, addresses, and masks that are whole domains."""

    def parse(word: str) -> HostRule:
        rule = parse_rule(word)
        if rule.pattern.endswith(".*") or rule.port is not None:
            raise ValueError("a name, an address, or a mask such as *.example.com, without a port")
        return rule

    return tuple(dict.fromkeys(_each(_words(raw), parse)))


def parse_mirror_registries(raw: Raw) -> tuple[HostRule, ...] | None:
    """Return the HostRules of a list; None where it is empty, no rule for `off`."""
    words = [word.lower() for word in _words(raw)]
    if len(words) == 1 and words[0] in FALSE:
        return ()
    if not FALSE.union(TRUE).isdisjoint(words):
        raise ValueError("a list of registries, such as docker.io *.corp.example, or off alone")
    return parse_rules(raw) or None


def parse_plain_redirects(raw: Raw) -> tuple[HostRule, ...] | None:
    """Return the HostRules of a list; None for `off`."""
    words = [word.lower() for word in _words(raw)]
    if len(words) == 1 and words[0] in FALSE:
        return None
    if not FALSE.union(TRUE).isdisjoint(words):
        raise ValueError("a list of registries, such as reg.example *.corp.example, or off alone")
    return parse_rules(raw)


def parse_header_masks(raw: Raw) -> tuple[bytes, ...]:
    """Return a list's names of header fields, in lower case; a `*` at the end of one stands for any
    ending.
    """
    return tuple(dict.fromkeys(_each(_words(raw), _header_mask)))


def _header_mask(word: str) -> bytes:
    if _HEADER_MASK.fullmatch(word) is None:
        raise ValueError("the name of a header field, * at its end alone, such as x-trace-*")
    if word.lower() in ("accept", "authorization", "user-agent", "*"):
        raise ValueError("a field that can be left out: what is sent of these is part of every key")
    return word.lower().encode("ascii")


def parse_ports(raw: Raw) -> frozenset[int]:
    """Return the ports of a list; ANY_PORT among them for `*`."""
    return frozenset(_each(_words(raw), lambda word: ANY_PORT if word == "*" else parse_port(word)))


def parse_networks(raw: Raw) -> tuple[Network, ...]:
    """Return the networks of a list, each once."""
    return tuple(dict.fromkeys(_each(_words(raw), parse_network)))


def parse_resolve(raw: Raw) -> Mapping[str, tuple[str, ...]]:
    """Return host -> addresses, in their order, from entries `host=address`."""
    addresses: dict[str, tuple[str, ...]] = {}
    for host, address in dict.fromkeys(_each(_words(raw), _resolve_entry)):
        addresses[host] = (*addresses.get(host, ()), address)
    return MappingProxyType(addresses)


def _resolve_entry(word: str) -> tuple[str, str]:
    host, equals, address = word.partition("=")
    if not equals:
        raise ValueError("host=address, such as registry.test=192.0.2.1")
    return parse_host(host.strip()), parse_address(address.strip())
