"""Credentials: which pair belongs to which host, and what may be sent to whom."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regproxy.errors import BadResponse, HeadError
from regproxy.heads import parse_authority

if TYPE_CHECKING:
    from regproxy.config import Credential
    from regproxy.heads import Request

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"([A-Za-z]+)://([^/?#]+)(?:[/?#].*)?", re.DOTALL)


class Credentials:
    """The configured pairs. Each applies to exactly the host that it names, never to a parent or a sibling.

    So for Docker Hub and GitLab the pair is configured for the host that hands out tokens (auth.docker.io,
    gitlab.com), and it is the token request that gets it. A pair that names a port applies to that port alone
    and goes before one that names none, which applies to every port of its host. Of two alike the last wins.
    """

    __slots__ = ("_basic",)

    def __init__(self, credentials: Iterable[Credential]) -> None:
        self._basic = {
            (_host(pair.host), pair.port): _basic(pair.username, pair.password) for pair in credentials
        }

    def __repr__(self) -> str:
        hosts = sorted(host if port is None else f"{host}:{port}" for host, port in self._basic)
        return f"Credentials({', '.join(hosts)})"

    def basic_for(self, host: str, port: int) -> bytes | None:
        """Return the Authorization value for an origin (`Basic ...`, RFC 7617, UTF-8), None without one."""
        name = _host(host)
        return self._basic.get((name, port)) or self._basic.get((name, None))

    def may_inject(self, request: Request, host: str, port: int) -> bytes | None:
        """Return the Authorization value to put into `request` to an origin; the client's own always wins."""
        return None if request.get(b"authorization") is not None else self.basic_for(host, port)


def _host(name: str) -> str:
    """Hosts compare without case, the root's dot and an IPv6 literal's brackets."""
    return name.strip("[]").rstrip(".").lower()


def _basic(username: str, password: str) -> bytes:
    return b"Basic " + b64encode(f"{username}:{password}".encode())


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answers: scheme, host in lower case without brackets, port (RFC 9110 4.3.1)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute http or https URL; BadResponse for all else, userinfo included."""
        match = _URL.fullmatch(url)
        port = _DEFAULT_PORTS.get(match[1].lower()) if match is not None else None
        if match is None or port is None:
            raise BadResponse("a URL that is not http or https")
        try:
            host, port = parse_authority(match[2], port)
        except HeadError as error:
            raise BadResponse(f"a URL with a {error}") from None
        return cls(match[1].lower(), _host(host), port)


def keep_across(origin_from: Origin, origin_to: Origin) -> bool:
    """Tell whether Authorization may go along with a redirect: same scheme, host and port only.

    A storage host has no business with a registry's token, and S3 refuses a request that carries one.
    """
    return origin_from == origin_to
