"""Logins that clients show: verified on threads, remembered, slowed by address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from regproxy.auth.clients import htpasswd
from regproxy.auth.clients import logins as client_logins
from regproxy.auth.clients.logins import (
    ClientLogin,
    ClientLogins,
    LoginFailures,
    LoginsBusy,
    LoginsUnavailable,
    check_htpasswd,
)
from regproxy.config.settings import Config
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError

PEER = "192.0.2.1"


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"alice:{hashed('secret')}\nbob:{hashed('other')}\n")
    return path


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords were compared with."""
    found: list[str] = []
    real = htpasswd.matches

    def matches(hash_: str, password: str) -> bool:
        found.append(hash_)
        return real(hash_, password)

    monkeypatch.setattr(client_logins, "matches", matches)
    monkeypatch.setattr(client_logins, "FIRST_DELAY", 0.0)
    return found


def run(path: Path, test: Callable[[ClientLogins], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        logins = ClientLogins(str(path))
        try:
            await test(logins)
        finally:
            logins.close()

    asyncio.run(within())


def test_verdicts(users: Path, compared: list[str]) -> None:
    async def test(logins: ClientLogins) -> None:
        for login, want in [
            (ClientLogin("alice", "secret"), True),
            (ClientLogin("alice", "other"), False),
            (ClientLogin("bob", "other"), True),
            (ClientLogin("carol", "secret"), False),
            (ClientLogin("carol", "other"), False),
        ]:
            assert await logins.verify(login, PEER) is want

    run(users, test)
    # One comparison each, whether or not there is such a user.
    assert len(compared) == 5


def test_an_unknown_user_is_always_compared_with_the_same_hash(users: Path, compared: list[str]) -> None:
    async def test(logins: ClientLogins) -> None:
        for password in ("a", "b", "c"):
            assert not await logins.verify(ClientLogin("carol", password), PEER)

    run(users, test)
    assert len(set(compared)) == 1


def test_what_is_right_is_remembered_and_what_is_wrong_is_not(users: Path, compared: list[str]) -> None:
    async def test(logins: ClientLogins) -> None:
        for _ in range(3):
            assert await logins.verify(ClientLogin("alice", "secret"), PEER)
            assert not await logins.verify(ClientLogin("alice", "wrong"), PEER)

    run(users, test)
    assert len(compared) == 4


def test_equal_logins_at_once_are_compared_once(users: Path, compared: list[str]) -> None:
    async def test(logins: ClientLogins) -> None:
        count = client_logins.OF_ADDRESS_MAX * 4
        every = [logins.verify(ClientLogin("alice", "secret"), PEER) for _ in range(count)]
        assert await asyncio.gather(*every) == [True] * count

    run(users, test)
    assert len(compared) == 1


def test_a_changed_file_counts(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regproxy.auth.secret_files.LOOK_SECONDS", 0.0)

    async def test(logins: ClientLogins) -> None:
        assert await logins.verify(ClientLogin("alice", "secret"), PEER)
        users.write_text(f"alice:{hashed('new')}\n")
        assert not await logins.verify(ClientLogin("alice", "secret"), PEER)
        assert await logins.verify(ClientLogin("alice", "new"), PEER)
        users.write_text("# nobody\n")
        assert not await logins.verify(ClientLogin("alice", "new"), PEER)
        users.write_text("half")
        assert not await logins.verify(ClientLogin("alice", "new"), PEER)
        users.unlink()
        with pytest.raises(LoginsUnavailable, match="users: No such file"):
            await logins.verify(ClientLogin("alice", "new"), PEER)

    run(users, test)


def test_one_address_can_ask_for_so_many_at_once(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_logins, "matches", lambda *_: False)

    async def test(logins: ClientLogins) -> None:
        every = [logins.verify(ClientLogin("alice", f"{number}"), PEER) for number in range(20)]
        every += [logins.verify(ClientLogin("alice", "secret"), "192.0.2.2")]
        found = await asyncio.gather(*every, return_exceptions=True)
        assert sum(isinstance(one, LoginsBusy) for one in found) == 20 - client_logins.OF_ADDRESS_MAX
        assert found[-1] is False

    run(users, test)


def test_nobody_waits_whose_login_is_remembered(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def test(logins: ClientLogins) -> None:
        assert await logins.verify(ClientLogin("alice", "secret"), PEER)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        for number in range(12):
            assert not await logins.verify(ClientLogin("alice", f"{number}"), PEER)
        assert slept[0] == 0.0 and max(slept) == client_logins.LONGEST_DELAY
        slept.clear()
        assert await logins.verify(ClientLogin("alice", "secret"), PEER)
        assert slept == []
        # Nor is anybody shut out: the right login of another user there is taken after a wait.
        assert await logins.verify(ClientLogin("bob", "other"), PEER)
        assert slept == [client_logins.LONGEST_DELAY]
        slept.clear()
        assert await logins.verify(ClientLogin("bob", "other"), "192.0.2.2")
        assert not await logins.verify(ClientLogin("bob", "o"), "192.0.2.2")
        assert slept == [0.0]

    run(users, test)


def test_failures_are_forgotten() -> None:
    failures = LoginFailures(2)
    for _ in range(10):
        failures.note(PEER, 0.0)
    assert failures.delay(PEER, 0.0) == 4.0
    assert failures.delay(PEER, 3 * client_logins.HALF_LIFE) == 0.0
    assert failures.delay("192.0.2.2", 0.0) == 0.0
    for number in range(2, 5):
        failures.note(f"192.0.2.{number}", 0.0)
    assert failures.delay(PEER, 0.0) == 0.0  # no more than two are remembered


def test_nothing_of_a_login_is_logged(
    users: Path, compared: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(logins: ClientLogins) -> None:
        assert not await logins.verify(ClientLogin("typed-here", "hunter2"), PEER)

    run(users, test)
    assert "192.0.2.1: wrong proxy credentials" in caplog.text
    assert "hunter2" not in caplog.text and "typed-here" not in caplog.text
    assert "hunter2" not in repr(ClientLogin("a", "hunter2"))


def configured(path: Path) -> Config:
    return load({"REGPROXY_HTPASSWD": str(path)})


FILES = [
    ("a:{SHA}x", "SHA-1"),
    ("x", "not of lines user:hash"),
    (b"\xff:", "a file that can be read: not UTF-8"),
    (None, "a file that can be read: No such file or directory"),
]


@pytest.mark.parametrize("text, why", FILES)
def test_the_file_is_checked_at_the_start(tmp_path: Path, text: str | bytes | None, why: str) -> None:
    path = tmp_path / "users"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        check_htpasswd(configured(path))
    assert str(caught.value).startswith(f"REGPROXY_HTPASSWD='{path}': ") and why in str(caught.value)


def test_a_file_that_can_be_used(users: Path) -> None:
    check_htpasswd(configured(users))
    check_htpasswd(load({}))
