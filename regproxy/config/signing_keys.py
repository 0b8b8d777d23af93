"""Parse the TOML file's [key.NAME] tables: public keys whose signatures rules for images may ask for.

Each process reads the settings, but few of them have keys: what reads one is imported with the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from regproxy.config.values.words import parse_optional_path
from regproxy.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

KEYS_MAX: Final = 64  # tables; each signature is tried with every key of a rule
_RSA_BITS: Final = range(2048, 8193)
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_PUBLIC: Final = (b"PUBLIC KEY", b"RSA PUBLIC KEY")
WANT: Final = "a public key in PEM, as in cosign.pub (-----BEGIN PUBLIC KEY-----)"


class KeySource(Struct, frozen=True):
    """Where a key is: its name, and the file that it is in, or ("") its text."""

    name: str
    file: str = ""
    pem: str = ""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key. `fingerprint`: SHA-256 of its SubjectPublicKeyInfo, in hex."""

    name: str
    fingerprint: str
    key: PublicKey = field(repr=False, compare=False)


def parse_key_tables(raw: Any, file: str, errors: list[ConfigError]) -> dict[str, KeySource]:
    """Return the tables in `key` of a TOML file by their names; errors are added to `errors`."""
    if not isinstance(raw, dict) or not all(isinstance(table, dict) for table in raw.values()):
        errors.append(
            ConfigError(f"{file}: key", None, 'tables, such as [key.release] with file = "cosign.pub"')
        )
        return {}
    if len(raw) > KEYS_MAX:
        errors.append(ConfigError(f"{file}: key", None, f"{len(raw)} tables; {KEYS_MAX} at most"))
        return {}
    found: dict[str, KeySource] = {}
    for name, table in raw.items():
        try:
            found[name] = _source(name, table)
        except ValueError as error:
            errors.append(ConfigError(f"{file}: key.{name}", None, str(error)))
    return found


def _source(name: str, table: Mapping[str, Any]) -> KeySource:
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a key has letters, digits, dots, dashes and underscores, 64 at most")
    odd = [key for key in table if key not in ("file", "pem")]
    if odd:
        raise ValueError(f"{odd[0]}: no such setting of a key; there are file and pem")
    if len(table) != 1:
        raise ValueError('either file = "cosign.pub" or pem = """-----BEGIN PUBLIC KEY-----..."""')
    ((kind, value),) = table.items()
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{kind}: a string that is not empty")
    if kind == "pem":
        parse_public_key(name, value.encode())
        return KeySource(name, pem=value)
    return KeySource(name, file=parse_optional_path(value.strip()) or "")


def shown_keys(sources: Mapping[str, KeySource]) -> list[tuple[str, str]]:
    """Return names and values of the tables as check-config shows them."""
    return [
        (f"key.{source.name}.file", source.file) if source.file else (f"key.{source.name}.pem", "(set)")
        for source in sources.values()
    ]


def parse_public_key(name: str, pem: bytes) -> SigningKey:
    """Return the one public key in a PEM text.

    Taken is what cosign signs with: ECDSA on P-256, P-384 or P-521, Ed25519, RSA of 2048 to 8192 bits.
    Raises ValueError, without any of the text.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    labels = _BEGIN.findall(pem)
    if any(b"PRIVATE" in label for label in labels):
        raise ValueError(f"{WANT}, not a private one, which has no business here")
    if any(b"CERTIFICATE" in label for label in labels):
        raise ValueError(f"{WANT}, not a certificate: openssl x509 -pubkey -noout prints its key")
    if len(labels) != 1 or labels[0] not in _PUBLIC:
        raise ValueError(f"{WANT}; one key for each table")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(WANT) from None
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise ValueError(f"an ECDSA key on P-256, P-384 or P-521, not on {key.curve.name}")
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ValueError(f"an RSA key of 2048 to 8192 bits, not of {key.key_size}")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("an ECDSA, Ed25519 or RSA key")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(name, hashlib.sha256(der).hexdigest(), key)
