"""What is served: a certificate, blobs of given sizes and a manifest, as files under one document root."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "bench.test"
REPOSITORY = "bench"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_SIZE = 2700
TAG = "v1.2.3"
CHUNK = 16 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to download: its request path, its sha256 in hex and its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files of a P-256 leaf for HOST and 127.0.0.1, and of the P-256 CA that signed it."""

    ca: Path
    ca_key: Path
    leaf: Path
    leaf_key: Path


class Material:
    """Files under `root`/v2/bench; they are made once and found again by later runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "v2" / REPOSITORY / "blobs"
        self._manifests = root / "v2" / REPOSITORY / "manifests"
        self._made = root / "made"
        for directory in (self._blobs, self._manifests, self._made):
            directory.mkdir(parents=True, exist_ok=True)

    def blob(self, size: int, seed: int = 0) -> Item:
        """A blob of `size` bytes that no compressor could shrink; the same bytes for the same arguments."""
        note = self._made / f"{size}-{seed}"
        digest = note.read_text() if note.exists() else ""
        if not (digest and (self._blobs / f"sha256:{digest}").exists()):
            digest = self._write_blob(size, seed)
            note.write_text(digest)
        return Item(f"/v2/{REPOSITORY}/blobs/sha256:{digest}", digest, size)

    def _write_blob(self, size: int, seed: int) -> str:
        stream = Cipher(algorithms.AES(b"bench blob bytes"), modes.CTR(seed.to_bytes(16, "big"))).encryptor()
        sha256 = hashlib.sha256()
        partial = self._blobs / "partial"
        with partial.open("wb") as file:
            for start in range(0, size, CHUNK):
                chunk = stream.update(bytes(min(CHUNK, size - start)))
                sha256.update(chunk)
                file.write(chunk)
        partial.rename(self._blobs / f"sha256:{sha256.hexdigest()}")
        return sha256.hexdigest()

    def manifest(self) -> Item:
        """An image manifest of MANIFEST_SIZE bytes, by digest."""
        body = _manifest_body()
        digest = hashlib.sha256(body).hexdigest()
        (self._manifests / f"sha256:{digest}").write_bytes(body)
        (self._manifests / TAG).write_bytes(body)
        return Item(f"/v2/{REPOSITORY}/manifests/sha256:{digest}", digest, len(body))

    def tagged(self) -> Item:
        """The same manifest, by tag."""
        item = self.manifest()
        return Item(f"/v2/{REPOSITORY}/manifests/{TAG}", item.sha256, item.size)


def _manifest_body() -> bytes:
    def descriptor(media_type: str, number: int) -> dict[str, str | int]:
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": 1_000_000 + number}

    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", 0),
        "layers": [descriptor(LAYER_TYPE, number) for number in range(1, 15)],
        "annotations": {"pad": ""},
    }
    missing = MANIFEST_SIZE - len(json.dumps(document))
    document["annotations"] = {"pad": "x" * missing}
    return json.dumps(document).encode()


def make_identity(directory: Path) -> Identity:
    """A fresh CA and leaf as PEM files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Identity(*(directory / name for name in ("ca.crt", "ca.key", "leaf.crt", "leaf.key")))
    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])
    ca = (
        _certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)]), ca_name, leaf_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    for path, certificate in ((made.ca, ca), (made.leaf, leaf)):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    for path, key in ((made.ca_key, ca_key), (made.leaf_key, leaf_key)):
        path.write_bytes(_pem(key))
    return made


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    today = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=2))
        .not_valid_after(today + datetime.timedelta(days=30))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
