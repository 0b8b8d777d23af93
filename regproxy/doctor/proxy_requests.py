"""Ask the proxy: pages of its port, a tunnel through it, TLS in that. Blocking, one connection a request."""

from __future__ import annotations

import http.client
import socket
import ssl
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

from regproxy.onboarding.proxy_address import ProxyAddress
from regproxy.telemetry.log_format import printable

TIMEOUT = 10.0  # seconds, for connecting and for each read
_BODY_MAX: Final = 1 << 20
_REASON_MAX: Final = 2048
_OURS: Final = b"regproxy: "  # how the proxy's own refusals begin


class NoAnswer(Exception):
    """The proxy could not be asked; the text says why."""


class Answer(Struct, frozen=True):
    """An answer's status, fields (of the last of equal names) and the beginning of its body."""

    status: int
    fields: dict[str, str]
    body: bytes


def why(error: Exception) -> str:
    """Return a short reason of an error of a socket, of TLS or of HTTP."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def ask(address: ProxyAddress, path: str) -> Answer:
    """GET a page of the proxy itself. Raises NoAnswer."""
    connection = http.client.HTTPConnection(*address.endpoint, timeout=TIMEOUT)
    try:
        return _get(connection, path, address.authority)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(why(error)) from error
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection, path: str, host: str) -> Answer:
    connection.request("GET", path, headers={"Host": host, "User-Agent": "regproxy-doctor"})
    reply = connection.getresponse()
    body = reply.read(_BODY_MAX)
    return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, body)


def refusal(address: ProxyAddress, target: tuple[str, int]) -> str:
    """Ask for a tunnel that the proxy has refused once, and return its reason; "": it gives none."""
    connection = http.client.HTTPConnection(*address.endpoint, timeout=TIMEOUT)
    name = f"[{target[0]}]:{target[1]}" if ":" in target[0] else f"{target[0]}:{target[1]}"
    try:
        connection.request("CONNECT", name, headers={"Host": name})
        answer = connection.getresponse()
        text = answer.read(_REASON_MAX) if answer.status >= 300 else b""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    # Of another proxy it may be a page in HTML.
    return printable(text.decode(errors="replace")[len(_OURS) :].strip()) if text.startswith(_OURS) else ""


class ProxyTunnel:
    """A tunnel to (host, port) through the proxy, by CONNECT. Raises NoAnswer at every step."""

    def __init__(self, address: ProxyAddress, target: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address.endpoint, timeout=TIMEOUT)
        self._host, self._port = target
        self._connection.set_tunnel(self._host, self._port)
        try:
            self._connection.connect()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswer(why(error)) from error

    def start_tls(self, ca_pem: str | None) -> None:
        """Do the handshake, trusting this CA alone; None trusts everybody, to look at what is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_pem is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=ca_pem)
        try:
            self._connection.sock = context.wrap_socket(self._connection.sock, server_hostname=self._host)
        except (OSError, ValueError) as error:
            raise NoAnswer(why(error)) from error

    @property
    def certificate(self) -> bytes:
        """The peer's certificate, DER; empty before the handshake."""
        sock: socket.socket | None = self._connection.sock
        return (sock.getpeercert(binary_form=True) or b"") if isinstance(sock, ssl.SSLSocket) else b""

    def get(self, path: str) -> Answer:
        """GET what is at the other end."""
        host = self._host if self._port == 443 else f"{self._host}:{self._port}"
        try:
            return _get(self._connection, path, host)
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(why(error)) from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
