"""What mitmweb is told, who asks Docker Hub through it, and where a debug view is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import argon2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from regproxy.config.settings import Config, load
from regproxy.core.errors import ConfigError
from regproxy.debug import mitmweb
from regproxy.debug.mitmweb import HubView
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins
from regproxy.tls import ca_files
from regproxy.tls.ca_files import CaFiles
from regproxy.tls.name_constraints import Scope
from regproxy.tls.x509 import make_ca

HUB = Origin("https", "registry-1.docker.io", 443)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mitmweb, "program", lambda: "/usr/bin/mitmweb")


@pytest.mark.parametrize("name", ["DEBUG", "DEBUG_HUB"])
def test_without_mitmproxy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=rf"{name}='true': mitmproxy 12.1 or newer, .*regproxy\[debug\]"):
        mitmweb.check(load({name: "true"}))
    mitmweb.check(load({}))


PRINCIPAL = '[principal.node]\naddresses = ["10.0.0.0/8"]\n'


@pytest.mark.parametrize(
    ("env", "toml", "says"),
    [
        ({"DEBUG": "true"}, PRINCIPAL, r"no address in \[principal\] tables"),
        ({"DEBUG": "true", "REGPROXY_PROXY_PROTOCOL": "10.0.0.1"}, None, "no REGPROXY_PROXY_PROTOCOL"),
    ],
)
def test_no_client_gains_rights_by_its_address(
    env: Mapping[str, str], toml: str | None, says: str, installed: None
) -> None:
    """Each of them would have this machine's."""
    with pytest.raises(ConfigError, match=says):
        mitmweb.check(load(env, toml, "t.toml"))
    mitmweb.check(load({**env, "DEBUG": "false", "DEBUG_HUB": "true"}, toml, "t.toml"))


def test_a_reload_has_the_same_views() -> None:
    with pytest.raises(ConfigError, match="DEBUG_HUB='true': the same until the next start"):
        mitmweb.check_same(load({"DEBUG_HUB": "true"}), load({}))
    mitmweb.check_same(load({"DEBUG": "true"}), load({"DEBUG": "true", "ALLOW_PUSH": "true"}))


class TestHub:
    """Workers ask Docker Hub, and nobody else, through the view."""

    def test_whose_way_leads_there(self, tmp_path: Path) -> None:
        hub = HubView.make(tmp_path / "hub")
        toml = '[origin."registry-1.docker.io"]\nread_timeout = "7s"\n'
        origins = Origins(mitmweb.through(load({"REGPROXY_RESOLVE": "auth.docker.io=10.1.2.3"}, toml), hub))
        for host in ("registry-1.docker.io", "index.docker.io", "auth.docker.io"):
            origin = Origin("https", host, 443)
            assert origins.way(origin).proxy == hub.proxy
            assert origins.settings(origin).ca_file == hub.ca_file
        assert origins.settings(HUB).read_timeout == 7.0
        assert origins.way(Origin("https", "auth.docker.io", 443)).host == "10.1.2.3"
        for host in ("ghcr.io", "production.cloudflare.docker.com", "login.docker.com"):
            origin = Origin("https", host, 443)
            assert origins.way(origin).proxy is None
            assert origins.settings(origin).ca_file is None

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


class TestClient:
    """What is before the proxy."""

    def test_its_files(self, tmp_path: Path) -> None:
        """It signs with the CA that clients trust."""
        config = load({"REGPROXY_LISTEN": "[::]:3128", "REGPROXY_DEBUG_LISTEN": ":8081"})
        files = CaFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
        ca_files.ensure_files(files, time.time(), Scope.of_certificate(a_ca()))
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


class TestPassword:
    """The pages' password."""

    def test_it_is_made_once(self, tmp_path: Path) -> None:
        config = load({})
        password, path = mitmweb.page_password(config, tmp_path / "state/debug.password")
        assert len(password) >= 24
        assert path.read_text() == password + "\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert mitmweb.page_password(config, path) == (password, path)

    @pytest.mark.parametrize(
        ("text", "says"), [("", "8 characters"), ("short\n", "8 characters"), (None, "read")]
    )
    def test_a_file_of_no_use(
        self, text: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "password"
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=f"REGPROXY_DEBUG_PASSWORD_FILE=.*{says}"):
            mitmweb.page_password(named(path), tmp_path / "own")
        monkeypatch.setattr(mitmweb, "program", lambda: "/usr/bin/mitmweb")
        with pytest.raises(ConfigError, match="REGPROXY_DEBUG_PASSWORD_FILE"):
            mitmweb.check(load({"REGPROXY_DEBUG_PASSWORD_FILE": str(path), "DEBUG_HUB": "true"}))

    def test_a_file_that_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "password"
        path.write_text("from a secret\nsecond line")
        assert mitmweb.page_password(named(path), tmp_path / "cache/own") == ("from a secret", path)
        assert not (tmp_path / "cache").exists()


def named(path: Path) -> Config:
    return load({"REGPROXY_DEBUG_PASSWORD_FILE": str(path)})


def a_ca() -> x509.Certificate:
    return x509.load_pem_x509_certificate(make_ca(time.time())[0])


def told(directory: Path) -> tuple[dict[str, object], dict[str, object]]:
    """What mitmproxy and the addon are told."""
    config, addon = (json.loads((directory / name).read_text()) for name in ("config.yaml", "addon.json"))
    return config, addon
