"""Which signatures of an image count: made here, or by cosign (signed_by_cosign.json beside this file)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from regproxy.config.signing_keys import parse_public_key
from regproxy.policy.signatures import (
    BUNDLE_MAX,
    PAYLOAD_MAX,
    SUBJECTS_MAX,
    SignatureVerdict,
    pre_authentication_encoding,
    verify_bundle,
    verify_payload,
)
from tests.support import ROOT
from tests.support.signatures import SIGN, Signer, bundle_of, digest_of, encoded, payload_of, statement_of

MANIFEST = b'{"schemaVersion": 2}'
DIGEST = digest_of(MANIFEST)
OTHER = digest_of(b"another image")
MINE, THEIRS = Signer.new(), Signer.new()
RSA = rsa.generate_private_key(65537, 2048)
FIXTURES = json.loads((ROOT / "tests/unit/policy/signed_by_cosign.json").read_text())

SIGNERS = {
    "P-256": MINE,
    "P-384, SHA-384": Signer(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "P-384, SHA-256": Signer(ec.generate_private_key(ec.SECP384R1())),
    "P-521, SHA-512": Signer(ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
    "Ed25519": Signer(ed25519.Ed25519PrivateKey.generate()),
    "Ed25519ph": Signer(ed25519.Ed25519PrivateKey.generate(), ph=True),
    "RSA, PKCS #1": Signer(RSA),
    "RSA, PSS": Signer(RSA, pss=True),
}


def payload_verdict(payload: bytes, signature: str, *signers: Signer) -> SignatureVerdict:
    return verify_payload(payload, signature, DIGEST, [signer.key() for signer in signers or (MINE,)])


def bundle_verdict(bundle: bytes, *signers: Signer) -> SignatureVerdict:
    return verify_bundle(bundle, DIGEST, [signer.key() for signer in signers or (MINE,)])


@pytest.mark.parametrize("signer", SIGNERS.values(), ids=SIGNERS.keys())
class TestKinds:
    def test_payload(self, signer: Signer) -> None:
        payload = payload_of(DIGEST)
        key = signer.key()
        found = verify_payload(payload, signer.sign(payload), DIGEST, [THEIRS.key("other"), key])
        assert found == SignatureVerdict(True, "signed by the key release", key.fingerprint)
        assert not payload_verdict(payload, signer.sign(payload), THEIRS).signed
        assert not payload_verdict(payload + b" ", signer.sign(payload), signer).signed

    def test_bundle(self, signer: Signer) -> None:
        bundle = signer.bundle(DIGEST)
        assert bundle_verdict(bundle, THEIRS, signer).signed
        assert not bundle_verdict(bundle, THEIRS).signed
        assert not bundle_verdict(signer.bundle(OTHER), signer).signed

    def test_message(self, signer: Signer) -> None:
        """By SHA-256 alone: of the manifest no more is known than that digest."""
        message = {"signature": signer.sign(MANIFEST)}
        by_sha256 = (
            not isinstance(signer.private, ed25519.Ed25519PrivateKey) and signer.algorithm.name == "sha256"
        )
        assert bundle_verdict(bundle_of(messageSignature=message), signer).signed == by_sha256


def test_versions_of_the_payload() -> None:
    payload = payload_of(DIGEST, type=SIGN)
    assert payload_verdict(payload, MINE.sign(payload)).signed


def test_the_reference_is_ignored() -> None:
    """As the specification says: a copy of the image elsewhere is the same image."""
    payload = payload_of(DIGEST, identity={"docker-reference": "elsewhere.test/else"})
    assert payload_verdict(payload, MINE.sign(payload)).signed


PAYLOADS: dict[str, tuple[bytes, str]] = {
    "another image": (payload_of(OTHER), "another image"),
    "another type": (payload_of(DIGEST, type="atomic container signature"), "no signature of an image"),
    "no type": (payload_of(DIGEST, type=None), "no signature of an image"),
    "no image": (payload_of(DIGEST, image=None), "critical.image"),
    "no critical": (b"{}", "critical"),
    "an array": (b"[]", "payload"),
    "not JSON": (b"hello", "no JSON"),
    "not UTF-8": (b"\xff", "no UTF-8"),
    "NaN": (payload_of(DIGEST).replace(b"null", b"NaN"), "no JSON"),
    "a name in other letters": (payload_of(DIGEST).replace(b"docker-m", b"Docker-M"), "another image"),
    "a digest in capitals": (payload_of(DIGEST.upper()), "another image"),
    "a name twice": (
        payload_of(DIGEST).replace(b'"image"', b'"image": {"docker-manifest-digest": "x"}, "image"'),
        "twice",
    ),
    "nested": (b"[" * 50_000, "nested"),
    "too large": (payload_of(DIGEST) + b" " * PAYLOAD_MAX, "more than"),
}


@pytest.mark.parametrize("payload, reason", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_payloads_that_were_signed_for_something_else(payload: bytes, reason: str) -> None:
    verdict = payload_verdict(payload, MINE.sign(payload))
    assert not verdict.signed
    assert reason in verdict.reason


def _not_canonical(signature: str) -> str:
    """Return the same bytes in other letters: the bits behind the last byte are set."""
    raw = base64.b64decode(signature)
    assert len(raw) % 3
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = signature.rstrip("=")
    changed = bare[:-1] + letters[letters.index(bare[-1]) + 1] + "=" * (len(signature) - len(bare))
    assert base64.b64decode(changed) == raw
    return changed


def _padded(payload: bytes) -> str:
    """Return a signature whose base64 ends in padding."""
    return next(found for found in iter(lambda: MINE.sign(payload), "") if found.endswith("="))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "empty": lambda signature: "",
    "a line break": lambda signature: signature + "\n",
    "no padding": lambda signature: signature.rstrip("="),
    "for URLs": lambda signature: "-_" + signature[2:],
    "bits behind the end": _not_canonical,
    "too long": lambda signature: encoded(b"x" * 5000),
    "not ASCII": lambda signature: "é" + signature,
    "of nothing": lambda signature: encoded(b"x" * 70),
}


@pytest.mark.parametrize("change", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings_of_a_signature(change: Callable[[str], str]) -> None:
    payload = payload_of(DIGEST)
    signature = _padded(payload)
    assert payload_verdict(payload, signature).signed
    assert not payload_verdict(payload, change(signature)).signed


def envelope(statement: bytes, /, **changes: Any) -> bytes:
    return bundle_of(dsseEnvelope=MINE.envelope(statement) | changes)


def changed(**members: Any) -> bytes:
    """Return a good bundle with other members."""
    return json.dumps(json.loads(MINE.bundle(DIGEST)) | members).encode()


STATEMENT = statement_of(DIGEST)
SIGNATURE = MINE.envelope(STATEMENT)["signatures"][0]
NOBODYS = {"sig": encoded(b"x" * 70)}

GOOD: dict[str, bytes] = {
    "as cosign": MINE.bundle(DIGEST),
    "an older statement": envelope(statement_of(DIGEST, kind="https://in-toto.io/Statement/v0.1")),
    "several subjects": envelope(statement_of(OTHER, DIGEST)),
    "an older type": changed(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    "a signature of the manifest": bundle_of(messageSignature={"signature": MINE.sign(MANIFEST)}),
    "with its digest": bundle_of(
        messageSignature={
            "messageDigest": {"algorithm": "SHA2_256", "digest": encoded(bytes.fromhex(DIGEST[7:]))},
            "signature": MINE.sign(MANIFEST),
        }
    ),
    "an entry of a log that is not looked at": changed(
        verificationMaterial={"publicKey": {"hint": "x"}, "tlogEntries": [{"integratedTime": "1"}]}
    ),
}


@pytest.mark.parametrize("bundle", GOOD.values(), ids=GOOD.keys())
def test_bundles(bundle: bytes) -> None:
    assert bundle_verdict(bundle).signed
    assert "none of the keys (release)" in bundle_verdict(bundle, THEIRS).reason


BAD: dict[str, tuple[bytes, str]] = {
    "another image": (MINE.bundle(OTHER), "another image"),
    "an attestation": (envelope(statement_of(DIGEST, predicate="https://cyclonedx.org/bom")), "attestation"),
    "an unknown statement": (envelope(statement_of(DIGEST, kind="x")), "unknown type"),
    "no subject": (envelope(statement_of()), "subjects"),
    "too many subjects": (envelope(statement_of(*[DIGEST] * (SUBJECTS_MAX + 1))), "subjects"),
    "another kind of payload": (bundle_of(dsseEnvelope=MINE.envelope(STATEMENT, "text/plain")), "in-toto"),
    "a kind that was not signed": (
        bundle_of(
            dsseEnvelope=MINE.envelope(STATEMENT, "text/plain")
            | {"payloadType": "application/vnd.in-toto+json"}
        ),
        "none of the keys",
    ),
    "another payload": (envelope(STATEMENT, payload=encoded(STATEMENT + b" ")), "none of the keys"),
    "a payload that was signed without its envelope": (
        envelope(STATEMENT, signatures=[{"sig": MINE.sign(STATEMENT)}]),
        "none of the keys",
    ),
    "no signatures": (envelope(STATEMENT, signatures=[]), "other than one signature"),
    "two signatures": (envelope(STATEMENT, signatures=[NOBODYS, SIGNATURE]), "other than one signature"),
    "a signature that is none": (envelope(STATEMENT, signatures=["x"]), "no JSON object"),
    "a payload that is no text": (envelope(STATEMENT, payload=1), "payload"),
    "a statement that is none": (envelope(b"[]"), "statement"),
    "a certificate": (changed(verificationMaterial={"certificate": {"rawBytes": ""}}), "certificate"),
    "a key and a certificate": (
        changed(verificationMaterial={"publicKey": {}, "x509CertificateChain": {}}),
        "certificate",
    ),
    "no material": (changed(verificationMaterial=None), "verification material"),
    "no type": (changed(mediaType=None), "unknown type"),
    "another type": (changed(mediaType="application/json"), "unknown type"),
    "two contents": (changed(messageSignature={}), "or with two"),
    "no content": (bundle_of(), "without a signature"),
    "a signature of another manifest": (
        bundle_of(messageSignature={"signature": MINE.sign(b"another")}),
        "none of the keys",
    ),
    "a digest of another manifest": (
        bundle_of(
            messageSignature={
                "messageDigest": {"algorithm": "SHA2_256", "digest": encoded(bytes.fromhex(OTHER[7:]))},
                "signature": MINE.sign(MANIFEST),
            }
        ),
        "another image",
    ),
    "another algorithm": (
        bundle_of(
            messageSignature={"messageDigest": {"algorithm": "SHA2_512"}, "signature": MINE.sign(MANIFEST)}
        ),
        "SHA-256",
    ),
    "a name twice": (b'{"mediaType": "x",' + MINE.bundle(DIGEST)[1:], "twice"),
    "an array": (b"[]", "bundle"),
    "too large": (MINE.bundle(DIGEST) + b" " * BUNDLE_MAX, "more than"),
}


@pytest.mark.parametrize("bundle, reason", BAD.values(), ids=BAD.keys())
def test_bundles_that_say_something_else(bundle: bytes, reason: str) -> None:
    verdict = bundle_verdict(bundle)
    assert not verdict.signed
    assert reason in verdict.reason


def test_pre_authentication_encoding() -> None:
    """The example of the DSSE specification; lengths count bytes."""
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pre_authentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@pytest.mark.parametrize("name", FIXTURES["signed"])
class TestByCosign:
    """Signatures that cosign has made."""

    def verdict(self, name: str, digest: str, pem: str = "") -> SignatureVerdict:
        signed = FIXTURES["signed"][name]
        key = parse_public_key("cosign", (pem or signed["key"]).encode())
        content = base64.b64decode(signed["content"])
        if "signature" in signed:
            return verify_payload(content, signed["signature"], digest, [key])
        return verify_bundle(content, digest, [key])

    def test_right(self, name: str) -> None:
        assert self.verdict(name, FIXTURES["digest"]).signed

    def test_another_key(self, name: str) -> None:
        assert not self.verdict(name, FIXTURES["digest"], THEIRS.pem).signed

    def test_another_image(self, name: str) -> None:
        assert "another image" in self.verdict(name, OTHER).reason
