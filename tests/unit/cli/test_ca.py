"""`regproxy ca`: what it shows, and what it says where something is wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regproxy.cli.main import app
from regproxy.tls.ca_files import CaFiles, load
from regproxy.tls.name_constraints import SigningScope
from tests.support.authorities import openssl

HUB = frozenset({"auth.docker.io", "index.docker.io", "registry-1.docker.io"})
NAMES = HUB | {"dhi.io", "docker.caching.proxy.internal", "reg.example"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CA directory that the environment names."""
    monkeypatch.setenv("REGPROXY_CA_DIR", str(tmp_path / "ca"))
    monkeypatch.setenv("REGISTRIES", "reg.example")
    return tmp_path / "ca"


@pytest.fixture
def files(place: Path) -> CaFiles:
    files = CaFiles(place / "ca.crt", place / "ca.key")
    load(files, time.time(), make=SigningScope(NAMES, frozenset()))
    return files


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["ca", *words])
    return done.exit_code, done.stdout, done.stderr


def test_show(files: CaFiles) -> None:
    code, out, err = run("show")
    assert (code, err) == (0, "")
    assert "CN=regproxy CA " in out and "EC secp256r1, not encrypted" in out
    code, out, _ = run("show", "--json")
    (shown,) = json.loads(out)["cas"]
    printed = openssl("x509", "-in", files.crt, "-noout", "-fingerprint", "-sha256")
    assert printed.strip().endswith(shown["sha256"])
    assert (shown["names"], shown["limited"], shown["role"]) == (sorted(NAMES), True, "signs")
    assert (shown["key"], shown["key_encrypted"], shown["key_file"]) == (
        "EC secp256r1",
        False,
        str(files.key),
    )


def test_what_is_lacking(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRIES", "reg.example new.example reg.*")
    code, _, err = run("show")
    assert (code, err) == (1, "warning: the newest CA may not sign new.example reg.*\n")
    assert json.loads(run("show", "--json")[1])["lacking"] == ["new.example", "reg.*"]
    code, _, err = run("rotate")
    assert (code, "note: reg.* can't be said by a name constraint" in err) == (0, True)


def test_rotate_and_finish(files: CaFiles) -> None:
    code, out, err = run("rotate")
    assert (code, out.count("CN=regproxy CA ")) == (0, 2)
    assert "Then run `regproxy ca rotate --finish`" in err
    assert run("show")[0] == 0
    code, out, _ = run("rotate", "--finish", "--json")
    (shown,) = json.loads(out)["cas"]
    assert (code, shown["links"], "auth.docker.io" in shown["names"]) == (0, 1, True)
    assert run("rotate", "--finish")[0] == 2


def test_names_that_would_be_lost(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRIES")
    code, out, err = run("rotate")
    assert (code, out, "would not sign reg.example" in err, "REGISTRIES" in err) == (2, "", True, True)
    assert run("rotate", "--drop-names")[0] == 0
    code, out, err = run("rotate", "--finish")
    assert (code, out, "may not sign reg.example" in err) == (2, "", True)
    monkeypatch.setenv("REGISTRIES", "reg.example")
    code, _, err = run("rotate", "--finish", "--drop-names")
    assert (code, err) == (0, "warning: the CA may not sign reg.example: a reload makes one that may\n")


def test_encrypt(files: CaFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("encrypt")[0] == 2
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame")
    monkeypatch.setenv("REGPROXY_CA_PASSPHRASE_FILE", str(phrase))
    assert run("encrypt") == (0, f"{files.key} is encrypted\n", "")
    assert json.loads(run("show", "--json")[1])["cas"][0]["key_encrypted"]
    assert b"ENCRYPTED" in files.key.read_bytes()


def test_export(files: CaFiles, tmp_path: Path) -> None:
    assert run("export") == (0, files.crt.read_text(), "")
    run("rotate")
    code, out, _ = run("export", "--json")
    assert (code, len(json.loads(out)["certificates"])) == (0, 2)
    target = tmp_path / "out.pem"
    assert run("export", "--newest", "--output", str(target)) == (0, "", "")
    assert target.read_text() == json.loads(out)["certificates"][0] != files.crt.read_text()
    code, _, err = run("export", "--output", str(tmp_path / "no" / "out.pem"))
    assert (code, "No such file or directory" in err) == (2, True)


@pytest.mark.parametrize(
    "words", [["show"], ["rotate"], ["rotate", "--finish"], ["encrypt"], ["export"]], ids=str
)
def test_no_ca(words: list[str], place: Path) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("regproxy: ")
    assert not place.exists()


def test_a_configuration_of_no_use(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGPROXY_CA_NAMES", "reg.*")
    code, _, err = run("show")
    assert (code, "a name, an address, or a mask such as *.example.com, without a port" in err) == (2, True)
