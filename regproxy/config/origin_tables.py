"""Parse the TOML file's [origin."host"] tables: settings for one registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from regproxy.config.credentials import CredentialSource, parse_credentials_table
from regproxy.config.misspelt import key_hint
from regproxy.config.parent_proxy import ParentProxy, parse_parent_proxy
from regproxy.config.values.host_rules import HostRule, parse_host, split_host_port
from regproxy.config.values.numbers import parse_port, parse_positive_time
from regproxy.config.values.words import parse_optional_path
from regproxy.core.errors import ConfigError

Scheme = Literal["http", "https"]
First = Literal["client", "proxy"]
AccessMode = Literal["shared", "verified", "denied"]
# A host in its normal form, and a port, or None for any.
Key = tuple[str, int | None]

SECRET: Final = "(set)"
_WANT_MIRROR: Final = "https://host, https://host:port or https://host/prefix (http:// is taken too)"
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Mirror(Struct, frozen=True):
    """A place with the same content. `prefix`: the path before /v2/, without a trailing slash."""

    scheme: Scheme
    host: str
    port: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """The settings of one origin. Values that its table doesn't set are the default ones.

    `scheme`, `address`, `port`: how to connect to it, None for the values that it is asked for by; clients
    don't see them. `parent_proxy`: "inherit" is the environment's, None is none. `ca_file` replaces
    REGPROXY_UPSTREAM_CA_FILE. `mirrors` are asked first, in this order. `credentials_first`: whose
    Authorization is tried first. `credentials`: the source of the proxy's own. `access`: see `policy.access`;
    None: nothing was said of it. Times are seconds.
    """

    connect_timeout: float
    read_timeout: float
    send_timeout: float
    scheme: Scheme | None = None
    address: str | None = None
    port: int | None = None
    verify: bool = True
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    parent_proxy: ParentProxy | Literal["inherit"] | None = "inherit"
    mirrors: tuple[Mirror, ...] = ()
    credentials_first: First = "client"
    credentials: CredentialSource | None = field(default=None, repr=False)
    access: AccessMode | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """The default settings, and those of origins with a table. `shown`: (name, text) of the values that were
    set.
    """

    default: OriginSettings
    own: Mapping[Key, OriginSettings] = field(default_factory=dict)
    shown: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)


_KINDS: Final = {
    "str": "string",
    "bool": "boolean",
    "int": "number",
    "float": "number",
    "list": "array",
    "dict": "table",
}

# Parsers of one value; ValueError says what would be right.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a string, not {_kind(value)}")
    return value.strip()


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"a TOML {_KINDS.get(name, name)}"


def _word(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        word = _text(value).lower()
        if word not in words:
            raise ValueError(" or ".join(words))
        return word

    return parse


def _address(value: Any) -> str:
    host, port = split_host_port(_text(value))
    if port is not None:
        raise ValueError('a host name or IP address; its port is "port"')
    return parse_host(host)


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"a port from 1 to 65535, not {_kind(value)}")
    return parse_port(str(value))


def _path(value: Any) -> str:
    path = parse_optional_path(_text(value))
    if path is None:
        raise ValueError("a path")
    return path


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false, not {_kind(value)}")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f'a time such as "90s", or seconds as a number, not {_kind(value)}')
    return parse_positive_time(str(value).strip())


def _parent(value: Any) -> ParentProxy | None:
    return parse_parent_proxy(_text(value))


def _mirrors(value: Any) -> tuple[Mirror, ...]:
    if not isinstance(value, list):
        raise ValueError(f"an array of URLs, not {_kind(value)}")
    found = []
    for number, entry in enumerate(value, 1):
        try:
            found.append(_mirror(_text(entry)))
        except ValueError as error:
            raise ValueError(f"entry {number} of {len(value)} is not {error}") from None
    return tuple(dict.fromkeys(found))


def _mirror(text: str) -> Mirror:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(_WANT_MIRROR) from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user and password, which belong into a table of the mirror's own")
    scheme: Scheme = "http" if parts.scheme == "http" else "https"
    prefix = parts.path.rstrip("/")
    if parts.scheme != scheme or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ValueError(_WANT_MIRROR)
    if not _PREFIX.fullmatch(prefix) or "/.." in prefix or "/./" in prefix + "/":
        raise ValueError(f"a URL whose path is plain: {_WANT_MIRROR}")
    if prefix.endswith("/v2"):
        raise ValueError("a URL without /v2, which is added")
    default = 443 if scheme == "https" else 80
    return Mirror(scheme, parse_host(parts.hostname), default if port is None else port, prefix)


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "scheme": _word("https", "http"),
    "address": _address,
    "port": _port,
    "ca_file": _path,
    "client_cert_file": _path,
    "client_key_file": _path,
    "verify": _truth,
    "connect_timeout": _time,
    "read_timeout": _time,
    "send_timeout": _time,
    "parent_proxy": _parent,
    "mirrors": _mirrors,
    "credentials_first": _word("client", "proxy"),
    "credentials": parse_credentials_table,
    "access": _word("shared", "verified", "denied"),
}
KEYS: Final = tuple(_PARSERS)
# Settings that have no effect without TLS.
_OF_TLS: Final = ("ca_file", "client_cert_file", "client_key_file", "verify")


# The tables.


def parse_tables(raw: Any, file: str, default: OriginSettings, errors: list[ConfigError]) -> Tables:
    """Return the tables in `origin` of a TOML file; errors are added to `errors`."""
    if not isinstance(raw, dict) or not all(isinstance(table, dict) for table in raw.values()):
        errors.append(ConfigError(f"{file}: origin", None, 'tables, such as [origin."registry.example"]'))
        return Tables(default)
    own: dict[Key, OriginSettings] = {}
    shown: list[tuple[str, str]] = []
    for name, table in raw.items():
        label = f'origin."{name}"'
        found = list(_complaints(name, table, own))
        settings = _settings(table, default, found)
        errors += [ConfigError(f"{file}: {label}{key}", None, text) for key, text in found]
        if not found:
            own[parse_key(name)] = settings
            shown += [(f"{label}.{key}", _shown(key, table[key], settings)) for key in KEYS if key in table]
    return Tables(default, own, tuple(shown))


def parse_key(text: str) -> Key:
    """Return the host and port of a table's name."""
    if "*" in text or text.startswith((".", "~")):
        raise ValueError("the name of one host: no masks here")
    host, port = split_host_port(text)
    return parse_host(host), port


def label_of(key: Key) -> str:
    """Return a table's name as written in a file."""
    host, port = key
    return f'origin."{HostRule(host, port)}"'


def _settings(
    table: Mapping[str, Any], default: OriginSettings, found: list[tuple[str, str]]
) -> OriginSettings:
    """Return a table's settings; errors in values are added to `found`, as (".key", text)."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        parse = _PARSERS.get(key)
        if parse is None:
            hint = key_hint(key, KEYS)
            if isinstance(value, dict):
                hint = '; a host is written in quotes, as in [origin."registry.example"]'
            found.append((f".{key}", f"no such setting of an origin{hint}"))
            continue
        try:
            values[key] = parse(value)
        except ValueError as error:
            found.append((f".{key}", str(error)))
    if "client_cert_file" in values:
        # One PEM may hold both.
        values.setdefault("client_key_file", values["client_cert_file"])
    return replace(default, **values)


def _complaints(
    name: str, table: Mapping[str, Any], own: Mapping[Key, OriginSettings]
) -> Iterator[tuple[str, str]]:
    """Yield errors in a table's name, and in settings that don't go together."""
    try:
        key = parse_key(name)
    except ValueError as error:
        yield "", f"not {error}; a table is named by a host, or host:port"
    else:
        if key in own:
            yield "", "a second table of the same host"
    if "client_key_file" in table and "client_cert_file" not in table:
        yield ".client_key_file", "a key needs its certificate: set client_cert_file too"
    if table.get("scheme") == "http":
        for each in _OF_TLS:
            if each in table:
                yield f".{each}", 'scheme = "http" has no TLS that it could be for'


def _shown(key: str, raw: Any, settings: OriginSettings) -> str:
    """Return a value as check-config shows it, without secrets."""
    if key == "parent_proxy":
        return "" if settings.parent_proxy is None else str(settings.parent_proxy)
    if key == "credentials":
        return SECRET
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return " ".join(map(str, raw)) if isinstance(raw, list) else str(raw)
