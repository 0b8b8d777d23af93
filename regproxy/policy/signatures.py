"""Judge signatures of images by public keys: cosign's payloads, and Sigstore's bundles.

Nothing is believed but what a key has signed. What is signed has to name the image by its digest; nothing
else in it counts: neither the repository that it was signed in (cosign ignores it too), nor times, nor names.
Signatures by certificates ("keyless") and entries of transparency logs are not looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from msgspec import Struct
from nacl import bindings
from nacl.exceptions import BadSignatureError

from regproxy.config.signing_keys import SigningKey
from regproxy.registry.signature_manifests import SIGN_PREDICATE, is_bundle_type
from regproxy.registry.strict_json import read_strictly

PAYLOAD_MAX: Final = 65_536  # bytes of what was signed
BUNDLE_MAX: Final = 262_144  # bytes; the certificates and log entries in it are not used, but there
SUBJECTS_MAX: Final = 256  # of a statement
_SIGNATURE_MAX: Final = 2048  # bytes; RSA of 8192 bits makes 1024

# cosign up to version 2, and later ones.
_TYPES: Final = frozenset({"cosign container image signature", SIGN_PREDICATE})
_IN_TOTO: Final = "application/vnd.in-toto+json"
_STATEMENTS: Final = frozenset({"https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"})

_Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
# cosign has signed by SHA-256 with every key, and does since version 3 with the hash of the curve's size.
_HASHES: Final[dict[str, tuple[_Hash, ...]]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA384(), hashes.SHA256()),
    "secp521r1": (hashes.SHA512(), hashes.SHA256()),
}


class SignatureVerdict(Struct, frozen=True):
    """Whether an image is signed by one of the keys, and why. `key`: that key's fingerprint, or ""."""

    signed: bool
    reason: str
    key: str = ""


def verify_payload(
    payload: bytes, signature: str, digest: str, keys: Sequence[SigningKey]
) -> SignatureVerdict:
    """Judge a signature as cosign keeps it under a tag: a Simple Signing payload, its signature in base64.

    `digest`: of the image's manifest, `sha256:<hex>`. The payload's `docker-reference` is ignored, as the
    specification says.
    """
    try:
        raw = _base64(signature, _SIGNATURE_MAX, "a signature")
        if len(payload) > PAYLOAD_MAX:
            raise ValueError(f"a payload of {len(payload)} bytes, more than {PAYLOAD_MAX}")
        signer = _signer(keys, raw, payload)
        if signer is None:
            return _by_none(keys)
        _check_payload(payload, digest)
    except ValueError as error:
        return SignatureVerdict(False, str(error))
    return _signed(signer)


def verify_bundle(bundle: bytes, digest: str, keys: Sequence[SigningKey]) -> SignatureVerdict:
    """Judge a Sigstore bundle (sigstore_bundle.proto, as JSON) that a key has signed.

    It holds either a DSSE envelope, with an in-toto statement that is cosign's for a signature and has the
    image among its subjects; or a signature of the image's manifest itself. An attestation (an SBOM, a
    provenance) by one of the keys is no signature. `hint` and `keyid` are not used: every key is tried.
    """
    try:
        document = _object(read_strictly(bundle, BUNDLE_MAX), "a bundle")
        if not is_bundle_type(document.get("mediaType")):
            raise ValueError("a bundle of an unknown type")
        material = _object(document.get("verificationMaterial"), "verification material")
        if not isinstance(material.get("publicKey"), dict) or _BY_CERTIFICATE & material.keys():
            raise ValueError("a bundle that is signed by a certificate, not by a key")
        contents = [name for name in _CONTENTS if name in document]
        if len(contents) != 1:
            raise ValueError("a bundle without a signature, or with two")
        return _CONTENTS[contents[0]](_object(document[contents[0]], contents[0]), digest, keys)
    except ValueError as error:
        return SignatureVerdict(False, str(error))


_BY_CERTIFICATE: Final = frozenset({"certificate", "x509CertificateChain"})


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that the signatures of a DSSE envelope are of (DSSE v1, protocol.md, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


# --- what was signed -------------------------------------------------------------------------------------


def _check_payload(payload: bytes, digest: str) -> None:
    """Raise ValueError where a Simple Signing payload (containers-signature(5)) is not of this image."""
    critical = _object(_object(read_strictly(payload, PAYLOAD_MAX), "a payload").get("critical"), "critical")
    if critical.get("type") not in _TYPES:
        raise ValueError("a signed payload that is no signature of an image")
    named = _object(critical.get("image"), "critical.image").get("docker-manifest-digest")
    if named != digest:
        raise ValueError("a signature of another image")


def _verify_envelope(envelope: dict[str, Any], digest: str, keys: Sequence[SigningKey]) -> SignatureVerdict:
    kind = envelope.get("payloadType")
    if kind != _IN_TOTO:
        raise ValueError("an envelope that holds no in-toto statement")
    payload = _base64(envelope.get("payload"), PAYLOAD_MAX, "an envelope's payload")
    signed = pre_authentication_encoding(_IN_TOTO, payload)
    signatures = envelope.get("signatures")
    # sigstore_bundle.proto: one that has not exactly one signature must be rejected.
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise ValueError("an envelope of other than one signature")
    raw = _base64(_object(signatures[0], "a signature").get("sig"), _SIGNATURE_MAX, "a signature")
    signer = _signer(keys, raw, signed)
    if signer is None:
        return _by_none(keys)
    _check_statement(payload, digest)
    return _signed(signer)


def _check_statement(payload: bytes, digest: str) -> None:
    """Raise ValueError where an in-toto statement (v0.1, v1) is not cosign's signature of this image."""
    statement = _object(read_strictly(payload, PAYLOAD_MAX), "a statement")
    if statement.get("_type") not in _STATEMENTS:
        raise ValueError("a statement of an unknown type")
    if statement.get("predicateType") != SIGN_PREDICATE:
        raise ValueError("an attestation, which is no signature")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or not 0 < len(subjects) <= SUBJECTS_MAX:
        raise ValueError(f"a statement of other than 1 to {SUBJECTS_MAX} subjects")
    algorithm, _, value = digest.partition(":")
    if not any(
        _object(_object(each, "a subject").get("digest"), "digest").get(algorithm) == value
        for each in subjects
    ):
        raise ValueError("a signature of another image")


def _verify_message(message: dict[str, Any], digest: str, keys: Sequence[SigningKey]) -> SignatureVerdict:
    """Judge a signature of the manifest itself, of which the digest is known.

    That is SHA-256, so only keys that sign a SHA-256 can have made it; Ed25519 signs messages as a whole.
    """
    raw = _base64(message.get("signature"), _SIGNATURE_MAX, "a signature")
    value = bytes.fromhex(digest.removeprefix("sha256:"))
    told = message.get("messageDigest")
    if told is not None:
        told = _object(told, "messageDigest")
        if told.get("algorithm") != "SHA2_256":
            raise ValueError("a signature of a digest other than SHA-256")
        if _base64(told.get("digest"), _SIGNATURE_MAX, "a digest") != value:
            raise ValueError("a signature of another image")
    signer = next((key for key in keys if _has_signed_digest(key, raw, value)), None)
    return _by_none(keys) if signer is None else _signed(signer)


_CONTENTS: Final[dict[str, Callable[[dict[str, Any], str, Sequence[SigningKey]], SignatureVerdict]]] = {
    "dsseEnvelope": _verify_envelope,
    "messageSignature": _verify_message,
}


# --- who has signed --------------------------------------------------------------------------------------


def _signer(keys: Sequence[SigningKey], signature: bytes, message: bytes) -> SigningKey | None:
    """Return the key that has signed a message; None: none of them."""
    return next((key for key in keys if _has_signed(key, signature, message)), None)


def _has_signed(key: SigningKey, signature: bytes, message: bytes) -> bool:
    public = key.key
    if isinstance(public, ed25519.Ed25519PublicKey):
        return _holds(lambda: public.verify(signature, message)) or _has_signed_prehashed(
            public, signature, message
        )
    if isinstance(public, rsa.RSAPublicKey):
        return _has_signed_digest(key, signature, hashlib.sha256(message).digest())
    return any(
        _holds(lambda algorithm=algorithm: public.verify(signature, message, ec.ECDSA(algorithm)))  # type: ignore[misc]
        for algorithm in _HASHES[public.curve.name]
    )


def _has_signed_prehashed(key: ed25519.Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Return whether a key has signed by Ed25519ph (RFC 8032 5.1), as cosign 3 does."""
    if len(signature) != bindings.crypto_sign_BYTES:
        return False
    state = bindings.crypto_sign_ed25519ph_state()
    bindings.crypto_sign_ed25519ph_update(state, message)
    try:
        return bindings.crypto_sign_ed25519ph_final_verify(state, signature, key.public_bytes_raw())
    except BadSignatureError:
        return False


def _has_signed_digest(key: SigningKey, signature: bytes, value: bytes) -> bool:
    """Return whether a key has signed what has this SHA-256. RSA: by PKCS #1 v1.5 or PSS (RFC 8017)."""
    public, algorithm = key.key, Prehashed(hashes.SHA256())
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _holds(lambda: public.verify(signature, value, ec.ECDSA(algorithm)))
    if not isinstance(public, rsa.RSAPublicKey):
        return False
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    return any(
        _holds(lambda scheme=scheme: public.verify(signature, value, scheme, algorithm))  # type: ignore[misc]
        for scheme in (padding.PKCS1v15(), pss)
    )


def _holds(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except InvalidSignature:
        return False
    return True


# --- values ----------------------------------------------------------------------------------------------


def _signed(key: SigningKey) -> SignatureVerdict:
    return SignatureVerdict(True, f"signed by the key {key.name}", key.fingerprint)


def _by_none(keys: Sequence[SigningKey]) -> SignatureVerdict:
    names = ", ".join(key.name for key in keys)
    return SignatureVerdict(False, f"a signature by none of the keys ({names})")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} that is no JSON object")
    return value


def _base64(value: Any, limit: int, what: str) -> bytes:
    """Return the bytes of a canonical base64 text (RFC 4648 3.5, 4). Raises ValueError for any other."""
    if not isinstance(value, str) or len(value) > 4 * (limit // 3 + 1):
        raise ValueError(f"{what} that is no text, or too long a one")
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} that is not in base64") from None
    if base64.b64encode(found).decode() != value:
        raise ValueError(f"{what} that is not in canonical base64")
    return found
