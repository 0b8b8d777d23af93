"""Define an origin: the scheme, host and port of a server."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from msgspec import Struct

from regproxy.core.errors import BadResponse, HeadError
from regproxy.http.messages import parse_authority

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Servers write names of files into a Location as they are; clients encode them (Go, curl).
_TO_ENCODE = re.compile(rb"[^!-~]")
_URL = re.compile(r"([A-Za-z]+)://([^/?#]+)(?:[/?#].*)?", re.DOTALL)


def _host(name: str) -> str:
    """Return a host's normal form: hosts compare without case, trailing dot and an IPv6 literal's
    brackets.
    """
    return name.strip("[]").rstrip(".").lower()


def named(host: str, port: int) -> str:
    """Return what logs and metrics call a registry: the host, and the port unless that is 443."""
    if port == 443:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Origin(Struct, frozen=True):
    """An origin server: scheme, host in lower case without brackets, port (RFC 9110 4.3.1)."""

    scheme: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """What logs and metrics call it: the host, and the port unless it is the scheme's own."""
        if self.port == 443 and self.scheme == "https":
            return self.host  # nearly all of them
        return self.host if self.port == _DEFAULT_PORTS.get(self.scheme) else named(self.host, self.port)

    @property
    def authority(self) -> bytes:
        """`host[:port]` for a Host header (RFC 9110 section 7.2), without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}").encode()

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute http or https URL. Raises BadResponse for anything else, or with
        userinfo.
        """
        match = _URL.fullmatch(url)
        port = _DEFAULT_PORTS.get(match[1].lower()) if match is not None else None
        if match is None or port is None:
            raise BadResponse("a URL that is not http or https")
        try:
            host, port = parse_authority(match[2], port)
        except HeadError as error:
            raise BadResponse(f"a URL with a {error}") from None
        return cls(match[1].lower(), _host(host), port)


def follow(url: str, location: bytes) -> str:
    """Return the absolute URL that a Location names (RFC 9110 10.2.2), relative to `url`.

    What can't stand in a URL is percent-encoded. Raises BadResponse for what is none even so.
    """
    try:
        return urljoin(url, _TO_ENCODE.sub(lambda found: b"%%%02X" % found[0][0], location).decode("ascii"))
    except ValueError:
        raise BadResponse("a redirect to something that is not a URL") from None
