"""Every file that a setting names: not there, something else than a file, too large, wrong, right."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from regproxy.config.faults import ConfigErrors
from regproxy.config.origin_tables import KEYS as ORIGIN_KEYS
from regproxy.config.settings import SETTINGS, Config
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from regproxy.process.configured_files import check, check_all, doubtful
from regproxy.tls.x509 import make_ca

D = "sha256:" + "0" * 64
FILE_SETTING = next(setting.parse for setting in SETTINGS if setting.name == "REGPROXY_HTPASSWD")
ORIGIN = '[origin."reg.test"'
LOGIN = f"{ORIGIN}.credentials]\n"


@cache
def pair() -> tuple[bytes, bytes]:
    """A certificate that may be anybody's, and its key."""
    return make_ca(time.time())


@cache
def public_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def users() -> bytes:
    return b"alice:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `env`, `toml`: what names `{path}`; `{cert}`, `{key}`: a pair that is right.

    `told`: the setting as errors name it. `wrong`: contents, and what is said of them. `later`: the file may
    come after the start.
    """

    told: str
    right: Callable[[], bytes]
    wrong: tuple[tuple[bytes, str], ...]
    env: tuple[tuple[str, str], ...] = ()
    toml: str = ""
    most: int = 1 << 20
    later: bool = False

    def config(self, path: Path) -> Config:
        (path.parent / "cert").write_bytes(pair()[0])
        (path.parent / "key").write_bytes(pair()[1])
        places = {"path": path, "cert": path.parent / "cert", "key": path.parent / "key"}
        env = {"REGPROXY_CA_DIR": str(path.parent / "ca")}
        return load(
            env | {name: text.format(**places) for name, text in self.env}, self.toml.format(**places)
        )

    def faults(self, path: Path) -> list[str]:
        return told_by(lambda: check_all(self.config(path), {}))

    def faults_at_the_start(self, path: Path) -> list[str]:
        return told_by(lambda: check(self.config(path)))


def told_by(run: Callable[[], None]) -> list[str]:
    try:
        run()
    except ConfigErrors as errors:
        return list(map(str, errors.errors))
    except ConfigError as error:
        return [str(error)]
    return []


NO_PAIR = "a certificate in PEM with the key in "
TOKEN_FAULT = "not a token: one line, 20 to 4096 characters of A-Z a-z 0-9 - . _ ~ + /"
NO_TOKENS = ((b"short", TOKEN_FAULT), (b"a token of four words, say", TOKEN_FAULT), (b"\xff", "not UTF-8"))
ROWS = [
    *(
        Row(*(name, lambda: b"0123456789abcdef0123456789abcdef\n", NO_TOKENS, ((name, "{path}"),)), most=4098)
        for name in ("REGPROXY_ADMIN_TOKEN_FILE", "REGPROXY_ADMIN_READ_TOKEN_FILE")
    ),
    Row(
        "REGPROXY_HTPASSWD",
        users,
        ((b"alice:{SHA}x", "not usable in line 1: the password is kept as SHA-1"), (b"\xff", "not UTF-8")),
        (("REGPROXY_HTPASSWD", "{path}"),),
    ),
    Row(
        "REGPROXY_CLIENT_CA_FILE",
        lambda: pair()[0],
        ((b"", "CA certificates in PEM, and maybe CRLs: no CA"), (b"text", "no CA certificate in the PEM")),
        (("REGPROXY_CLIENT_CA_FILE", "{path}"), ("REGPROXY_TLS_LISTEN", "127.0.0.1:9")),
    ),
    Row(
        "REGPROXY_TLS_CERT_FILE",
        lambda: pair()[0],
        ((b"text", NO_PAIR),),
        (
            *(("REGPROXY_TLS_CERT_FILE", "{path}"), ("REGPROXY_TLS_KEY_FILE", "{key}")),
            ("REGPROXY_TLS_LISTEN", "127.0.0.1:9"),
        ),
    ),
    Row(
        "REGPROXY_TLS_KEY_FILE",
        lambda: pair()[1],
        (),
        (
            *(("REGPROXY_TLS_CERT_FILE", "{cert}"), ("REGPROXY_TLS_KEY_FILE", "{path}")),
            ("REGPROXY_TLS_LISTEN", "127.0.0.1:9"),
        ),
    ),
    Row(
        "REGPROXY_UPSTREAM_CA_FILE",
        lambda: pair()[0],
        ((b"text", "not a file of CA certificates in PEM: "),),
        (("REGPROXY_UPSTREAM_CA_FILE", "{path}"),),
    ),
    Row(
        'origin."reg.test".ca_file',
        lambda: pair()[0],
        ((b"", "not a file of CA certificates in PEM: "),),
        toml=f"{ORIGIN}]\nca_file = '{{path}}'",
    ),
    Row(
        'origin."reg.test".client_cert_file',
        lambda: b"".join(pair()),
        ((b"text", f"{NO_PAIR}"),),
        toml=f"{ORIGIN}]\nclient_cert_file = '{{path}}'\nclient_key_file = '{{key}}'",
    ),
    Row(
        'origin."reg.test".client_key_file',
        lambda: pair()[1],
        (),
        toml=f"{ORIGIN}]\nclient_cert_file = '{{cert}}'\nclient_key_file = '{{path}}'",
    ),
    Row(
        "key.release.file",
        public_key,
        ((b"text", "a public key in PEM, as in cosign.pub"), (b"", "a public key in PEM, as in cosign.pub")),
        toml="[key.release]\nfile = '{path}'",
        most=65_536,
    ),
    Row(
        "rule 'scanned': verdict",
        lambda: f"{D} deny CVE-1\n* allow # all others\n".encode(),
        (
            (b"* allow\nwhat\n", "line 2: a digest or *, then allow, deny or pending"),
            (b"* perhaps\n", "line 1: a digest or *"),
            (D.upper().encode() + b" deny\n* allow", "line 1: a digest or *"),
        ),
        toml="[[rule]]\nname = 'scanned'\nverdict = '{path}'\naction = 'deny'",
        most=16 << 20,
    ),
    Row(
        "REGPROXY_DOCKER_CONFIG",
        lambda: b'{"auths": {}}',
        ((b"", "not a docker config.json, a JSON object"), (b"[]", "not a docker config.json")),
        (("REGPROXY_DOCKER_CONFIG", "{path}"),),
        later=True,
    ),
    *(
        Row(f'origin."reg.test".credentials.{key}', lambda: b"words\n", wrong, (), LOGIN + toml, later=True)
        for key, toml, wrong in (
            (
                "password_file",
                "username = 'u'\npassword_file = '{path}'",
                ((b"\n", "not a text: the file, "),),
            ),
            ("username_file", "username_file = '{path}'\npassword_file = '{key}'", ()),
            (
                "token_file",
                "token_file = '{path}'",
                ((b"a\nb", "not a token in one line"), (b"\xff", "UTF-8")),
            ),
            ("identity_token_file", "identity_token_file = '{path}'", ((b"", "not a text: the file, "),)),
        )
    ),
    Row(
        'origin."reg.test".credentials.docker_config',
        lambda: b"{}",
        ((b"{", "not a docker config.json"),),
        toml=f"{LOGIN}docker_config = '{{path}}'",
        later=True,
    ),
]
IDS = [row.told for row in ROWS]


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 36)


OTHERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", lambda path: None, "No such file or directory"),
    ("directory", Path.mkdir, "Is a directory"),
    ("pipe", os.mkfifo, "not a file, but a pipe or a device"),
    ("large", large, "more than {most} bytes"),
]


@pytest.mark.parametrize("make, why", [other[1:] for other in OTHERS], ids=[other[0] for other in OTHERS])
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_what_can_not_be_read(row: Row, make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    """None is waited for; its setting is named; a start is refused, but for logins, which may still come."""
    path = tmp_path / "it"
    make(path)
    (fault,) = row.faults(path)
    assert fault.startswith(f"{row.told}={str(path)!r}: ")
    assert why.format(most=row.most) in fault
    assert row.faults_at_the_start(path) == ([] if row.later else [fault])
    assert list(map(str, doubtful(row.config(path)))) == ([fault] if row.later else [])


@pytest.mark.parametrize(
    "row, text, why",
    [(row, *wrong) for row in ROWS for wrong in row.wrong],
    ids=[f"{row.told}-{number}" for row in ROWS for number in range(len(row.wrong))],
)
def test_what_is_wrong_in_it(row: Row, text: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(text)
    (fault,) = row.faults(path)
    assert fault.startswith(f"{row.told}={str(path)!r}: ") and why in fault
    assert row.faults_at_the_start(path) == ([] if row.later else [fault])


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_what_is_right(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(row.right())
    before = sorted(tmp_path.iterdir())
    assert row.faults(path) == []
    assert sorted({*before, tmp_path / "cert", tmp_path / "key"}) == sorted(tmp_path.iterdir())


def test_no_setting_is_left_out() -> None:
    """What is a path or a log by its parser, or by its key in a table, is in some test of this file."""
    elsewhere = {"REGPROXY_CACHE_DIR", "REGPROXY_CA_DIR", "CA_KEY_FILE", "CA_CRT_FILE"}
    elsewhere |= {"REGPROXY_CA_PASSPHRASE_FILE", "REGPROXY_ACCESS_LOG", "REGPROXY_AUDIT_LOG"}
    elsewhere.add("REGPROXY_DEBUG_PASSWORD_FILE")  # tests/unit/debug
    named = {
        setting.name
        for setting in SETTINGS
        if setting.parse is FILE_SETTING or setting.name.endswith("_LOG") or setting.name.endswith("_DIR")
    }
    assert named - elsewhere == {row.told for row in ROWS if row.env}
    keys = {f'origin."reg.test".{key}' for key in ORIGIN_KEYS if key.endswith("_file")}
    assert keys <= {row.told for row in ROWS}


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(make_ca(time.time())[1])
    for row in ROWS:
        if row.told in ("REGPROXY_TLS_KEY_FILE", 'origin."reg.test".client_key_file'):
            (fault,) = row.faults(path)
            assert f"{NO_PAIR}{path}: " in fault


def test_all_faults_are_told_once_each(tmp_path: Path) -> None:
    none = tmp_path / "none"
    toml = f"""
        [origin."a.test"]
        ca_file = "{none}.a"
        client_cert_file = "{none}"
        client_key_file = "{none}.key"
        [origin."b.test"]
        client_cert_file = "{none}.b"
        [origin."b.test".credentials]
        username_file = "{none}"
        password_file = "{none}"
        [key.one]
        file = "{none}"
        [key.two]
        file = "{none}"
        [[rule]]
        name = "r"
        verdict = "{none}"
        action = "deny"
        [[rule]]
        name = "again"
        verdict = "{none}"
        action = "deny"
    """
    env = dict.fromkeys(
        ("REGPROXY_HTPASSWD", "REGPROXY_CLIENT_CA_FILE", "REGPROXY_UPSTREAM_CA_FILE"), str(none)
    )
    env |= {"REGPROXY_TLS_CERT_FILE": str(none), "REGPROXY_TLS_KEY_FILE": str(none)}
    env |= {"REGPROXY_TLS_LISTEN": "127.0.0.1:9", "REGPROXY_CA_PASSPHRASE_FILE": str(none)}
    env |= {"REGPROXY_AUDIT_LOG": f"{none}/log", "REGPROXY_ACCESS_LOG": f"{none}/log"}
    env |= {"REGPROXY_CACHE_DIR": "/dev/null/cache", "REGPROXY_CA_DIR": str(tmp_path)}
    told = [fault.partition("=")[0] for fault in told_by(lambda: check_all(load(env, toml), {}))]
    assert told == [
        *("REGPROXY_HTPASSWD", "REGPROXY_CLIENT_CA_FILE", "REGPROXY_TLS_CERT_FILE", "REGPROXY_TLS_KEY_FILE"),
        *("REGPROXY_UPSTREAM_CA_FILE", 'origin."a.test".ca_file', 'origin."a.test".client_cert_file'),
        *('origin."a.test".client_key_file', 'origin."b.test".client_cert_file'),
        *('origin."b.test".client_key_file', "key.one.file", "key.two.file", "rule 'r': verdict"),
        *("REGPROXY_ACCESS_LOG", "REGPROXY_AUDIT_LOG"),
        *('origin."b.test".credentials.password_file', 'origin."b.test".credentials.username_file'),
        *("REGPROXY_CACHE_DIR", "REGPROXY_CA_PASSPHRASE_FILE"),
    ]


# --- the CA's, and directories ---------------------------------------------------------------------------

SECRET = b"correct horse"
CA_ROWS: list[tuple[str, dict[str, bytes | None], str, str]] = [
    ("none", {}, "", ""),
    ("both", {"ca.crt": None, "ca.key": None}, "", ""),
    ("no key", {"ca.crt": None}, "CA_CRT_FILE, CA_KEY_FILE", "ca.key: missing, while "),
    ("no certificate", {"ca.key": None}, "CA_CRT_FILE, CA_KEY_FILE", "ca.crt: missing, while "),
    (
        "wrong",
        {"ca.crt": b"text", "ca.key": None},
        "CA_CRT_FILE, CA_KEY_FILE",
        "ca.crt: not a certificate in",
    ),
    (
        "another's",
        {"ca.crt": None, "ca.key": b""},
        "CA_CRT_FILE, CA_KEY_FILE",
        "ca.key: not a private key in",
    ),
    ("empty secret", {"secret": b"\n"}, "REGPROXY_CA_PASSPHRASE_FILE", "its first line is empty"),
    ("right secret", {"secret": SECRET}, "", ""),
]


@pytest.mark.parametrize("files, told, why", [row[1:] for row in CA_ROWS], ids=[row[0] for row in CA_ROWS])
def test_the_ca(files: dict[str, bytes | None], told: str, why: str, tmp_path: Path) -> None:
    right = {"ca.crt": pair()[0], "ca.key": pair()[1]}
    for name, text in files.items():
        (tmp_path / name).write_bytes(right[name] if text is None else text)
    env = {"CA_CRT_FILE": str(tmp_path / "ca.crt"), "CA_KEY_FILE": str(tmp_path / "ca.key")}
    if "secret" in files:
        env["REGPROXY_CA_PASSPHRASE_FILE"] = str(tmp_path / "secret")
    faults = told_by(lambda: check_all(load(env), {}))
    assert [fault.partition("=")[0].partition(":")[0] for fault in faults] == ([told] if told else [])
    assert all(why in fault and SECRET.decode() not in fault for fault in faults)
    assert {path.name for path in tmp_path.iterdir()} == set(files)  # none was made


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "secret"])
@pytest.mark.parametrize("make, why", [other[1:] for other in OTHERS], ids=[other[0] for other in OTHERS])
def test_a_file_of_the_ca_that_can_not_be_read(
    name: str, make: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    for each, text in zip(("ca.crt", "ca.key", "secret"), (*pair(), SECRET), strict=True):
        if each == name:
            make(tmp_path / each)
        else:
            (tmp_path / each).write_bytes(text)
    env = {"REGPROXY_CA_DIR": str(tmp_path), "REGPROXY_CA_PASSPHRASE_FILE": str(tmp_path / "secret")}
    (fault,) = told_by(lambda: check_all(load(env), {}))
    assert fault.startswith("REGPROXY_CA_PASSPHRASE_FILE" if name == "secret" else "REGPROXY_CA_DIR: ")
    missing = name != "secret" and why.startswith("No such")
    assert (f"{name}: missing, while" if missing else why.format(most=1 << 20)) in fault


def test_traces(tmp_path: Path) -> None:
    """A worker would not start with it: `check-config` knows."""
    config = load({"REGPROXY_CA_DIR": str(tmp_path), "REGPROXY_CACHE_DIR": str(tmp_path)})
    told = told_by(lambda: check_all(config, {"OTEL_TRACES_EXPORTER": "jaeger"}))
    assert told == ["OTEL_TRACES_EXPORTER='jaeger': otlp or none"]


DIRECTORIES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("missing", lambda path: None, "a/b/c", ""),
    ("there", Path.mkdir, "", ""),
    ("file", Path.touch, "", "{path} is no directory"),
    ("below a file", Path.touch, "a/b", "{path} is no directory"),
    ("pipe", os.mkfifo, "a", "{path} is no directory"),
    ("read-only", Path.mkdir, "a/b", "{path} is not writable by uid"),
]


@pytest.mark.parametrize("variable", ["REGPROXY_CACHE_DIR", "REGPROXY_CA_DIR"])
@pytest.mark.parametrize(
    "make, rest, why", [row[1:] for row in DIRECTORIES], ids=[row[0] for row in DIRECTORIES]
)
def test_directories(
    variable: str,
    make: Callable[[Path], object],
    rest: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that a start would make are fine, and are not made."""
    path = tmp_path / "it"
    make(path)
    if "writable" in why:
        # root may write anywhere, whatever the mode says
        monkeypatch.setattr(os, "access", lambda place, mode: place != path)
    named = path / rest
    faults = told_by(lambda: check_all(load({"REGPROXY_CA_DIR": str(tmp_path), variable: str(named)}), {}))
    begin = f"{variable}={str(named)!r}: a directory that this user can make and write: "
    assert len(faults) == bool(why)
    assert all(fault.startswith(begin + why.format(path=path)) for fault in faults)
    assert not (path / "a").exists()


@pytest.mark.parametrize("variable", ["REGPROXY_ACCESS_LOG", "REGPROXY_AUDIT_LOG"])
def test_logs(variable: str, tmp_path: Path) -> None:
    env = {"REGPROXY_CA_DIR": str(tmp_path)}
    for where in ("-", "off", str(tmp_path / "log")):
        check_all(load(env | {variable: where}), {})
    (fault,) = told_by(lambda: check_all(load(env | {variable: str(tmp_path)}), {}))
    assert fault.startswith(f"{variable}={str(tmp_path)!r}: can't be written: Is a directory; a path in ")
    assert list(tmp_path.iterdir()) == []
