"""Build certificates: the profile of the CA, of an intermediate below it, and of leaves (RFC 5280 4.2)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from regproxy.core.errors import CertificateError

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_DAY: Final = 86400  # seconds
_CA_LIFE: Final = 3650 * _DAY
_INTERMEDIATE_LIFE: Final = 365 * _DAY
LEAF_LIFE: Final = 90 * _DAY
# Clients whose clock is slow, or that were suspended, still accept a certificate made just now.
_BACKDATE: Final = 2 * _DAY
_OTHER_USAGES: Final = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)
CN_MAX: Final = 64  # ub-common-name, RFC 5280 appendix A
# A dNSName as in requests: A-labels, and the underscore, which RFC 1123 lacks but people use. No `*`: a leaf
# is never valid for a host that was not named.
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A signing certificate, its key, and the PEM that follows a leaf of it."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)
    chain_pem: bytes

    @property
    def ends(self) -> int:
        return epoch(self.certificate.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class Dates:
    """A certificate's validity, and the time from which it is renewed. Seconds since the epoch."""

    starts: int
    ends: int
    renews: int

    @classmethod
    def within(cls, now: float, life: int, limit: int) -> Dates:
        """Return dates that start two days ago and end after `life`, or at the issuer's end (`limit`) if that
        is earlier.

        Renewed with a third of `life` left; a cut-short one can't be extended and is kept to its end.
        """
        at = int(now)
        if at + life > limit:
            return cls(at - _BACKDATE, limit, limit)
        return cls(at - _BACKDATE, at + life, at + life - life // 3)

    def cover(self, now: float) -> bool:
        # Before `starts`: the clock was ahead when the certificate was made, and has been corrected since.
        return self.starts <= now < self.renews


def general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise CertificateError(f"{host!r} is not a host name that a leaf can be made for") from None
        return x509.DNSName(host)


def make_ca(now: float) -> tuple[bytes, bytes]:
    """Return (certificate, key) in PEM: a new P-256 CA that signs leaves itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs never share a name: clients look up an issuer by its name first.
    name = common_name(f"regproxy CA {day(now)} {_short_id(key)}")
    dates = Dates(int(now) - _BACKDATE, int(now) + _CA_LIFE, 0)
    certificate = _ca_builder(name, key.public_key(), dates).issuer_name(name).sign(key, hashes.SHA256())
    return pem(certificate), private_pem(key)


def make_intermediate(root: Issuer, key: ec.EllipticCurvePrivateKey, now: float) -> tuple[Issuer, Dates]:
    name = common_name(f"regproxy intermediate {_short_id(key)}")
    dates = Dates.within(now, _INTERMEDIATE_LIFE, root.ends)
    certificate = (
        _ca_builder(name, key.public_key(), dates)
        .issuer_name(root.certificate.subject)
        .add_extension(authority_key_id(root.certificate), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return Issuer(certificate, key, pem(certificate) + root.chain_pem), dates


def _ca_builder(name: x509.Name, public: ec.EllipticCurvePublicKey, dates: Dates) -> x509.CertificateBuilder:
    """Return a builder for a CA that signs leaves and no other CA."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(dates.starts))
        .not_valid_after(utc(dates.ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _short_id(key: ec.EllipticCurvePrivateKey) -> str:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[:4].hex()


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **dict.fromkeys(_OTHER_USAGES, False),
    )


def authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the issuer's own SKI: there is more than one way to compute it (RFC 5280 4.2.1.1, 4.2.1.2)."""
    try:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public = issuer.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def signs_fast(key: SigningKey) -> bool:
    # P-256 signs in 30 us; RSA-4096 takes 1.5 ms, and OpenSSL has no fast P-384.
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        return None


def room_for_intermediate(certificates: list[x509.Certificate]) -> bool:
    """Tell whether the path lengths allow one more CA below the first of `certificates`, which go upwards
    from it.
    """
    lengths = enumerate(_path_length(c) for c in certificates)
    return all(length is None or length > depth for depth, length in lengths)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def epoch(when: datetime) -> int:
    return int(when.timestamp())


def day(seconds: float) -> str:
    return f"{utc(seconds):%Y-%m-%d}"
