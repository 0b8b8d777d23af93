"""Where logins come from: settings, files that change, Docker's config.json, helpers that are run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from regproxy.auth.credential_helpers import FAILED_SECONDS, KEPT_SECONDS, Helpers
from regproxy.auth.credential_providers import FromDockerConfig, FromFiles, Pairs, Wallet
from regproxy.auth.docker_config import DockerConfig, parse_docker_config, parse_helper_answer
from regproxy.auth.secret_files import LOOK_SECONDS
from regproxy.config.credentials import (
    CredentialSource,
    DockerConfigFile,
    Files,
    Helper,
    Login,
    Pair,
    TokenFile,
    parse_credentials_table,
)
from regproxy.config.values.login_entries import Credential
from regproxy.core.errors import CredentialError
from tests.support.login_helpers import Clock, script

SECRET = "s3cr3t"


# --- tables -----------------------------------------------------------------------------------------------

TABLES = [
    ({"username": "u", "password": SECRET}, Pair(Login("u", SECRET))),
    ({"username_file": "/u", "password_file": "/p"}, Files("", "/u", "/p")),
    ({"username": "u", "password_file": "/p"}, Files("u", "", "/p")),
    ({"token_file": "/t"}, TokenFile("/t", "bearer")),
    ({"identity_token_file": "/t"}, TokenFile("/t", "identity")),
    ({"docker_config": "/c.json"}, DockerConfigFile("/c.json")),
    ({"helper": "ecr-login"}, Helper(("docker-credential-ecr-login", "get"))),
    ({"helper": "docker-credential-gcr", "timeout": "3s"}, Helper(("docker-credential-gcr", "get"), "", 3.0)),
    ({"helper": "/opt/helper", "server": "x"}, Helper(("/opt/helper", "get"), "x")),
    ({"exec": ["get-login", "-q"], "timeout": 5}, Helper(("get-login", "-q"), "", 5.0)),
]


@pytest.mark.parametrize("table, want", TABLES)
def test_table(table: dict[str, object], want: object) -> None:
    assert parse_credentials_table(table) == CredentialSource(want)  # type: ignore[arg-type]


def test_token_server() -> None:
    table = {"username": "u", "password": SECRET, "token_server": "Auth.example:5001"}
    assert parse_credentials_table(table).token_server == ("auth.example", 5001)


BAD_TABLES = [
    ({}, "exactly one of"),
    ([SECRET], "a table with exactly one of"),
    ({"username": "u"}, "exactly one of"),
    ({"password": SECRET}, "exactly one of"),
    ({"username_file": "/u", "password": SECRET}, "exactly one of"),
    ({"username": "u", "username_file": "/u", "password": SECRET}, "exactly one of"),
    ({"username": "u", "password": SECRET, "helper": "x"}, "exactly one of"),
    ({"helper": "x", "exec": ["x"]}, "exactly one of"),
    ({"pasword": SECRET}, "no key 'pasword'; did you mean password?"),
    ({"username": "u", "password": 5}, "password as a text that is not empty"),
    ({"username": "u", "password": ""}, "password as a text that is not empty"),
    ({"username": f"{SECRET}:x", "password": SECRET}, "without a colon"),
    ({"exec": "get-login"}, "exec as a list"),
    ({"exec": []}, "exec as a list"),
    ({"exec": ["x", 1]}, "exec as a list"),
    ({"helper": "x", "timeout": "0"}, "timeout as a time above 0"),
    ({"helper": "x", "timeout": True}, "timeout as a time above 0"),
    ({"token_file": "/t", "timeout": "1s"}, "timeout only beside helper or exec"),
    ({"token_file": "/t", "token_server": "https://a"}, "token_server as"),
]


@pytest.mark.parametrize("table, want", BAD_TABLES)
def test_bad_table(table: object, want: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_credentials_table(table)
    assert want in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    for table, _ in TABLES:
        assert SECRET not in repr(parse_credentials_table(table))
    assert SECRET not in repr(parse_credentials_table({"exec": ["x", SECRET]}))
    assert SECRET not in repr(parse_docker_config(json.dumps({"auths": {"a": {"identitytoken": SECRET}}})))


def test_label_is_short_and_printable() -> None:
    assert Login("a\nb" + "x" * 100, SECRET).label == "a?b" + "x" * 61
    assert Login("", SECRET, "identity").label == "token"


# --- Docker's config.json ---------------------------------------------------------------------------------


def auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


CONFIG = parse_docker_config(
    json.dumps(
        {
            "auths": {
                "https://index.docker.io/v1/": {"auth": auth("hub", SECRET)},
                "reg.example": {"auth": auth("any", "a:b")},
                "https://reg.example:5000/v2/": {"username": "p", "password": SECRET},
                "id.example": {"auth": auth("<token>", ""), "identitytoken": SECRET},
                "raw.example": {"registrytoken": SECRET},
                "quay.io/team": {"auth": auth("team", SECRET)},
                "empty.example": {},
                "odd.example": {"auth": "###"},
                "odder.example": 5,
                "half.example": {"username": "u", "password": "\ud800"},
                "lines.example": {"registrytoken": "a\r\nb: c"},
            },
            "credHelpers": {"ecr.example": "ecr-login", "evil.example": "../evil"},
        }
    )
)
LOGINS = [
    ("registry-1.docker.io", 443, Login("hub", SECRET)),
    ("auth.docker.io", 443, Login("hub", SECRET)),
    ("docker.io.example", 443, None),
    ("reg.example", 443, Login("any", "a:b")),
    ("reg.example", 5000, Login("p", SECRET)),
    ("reg.example", 5001, None),
    ("id.example", 443, Login("<token>", SECRET, "identity")),
    ("raw.example", 443, Login("", SECRET, "bearer")),
    ("quay.io", 443, None),
    ("empty.example", 443, None),
    ("odd.example", 443, None),
    ("odder.example", 443, None),
    ("half.example", 443, None),
    ("lines.example", 443, None),
]


@pytest.mark.parametrize("host, port, want", LOGINS)
def test_docker_config(host: str, port: int, want: Login | None) -> None:
    assert CONFIG.login(host, port) == want


def test_docker_config_helpers() -> None:
    assert CONFIG.helper("ecr.example", 443) == "ecr-login"
    assert CONFIG.helper("evil.example", 443) == ""
    assert parse_docker_config('{"credsStore": "pass"}').helper("any.example", 443) == "pass"
    assert parse_docker_config('{"auths": [], "credHelpers": 5, "credsStore": {}}') == DockerConfig()


@pytest.mark.parametrize("text", ["", "[]", f'"{SECRET}', "{" * 100_000])
def test_bad_docker_config(text: str) -> None:
    with pytest.raises(ValueError, match="JSON object") as caught:
        parse_docker_config(text)
    assert SECRET not in str(caught.value)


def test_helper_answers() -> None:
    assert parse_helper_answer(b'{"ServerURL":"x","Username":"AWS","Secret":"s"}') == Login("AWS", "s")
    assert parse_helper_answer(b'{"Username":"<token>","Secret":"s"}') == Login("", "s", "identity")
    assert parse_helper_answer(b'{"Username":"","Secret":""}') is None
    for body in (b"", b"[]", b"\xff", b'{"Username":5,"Secret":"s"}', b'{"Username":"u","Secret":"\\ud800"}'):
        with pytest.raises(ValueError):
            parse_helper_answer(body)


# --- files ------------------------------------------------------------------------------------------------


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    asyncio.run(files_change(tmp_path))


async def files_change(tmp_path: Path) -> None:
    clock = Clock()
    user, password = tmp_path / "user", tmp_path / "password"
    provider = FromFiles(Files("", str(user), str(password)), clock)
    with pytest.raises(CredentialError, match="No such file"):
        await provider.login("a", 443)
    user.write_text("u\n")
    password.write_text("one\r\n")
    with pytest.raises(CredentialError):
        await provider.login("a", 443)  # looked at a moment ago
    clock.now += LOOK_SECONDS
    assert await provider.login("a", 443) == Login("u", "one")
    password.write_text("two")
    assert await provider.login("a", 443) == Login("u", "one")
    provider.forget("a", 443)
    assert await provider.login("a", 443) == Login("u", "two")
    # What can't be used leaves what was there, and what is gone doesn't.
    password.write_text("")
    clock.now += LOOK_SECONDS
    assert await provider.login("a", 443) == Login("u", "two")
    password.unlink()
    clock.now += LOOK_SECONDS
    with pytest.raises(CredentialError, match=r"password: No such file"):
        await provider.login("a", 443)


def test_swapped_links_count(tmp_path: Path) -> None:
    asyncio.run(links_swapped(tmp_path))


async def links_swapped(tmp_path: Path) -> None:
    # As Kubernetes mounts secrets: file -> ..data/file, and ..data is renamed over.
    clock = Clock()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    data, link = tmp_path / "..data", tmp_path / "token"
    data.symlink_to("one")
    link.symlink_to("..data/token")
    provider = FromFiles(TokenFile(str(link), "bearer"), clock)
    assert await provider.login("a", 443) == Login("", "one", "bearer")
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(data)
    clock.now += LOOK_SECONDS
    assert await provider.login("a", 443) == Login("", "two", "bearer")


def test_a_token_of_two_lines_is_none(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a\nb: c")
    provider = FromFiles(TokenFile(str(tmp_path / "token"), "bearer"), Clock())
    with pytest.raises(CredentialError, match="not a token in one line"):
        asyncio.run(provider.login("a", 443))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    provider = FromFiles(TokenFile(str(tmp_path / "pipe"), "bearer"), Clock())
    with pytest.raises(CredentialError, match="not a file"):
        asyncio.run(provider.login("a", 443))


def runs(path: Path) -> list[str]:
    log = Path(f"{path}.log")
    return log.read_text().splitlines() if log.exists() else []


ANSWER = "print(json.dumps({'ServerURL': server, 'Username': 'AWS', 'Secret': 's3cr3t'}))\n"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_helper_is_asked_once_for_a_while(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    run(helper_once(tmp_path))


async def helper_once(tmp_path: Path) -> None:
    clock = Clock()
    helpers = Helpers(clock)
    program = script(tmp_path / "docker-credential-x", ANSWER)
    helper = Helper((str(program), "get"))
    found = await asyncio.gather(*(helpers.login(helper, "reg.example") for _ in range(20)))
    assert found == [Login("AWS", SECRET)] * 20
    assert runs(program) == ["reg.example get"]
    await helpers.login(helper, "other.example")
    helpers.forget(helper, "reg.example")
    await helpers.login(helper, "reg.example")
    clock.now += KEPT_SECONDS
    await helpers.login(helper, "reg.example")
    assert runs(program) == ["reg.example get", "other.example get", "reg.example get", "reg.example get"]


FAILURES = [
    (f"print({SECRET!r}); sys.exit(1)", "failed for reg.example (status 1)"),
    (f"print({SECRET!r})", "does not print a JSON object"),
    ("print('x' * 100_000, flush=True); time.sleep(60)", "prints more than 65536 bytes"),
    ("time.sleep(60)", "gave no answer within"),
    # What it has started goes with it.
    ("os.fork(); time.sleep(60)", "gave no answer within"),
    ("os.kill(os.getpid(), 9)", "(status -9)"),
]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("text, want", FAILURES)
def test_helpers_that_fail(
    tmp_path: Path, text: str, want: str, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    program = script(tmp_path / "docker-credential-x", text)
    seconds = 0.5 if "within" in want else 20.0
    with pytest.raises(CredentialError) as caught:
        run(Helpers(Clock()).login(Helper((str(program), "get"), "", seconds), "reg.example"))
    assert want in str(caught.value)
    assert SECRET not in str(caught.value)


def test_helpers_that_cannot_be_run(tmp_path: Path) -> None:
    for name, want in (("none", "No such file"), ("plain", "Permission denied"), ("a\0b", "not a command")):
        (tmp_path / "plain").write_text("")
        with pytest.raises(CredentialError, match=want):
            asyncio.run(Helpers(Clock()).login(Helper((str(tmp_path / name),)), "x"))


def test_a_helper_that_reads_nothing(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text('#!/bin/sh\nexec <&-\necho \'{"Username":"u","Secret":"s"}\'\n')
    program.chmod(0o700)
    assert asyncio.run(Helpers(Clock()).login(Helper((str(program),)), "x")) == Login("u", "s")


def test_a_helper_without_a_login(tmp_path: Path) -> None:
    program = script(tmp_path / "x", "print('credentials not found in native keychain'); sys.exit(1)")
    assert asyncio.run(Helpers(Clock()).login(Helper((str(program), "get")), "x")) is None


def test_a_failing_helper_rests_and_the_last_login_stays(tmp_path: Path) -> None:
    asyncio.run(helper_rests(tmp_path))


async def helper_rests(tmp_path: Path) -> None:
    clock = Clock()
    helpers, program = Helpers(clock), script(tmp_path / "x", ANSWER)
    helper = Helper((str(program),))
    await helpers.login(helper, "r")
    script(program, "sys.exit(1)")
    clock.now += KEPT_SECONDS
    for _ in range(3):
        assert await helpers.login(helper, "r") == Login("AWS", SECRET)
    assert len(runs(program)) == 2
    helpers.forget(helper, "r")
    with pytest.raises(CredentialError):
        await helpers.login(helper, "r")
    clock.now += FAILED_SECONDS
    script(program, ANSWER)
    assert await helpers.login(helper, "r") == Login("AWS", SECRET)


def test_passwords_of_others_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_REGISTRIES", f"a:b:{SECRET}")
    monkeypatch.setenv("AWS_PROFILE", "prod")
    text = (
        "user, ours = os.environ['AWS_PROFILE'], os.environ.get('AUTH_REGISTRIES', 'none')\n"
        "print(json.dumps({'Username': user, 'Secret': ours}))\n"
    )
    program = script(tmp_path / "x", text)
    assert asyncio.run(Helpers(Clock()).login(Helper((str(program),)), "x")) == Login("prod", "none")


def test_docker_config_and_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "docker-credential-x", ANSWER)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = tmp_path / "config.json"
    text = {"credHelpers": {"ecr.example": "x"}, "auths": {"reg.example": {"auth": auth("u", "p")}}}
    config.write_text(json.dumps(text))

    async def run() -> None:
        clock = Clock()
        provider = FromDockerConfig(str(config), Helpers(clock), clock)
        assert await provider.login("ecr.example", 443) == Login("AWS", SECRET)
        assert await provider.login("reg.example", 443) == Login("u", "p")
        assert await provider.login("none.example", 443) is None
        assert runs(program) == ["ecr.example get"]
        # Without the file nobody has a login, and nobody fails.
        config.unlink()
        clock.now += LOOK_SECONDS
        assert await provider.login("reg.example", 443) is None

    asyncio.run(run())


def test_docker_config_hub_and_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "docker-credential-x", ANSWER)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "config.json").write_text('{"credsStore": "x"}')

    async def run() -> None:
        clock = Clock()
        provider = FromDockerConfig(str(tmp_path / "config.json"), Helpers(clock), clock)
        assert await provider.login("registry-1.docker.io", 443) == Login("AWS", SECRET)
        # A store that fails is nobody's in particular.
        script(program, "sys.exit(1)")
        assert await provider.login("reg.example", 5000) is None
        assert runs(program) == ["https://index.docker.io/v1/ get", "reg.example:5000 get"]

    asyncio.run(run())


# --- the wallet -------------------------------------------------------------------------------------------


def logins(wallet: Wallet, host: str, port: int) -> list[Login]:
    async def ask() -> list[Login]:
        found = [await holder.provider.login(host, port) for holder in wallet.holders(host, port)]
        return [login for login in found if login is not None]

    return asyncio.run(ask())


def test_the_table_goes_before_auth_registries() -> None:
    pairs = (Credential("a.example", None, "any", "1"), Credential("a.example", 5000, "port", "2"))
    source = CredentialSource(Pair(Login("table", "3")))
    table: Callable[[str, int], CredentialSource | None] = lambda host, port: source if port == 443 else None  # noqa: E731
    wallet = Wallet(pairs, None, table, Clock())
    assert logins(wallet, "a.example", 443) == [Login("table", "3"), Login("any", "1")]
    assert logins(wallet, "a.example", 5000) == [Login("port", "2")]
    for other in ("b.a.example", "a.example.evil.test", "xa.example", "example", ""):
        assert logins(wallet, other, 5000) == []
    # Made once: what it remembers stays.
    assert wallet.holders("a.example", 443)[0] is wallet.holders("a.example", 443)[0]


@pytest.mark.parametrize(
    "host, port, user",
    [
        ("a.example", 443, "exact"),
        ("x.example", 443, "wide"),
        ("x.b.example", 443, "narrow"),
        ("x.b.example", 5000, "narrow-port"),
        ("b.example", 443, "wide"),
        ("example", 443, None),
        ("x.example.evil", 443, None),
    ],
)
def test_masks_of_auth_registries(host: str, port: int, user: str | None) -> None:
    """A host itself goes ahead of masks, of which the longest goes first."""
    pairs = Pairs(
        [
            Credential("*.example", None, "wide", "p"),
            Credential("*.b.example", None, "narrow", "p"),
            Credential("*.b.example", 5000, "narrow-port", "p"),
            Credential("a.example", None, "exact", "p"),
        ]
    )
    login = asyncio.run(pairs.login(host, port))
    assert (login and login.username) == user
