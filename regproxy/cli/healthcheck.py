"""`regproxy healthcheck`: whether the proxy of this environment takes requests; a container's HEALTHCHECK.

It runs every few seconds beside the proxy, so it imports little: a third of the CPU of other commands.
"""

from __future__ import annotations

import socket
import sys
import tomllib
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from regproxy.config.values.host_rules import Address, parse_listen
from regproxy.core.addresses import reachable_at

_VARIABLE: Final = "REGPROXY_ADMIN_LISTEN"
_KEYS: Final = ("admin_listen", "regproxy_admin_listen")
_DEFAULT: Final = "[::]:3129"
_SECONDS: Final = 4.0  # to connect, and for each part of the answer; the image's HEALTHCHECK has 5
_ANSWER_MAX: Final = 4096  # bytes
_HEALTHY, _UNHEALTHY = 0, 1


def run(config: str | None, env: Mapping[str, str]) -> int:
    """Return 0 where /readyz says 200, else print why not and return 1. `config`: the path of a TOML file."""
    try:
        fault = _fault(_admin_address(config, env))
    except (OSError, ValueError) as error:
        fault = str(error)
    if fault:
        print(f"regproxy: {fault}", file=sys.stderr)
    return _UNHEALTHY if fault else _HEALTHY


def _admin_address(config: str | None, env: Mapping[str, str]) -> Address:
    """Return the admin port's address, as `serve` finds it. Raises OSError or ValueError."""
    text = env.get(_VARIABLE, "").strip()
    if not text and config:
        told = tomllib.loads(Path(config).read_text())
        text = next((str(told[key]).strip() for key in _KEYS if key in told), "")
    try:
        return parse_listen(text or _DEFAULT)
    except ValueError as error:
        raise ValueError(f"{_VARIABLE}={text!r}: {error}") from None


def _fault(address: Address) -> str:
    """Return why the proxy at this address is not ready, "" where it is."""
    head = b""
    try:
        with closing(_connected(address)) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while len(head) < _ANSWER_MAX and (data := sock.recv(_ANSWER_MAX)):
                head += data
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    status, _, body = head.partition(b"\r\n\r\n")
    first = status.partition(b"\r\n")[0].decode("ascii", "replace")
    if first.split(" ")[1:2] == ["200"]:
        return ""
    return f"{address}/readyz: {first} {body.decode('utf-8', 'replace').strip()}".rstrip()


def _connected(address: Address) -> socket.socket:
    """Return a connection to whoever listens there. Raises OSError."""
    *others, last = reachable_at(address.host)
    for host in others:
        with suppress(OSError):
            return socket.create_connection((host, address.port), _SECONDS)
    return socket.create_connection((last, address.port), _SECONDS)
