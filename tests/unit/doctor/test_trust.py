"""Who trusts the proxy's CA."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from regproxy.doctor.host_files import HostFiles
from regproxy.doctor.trust import BUNDLES, examine
from regproxy.tls.x509 import make_ca

CA, OTHER = (make_ca(time.time())[0].decode() for _ in range(2))
ANCHOR = "/etc/pki/ca-trust/source/anchors/regproxy.crt"
HOSTS = "/etc/containerd/certs.d/_default"
DOCKER = "/etc/docker/certs.d/ghcr.io"


def levels(root: Path, files: dict[str, str], *, needed: bool = True) -> list[str]:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = examine(HostFiles(root), CA, needed=needed)
    assert all(bool(finding.fix) == (finding.level != "ok") for finding in found)
    return [finding.level for finding in found]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_system(bundle: str, tmp_path: Path) -> None:
    assert levels(tmp_path, {bundle: f"# some CA\n{OTHER}\n# ours\n{CA}"}) == ["ok"]


def test_not_the_system(tmp_path: Path) -> None:
    assert levels(tmp_path, {BUNDLES[0]: f"{OTHER}{CA[:200]}\n-----END CERTIFICATE-----\n"}) == ["error"]
    assert levels(tmp_path, {}, needed=False) == ["ok"]


def test_an_environment_whose_programs_go_through_the_proxy(tmp_path: Path) -> None:
    """HTTPS_PROXY of a shell: its skopeo fails with x509 unless the system, or SSL_CERT_FILE, has the CA."""
    host, named = HostFiles(tmp_path), {"SSL_CERT_FILE": "/etc/own.pem"}

    def found(environ: dict[str, str]) -> list[tuple[str, str]]:
        return [(f.level, f.fix) for f in examine(host, CA, needed=False, environ=environ)]

    levels(tmp_path, {BUNDLES[0]: OTHER, "/etc/own.pem": OTHER})
    for environ in ({}, named):
        ((level, fix),) = found(environ)
        assert (level, "SSL_CERT_FILE" in fix) == ("error", True)
    levels(tmp_path, {"/etc/own.pem": OTHER + CA, "/certs/x.pem": CA})
    for environ in (named, {"SSL_CERT_DIR": "/none:/certs"}):
        assert [level for level, _ in found(environ)] == ["ok", "ok"]
        assert [f.level for f in examine(host, CA, needed=True, environ=environ)] == ["ok", "error"]
    levels(tmp_path, {BUNDLES[0]: CA})
    assert [level for level, _ in found({})] == ["ok"]


def test_anchors(tmp_path: Path) -> None:
    (finding,) = examine(HostFiles(tmp_path), CA, needed=True)
    assert levels(tmp_path, {BUNDLES[0]: OTHER, ANCHOR: CA}) == ["error"]
    (finding,) = examine(HostFiles(tmp_path), CA, needed=True)
    assert "update-ca-trust" in finding.fix
    assert levels(tmp_path, {ANCHOR: OTHER}) == ["error"]
    (finding,) = examine(HostFiles(tmp_path), CA, needed=True)
    assert "another or an earlier proxy" in finding.what


def test_a_ca_that_is_being_replaced(tmp_path: Path) -> None:
    host = HostFiles(tmp_path)
    for bundle, level in ((OTHER, "warning"), (OTHER + CA, "ok"), (CA, "ok"), ("", "error")):
        levels(tmp_path, {BUNDLES[0]: bundle})
        (finding,) = examine(host, CA + OTHER, needed=True)
        assert finding.level == level


def test_dockerd(tmp_path: Path) -> None:
    assert levels(tmp_path, {BUNDLES[0]: CA, f"{DOCKER}/regproxy.crt": CA}) == ["ok", "ok"]
    assert levels(tmp_path, {f"{DOCKER}/regproxy.crt": OTHER, f"{DOCKER}/own.crt": OTHER}) == [
        "ok",
        "warning",
    ]


def test_containerd(tmp_path: Path) -> None:
    text = '[host."https://proxy.example:3129"]\n  ca = "ca.crt"\n'
    assert levels(tmp_path, {BUNDLES[0]: CA, f"{HOSTS}/hosts.toml": text}) == ["ok", "error"]
    assert levels(tmp_path, {f"{HOSTS}/ca.crt": CA}) == ["ok", "ok"]
    assert levels(tmp_path, {f"{HOSTS}/ca.crt": OTHER}) == ["ok"]
