"""Who asks Docker Hub through a debug view, where one is refused, and the password of its page."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from regproxy.config.settings import Config
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from regproxy.debug import views
from regproxy.debug.views import HubView
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins

HUB = Origin("https", "registry-1.docker.io", 443)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "program", lambda: "/usr/bin/mitmweb")


@pytest.mark.parametrize("name", ["DEBUG", "DEBUG_HUB"])
def test_without_mitmproxy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=rf"{name}='true': mitmproxy 12.1 or newer, .*regproxy\[debug\]"):
        views.check(load({name: "true"}))
    views.check(load({}))


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
        views.check(load(env, toml, "t.toml"))
    views.check(load({**env, "DEBUG": "false", "DEBUG_HUB": "true"}, toml, "t.toml"))


def test_a_reload_has_the_same_views() -> None:
    with pytest.raises(ConfigError, match="DEBUG_HUB='true': the same until the next start"):
        views.check_same(load({"DEBUG_HUB": "true"}), load({}))
    views.check_same(load({"DEBUG": "true"}), load({"DEBUG": "true", "ALLOW_PUSH": "true"}))


def test_whose_way_leads_to_docker_hub(tmp_path: Path) -> None:
    hub = HubView.make(tmp_path / "hub")
    toml = '[origin."registry-1.docker.io"]\nread_timeout = "7s"\n'
    origins = Origins(views.through(load({"REGPROXY_RESOLVE": "auth.docker.io=10.1.2.3"}, toml), hub))
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


class TestPassword:
    """The pages' password."""

    def test_it_is_made_once(self, tmp_path: Path) -> None:
        config = load({})
        password, path = views.page_password(config, tmp_path / "state/debug.password")
        assert len(password) >= 24
        assert path.read_text() == password + "\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert views.page_password(config, path) == (password, path)

    def test_both_views_have_the_same(self, tmp_path: Path) -> None:
        start, found = threading.Barrier(8), list[str]()

        def ask() -> None:
            start.wait()
            found.append(views.page_password(load({}), tmp_path / "state/debug.password")[0])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1

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
            views.page_password(named(path), tmp_path / "own")
        monkeypatch.setattr(views, "program", lambda: "/usr/bin/mitmweb")
        with pytest.raises(ConfigError, match="REGPROXY_DEBUG_PASSWORD_FILE"):
            views.check(load({"REGPROXY_DEBUG_PASSWORD_FILE": str(path), "DEBUG_HUB": "true"}))

    def test_a_file_that_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "password"
        path.write_text("from a secret\nsecond line")
        assert views.page_password(named(path), tmp_path / "cache/own") == ("from a secret", path)
        assert not (tmp_path / "cache").exists()


def test_no_login_shows(tmp_path: Path) -> None:
    hub = HubView.make(tmp_path / "hub")
    assert hub.login not in repr(hub)


def named(path: Path) -> Config:
    return load({"REGPROXY_DEBUG_PASSWORD_FILE": str(path)})
