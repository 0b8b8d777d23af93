"""Parse the values of settings: nginx sizes, times and masks, hosts, lists, credentials.

Each `parse_*` function takes text and returns a value, or raises ValueError whose text says what would be
right. The error does not repeat the given text, which may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeVar, cast

from msgspec import Struct

from regproxy.config.host_regex import compile_host_regex
from regproxy.config.networks import Network, parse_network

LogFormat = Literal["regproxy", "rp"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogStyle = Literal["text", "json"]
Records = Literal["auto", "openssl"]
LoginFor = Literal["pull", "push"]
ClientCerts = Literal["optional", "required"]
UnknownClients = Literal["allow", "deny"]
Outage = Literal["deny", "same-repository", "serve"]
PrivateTargets = Literal["allow", "registries", "deny"]

# A list as written: one text, or the entries of a TOML list.
Raw = str | tuple[str, ...]

INT64_MAX = 2**63 - 1
ANY_PORT: Final = 0  # among ports that are allowed: so is every other

_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_SCALES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

# Milliseconds of a unit, and its rank: in one text the ranks rise, as in nginx's ngx_parse_time().
_SPACE_RANK = 9
_TIME_UNITS = {
    "y": (365 * 86_400_000, 1),
    "M": (30 * 86_400_000, 2),
    "w": (7 * 86_400_000, 3),
    "d": (86_400_000, 4),
    "h": (3_600_000, 5),
    "m": (60_000, 6),
    "s": (1_000, 7),
    "ms": (1, 8),
    # A space right after the digits ends a number of seconds: "1 30" is 31 s, "1 30s" is an error.
    " ": (1_000, _SPACE_RANK),
}
_TIME_PART = re.compile(r"([0-9]*)(ms|[yMwdhms ]|\Z) *")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

# The underscore is no host name character (RFC 952, 1123), yet Compose service names have it.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

_WANT_SIZE = "an nginx size: digits and at most one of k, m, g, such as 32g"
_WANT_TIME = "an nginx time: 90s, 500ms, 1h 30m, 60d; units y M w d h m s ms in that order, none = seconds"
_WANT_PORT = "a port from 1 to 65535"
_WANT_HOST = "a host name or IP address, without https:// and without a path"


def parse_size(text: str) -> int:
    """Return bytes, by nginx's ngx_parse_offset(): digits and an optional k, m or g of either case."""
    found = _SIZE.fullmatch(text)
    if found is None or len(found[1]) > 20:
        raise ValueError(_WANT_SIZE)
    size = int(found[1]) * _SCALES[found[2].lower()]
    if size > INT64_MAX:
        raise ValueError("a size that fits 63 bits")
    return size


def parse_time(text: str) -> float:
    """Return seconds, by nginx's ngx_parse_time(): units in falling order, each once, spaces after a unit.

    nginx refuses `y` and `M` where it counts in milliseconds and `ms` where it counts in seconds; all units
    are accepted here, so every text that nginx accepts gives the same value.
    """
    total = rank = pos = 0
    while pos < len(text):
        part = _TIME_PART.match(text, pos)
        if part is None:
            raise ValueError(_WANT_TIME)
        digits, unit = part[1], part[2]
        scale, place = _TIME_UNITS[unit] if unit else (1_000, _SPACE_RANK + 1)
        # Like nginx's `step >= st_sec` test for a space: no space-ended number after seconds.
        last = 6 if unit == " " else place - 1
        if (unit and rank > last) or len(digits) > 20:
            raise ValueError(_WANT_TIME)
        total, rank, pos = total + int(digits or "0") * scale, place, part.end()
    if not any("0" <= char <= "9" for char in text):
        raise ValueError(_WANT_TIME)
    if total > INT64_MAX:
        raise ValueError("a time that fits 63 bits in milliseconds")
    return total / 1_000


def parse_positive_time(text: str) -> float:
    """Return seconds, above 0: a timeout of 0 makes every operation fail at once, in nginx too."""
    seconds = parse_time(text)
    if not seconds:
        raise ValueError("a time above 0")
    return seconds


def parse_bool(text: str) -> bool:
    """Return the boolean of true, 1, yes, on / false, 0, no, off in any case."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("true or false (also 1/0, yes/no, on/off)")


def parse_port(text: str) -> int:
    """Return a TCP port, 1 to 65535."""
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 0 < int(text) < 65_536:
        raise ValueError(_WANT_PORT)
    return int(text)


def parse_host(text: str) -> str:
    """Return a host's normal form: lower case, no trailing dot, IPv6 compressed and without brackets."""
    bracketed = text.startswith("[") and text.endswith("]")
    if bracketed or ":" in text:
        return parse_address(text)
    return _name(text)


def parse_address(text: str) -> str:
    """Return an IPv4 or IPv6 address in its shortest form; IPv6 is accepted with and without brackets."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        raise ValueError("an IP address such as 192.0.2.1 or 2001:db8::1") from None
    if inner is not text and address.version == 4:
        raise ValueError("an IPv4 address without brackets")
    return str(address)


def _name(text: str) -> str:
    """Return a DNS name in lower case without its trailing dot."""
    if not text.isascii():
        raise ValueError("a host name in ASCII; an international name in its xn-- form")
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(_WANT_HOST)
    return name


def split_host_port(text: str) -> tuple[str, int | None]:
    """Return the host part unchanged, brackets included, and the port after it if there is one.

    `reg.example:5000`, `[::1]:5000`; several colons outside brackets are an IPv6 address without a port.
    """
    if "/" in text:
        raise ValueError(_WANT_HOST)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        return text, None
    return host, parse_port(port)


class Address(Struct, frozen=True):
    """A listening address. The empty host is every address of the machine; port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Address:
    """Return the Address of `[::]:3128`, `0.0.0.0:3128`, `localhost:3128` or `:3128`."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        raise ValueError("host:port, such as 0.0.0.0:3128, [::]:3128 or :3128")
    return Address(parse_host(host) if host else "", 0 if port == "0" else parse_port(port))


def parse_listens(raw: Raw) -> tuple[Address, ...]:
    """Return the Addresses of a list, each once."""
    return tuple(dict.fromkeys(_each(_words(raw), parse_listen)))


class HostRule(Struct, frozen=True):
    """A host, or an nginx `hostnames` mask, with the port that it applies to; None is any port.

    `*.example.com` is every name below example.com, `.example.com` is those and itself, `reg.*` is every
    name that starts so. A mask's star stands for one label or several, as in nginx. `~` and an expression
    are what `compile_host_regex` makes of it.
    """

    pattern: str
    port: int | None = None

    def matches(self, host: str, port: int) -> bool:
        """Tell whether this rule applies to `host` (any case, trailing dot, brackets) and `port`."""
        if self.port is not None and self.port != port:
            return False
        pattern, name = self.pattern, _comparable(host)
        if pattern.startswith("*."):
            return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
        if pattern.startswith("."):
            return name == pattern[1:] or name.endswith(pattern)
        if pattern.endswith(".*"):
            return name.startswith(pattern[:-1]) and len(name) > len(pattern) - 1
        if pattern.startswith("~"):
            return compile_host_regex(pattern)(name)
        return name == pattern

    @property
    def is_exact(self) -> bool:
        """Whether it is a name or an address, and no mask and no expression."""
        return "*" not in self.pattern and not self.pattern.startswith((".", "~"))

    def __str__(self) -> str:
        bare = self.pattern.startswith("~") or ":" not in self.pattern
        host = self.pattern if bare else f"[{self.pattern}]"
        return host if self.port is None else f"{host}:{self.port}"


def _comparable(host: str) -> str:
    """Return a client's spelling of a host in the form that rules have."""
    if ":" not in host:
        return host.lower().removesuffix(".")
    try:
        return parse_address(host)
    except ValueError:
        return host


def parse_rule(text: str) -> HostRule:
    """Return the HostRule of a host or mask with an optional port."""
    if text.startswith("~"):
        raise ValueError("a host or a mask such as *.example.com; regular expressions (~) are not supported")
    host, port = split_host_port(text)
    if host.startswith("*."):
        return HostRule("*." + _name(host[2:]), port)
    if host.startswith("."):
        return HostRule("." + _name(host[1:]), port)
    if host.endswith(".*"):
        return HostRule(_name(host[:-2]) + ".*", port)
    if "*" in host:
        raise ValueError("a mask with one * at an end: *.example.com, .example.com or reg.*")
    return HostRule(parse_host(host), port)


# Lists.

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
    if len(words) == 1 and words[0] in _FALSE:
        return ()
    if not _FALSE.union(_TRUE).isdisjoint(words):
        raise ValueError("a list of registries, such as docker.io *.corp.example, or off alone")
    return parse_rules(raw) or None


def parse_plain_redirects(raw: Raw) -> tuple[HostRule, ...] | None:
    """Return the HostRules of a list; None for `off`."""
    words = [word.lower() for word in _words(raw)]
    if len(words) == 1 and words[0] in _FALSE:
        return None
    if not _FALSE.union(_TRUE).isdisjoint(words):
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


# Credentials.


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


# Single settings.


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a path")
    return text


def parse_directory(text: str) -> str | None:
    """Return the path of a directory, without a trailing slash; None for the empty text."""
    return (_path(text).rstrip("/") or "/") if text else None


def parse_optional_path(text: str) -> str | None:
    """Return the path of a file; None for the empty text."""
    return _path(text) if text else None


def parse_log(text: str) -> str:
    """Return "-" (standard output), "off" or a path."""
    return text.lower() if text.lower() in ("-", "off") else _path(text)


def parse_workers(text: str) -> int:
    """Return the number of workers, at most 1,024; 0 is one per core."""
    if text.lower() == "auto":
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > 1_024:
        raise ValueError("a number from 1 to 1024, or auto (or 0) for one per core")
    return int(text)


def parse_streams(text: str) -> int:
    """Return the number of connections that one download may have, from 1 to 16."""
    if not (text.isascii() and text.isdigit()) or len(text) > 2 or not 1 <= int(text) <= 16:
        raise ValueError("a number from 1 to 16")
    return int(text)


def parse_min_free(text: str) -> int | None:
    """Return bytes; None means that they depend on the disk's size."""
    try:
        return None if text.lower() == "auto" else parse_size(text)
    except ValueError as error:
        raise ValueError(f"{error}; or auto") from None


def parse_level(text: str) -> LogLevel:
    """Return the log level."""
    level = {"warn": "warning"}.get(text.lower(), text.lower())
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("debug, info, warning or error")
    return cast(LogLevel, level)


def parse_log_style(text: str) -> LogStyle:
    """Return the format of the log."""
    if text.lower() not in ("text", "json"):
        raise ValueError("text or json")
    return cast(LogStyle, text.lower())


def parse_log_format(text: str) -> LogFormat:
    """Return whose lines the access log has."""
    if text.lower() not in ("regproxy", "rp"):
        raise ValueError("regproxy, or rp for docker-registry-proxy's")
    return cast(LogFormat, text.lower())


def parse_records(text: str) -> Records:
    """Return which implementation makes and opens TLS records."""
    if text.lower() not in ("auto", "openssl"):
        raise ValueError("auto or openssl")
    return cast(Records, text.lower())


_GROUPS = re.compile(r"(?:[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)*)?")


def parse_groups(text: str) -> str:
    """Return groups for key agreement as OpenSSL names them, with colons between them; "": its best ones.

    Whether it has them is told where they are used.
    """
    if not _GROUPS.fullmatch(text):
        raise ValueError("names of groups with colons between them, such as X25519:P-256")
    return text


def parse_login_for(text: str) -> LoginFor:
    """Return the requests for which configured credentials are used."""
    if text.lower() not in ("pull", "push"):
        raise ValueError("pull (pulls alone) or push (pushes too, where ALLOW_PUSH=true)")
    return cast(LoginFor, text.lower())


def parse_access(text: str) -> str:
    """Return who may have private content: see `policy.access`."""
    if text.lower() not in ("shared", "verified", "denied"):
        raise ValueError("shared, verified or denied")
    return text.lower()


def parse_client_certs(text: str) -> ClientCerts:
    """Return whether clients have to show a certificate."""
    if text.lower() not in ("optional", "required"):
        raise ValueError("optional or required")
    return cast(ClientCerts, text.lower())


def parse_unknown(text: str) -> UnknownClients:
    """Return what becomes of clients that are no principal."""
    if text.lower() not in ("allow", "deny"):
        raise ValueError("allow or deny")
    return cast(UnknownClients, text.lower())


def parse_outage(text: str) -> Outage:
    """Return who may have private content while its registry can't be asked."""
    if text.lower() not in ("deny", "same-repository", "serve"):
        raise ValueError("deny, same-repository or serve")
    return cast(Outage, text.lower())


# Targets at private addresses.


def parse_private_targets(text: str) -> PrivateTargets:
    """Return who may be at private addresses: see Interception.address_allowed."""
    if text.lower() not in ("allow", "registries", "deny"):
        raise ValueError(
            "allow (every host that a client names), registries (those that are intercepted, and those that"
            " the settings name) or deny (only addresses that the settings have, and REGPROXY_ALLOW_TARGETS)"
        )
    return cast(PrivateTargets, text.lower())


# Quotas.

_HEADER_MASK = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+\*?")
_RESERVE = re.compile(r"([0-9]{1,9})(%?)")


class Reserve(Struct, frozen=True):
    """The last part of a registry's quota, to be used sparingly: `amount` requests, or per cent of it."""

    amount: int
    percent: bool = False

    def of(self, limit: int) -> float:
        """Return the number of requests that it is of `limit`."""
        return limit * self.amount / 100 if self.percent else float(min(self.amount, limit))


def parse_reserve(text: str) -> Reserve:
    """Return the Reserve of `10%` or `20`; 0 is none."""
    found = _RESERVE.fullmatch(text)
    if found is None or (found[2] and int(found[1]) > 100):
        raise ValueError("a number of requests such as 20, or a percentage from 0% to 100%")
    return Reserve(int(found[1]), bool(found[2]))
