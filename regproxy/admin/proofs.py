"""Let a command and the proxy prove to each other that they know a token, without sending it.

Where no proxy runs, any user of the machine may listen at its admin port. So a command has the listener prove
that it knows the token before it sends the token. The command proves this first, with a nonce of its own:
whoever does not know the token gets nothing from the proxy that it could be guessed from.

Both proofs cover the two ends of the command's connection. A listener that relays them to a proxy does so
over another connection, at least one end of which differs, even if the listener held the proxy's own address
before the proxy was started: no two connections of a machine have both ends in common at one time. So the
proxy refuses.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from typing import Final

from regproxy.admin.visitors import Token
from regproxy.config.values.host_rules import Address
from regproxy.core.addresses import as_address

PATH: Final = "/api/v1/proof"
ADDRESS: Final = r"^[0-9A-Za-z.:%\[\]]{1,64}$"
TEXT: Final = r"^[A-Za-z0-9_-]{43}$"  # 32 bytes in base64url: a nonce, a proof
_NONCE: Final = 32  # bytes
_ASKS: Final = b"proof of a client"
_ANSWERS: Final = b"proof of a proxy"


def new_nonce() -> str:
    """Return a nonce for one connection."""
    return secrets.token_urlsafe(_NONCE)


def address_text(host: str, port: int) -> str:
    """Return an address and port, as the kernel reports them, in the one spelling that both sides use."""
    return str(Address(str(as_address(host) or host), port))


def proof_of_client(token: Token, address: str, client: str, nonce: str) -> str:
    """Return what proves to a proxy that its client knows the token."""
    return _proof(token.key(_ASKS), address, client, nonce)


def proof_of_proxy(token: Token, address: str, client: str, nonce: str) -> str:
    """Return what proves to a client that the proxy at the other end of its connection knows the token."""
    return _proof(token.key(_ANSWERS), address, client, nonce)


def is_same(shown: str, wanted: str) -> bool:
    """Compare two proofs in a time that does not depend on where they differ."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode())


def _proof(key: bytes, address: str, client: str, nonce: str) -> str:
    # No address has a line feed, and nonces have one length: no part can be taken for part of its neighbour.
    seal = hmac.digest(key, f"{address}\n{client}\n{nonce}".encode(), "sha256")
    return urlsafe_b64encode(seal).decode().rstrip("=")
