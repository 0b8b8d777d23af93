"""The certificate authority: its two files, and a leaf for every host that is intercepted.

Profile: RFC 5280 4.2. The CA of docker-registry-proxy (RSA-4096, its key in DES3 with a fixed passphrase) is
taken as it is. Keys that sign slowly get a P-256 intermediate, in memory, so that a leaf costs microseconds.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from regproxy.core.errors import CertificateError

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# What docker-registry-proxy encrypts its key with: no secret, since everybody who has the image has it.
_PASSPHRASE: Final = b"foobar"
_DAY: Final = 86400  # seconds
_CA_LIFE: Final = 3650 * _DAY
_INTERMEDIATE_LIFE: Final = 365 * _DAY
_LEAF_LIFE: Final = 90 * _DAY
# Clients whose clock is slow, or that were suspended, still take a certificate made just now.
_BACKDATE: Final = 2 * _DAY
_LEAVES: Final = 1024
_OTHER_USAGES: Final = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)
_CN_MAX: Final = 64  # ub-common-name, RFC 5280 appendix A
# A dNSName as it may stand in a request: A-labels, and the underscore that RFC 1123 lacks and people use.
# No `*`: a leaf never speaks for a host that was not named.
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A host's certificate. `chain_pem`: the leaf, then its intermediates, never the trusted root.

    `key_pem` is PKCS 8, unencrypted, the same for all leaves of this process. `not_after`: seconds since the
    epoch.
    """

    host: str
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    not_after: float


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Who signs: a certificate, its key, and the PEM that follows a leaf of its."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)
    chain_pem: bytes

    @property
    def ends(self) -> int:
        return _epoch(self.certificate.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class _Dates:
    """A certificate's validity, and until when it is given out. Seconds since the epoch."""

    starts: int
    ends: int
    renews: int

    @classmethod
    def within(cls, now: float, life: int, limit: int) -> _Dates:
        """Start two days ago and end after `life`, or at the issuer's end (`limit`) if that comes first.

        Renewed with a third of `life` left; a cut-short one can't be made any longer and is kept to its end.
        """
        at = int(now)
        if at + life > limit:
            return cls(at - _BACKDATE, limit, limit)
        return cls(at - _BACKDATE, at + life, at + life - life // 3)

    def cover(self, now: float) -> bool:
        # Before `starts`: the clock was ahead when the certificate was made, and has been set right since.
        return self.starts <= now < self.renews


class Authority:
    """The CA, and the leaves that it has signed.

    Not thread-safe: it belongs to one event loop. `certificate_pem` is the certificate file as it is on disk.
    """

    def __init__(
        self,
        certificate_pem: bytes,
        certificates: list[x509.Certificate],
        key: SigningKey,
        clock: Callable[[], float],
    ) -> None:
        self.certificate_pem = certificate_pem
        self.not_after = float(_epoch(certificates[0].not_valid_after_utc))
        self._clock = clock
        # A self-signed certificate is the client's trust anchor and is not sent (RFC 8446 4.4.2). A CA that
        # is itself a subordinate is sent, with what its file has above it.
        chain = b"".join(_pem(c) for c in certificates if c.subject != c.issuer)
        self._root = _Issuer(certificates[0], key, chain)
        self._indirect = not _signs_fast(key) and _room_for_intermediate(certificates)
        self._intermediate_key = ec.generate_private_key(ec.SECP256R1())
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_public = leaf_key.public_key()
        self._leaf_key_pem = _private_pem(leaf_key)
        self._leaves: OrderedDict[str, tuple[Leaf, _Dates]] = OrderedDict()
        self._use_issuer(self._clock())

    @classmethod
    def open(cls, crt_path: Path, key_path: Path, *, clock: Callable[[], float] = time.time) -> Authority:
        """Read the CA's files, or make them if both are missing (P-256, 10 years, key with mode 0600).

        Processes that start at once on an empty directory end up with the same pair. Raises CertificateError,
        naming the file and the way out: one file missing, unreadable, not a pair, not a CA, or out of date.
        """
        try:
            _ensure_files(crt_path, key_path, clock())
            certificate_pem, key_pem = crt_path.read_bytes(), key_path.read_bytes()
        except OSError as error:
            name = error.filename or crt_path
            raise CertificateError(
                f"{name}: {error.strerror}; this user has to be able to read it, or to make it"
            ) from error
        certificates = _parse_certificates(crt_path, certificate_pem)
        _check_ca(crt_path, certificates[0], clock())
        key = _parse_key(key_path, key_pem)
        _check_pair(crt_path, key_path, certificates[0], key)
        return cls(certificate_pem, certificates, key, clock)

    def leaf(self, host: str) -> Leaf:
        """Return a certificate for exactly `host`: A-labels in lower case, or an IP literal without brackets.

        The same object as long as more than a third of its life is left. Raises CertificateError: `host` is
        not a name that a certificate can hold, or the CA has expired in the meantime.
        """
        now = self._clock()
        held = self._leaves.get(host)
        if held is not None and held[1].cover(now):
            self._leaves.move_to_end(host)
            return held[0]
        leaf, dates = self._mint(host, now)
        self._leaves[host] = leaf, dates
        self._leaves.move_to_end(host)
        if len(self._leaves) > _LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def leaf_not_after_min(self) -> float | None:
        """The earliest expiry among the leaves at hand, in seconds since the epoch; None: there are none."""
        return min((leaf.not_after for leaf, _ in self._leaves.values()), default=None)

    def _mint(self, host: str, now: float) -> tuple[Leaf, _Dates]:
        name = _general_name(host)
        if now >= self.not_after:
            raise CertificateError(
                f"the CA expired on {_day(self._root.ends)}; remove its two files and start again"
            )
        if not self._issuer_dates.cover(now):
            self._use_issuer(now)
        dates = _Dates.within(now, _LEAF_LIFE, self._issuer.ends)
        # Only what fits may be a CN, and no client that we serve reads it (RFC 6125 6.4.4). Where the subject
        # is empty, the SAN has to be critical (RFC 5280 4.2.1.6).
        named = len(host) <= _CN_MAX
        builder = (
            self._leaf_builder.subject_name(_common_name(host) if named else x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([name]), critical=not named)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(dates.starts))
            .not_valid_after(_utc(dates.ends))
        )
        certificate = builder.sign(self._issuer.key, hashes.SHA256())
        chain_pem = _pem(certificate) + self._issuer.chain_pem
        return Leaf(host, chain_pem, self._leaf_key_pem, dates.ends), dates

    def _use_issuer(self, now: float) -> None:
        """Choose who signs from now on, and prepare all of a leaf that does not depend on its host."""
        self._issuer = self._root
        starts = _epoch(self._root.certificate.not_valid_before_utc)
        self._issuer_dates = _Dates(starts, self._root.ends, self._root.ends)
        if self._indirect:
            self._issuer, self._issuer_dates = _make_intermediate(self._root, self._intermediate_key, now)
        self._leaf_builder = (
            x509.CertificateBuilder()
            .issuer_name(self._issuer.certificate.subject)
            .public_key(self._leaf_public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_public), critical=False)
            .add_extension(_authority_key_id(self._issuer.certificate), critical=False)
        )


def throwaway() -> tuple[bytes, bytes]:
    """A self-signed certificate and its key in PEM, for TLS that never leaves this process."""
    return _make_ca(time.time())


# --- certificates ----------------------------------------------------------------------------------------


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise CertificateError(f"{host!r} is not a host name that a leaf can be made for") from None
        return x509.DNSName(host)


def _make_ca(now: float) -> tuple[bytes, bytes]:
    """Return (certificate, key) in PEM: a new P-256 CA that signs leaves itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs never share a name: clients look for an issuer by its name first.
    name = _common_name(f"regproxy CA {_day(now)} {_short_id(key)}")
    dates = _Dates(int(now) - _BACKDATE, int(now) + _CA_LIFE, 0)
    certificate = _ca_builder(name, key.public_key(), dates).issuer_name(name).sign(key, hashes.SHA256())
    return _pem(certificate), _private_pem(key)


def _make_intermediate(root: _Issuer, key: ec.EllipticCurvePrivateKey, now: float) -> tuple[_Issuer, _Dates]:
    name = _common_name(f"regproxy intermediate {_short_id(key)}")
    dates = _Dates.within(now, _INTERMEDIATE_LIFE, root.ends)
    certificate = (
        _ca_builder(name, key.public_key(), dates)
        .issuer_name(root.certificate.subject)
        .add_extension(_authority_key_id(root.certificate), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return _Issuer(certificate, key, _pem(certificate) + root.chain_pem), dates


def _ca_builder(name: x509.Name, public: ec.EllipticCurvePublicKey, dates: _Dates) -> x509.CertificateBuilder:
    """A CA that signs leaves and no other CA."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(dates.starts))
        .not_valid_after(_utc(dates.ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _short_id(key: ec.EllipticCurvePrivateKey) -> str:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[:4].hex()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **dict.fromkeys(_OTHER_USAGES, False),
    )


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The issuer's own SKI: there is more than one way to compute it (RFC 5280 4.2.1.1, 4.2.1.2)."""
    try:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public = issuer.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _signs_fast(key: SigningKey) -> bool:
    # P-256 signs in 30 us; RSA-4096 takes 1.5 ms, and OpenSSL has no fast P-384.
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        return None


def _room_for_intermediate(certificates: list[x509.Certificate]) -> bool:
    """Whether one more CA may stand below the first of `certificates`, which are in order from it upwards."""
    lengths = enumerate(_path_length(c) for c in certificates)
    return all(length is None or length > depth for depth, length in lengths)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _epoch(when: datetime) -> int:
    return int(when.timestamp())


def _day(seconds: float) -> str:
    return f"{_utc(seconds):%Y-%m-%d}"


# --- reading what is there -------------------------------------------------------------------------------


def _parse_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            _ = certificate.extensions  # parsed on demand: fail here, where the file's name is known
    except (ValueError, x509.DuplicateExtension) as error:
        raise CertificateError(f"{path}: not a certificate in PEM; put the CA's certificate there") from error
    return certificates


def _parse_key(path: Path, pem: bytes) -> SigningKey:
    """Read a key that is not encrypted, or encrypted as docker-registry-proxy does it."""
    # A full check of an RSA-4096 key takes a third of a second; _check_pair() proves that it signs.
    load = serialization.load_pem_private_key
    try:
        try:
            key = load(pem, None, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # the library's word for "encrypted"
            key = load(pem, _PASSPHRASE, unsafe_skip_rsa_key_validation=True)
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"ENCRYPTED" in pem:
            raise CertificateError(
                f"{path}: encrypted with another passphrase than docker-registry-proxy's; decrypt it with"
                f" `openssl pkey -in {path} -out {path}.plain` and use that"
            ) from error
        raise CertificateError(f"{path}: not a private key in PEM; put the CA's key there") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{path}: not an RSA or EC key; clients trust no other kind of CA")
    return key


def _check_ca(path: Path, certificate: x509.Certificate, now: float) -> None:
    extensions = certificate.extensions
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        raise CertificateError(
            f"{path}: not a CA's certificate (basicConstraints lacks CA:TRUE); put the CA's there"
        )
    try:
        may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        may_sign = True  # RFC 5280 4.2.1.3: absent is unrestricted
    if not may_sign:
        raise CertificateError(
            f"{path}: its keyUsage lacks keyCertSign, so it may not sign; put a CA's there"
        )
    starts, ends = _epoch(certificate.not_valid_before_utc), _epoch(certificate.not_valid_after_utc)
    if now >= ends:
        raise CertificateError(
            f"{path}: expired on {_day(ends)}; remove it and its key, a new CA is then made, which the"
            " clients have to trust"
        )
    if now < starts:
        raise CertificateError(f"{path}: valid only from {_day(starts)} on; check this host's clock")


def _check_pair(crt_path: Path, key_path: Path, certificate: x509.Certificate, key: SigningKey) -> None:
    """Prove that what `key` signs is what `certificate` verifies."""
    probe = b"regproxy: is this the key of that certificate?"
    public = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            signature = key.sign(probe, padding.PKCS1v15(), hashes.SHA256())
            return public.verify(signature, probe, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
            signature = key.sign(probe, ec.ECDSA(hashes.SHA256()))
            return public.verify(signature, probe, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        pass
    raise CertificateError(f"{key_path}: not the key of {crt_path}; put the pair back, or remove both")


# --- making what is missing ------------------------------------------------------------------------------


def _ensure_files(crt_path: Path, key_path: Path, now: float) -> None:
    """Make both files if there is neither; raise CertificateError where one of them is missing.

    The key comes first and the certificate last, so a certificate without a key is always somebody's mistake.
    A key without a certificate may be one that is being made: its maker holds a lock on it.
    """
    if not crt_path.exists():
        if key_path.exists() or not _make_files(crt_path, key_path, now):
            _await_maker(key_path)
        if not crt_path.exists():
            _one_missing(crt_path, key_path)
    if not key_path.exists():
        _one_missing(key_path, crt_path)


def _one_missing(missing: Path, present: Path) -> NoReturn:
    raise CertificateError(
        f"{missing}: missing, while {present} is there; put it back, or remove {present} and a new CA is"
        " made, which the clients have to trust"
    )


def _make_files(crt_path: Path, key_path: Path, now: float) -> bool:
    """Write a new pair; False: somebody else was first, and nothing was written."""
    certificate_pem, key_pem = _make_ca(now)
    for path in (key_path, crt_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Draft(key_path, key_pem, 0o600) as key, _Draft(crt_path, certificate_pem, 0o644) as certificate:
        # Whoever sees the key sees it locked, until the certificate is there too or this process has died.
        key.lock()
        return key.publish() and certificate.publish()


def _await_maker(key_path: Path) -> None:
    """Wait until nobody holds the lock on a key that has no certificate yet."""
    with key_path.open("rb") as key, suppress(OSError):  # without locks, what is there now has to do
        fcntl.flock(key, fcntl.LOCK_SH)


class _Draft:
    """A file that is complete and on disk before it gets its name, and that never replaces another."""

    def __init__(self, path: Path, content: bytes, mode: int) -> None:
        self._path = path
        # mkstemp: mode 0600 whatever the umask is
        self._fd, self._draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.fchmod(self._fd, mode)
            os.write(self._fd, content)
            os.fsync(self._fd)
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *_: object) -> None:
        Path(self._draft).unlink(missing_ok=True)
        os.close(self._fd)

    def lock(self) -> None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def publish(self) -> bool:
        """Give the file its name; False: the name is taken."""
        try:
            os.link(self._draft, self._path)
        except FileExistsError:
            return False
        except OSError as error:
            # No hard links (CIFS, some shared folders of desktops): a narrow race is left, and where it is
            # lost, the check of the pair says so at the next start.
            if error.errno not in _NO_LINKS:
                raise
            if self._path.exists():
                return False
            Path(self._draft).rename(self._path)
        return True


_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
