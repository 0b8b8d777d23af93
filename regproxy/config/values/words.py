"""Parse settings that are one of a few words, and paths.

Each `parse_*` function takes text and returns a value, or raises ValueError whose text says what would be
right. The error does not repeat the given text, which may be a secret.
"""

from __future__ import annotations

import re
from typing import Literal, cast

LogFormat = Literal["regproxy", "rp"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogStyle = Literal["text", "json"]
Records = Literal["auto", "openssl"]
LoginFor = Literal["pull", "push"]
ClientCerts = Literal["optional", "required"]
UnknownClients = Literal["allow", "deny"]
Outage = Literal["deny", "same-repository", "serve"]
PrivateTargets = Literal["allow", "registries", "deny"]


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


def parse_private_targets(text: str) -> PrivateTargets:
    """Return who may be at private addresses: see Interception.address_allowed."""
    if text.lower() not in ("allow", "registries", "deny"):
        raise ValueError(
            "allow (every host that a client names), registries (those that are intercepted, and those that"
            " the settings name) or deny (only addresses that the settings have, and REGPROXY_ALLOW_TARGETS)"
        )
    return cast(PrivateTargets, text.lower())
