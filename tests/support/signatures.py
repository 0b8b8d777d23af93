"""Signing images as cosign does, with keys made here: payloads, bundles, and where registries keep them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl import bindings

from regproxy.config.signing_keys import SigningKey, parse_public_key
from tests.support.trust import Trust

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def payload_of(digest: str, **changes: Any) -> bytes:
    """Return a Simple Signing payload; `changes` replaces members of `critical`."""
    critical: dict[str, Any] = {
        "identity": {"docker-reference": "reg.test/lib/app"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical | changes, "optional": None}).encode()


def statement_of(
    *digests: str, kind: str = "https://in-toto.io/Statement/v1", predicate: str = SIGN
) -> bytes:
    """Return an in-toto statement with these subjects."""
    subjects = [{"name": "", "digest": {"sha256": each.partition(":")[2]}} for each in digests]
    return json.dumps(
        {"_type": kind, "subject": subjects, "predicateType": predicate, "predicate": {}}
    ).encode()


@dataclass(frozen=True)
class Signer:
    """A key pair. `algorithm`: the hash that it signs by; `pss`: RSA by PSS; `ph`: Ed25519ph."""

    private: Private
    algorithm: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    pss: bool = False
    ph: bool = False

    @classmethod
    def new(cls) -> Signer:
        """Return a new key as cosign makes them."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> str:
        public = self.private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def key(self, name: str = "release") -> SigningKey:
        return parse_public_key(name, self.pem.encode())

    def sign(self, message: bytes) -> str:
        """Return the signature of a message in base64."""
        private = self.private
        if isinstance(private, ed25519.Ed25519PrivateKey):
            if self.ph:
                state = bindings.crypto_sign_ed25519ph_state()
                bindings.crypto_sign_ed25519ph_update(state, message)
                secret = private.private_bytes_raw() + private.public_key().public_bytes_raw()
                return encoded(bindings.crypto_sign_ed25519ph_final_create(state, secret))
            return encoded(private.sign(message))
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return encoded(private.sign(message, ec.ECDSA(self.algorithm)))
        pss = padding.PSS(padding.MGF1(self.algorithm), padding.PSS.DIGEST_LENGTH)
        return encoded(private.sign(message, pss if self.pss else padding.PKCS1v15(), self.algorithm))

    def envelope(self, payload: bytes, kind: str = "application/vnd.in-toto+json") -> dict[str, Any]:
        """Return a DSSE envelope."""
        signed = b" ".join([b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(payload), payload])
        signatures = [{"sig": self.sign(signed), "keyid": ""}]
        return {"payload": encoded(payload), "payloadType": kind, "signatures": signatures}

    def bundle(self, digest: str) -> bytes:
        """Return the bundle with which cosign 3 signs an image."""
        return bundle_of(dsseEnvelope=self.envelope(statement_of(digest)))


def bundle_of(**members: Any) -> bytes:
    """Return a bundle by a key, with these members besides."""
    material = {"publicKey": {"hint": "aGludA=="}}
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, **members}).encode()


@dataclass
class Stored:
    """What a registry has to have: blobs and manifests by digest, and manifests by tag."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)

    def add(
        self,
        *layers: dict[str, Any],
        kind: str = "",
        subject: str = "",
        at: str = "",
        notes: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Add a manifest of layers (see `layer`), by digest or under the tag `at`; return its descriptor."""
        config = b"{}"
        self.blobs[digest_of(config)] = config
        told: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
        told |= {"artifactType": kind} if kind else {}
        told |= {"config": descriptor("application/vnd.oci.empty.v1+json", config), "layers": list(layers)}
        told |= {"subject": {"mediaType": MANIFEST, "digest": subject, "size": 1}} if subject else {}
        told |= {"annotations": notes} if notes else {}
        body = json.dumps(told).encode()
        self.manifests[at or digest_of(body)] = body
        return descriptor(MANIFEST, body) | ({"artifactType": kind} if kind else {})

    def layer(self, content: bytes, signature: str = "") -> dict[str, Any]:
        """Add a blob, a payload with its signature or a bundle; return its descriptor."""
        self.blobs[digest_of(content)] = content
        if not signature:
            return descriptor(BUNDLE, content)
        notes = {"dev.cosignproject.cosign/signature": signature}
        return descriptor(SIMPLE_SIGNING, content) | {"annotations": notes}

    def sign_under_tag(self, digest: str, signers: Sequence[Signer]) -> None:
        """Sign as cosign 2 does."""
        payload = payload_of(digest)
        layers = [self.layer(payload, signer.sign(payload)) for signer in signers]
        self.add(*layers, at=digest.replace(":", "-") + ".sig")

    def sign_by_bundles(self, digest: str, signers: Sequence[Signer], at: str = "") -> bytes:
        """Sign as cosign 3 does; the list of referrers is kept under its tag, or as `at`. Return it."""
        entries = [
            self.add(self.layer(signer.bundle(digest)), kind=BUNDLE, subject=digest) for signer in signers
        ]
        index = index_of(*entries)
        self.manifests[at or digest.replace(":", "-")] = index
        return index


def index_of(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}).encode()


def descriptor(media_type: str, body: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body)}


class Uploader:
    """Puts what is stored into a docker-registry at this address, by its API."""

    def __init__(self, address: tuple[str, int], trust: Trust, authorization: str = "") -> None:
        self._address, self._context = address, trust.client_context()
        self._fields = {"Authorization": authorization} if authorization else {}

    def put(self, repository: str, stored: Stored) -> None:
        """Push blobs, and then manifests."""
        for digest, body in stored.blobs.items():
            place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"", 202)
            path = place[place.index("/v2/") :]
            self._ask("PUT", f"{path}&digest={digest}", body, 201)
        # A list is refused before what it lists is there.
        for name, body in sorted(stored.manifests.items(), key=lambda item: INDEX.encode() in item[1]):
            media_type = json.loads(body)["mediaType"]
            self._ask("PUT", f"/v2/{repository}/manifests/{name}", body, 201, media_type)

    def _ask(self, method: str, path: str, body: bytes, want: int, media_type: str = "") -> str:
        connection = http.client.HTTPSConnection(*self._address, context=self._context, timeout=20)
        fields = self._fields | {"Content-Type": media_type or "application/octet-stream"}
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        said = response.read()
        connection.close()
        assert response.status == want, (method, path, response.status, said)
        return response.headers.get("Location", "")
