"""What clients' certificates say, and the file of their CAs."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from regproxy.auth.clients.certificates import check_client_cas, client_cas, said_by
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from tests.support.client_certificates import ClientCa, der_of

SAID = [
    ("builder", (), {("CN", "builder")}),
    ("", (x509.DNSName("a.example"),), {("DNS", "a.example")}),
    (
        "x",
        (
            x509.RFC822Name("ci@example"),
            x509.UniformResourceIdentifier("spiffe://example/ci"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        ),
        {("CN", "x"), ("email", "ci@example"), ("URI", "spiffe://example/ci")},
    ),
    ("x", (x509.UniformResourceIdentifier("x:" + "y" * 1023),), {("CN", "x")}),
    ("", (), set()),
    ("a\nb", (), set()),
    ("x", (x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),), {("CN", "x")}),
]


@pytest.mark.parametrize(
    "name, alternatives, want",
    SAID,
    ids=["CN", "DNS", "several", "too long", "nothing", "line break", "another kind"],
)
def test_what_is_said(
    name: str, alternatives: tuple[x509.GeneralName, ...], want: set[tuple[str, str]], tmp_path: Path
) -> None:
    assert set(said_by(der_of(ClientCa(tmp_path).issue(name, *alternatives)))) == want


@pytest.mark.parametrize(
    "names", [b"\xa5\x05\xa1\x03\x0c\x01A", b"\xa3\x04\x30\x02\x05\x00"], ids=["EDI party", "X.400"]
)
def test_names_of_rare_kinds_say_nothing(names: bytes) -> None:
    """No error comes of them, either: this is asked in the middle of a handshake."""
    key = ec.generate_private_key(ec.SECP256R1())
    owner = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    start = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(owner, owner, key.public_key(), 1, start, start.replace(year=2030))
    san = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30" + bytes([len(names)]) + names)
    certificate = builder.add_extension(san, critical=False).sign(key, hashes.SHA256())
    assert said_by(certificate.public_bytes(serialization.Encoding.DER)) == ()


def test_what_is_no_certificate_says_nothing() -> None:
    assert said_by(b"") == said_by(b"\x30\x03\x02\x01\x01") == ()


def test_the_file_is_checked_at_the_start(tmp_path: Path) -> None:
    path, ca = tmp_path / "cas.pem", ClientCa(tmp_path)
    config = load({"REGPROXY_CLIENT_CA_FILE": str(path), "REGPROXY_TLS_LISTEN": ":443"})
    broken = ca.pem.replace(b"\nMII", b"\nXXX", 1)
    for text, why in [
        (None, "a file that can be read: No such file"),
        (b"", "no CA certificate in the PEM text"),
        (ca.crl(), "no CA certificate in the PEM text"),
        (ca.pem + broken, "a certificate or CRL that can't be read"),
    ]:
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(ConfigError) as caught:
            check_client_cas(config)
        assert str(caught.value).startswith(f"REGPROXY_CLIENT_CA_FILE='{path}': ")
        assert why in str(caught.value)
    path.write_bytes(ca.pem + ca.crl() + ClientCa(tmp_path).pem)
    check_client_cas(config)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="a file that can be read: not a file"):
        check_client_cas(config)


def test_settings_that_go_together() -> None:
    assert client_cas(load({})) is None
    check_client_cas(load({}))
    with pytest.raises(ConfigError, match="the file of their CAs in REGPROXY_CLIENT_CA_FILE too"):
        load({"REGPROXY_CLIENT_CERTS": "required"})
    (warning,) = load({"REGPROXY_CLIENT_CA_FILE": "/ca.pem"}).warnings
    assert warning == "REGPROXY_CLIENT_CA_FILE has no effect without REGPROXY_TLS_LISTEN"
    both = {"REGPROXY_CLIENT_CA_FILE": "/ca.pem", "REGPROXY_CLIENT_CERTS": "Required"}
    assert load(both).client_certs == "required"
