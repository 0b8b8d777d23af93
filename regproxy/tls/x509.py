"""Build certificates: the profile of the CA, of an intermediate below it, and of leaves (RFC 5280 4.2)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from regproxy.core.errors import CertificateError
from regproxy.tls.name_constraints import SigningScope

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_DAY: Final = 86400  # seconds
_CA_LIFE: Final = 3650 * _DAY
_INTERMEDIATE_LIFE: Final = 365 * _DAY
_NAME: Final = "regproxy CA "
LEAF_LIFE: Final = 90 * _DAY
# Clients whose clock is slow, or that were suspended, still accept a certificate made just now.
_BACKDATE: Final = 2 * _DAY
_OTHER_USAGES: Final = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)
_ANY: Final = SigningScope()
# What the library raises for certificates that it can't read, such as those with names of rare kinds; some of
# it only where that part is asked for.
UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
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


class Dates(Struct, frozen=True):
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


def is_host(name: str) -> bool:
    """Tell whether a leaf can be made for a DNS name."""
    return _HOST.fullmatch(name) is not None


def general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not is_host(host):
            raise CertificateError(f"{host!r} is not a host name that a leaf can be made for") from None
        return x509.DNSName(host)


def make_ca(now: float, scope: SigningScope = _ANY, passphrase: bytes | None = None) -> tuple[bytes, bytes]:
    """Return (certificate, key) in PEM: a new P-256 CA that signs leaves itself, for the names in `scope`.

    The key is PKCS 8 (RFC 5958), encrypted if there is a passphrase.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs never share a name: clients look up an issuer by its name first.
    name = common_name(f"{_NAME}{day(now)} {_short_id(key)}")
    dates = Dates(int(now) - _BACKDATE, int(now) + _CA_LIFE, 0)
    # No path length: below it may be those that were there before it (`make_link`), and their intermediates.
    builder = _ca_builder(name, key.public_key(), dates, None).issuer_name(name)
    constraints = scope.extension()
    if constraints is not None:
        # Names are limited for servers: it is no CA for clients, mail and programs either. Clients apply a
        # CA's extended usages to what it signs.
        servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(constraints, critical=True).add_extension(servers, critical=False)
    return pem(builder.sign(key, hashes.SHA256())), private_pem(key, passphrase)


def is_made_here(certificate: x509.Certificate) -> bool:
    """Tell whether it is a CA that `make_ca` made, by its name."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return certificate.subject == certificate.issuer and any(
        str(name.value).startswith(_NAME) for name in names
    )


def made_at(certificate: x509.Certificate) -> float:
    """Return when a CA of make_ca() was made, in seconds since the epoch."""
    return epoch(certificate.not_valid_before_utc) + _BACKDATE


def make_link(
    certificate: x509.Certificate, issuer: Issuer, now: float, life: int | None = None
) -> x509.Certificate:
    """Return a CA's certificate once more, signed by another CA: a way to it for clients that have only that.

    RFC 4210 4.4.1 calls it OldWithNew or NewWithOld. It has the same name, key and extensions, but for the
    name constraints, which are those of both CAs: what that way is good for can be read from it. It ends
    after `life` seconds, and with either CA at the latest.
    """
    ends = min(epoch(certificate.not_valid_after_utc), issuer.ends)
    dates = Dates.within(now, ends - int(now) if life is None else life, ends)
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(dates.starts))
        .not_valid_after(utc(dates.ends))
        .add_extension(authority_key_id(issuer.certificate), critical=False)
    )
    for extension in certificate.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier | x509.NameConstraints):
            builder = builder.add_extension(extension.value, extension.critical)
    scope = SigningScope.of_certificate(certificate).within(SigningScope.of_certificate(issuer.certificate))
    constraints = scope.extension()
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(issuer.key, hashes.SHA256())


def room_below(issuer: x509.Certificate) -> bool:
    """Tell whether the path length of a CA allows another CA below it."""
    return room_for_intermediate([issuer])


def make_intermediate(
    root: Issuer, key: ec.EllipticCurvePrivateKey, now: float, limit: int
) -> tuple[Issuer, Dates]:
    """Return an issuer below `root`, which ends at `limit` at the latest (seconds since the epoch)."""
    name = common_name(f"regproxy intermediate {_short_id(key)}")
    dates = Dates.within(now, _INTERMEDIATE_LIFE, limit)
    certificate = (
        _ca_builder(name, key.public_key(), dates, 0)
        .issuer_name(root.certificate.subject)
        .add_extension(authority_key_id(root.certificate), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return Issuer(certificate, key, pem(certificate) + root.chain_pem), dates


def _ca_builder(
    name: x509.Name, public: ec.EllipticCurvePublicKey, dates: Dates, path_length: int | None
) -> x509.CertificateBuilder:
    """Return a builder for a CA. `path_length`: how many others may be below it, None: any number."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(dates.starts))
        .not_valid_after(utc(dates.ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
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


def has_key_id(certificate: x509.Certificate) -> bool:
    """Return whether a certificate has a Subject Key Identifier, as a CA's must (RFC 5280 4.2.1.2)."""
    return any(each.oid == x509.SubjectKeyIdentifier.oid for each in certificate.extensions)


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


def room_for_intermediate(certificates: Sequence[x509.Certificate]) -> bool:
    """Tell whether the path lengths allow one more CA below the first of `certificates`, which go upwards
    from it.
    """
    lengths = enumerate(_path_length(c) for c in certificates)
    return all(length is None or length > depth for depth, length in lengths)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: SigningKey, passphrase: bytes | None = None) -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        how = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def key_kind(key: SigningKey) -> str:
    """Return what kind of key it is, such as `EC secp256r1` or `RSA 4096`."""
    return f"EC {key.curve.name}" if isinstance(key, ec.EllipticCurvePrivateKey) else f"RSA {key.key_size}"


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate as `openssl x509 -fingerprint -sha256` writes it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def epoch(when: datetime) -> int:
    return int(when.timestamp())


def day(seconds: float) -> str:
    return f"{utc(seconds):%Y-%m-%d}"
