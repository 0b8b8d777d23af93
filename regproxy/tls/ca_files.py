"""Read and check the CA's two files, or create them in one of the processes that start at once."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from regproxy.core.errors import CertificateError
from regproxy.tls.x509 import (
    SigningKey,
    day,
    epoch,
    make_ca,
)

# docker-registry-proxy encrypts its key with this: no secret, since it is in every copy of its image.
_PASSPHRASE: Final = b"foobar"


def parse_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            _ = certificate.extensions  # parsed on demand: fail here, where the file's name is known
    except (ValueError, x509.DuplicateExtension) as error:
        raise CertificateError(f"{path}: not a certificate in PEM; put the CA's certificate there") from error
    return certificates


def parse_key(path: Path, pem: bytes) -> SigningKey:
    """Parse a key that is not encrypted, or is encrypted as docker-registry-proxy does it."""
    # A full check of an RSA-4096 key takes a third of a second; check_pair() proves that it signs.
    load = serialization.load_pem_private_key
    try:
        try:
            key = load(pem, None, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # the library's exception for an encrypted key
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


def check_ca(path: Path, certificate: x509.Certificate, now: float) -> None:
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
    starts, ends = epoch(certificate.not_valid_before_utc), epoch(certificate.not_valid_after_utc)
    if now >= ends:
        raise CertificateError(
            f"{path}: expired on {day(ends)}; remove it and its key, a new CA is then made, which the"
            " clients have to trust"
        )
    if now < starts:
        raise CertificateError(f"{path}: valid only from {day(starts)} on; check this host's clock")


def check_pair(crt_path: Path, key_path: Path, certificate: x509.Certificate, key: SigningKey) -> None:
    """Check that `certificate` verifies what `key` signs. Raises CertificateError."""
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


def ensure_files(crt_path: Path, key_path: Path, now: float) -> None:
    """Create both files if neither exists. Raises CertificateError if one of them is missing.

    The key comes first and the certificate last, so a certificate without a key is always a mistake. A key
    without a certificate may be one that is being created: its creator holds a lock on it.
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
    """Write a new pair; False: another process was first, and nothing was written."""
    certificate_pem, key_pem = make_ca(now)
    for path in (key_path, crt_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Draft(key_path, key_pem, 0o600) as key, _Draft(crt_path, certificate_pem, 0o644) as certificate:
        # Other processes see the key locked, until the certificate exists too or this process has died.
        key.lock()
        return key.publish() and certificate.publish()


def _await_maker(key_path: Path) -> None:
    """Wait until no process holds the lock on a key that has no certificate yet."""
    with key_path.open("rb") as key, suppress(OSError):  # without locks, go on with the files as they are
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
            # No hard links (CIFS, some shared folders of desktops): a narrow race is left, and if it is lost,
            # the check of the pair reports that at the next start.
            if error.errno not in _NO_LINKS:
                raise
            if self._path.exists():
                return False
            Path(self._draft).rename(self._path)
        return True


_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
