"""What mitmweb is told."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import argon2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from regproxy.config.sources.assembly import load
from regproxy.debug import mitmweb
from regproxy.debug.mitmweb import AddonSettings
from regproxy.debug.views import HubView
from regproxy.tls import ca_files
from regproxy.tls.ca_files import CaFiles
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import make_ca


class TestHub:
    """What is between the proxy and Docker Hub."""

    def test_its_files(self, tmp_path: Path) -> None:
        """Private, and with no password among mitmproxy's options, which its page lists."""
        extra = tmp_path / "extra.pem"
        extra.write_bytes(b"EXTRA")
        hub = HubView.make(tmp_path / "hub")
        env = {"HTTPS_PROXY": "http://me:secret@proxy.test:8080", "REGPROXY_UPSTREAM_CA_FILE": str(extra)}
        mitmweb.write_hub_view(tmp_path / "hub", load(env), "page password", hub)
        options, addon = told(tmp_path / "hub")
        assert options["mode"] == ["upstream:http://proxy.test:8080"]
        assert (options["listen_host"], options["listen_port"]) == ("127.0.0.1", hub.port)
        assert not options["ssl_insecure"]
        assert b"EXTRA" in Path(str(options["ssl_verify_upstream_trusted_ca"])).read_bytes()
        assert addon["parent_login"] == "Basic bWU6c2VjcmV0"
        assert str(addon["own_login"]).encode() == hub.proxy.authorization
        text = json.dumps(options)
        assert not [each for each in ("secret", "bWU6", "page password", hub.login) if each in text]
        assert argon2.PasswordHasher().verify(str(options["web_password"]), "page password")
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "hub").iterdir()} == {0o600}
        assert (tmp_path / "hub").stat().st_mode & 0o777 == 0o700

    def test_without_a_parent_proxy(self, tmp_path: Path) -> None:
        hub = HubView.make(tmp_path / "hub")
        mitmweb.write_hub_view(tmp_path / "hub", load({"VERIFY_SSL": "false"}), "page password", hub)
        options, addon = told(tmp_path / "hub")
        assert (options["mode"], options["ssl_insecure"], addon["parent_login"]) == (["regular"], True, "")


def test_no_login_shows() -> None:
    settings = AddonSettings((), False, own_login="Basic YTpi", parent_login="Basic Yzpk")
    assert "Basic" not in repr(settings)


class TestClient:
    """What is before the proxy."""

    def test_its_files(self, tmp_path: Path) -> None:
        """It signs with the CA that clients trust."""
        config = load({"REGPROXY_LISTEN": "[::]:3128", "REGPROXY_DEBUG_LISTEN": ":8081"})
        files = CaFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
        ca_files.ensure_files(files, time.time(), SigningScope.of_certificate(a_ca()))
        (pair,) = ca_files.load(files, time.time())
        mitmweb.write_client_view(tmp_path / "view", config, "page password", pair, 4567)
        options, addon = told(tmp_path / "view")
        assert options["mode"] == ["upstream:http://127.0.0.1:4567"]
        assert (options["listen_host"], options["listen_port"]) == ("", 3128)
        assert (options["web_host"], options["web_port"]) == ("", 8081)
        assert (addon["own_login"], addon["parent_login"], addon["shows_credentials"]) == ("", "", False)
        both = (tmp_path / "view/mitmproxy-ca.pem").read_bytes()
        assert x509.load_pem_x509_certificate(both) == pair.certificate
        key = serialization.load_pem_private_key(both, None)
        assert key.public_key() == pair.certificate.public_key()
        assert (tmp_path / "view/mitmproxy-ca.pem").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        ("registries", "host", "port", "want"),
        [
            ("ghcr.io", "ghcr.io", 443, True),
            ("ghcr.io", "ghcrxio", 443, False),
            ("ghcr.io", "a.ghcr.io", 443, False),
            ("ghcr.io", "ghcr.io", 5000, False),
            ("reg.test:5000", "reg.test", 5000, True),
            ("reg.test:5000", "reg.test", 443, False),
            ("*.example.com", "a.b.example.com", 443, True),
            ("*.example.com", "example.com", 443, False),
            (".example.com", "example.com", 443, True),
            ("reg.*", "reg.example", 443, True),
            ("~gcr", "eu.gcr.io", 443, True),
            ("ghcr.io", "registry-1.docker.io", 443, True),
        ],
    )
    def test_what_it_opens(self, registries: str, host: str, port: int, want: bool) -> None:
        """Just what is intercepted: the rest would see our CA."""
        config = load({"REGISTRIES": registries})
        every = [mitmweb._expression(rule, config) for rule in config.registries]
        assert any(re.search(text, host) and (not ports or port in ports) for text, ports in every) is want
        assert any(rule.matches(host, port) for rule in config.registries if port == 443 or rule.port) is want


def a_ca() -> x509.Certificate:
    return x509.load_pem_x509_certificate(make_ca(time.time())[0])


def told(directory: Path) -> tuple[dict[str, object], dict[str, object]]:
    """What mitmproxy and the addon are told."""
    config, addon = (json.loads((directory / name).read_text()) for name in ("config.yaml", "addon.json"))
    return config, addon
