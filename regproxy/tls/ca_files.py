"""Read and check the CA's files, or create them in one of the processes that start at once.

ca.crt    the CA that signs, in PEM; behind it what is sent with leaves (the CAs above it, links to it)
ca.key    its key
ca.next   CAs that clients are to trust before they sign what this one does: certificate and key of each, the
          oldest first (see `ca_rotation`)
ca.lock   held by who changes these
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from msgspec import Struct

from regproxy.config.settings import Config
from regproxy.core.errors import CertificateError
from regproxy.core.named_file import open_file, read_file
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import (
    UNREADABLE,
    SigningKey,
    day,
    epoch,
    has_key_id,
    make_ca,
    pem,
)

# docker-registry-proxy encrypts its key with this: no secret, since it is in every copy of its image.
_PASSPHRASE: Final = b"foobar"
_SETTING: Final = "REGPROXY_CA_PASSPHRASE_FILE"
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\r?\n?", re.DOTALL)


class CaFiles(Struct, frozen=True):
    """Where a CA's files are. `passphrase_file`: its first line encrypts the keys; None: they are plain."""

    crt: Path
    key: Path
    passphrase_file: Path | None = None

    @property
    def next(self) -> Path:
        """The file of the CAs that are to come. It holds keys, so it is beside the key."""
        return self.key.with_suffix(".next")

    @property
    def every(self) -> tuple[Path, ...]:
        """Return the files that decide what is signed by which CA."""
        return (self.crt, self.key, self.next, *((self.passphrase_file,) if self.passphrase_file else ()))

    def passphrase(self) -> bytes | None:
        """Return the passphrase, None if there is no file of it. Raises CertificateError."""
        path = self.passphrase_file
        if path is None:
            return None
        try:
            line = read_file(path).partition(b"\n")[0].removesuffix(b"\r")
        except OSError as error:
            raise CertificateError(
                f"{path}: {error.strerror}; {_SETTING} names the file of the CA key's passphrase"
            ) from None
        if not line:
            raise CertificateError(
                f"{path}: its first line is empty; put the CA key's passphrase there ({_SETTING})"
            )
        return line

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of those who change the files. Raises OSError where nothing can be written."""
        with self.key.with_suffix(".lock").open("a") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield


def files_of(config: Config, crt: Path, key: Path) -> CaFiles:
    """Return the CA's files: where they were found to be, and the passphrase as it is configured."""
    secret = config.ca_passphrase_file
    return CaFiles(crt, key, None if secret is None else Path(secret))


@dataclass(frozen=True, slots=True)
class CaPair:
    """A CA's certificate, what its file has behind it, and its key. `encrypted`: how the key's file is."""

    certificates: tuple[x509.Certificate, ...]
    key: SigningKey = field(repr=False)
    encrypted: bool = False

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's own."""
        return self.certificates[0]

    @property
    def is_root(self) -> bool:
        """Whether it is self-signed: what clients trust is itself, and not a CA above it."""
        return self.certificate.subject == self.certificate.issuer

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """The certificates that every client checks; links of a root are another way to it, for some."""
        return self.certificates[:1] if self.is_root else self.certificates

    @property
    def has_key_id(self) -> bool:
        """Whether all certificates that clients check have the identifier that strict ones want of a CA's."""
        return all(has_key_id(certificate) for certificate in self.path)

    @property
    def ends(self) -> int:
        """When no leaf of it is good any more, in seconds since the epoch."""
        return min(epoch(certificate.not_valid_after_utc) for certificate in self.path)

    @property
    def is_limited(self) -> bool:
        """Whether name constraints limit what it may sign."""
        return any(SigningScope.of_certificate(certificate).is_limited for certificate in self.path)

    @property
    def scope(self) -> SigningScope:
        """What its own certificate takes."""
        return SigningScope.of_certificate(self.certificate)

    def covers(self, name: str) -> bool:
        """Tell whether the name constraints on its path take a host, an address or a domain."""
        return all(SigningScope.of_certificate(certificate).covers(name) for certificate in self.path)

    @property
    def anchors_pem(self) -> bytes:
        """Return what clients have to trust: a root alone, else the file's certificates as they are."""
        return b"".join(pem(certificate) for certificate in self.path)


def load(files: CaFiles, now: float, make: SigningScope | None = None) -> tuple[CaPair, ...]:
    """Read the CAs: the one that signs what it may, then those to come, the oldest first.

    `make`: the names of a CA that is made where there is none (P-256, 10 years, key with mode 0600).
    Processes that start at once on an empty directory end up with the same pair. Raises CertificateError,
    naming the file and the remedy: one file missing, unreadable, not a pair, not a CA, out of date.
    """
    passphrase = files.passphrase()
    try:
        if make is not None:
            ensure_files(files, now, make)
        first = read_pair(files, passphrase, now, may_be_over=files.next.exists())
        coming = read_next(files, passphrase)
    except OSError as error:
        name = error.filename or files.crt
        raise CertificateError(
            f"{name}: {error.strerror}; this user has to be able to read it, or to make it"
        ) from error
    # Whoever put it into its place may have been killed before it took it from the others.
    return (first, *(pair for pair in coming if pair.certificate != first.certificate))


def check(files: CaFiles, now: float) -> None:
    """Raise CertificateError where load(), which may make the files, could not use them. Makes none."""
    there = [os.path.lexists(path) for path in (files.crt, files.key)]
    if all(there):
        load(files, now)
    elif any(there):
        _one_missing(*((files.key, files.crt) if there[0] else (files.crt, files.key)))


def read_pair(files: CaFiles, passphrase: bytes | None, now: float, *, may_be_over: bool) -> CaPair:
    """Read ca.crt and ca.key. Raises as load() does, and OSError."""
    certificate_pem, key_pem = read_file(files.crt), read_file(files.key)
    certificates = parse_certificates(files.crt, certificate_pem)
    key, encrypted = parse_key(files.key, key_pem, passphrase)
    pair = CaPair(tuple(certificates), key, encrypted)
    for certificate in pair.path:
        check_ca(files.crt, certificate, now, may_be_over=may_be_over)
    check_pair(files.crt, files.key, pair.certificate, key)
    return pair


def read_next(files: CaFiles, passphrase: bytes | None) -> list[CaPair]:
    """Read the CAs that are to come. Raises as load() does, and OSError."""
    try:
        text = read_file(files.next)
    except FileNotFoundError:
        return []
    blocks = [found[0] for found in _BLOCK.finditer(text)]
    if len(blocks) % 2:
        raise CertificateError(f"{files.next}: a certificate without a key; remove it and rotate anew")
    pairs = []
    for certificate_pem, key_pem in zip(blocks[::2], blocks[1::2], strict=True):
        certificates = parse_certificates(files.next, certificate_pem)
        key, encrypted = parse_key(files.next, key_pem, passphrase)
        check_pair(files.next, files.next, certificates[0], key)
        pairs.append(CaPair(tuple(certificates), key, encrypted))
    return pairs


def replace(path: Path, content: bytes, mode: int) -> None:
    """Give a file new content, on disk, at once. Its owner and mode stay, if it is there. Raises OSError."""
    with _Draft(path, content, mode) as draft:
        with suppress(FileNotFoundError):
            before = path.stat()
            draft.take_over(before)
        draft.replace()


def parse_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            _ = certificate.extensions  # parsed on demand: fail here, where the file's name is known
    except UNREADABLE as error:
        raise CertificateError(f"{path}: not a certificate in PEM; put the CA's certificate there") from error
    return certificates


def parse_key(path: Path, pem: bytes, passphrase: bytes | None) -> tuple[SigningKey, bool]:
    """Parse a key: plain, encrypted with the passphrase, or as docker-registry-proxy encrypts it.

    Returns also whether a passphrase keeps it secret, which docker-registry-proxy's does not.
    """
    key = None
    for tried in (None, passphrase, _PASSPHRASE):
        try:
            # A full check of an RSA-4096 key takes a third of a second; check_pair() proves that it signs.
            key = serialization.load_pem_private_key(pem, tried, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # the library's exception for an encrypted key
            continue
        except (ValueError, UnsupportedAlgorithm):
            if tried is None:
                break
            continue
        break
    if key is None:
        _not_parsed(path, pem, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{path}: not an RSA or EC key; clients trust no other kind of CA")
    return key, tried is not None and tried is passphrase


def _not_parsed(path: Path, pem: bytes, passphrase: bytes | None) -> NoReturn:
    if b"ENCRYPTED" not in pem:
        raise CertificateError(f"{path}: not a private key in PEM; put the CA's key there") from None
    if passphrase is not None:
        raise CertificateError(
            f"{path}: not encrypted with the passphrase in {_SETTING}; put that of this key there"
        ) from None
    raise CertificateError(
        f"{path}: encrypted with another passphrase than docker-registry-proxy's; name a file with it in"
        f" {_SETTING}, or decrypt it with `openssl pkey -in {path} -out {path}.plain` and use that"
    ) from None


def check_ca(path: Path, certificate: x509.Certificate, now: float, *, may_be_over: bool) -> None:
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
    if now >= ends and not may_be_over:
        raise CertificateError(
            f"{path}: expired on {day(ends)}; remove it and its key, a new CA is then made, which the"
            " clients have to trust"
        )
    if now < starts:
        raise CertificateError(f"{path}: valid only from {day(starts)} on; check this host's clock")


def check_pair(crt_path: Path, key_path: Path, certificate: x509.Certificate, key: SigningKey) -> None:
    """Check that `certificate` verifies what `key` signs. Raises CertificateError."""
    probe = b"regproxy: is this the key of that certificate?"
    try:
        public = certificate.public_key()
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            signature = key.sign(probe, padding.PKCS1v15(), hashes.SHA256())
            return public.verify(signature, probe, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
            signature = key.sign(probe, ec.ECDSA(hashes.SHA256()))
            return public.verify(signature, probe, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, *UNREADABLE):
        pass
    raise CertificateError(f"{key_path}: not the key of {crt_path}; put the pair back, or remove both")


def ensure_files(files: CaFiles, now: float, scope: SigningScope) -> None:
    """Create both files if neither exists. Raises CertificateError if one of them is missing.

    The key comes first and the certificate last, so a certificate without a key is always a mistake. A key
    without a certificate may be one that is being created: its creator holds a lock on it.
    """
    crt_path, key_path = files.crt, files.key
    if not crt_path.exists():
        if key_path.exists() or not _make_files(files, now, scope):
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


def _make_files(files: CaFiles, now: float, scope: SigningScope) -> bool:
    """Write a new pair; False: another process was first, and nothing was written."""
    crt_path, key_path = files.crt, files.key
    certificate_pem, key_pem = make_ca(now, scope, files.passphrase())
    for path in (key_path, crt_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Draft(key_path, key_pem, 0o600) as key, _Draft(crt_path, certificate_pem, 0o644) as certificate:
        # Other processes see the key locked, until the certificate exists too or this process has died.
        key.lock()
        return key.publish() and certificate.publish()


def _await_maker(key_path: Path) -> None:
    """Wait until no process holds the lock on a key that has no certificate yet."""
    with open_file(key_path) as key, suppress(OSError):  # without locks, go on with the files as they are
        fcntl.flock(key, fcntl.LOCK_SH)


class _Draft:
    """A file that is complete and on disk before it gets its name."""

    def __init__(self, path: Path, content: bytes, mode: int) -> None:
        self.path = path
        # mkstemp: mode 0600 whatever the umask is
        self._fd, self._draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.fchmod(self._fd, mode)
            # Of a disk that is nearly full, write(2) takes a part and says so.
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
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

    def take_over(self, before: os.stat_result) -> None:
        """Be as the file that is to be replaced: whoever may read that has to read this."""
        with suppress(PermissionError):
            os.fchown(self._fd, before.st_uid, before.st_gid)
        os.fchmod(self._fd, before.st_mode & 0o777)

    def replace(self) -> None:
        """Give the file its name, in place of another."""
        Path(self._draft).replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def publish(self) -> bool:
        """Give the file its name, which it never takes from another; False: the name is taken."""
        try:
            os.link(self._draft, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            # No hard links (CIFS, some shared folders of desktops): a narrow race is left, and if it is lost,
            # the check of the pair reports that at the next start.
            if error.errno not in _NO_LINKS:
                raise
            if self.path.exists():
                return False
            Path(self._draft).rename(self.path)
        return True


_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
