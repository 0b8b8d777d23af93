"""Define the proxy's address as clients write it, with nothing in it that means something to a shell."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from regproxy.core.errors import ConfigError

# RFC 3986 3.2.2 without what no host name has: no quote, no space, no shell or HTML character.
_AUTHORITY: Final = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
_PORT_MAX: Final = 65535
_EXPECTED: Final = "a URL such as http://proxy.example:3128 was expected"


class ProxyAddress(Struct, frozen=True):
    """Where clients reach the proxy: a host name or IP literal (IPv6 in brackets), and a port."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, authority: str) -> ProxyAddress | None:
        """Return the address in `host[:port]`; None for anything else, however slightly."""
        match = _AUTHORITY.fullmatch(authority)
        if match is None:
            return None
        port = None if match["port"] is None else int(match["port"])
        return None if port is not None and not 0 < port <= _PORT_MAX else cls(match["host"], port)

    @classmethod
    def of_url(cls, url: str, variable: str = "--proxy") -> ProxyAddress:
        """Return the address in `http://host[:port][/]` or `host[:port]`.

        Raises ConfigError for anything else; what it says never shows a user or password.
        """
        text = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(text)
        except ValueError:
            raise ConfigError(variable, None, _EXPECTED) from None
        if "@" in parts.netloc:
            raise ConfigError(
                variable, None, "a user or password can't be written into set-ups; leave it out"
            )
        address = cls.parse(parts.netloc)
        if address is None or parts.scheme != "http" or parts.path not in ("", "/") or parts.query:
            raise ConfigError(variable, url, _EXPECTED)
        return address

    @property
    def authority(self) -> str:
        """Return it as in a URL, the port only if one was given."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the value of HTTPS_PROXY."""
        return f"http://{self.authority}"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Return (host without brackets, port), for a socket."""
        return self.host.strip("[]"), 80 if self.port is None else self.port
