"""Where cache and CA go when nothing, or something impossible, is configured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regproxy.config import directories
from regproxy.config.sources.assembly import load
from regproxy.core.errors import StoreError


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(directories, "VOLUME_CACHE", str(tmp_path / "docker_mirror_cache"))
    monkeypatch.setattr(directories, "VOLUME_CA", str(tmp_path / "ca"))
    return tmp_path


def test_volumes_that_are_writable_are_taken(volumes: Path) -> None:
    (volumes / "docker_mirror_cache").mkdir()
    (volumes / "ca").mkdir()
    chosen = directories.choose(load({}), {"HOME": str(volumes / "home")})
    assert chosen.cache == volumes / "docker_mirror_cache"
    assert (chosen.ca_crt, chosen.ca_key) == (volumes / "ca" / "ca.crt", volumes / "ca" / "ca.key")
    assert all("writable" in note for note in chosen.notes)


@pytest.mark.parametrize(
    "env, cache, ca",
    [
        ({"HOME": "home"}, "home/.cache/regproxy", "home/.local/share/regproxy/ca"),
        ({"HOME": "home", "XDG_CACHE_HOME": "c", "XDG_DATA_HOME": "d"}, "c/regproxy", "d/regproxy/ca"),
    ],
)
def test_without_volumes_the_users_own(volumes: Path, env: dict[str, str], cache: str, ca: str) -> None:
    chosen = directories.choose(load({}), {name: str(volumes / value) for name, value in env.items()})
    assert chosen.cache == volumes / cache
    assert chosen.ca_crt == volumes / ca / "ca.crt"
    assert chosen.cache.is_dir() and chosen.ca_crt.parent.is_dir()
    assert all("does not exist" in note for note in chosen.notes)


def test_what_is_configured_wins(volumes: Path) -> None:
    env = {"REGPROXY_CACHE_DIR": str(volumes / "x"), "CA_CRT_FILE": "/k/crt", "CA_KEY_FILE": "/k/key"}
    chosen = directories.choose(load(env), {})
    assert (chosen.cache, str(chosen.ca_crt), str(chosen.ca_key)) == (volumes / "x", "/k/crt", "/k/key")
    assert "REGPROXY_CACHE_DIR" in chosen.notes[0]


def test_a_ca_that_is_there_need_not_be_writable(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (volumes / "ca").mkdir()
    for name in ("ca.crt", "ca.key"):
        (volumes / "ca" / name).touch()
    # root may write anywhere, whatever the mode says
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(volumes / "ca"))
    chosen = directories.choose(load({"REGPROXY_CACHE_DIR": str(volumes / "x")}), {})
    assert chosen.ca_crt == volumes / "ca" / "ca.crt"
    assert "read-only" in chosen.notes[1]


def test_the_volume_that_was_tried_first_is_named(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (volumes / "file").touch()
    volume = volumes / "docker_mirror_cache"
    volume.mkdir()
    # root may write anywhere, whatever the mode says
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(volume))
    with pytest.raises(StoreError) as caught:
        directories.choose(load({}), {"HOME": str(volumes / "file")})
    said = str(caught.value)
    assert said.startswith(f"{volume} is not writable, and in its place REGPROXY_CACHE_DIR: ")
    assert f"{volumes}/file/.cache/regproxy: Not a directory" in said


def test_a_directory_that_can_not_be_made_is_named(volumes: Path) -> None:
    (volumes / "file").touch()
    env = {"REGPROXY_CACHE_DIR": str(volumes / "file" / "cache")}
    with pytest.raises(StoreError, match=r"REGPROXY_CACHE_DIR: .*/file/cache: Not a directory"):
        directories.choose(load(env), {})
