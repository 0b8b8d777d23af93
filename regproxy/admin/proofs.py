"""Show that a token is known without showing it: a command and the proxy, to each other.

Where no proxy runs, any user of the machine may listen at its admin port. So a command has the listener prove
that it knows the token before it sends that. The command proves it first, by a nonce of its own: whoever does
not know the token gets nothing here that a token could be guessed by.

Both proofs are of the two ends of the command's connection. A listener that passes them on to a proxy does so
on another connection, of which one end at least differs, even where it has had the proxy's own address before
that was started: no two connections of a machine have both in common at a time. So that proxy refuses.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from typing import Final

from regproxy.admin.visitors import Token
from regproxy.config.values import Address
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
    """Return an address, as the system has it, in the one spelling that both sides use."""
    return str(Address(str(as_address(host) or host), port))


def proof_of_client(token: Token, address: str, client: str, nonce: str) -> str:
    """Return what shows a proxy that a client of it knows the token."""
    return _proof(token.key(_ASKS), address, client, nonce)


def proof_of_proxy(token: Token, address: str, client: str, nonce: str) -> str:
    """Return what shows a client that the proxy at the other end of its connection knows the token."""
    return _proof(token.key(_ANSWERS), address, client, nonce)


def is_same(shown: str, wanted: str) -> bool:
    """Compare two proofs in a time that says nothing of where they differ."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode())


def _proof(key: bytes, address: str, client: str, nonce: str) -> str:
    # No address has a line feed, and a nonce has one length: nothing of one can be taken for another's.
    seal = hmac.digest(key, f"{address}\n{client}\n{nonce}".encode(), "sha256")
    return urlsafe_b64encode(seal).decode().rstrip("=")
