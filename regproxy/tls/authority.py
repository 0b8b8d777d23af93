"""The certificate authority: a leaf certificate for every intercepted host, signed by a CA that may.

Profile: RFC 5280 4.2. The CA of docker-registry-proxy (RSA-4096, its key in DES3 with a fixed passphrase) is
accepted unchanged. Keys that sign slowly get a P-256 intermediate, in memory, so that a leaf costs
microseconds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from regproxy.core.errors import CertificateError
from regproxy.tls.ca_files import CaFiles, CaPair, load
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import (
    CN_MAX,
    LEAF_LIFE,
    Dates,
    Issuer,
    authority_key_id,
    common_name,
    day,
    epoch,
    general_name,
    is_made_here,
    key_usage,
    make_ca,
    make_intermediate,
    make_link,
    pem,
    private_pem,
    room_for_intermediate,
    signs_fast,
    utc,
)

_LEAVES: Final = 1024
_ANY: Final = SigningScope()


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
    """The CAs, and the leaves that they have signed.

    Each host is signed by the first CA that may, which clients have had for the longest. Not thread-safe: it
    belongs to one event loop.
    """

    def __init__(self, pairs: Sequence[CaPair], clock: Callable[[], float]) -> None:
        self._clock = clock
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_public = leaf_key.public_key()
        self._leaf_key_pem = private_pem(leaf_key)
        self._leaves: OrderedDict[str, tuple[Leaf, Dates]] = OrderedDict()
        self.use(pairs)

    @classmethod
    def open(
        cls,
        crt_path: Path,
        key_path: Path,
        *,
        clock: Callable[[], float] = time.time,
        scope: SigningScope = _ANY,
    ) -> Authority:
        """Read the CA's files, or create them if both are missing. Raises CertificateError as load() does."""
        return cls(load(CaFiles(crt_path, key_path), clock(), make=scope), clock)

    def use(self, pairs: Sequence[CaPair]) -> None:
        """Sign with these CAs from now on, the first ones first. Leaves of others are made anew."""
        now = self._clock()
        signers = [_Signer(pair, pairs[at + 1 :], now) for at, pair in enumerate(pairs)]
        for signer in signers:
            signer.prepare(self._leaf_public, now)
        # The newest is first, since some clients read one certificate alone. It is the one that will last,
        # and links lead from it to the former ones.
        self.certificate_pem = b"".join(pair.anchors_pem for pair in reversed(pairs))
        self.not_after = float(min(pair.ends for pair in pairs))
        self.pairs = tuple(pairs)
        self._signers = signers
        self._leaves.clear()

    def leaf(self, host: str) -> Leaf:
        """Return a certificate for exactly `host`: A-labels in lower case, or an IP literal without brackets.

        The same object as long as more than a third of its life is left. Raises CertificateError: `host` is
        not a name that a certificate can hold, it is outside of the CA's name constraints, or the CA has
        expired in the meantime.
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
        able = [signer for signer in self._signers if signer.pair.covers(host)]
        if not able:
            raise CertificateError(
                f"{host} is outside of the CA's name constraints, so that clients would refuse a certificate"
                f" for it; {self._remedy()}"
            )
        valid = [signer for signer in able if now < signer.pair.ends]
        if not valid:
            raise CertificateError(
                f"the CA expired on {day(able[-1].pair.ends)}; remove its two files and start again"
            )
        certificate, dates = valid[0].sign(host, name, self._leaf_public, now)
        chain_pem = pem(certificate) + valid[0].chain_pem(host)
        return Leaf(host, chain_pem, self._leaf_key_pem, dates.ends), dates

    def _remedy(self) -> str:
        """Return what to do for a host that is configured, else nobody asks for its leaf, and not covered."""
        if not is_made_here(self.pairs[-1].certificate):
            return "put a CA that may sign it in the place of this one"
        return (
            "reload the proxy (SIGHUP), or run `regproxy ca rotate` with its settings: that makes a CA for"
            " it, which clients have to trust"
        )


class _Signer:
    """One CA as the issuer of leaves."""

    def __init__(self, pair: CaPair, later: Sequence[CaPair], now: float) -> None:
        """Prepare for `pair`. `later`: CAs that clients may have without having this one."""
        self.pair = pair
        # A self-signed certificate is the client's trust anchor and is not sent (RFC 8446 4.4.2). A CA that
        # is itself a subordinate is sent, with the certificates above it in its file.
        others = [c for c in pair.certificates if c.subject != c.issuer]
        above, links = ([], others) if pair.is_root else (others, [])
        if later and pair.is_root and now < pair.ends:
            newest = Issuer(later[-1].certificate, later[-1].key, b"")
            links.insert(0, make_link(pair.certificate, newest, now))
        self._links = [
            (pem(c), SigningScope.of_certificate(c)) for c in links if now < epoch(c.not_valid_after_utc)
        ]
        self._root = Issuer(pair.certificate, pair.key, b"".join(map(pem, above)))
        self._indirect = not signs_fast(pair.key) and room_for_intermediate(pair.path)
        self._intermediate_key = ec.generate_private_key(ec.SECP256R1())
        self._named_addresses = not pair.is_limited

    def chain_pem(self, host: str) -> bytes:
        """Return what is sent behind a host's leaf: intermediates, and one link for clients that need it.

        One alone: OpenSSL tries no second way up from a certificate. And none whose constraints lack the
        host: GnuTLS goes the way that it is shown, and finds no shorter one.
        """
        link = next((text for text, scope in self._links if scope.covers(host)), b"")
        return self._issuer.chain_pem + link

    def sign(
        self, host: str, name: x509.GeneralName, public: ec.EllipticCurvePublicKey, now: float
    ) -> tuple[x509.Certificate, Dates]:
        if not self._issuer_dates.cover(now):
            self.prepare(public, now)
        dates = Dates.within(now, LEAF_LIFE, self._issuer_dates.ends)
        # Only a name that fits may be a CN, and no client that we serve reads it (RFC 6125 6.4.4). If the
        # subject is empty, the SAN has to be critical (RFC 5280 4.2.1.6). OpenSSL takes an address as a CN
        # for a DNS name, which constraints then exclude.
        named = len(host) <= CN_MAX and (self._named_addresses or isinstance(name, x509.DNSName))
        builder = (
            self._leaf_builder.subject_name(common_name(host) if named else x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([name]), critical=not named)
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc(dates.starts))
            .not_valid_after(utc(dates.ends))
        )
        return builder.sign(self._issuer.key, hashes.SHA256()), dates

    def prepare(self, public: ec.EllipticCurvePublicKey, now: float) -> None:
        """Choose the issuer from now on, and prepare the parts of a leaf that do not depend on its host."""
        self._issuer = self._root
        starts = epoch(self._root.certificate.not_valid_before_utc)
        self._issuer_dates = Dates(starts, self.pair.ends, self.pair.ends)
        if self._indirect and now < self.pair.ends:
            self._issuer, self._issuer_dates = make_intermediate(
                self._root, self._intermediate_key, now, self.pair.ends
            )
        self._leaf_builder = (
            x509.CertificateBuilder()
            .issuer_name(self._issuer.certificate.subject)
            .public_key(public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority_key_id(self._issuer.certificate), critical=False)
        )


def throwaway() -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key in PEM, for TLS that never leaves this process."""
    return make_ca(time.time())
