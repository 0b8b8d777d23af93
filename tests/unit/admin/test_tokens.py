"""Tokens: made once, private, read again when their files change."""

from __future__ import annotations

import asyncio
import errno
import stat
import threading
from pathlib import Path

import pytest

from regproxy.admin.tokens import MADE, Tokens, check_tokens, make_tokens
from regproxy.admin.visitors import Scope
from regproxy.cache import layout
from regproxy.config.settings import Config, load
from regproxy.core import secret_file
from regproxy.core.errors import ConfigError

GOOD = "0123456789abcdef0123456789abcdef"


def config(**env: str) -> Config:
    return load(env)


def current(tokens: Tokens) -> dict[Scope, tuple[str, bool]]:
    found = asyncio.run(tokens.current())
    return {token.scope: (token.text, token.local) for token in found}


def test_made_once(tmp_path: Path) -> None:
    notes = make_tokens(config(), tmp_path)
    assert [note.startswith("made ") for note in notes] == [True, True]
    paths = [layout.admin_token(tmp_path), layout.admin_read_token(tmp_path)]
    texts = [path.read_text() for path in paths]
    assert len(set(texts)) == 2
    for path, text in zip(paths, texts, strict=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(text.strip()) == MADE
        assert not any(text.strip() in note for note in notes)
    assert [note.startswith("made ") for note in make_tokens(config(), tmp_path)] == [False, False]
    assert [path.read_text() for path in paths] == texts
    assert sorted(path.parent.iterdir()) == sorted(paths)


@pytest.mark.parametrize("left", [b"", b"short\n", b"\xff" * 40, b"a b" * 20])
def test_what_is_no_token_is_replaced(left: bytes, tmp_path: Path) -> None:
    path = layout.admin_token(tmp_path)
    path.parent.mkdir()
    path.write_bytes(left)
    make_tokens(config(), tmp_path)
    assert len(path.read_text().strip()) == MADE


def test_one_that_can_not_be_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where too many files are open: it may be good, and clients have it."""
    make_tokens(config(), tmp_path)
    path = layout.admin_token(tmp_path)
    text = path.read_text()

    def no_file(path: Path, most: int) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(secret_file, "read_file", no_file)
    with pytest.raises(OSError, match="Too many open files"):
        make_tokens(config(), tmp_path)
    assert path.read_text() == text


def test_made_by_several_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=make_tokens, args=(config(), tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(OSError):
        make_tokens(config(), tmp_path)


def test_configured(tmp_path: Path) -> None:
    """Only what is not configured is made."""
    own = tmp_path / "own"
    own.write_text(GOOD + "\n")
    settings = config(REGPROXY_ADMIN_READ_TOKEN_FILE=str(own))
    make_tokens(settings, tmp_path)
    made = layout.admin_token(tmp_path).read_text().strip()
    assert not layout.admin_read_token(tmp_path).exists()
    tokens = Tokens(settings, tmp_path)
    assert current(tokens) == {Scope.WRITE: (made, True), Scope.READ: (GOOD, False)}
    assert not tokens.all_local


def test_one_that_is_missing_is_none(tmp_path: Path) -> None:
    make_tokens(config(), tmp_path)
    layout.admin_token(tmp_path).unlink()
    tokens = Tokens(config(), tmp_path)
    assert set(current(tokens)) == {Scope.READ}
    assert tokens.all_local


@pytest.mark.parametrize(
    ("now", "there"), [("", False), ("\n", False), ("half of one", True)], ids=["empty", "line", "broken"]
)
def test_emptied_it_is_nobodys(now: str, there: bool, tmp_path: Path) -> None:
    """Whoever empties the file takes the token back; one that is being written is no reason to."""
    make_tokens(config(), tmp_path)
    path = layout.admin_token(tmp_path)
    tokens = Tokens(config(), tmp_path)

    async def both() -> tuple[set[Scope], set[Scope]]:
        before = {token.scope for token in await tokens.current()}
        path.write_text(now)
        for *_, watched in tokens._files:
            watched.forget()
        return before, {token.scope for token in await tokens.current()}

    before, after = asyncio.run(both())
    assert before == {Scope.READ, Scope.WRITE}
    assert (Scope.WRITE in after) is there


def test_equal_ones_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text(GOOD)
    both = {f"REGPROXY_ADMIN_{name}TOKEN_FILE": str(own) for name in ("", "READ_")}
    with pytest.raises(ConfigError, match="another token than"):
        check_tokens(config(**both))
    with pytest.raises(ConfigError) as refused:
        own.write_text("not a token, and secret")
        check_tokens(config(REGPROXY_ADMIN_TOKEN_FILE=str(own)))
    assert "secret" not in str(refused.value)
