"""The certificate authority: its two files, and a leaf certificate for every intercepted host.

Profile: RFC 5280 4.2. The CA of docker-registry-proxy (RSA-4096, its key in DES3 with a fixed passphrase) is
accepted unchanged. Keys that sign slowly get a P-256 intermediate, in memory, so that a leaf costs
microseconds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from regproxy.core.errors import CertificateError
from regproxy.tls.ca_files import check_ca, check_pair, ensure_files, parse_certificates, parse_key
from regproxy.tls.x509 import (
    CN_MAX,
    LEAF_LIFE,
    Dates,
    Issuer,
    SigningKey,
    authority_key_id,
    common_name,
    day,
    epoch,
    general_name,
    key_usage,
    make_ca,
    make_intermediate,
    pem,
    private_pem,
    room_for_intermediate,
    signs_fast,
    utc,
)

_LEAVES: Final = 1024


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
        self.not_after = float(epoch(certificates[0].not_valid_after_utc))
        self._clock = clock
        # A self-signed certificate is the client's trust anchor and is not sent (RFC 8446 4.4.2). A CA that
        # is itself a subordinate is sent, with the certificates above it in its file.
        chain = b"".join(pem(c) for c in certificates if c.subject != c.issuer)
        self._root = Issuer(certificates[0], key, chain)
        self._indirect = not signs_fast(key) and room_for_intermediate(certificates)
        self._intermediate_key = ec.generate_private_key(ec.SECP256R1())
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_public = leaf_key.public_key()
        self._leaf_key_pem = private_pem(leaf_key)
        self._leaves: OrderedDict[str, tuple[Leaf, Dates]] = OrderedDict()
        self._use_issuer(self._clock())

    @classmethod
    def open(cls, crt_path: Path, key_path: Path, *, clock: Callable[[], float] = time.time) -> Authority:
        """Read the CA's files, or create them if both are missing (P-256, 10 years, key with mode 0600).

        Processes that start at once on an empty directory end up with the same pair. Raises CertificateError,
        naming the file and the remedy: one file missing, unreadable, not a pair, not a CA, or out of date.
        """
        try:
            ensure_files(crt_path, key_path, clock())
            certificate_pem, key_pem = crt_path.read_bytes(), key_path.read_bytes()
        except OSError as error:
            name = error.filename or crt_path
            raise CertificateError(
                f"{name}: {error.strerror}; this user has to be able to read it, or to make it"
            ) from error
        certificates = parse_certificates(crt_path, certificate_pem)
        check_ca(crt_path, certificates[0], clock())
        key = parse_key(key_path, key_pem)
        check_pair(crt_path, key_path, certificates[0], key)
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
        """Return the earliest expiry of the cached leaves, in seconds since the epoch; None: there are
        none.
        """
        return min((leaf.not_after for leaf, _ in self._leaves.values()), default=None)

    def _mint(self, host: str, now: float) -> tuple[Leaf, Dates]:
        name = general_name(host)
        if now >= self.not_after:
            raise CertificateError(
                f"the CA expired on {day(self._root.ends)}; remove its two files and start again"
            )
        if not self._issuer_dates.cover(now):
            self._use_issuer(now)
        dates = Dates.within(now, LEAF_LIFE, self._issuer.ends)
        # Only a name that fits may be a CN, and no client that we serve reads it (RFC 6125 6.4.4). If the
        # subject is empty, the SAN has to be critical (RFC 5280 4.2.1.6).
        named = len(host) <= CN_MAX
        builder = (
            self._leaf_builder.subject_name(common_name(host) if named else x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([name]), critical=not named)
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc(dates.starts))
            .not_valid_after(utc(dates.ends))
        )
        certificate = builder.sign(self._issuer.key, hashes.SHA256())
        chain_pem = pem(certificate) + self._issuer.chain_pem
        return Leaf(host, chain_pem, self._leaf_key_pem, dates.ends), dates

    def _use_issuer(self, now: float) -> None:
        """Choose the issuer from now on, and prepare the parts of a leaf that do not depend on its host."""
        self._issuer = self._root
        starts = epoch(self._root.certificate.not_valid_before_utc)
        self._issuer_dates = Dates(starts, self._root.ends, self._root.ends)
        if self._indirect:
            self._issuer, self._issuer_dates = make_intermediate(self._root, self._intermediate_key, now)
        self._leaf_builder = (
            x509.CertificateBuilder()
            .issuer_name(self._issuer.certificate.subject)
            .public_key(self._leaf_public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_public), critical=False)
            .add_extension(authority_key_id(self._issuer.certificate), critical=False)
        )


def throwaway() -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key in PEM, for TLS that never leaves this process."""
    return make_ca(time.time())
