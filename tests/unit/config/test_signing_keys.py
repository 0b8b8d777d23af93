"""The [key.NAME] tables: keys that are taken, and what is said of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from regproxy.config.key_files import read_keys
from regproxy.config.settings import describe
from regproxy.config.signing_keys import KEYS_MAX, KeySource, parse_public_key
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from tests.support.signatures import Signer
from tests.support.trust import Trust

SIGNER = Signer.new()
PEM = SIGNER.pem
PRIVATE = SIGNER.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def inline(pem: str) -> str:
    return f'[key.release]\npem = """{pem}"""\n'


def pem_of(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed448.Ed448PrivateKey,
) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "private",
    [
        *(ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA"],
)
def test_kinds(private: ec.EllipticCurvePrivateKey) -> None:
    pem = Signer(private).pem
    config = load({}, inline(pem), "file.toml")
    assert (
        read_keys(config.signing_keys)["release"].fingerprint
        == parse_public_key("x", pem.encode()).fingerprint
    )


def test_a_key_by_its_older_name() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    older = key.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    newer = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert parse_public_key("x", older) == parse_public_key("x", newer)


BAD = {
    "no table": ("key = 1", "tables, such as [key.release]"),
    "no tables": ('[key]\nrelease = "x"', "tables, such as [key.release]"),
    "nothing": ("[key.release]", "either file"),
    "both": ('[key.release]\nfile = "a"\npem = "b"', "either file"),
    "a misspelling": ('[key.release]\npath = "a"', "path: no such setting"),
    "no string": ("[key.release]\nfile = 1", "file: a string"),
    "an empty one": ('[key.release]\nfile = " "', "file: a string"),
    "a name": ('[key."a b"]\nfile = "a"', "the name of a key"),
    "too many": ("".join(f'[key.k{n}]\nfile = "a"\n' for n in range(KEYS_MAX + 1)), "at most"),
    "a private key": (inline(PRIVATE), "not a private one"),
    "no PEM": (inline("hello"), "a public key in PEM"),
    "broken PEM": (inline(PEM.replace("M", "!")), "a public key in PEM"),
    "two keys": (inline(PEM + PEM), "one key for each table"),
    "a small RSA key": (
        inline(pem_of(rsa.generate_private_key(65537, 1024))),
        "2048 to 8192 bits, not of 1024",
    ),
    "another curve": (inline(pem_of(ec.generate_private_key(ec.SECP256K1()))), "not on secp256k1"),
    "DSA": (inline(pem_of(dsa.generate_private_key(1024))), "an ECDSA, Ed25519 or RSA key"),
    "Ed448": (inline(pem_of(ed448.Ed448PrivateKey.generate())), "an ECDSA, Ed25519 or RSA key"),
}


@pytest.mark.parametrize("text, want", BAD.values(), ids=BAD.keys())
def test_complaints(text: str, want: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load({}, text, "file.toml")
    message = str(raised.value)
    assert message.startswith("file.toml: key")
    assert want in message
    # Neither a key that should not be here nor one that can't be read is repeated.
    assert not any(line in message for line in (PRIVATE + PEM).splitlines() if "-----" not in line)


def test_a_certificate(trust: Trust) -> None:
    with pytest.raises(ValueError, match="openssl x509 -pubkey"):
        parse_public_key("release", trust.pem)


FILES = {
    "none": (None, "can't be read: No such file"),
    "private": (PRIVATE, "not a private one"),
    "empty": ("", "a public key in PEM"),
    "large": (PEM + " " * 70_000, "more than 65536 bytes; a public key in PEM"),
}


@pytest.mark.parametrize("text, want", FILES.values(), ids=FILES.keys())
def test_files(tmp_path: Path, text: str | None, want: str) -> None:
    key = tmp_path / "cosign.pub"
    sources = load({}, f'[key.release]\nfile = "{key}"\n').signing_keys
    assert sources == {"release": KeySource("release", file=str(key))}
    if text is not None:
        key.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_keys(sources)
    assert str(raised.value).startswith(f"key.release.file={str(key)!r}: ")
    assert want in str(raised.value)
    key.write_text(PEM)
    assert read_keys(sources)["release"].name == "release"


def test_check_config_shows_them() -> None:
    config = load({}, f'[key.b]\nfile = "/etc/cosign.pub"\n{inline(PEM)}', "file.toml")
    shown = {name: (value, origin) for name, value, origin in describe(config)}
    assert shown["key.b.file"] == ("/etc/cosign.pub", "toml")
    assert shown["key.release.pem"] == ("(set)", "toml")
