"""The two tokens of the admin port: one for everything, one for reading alone.

Where the settings name no file for one, it is made, in the cache's `state/`: whoever can read that file, on
this machine, has it. It is for clients of this machine alone.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from regproxy.admin.visitors import Scope, Token
from regproxy.auth.secret_files import Watched
from regproxy.cache import layout
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError, CredentialError
from regproxy.core.named_file import read_text
from regproxy.core.secret_file import make_once

SHORTEST: Final = 20  # characters
LONGEST: Final = 4096
_BYTES: Final = 32
MADE: Final = 43  # characters of a token that is made here: 256 bits at random
# RFC 6750 2.1
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_WANTED: Final = (
    f"one line, {SHORTEST} to {LONGEST} characters of A-Z a-z 0-9 - . _ ~ + / (such as openssl rand -hex 32)"
)
_SETTINGS: Final = {
    Scope.WRITE: "REGPROXY_ADMIN_TOKEN_FILE",
    Scope.READ: "REGPROXY_ADMIN_READ_TOKEN_FILE",
}


class Tokens:
    """The tokens, read again when their files change. One object for each worker."""

    def __init__(self, config: Config, root: Path) -> None:
        """`root`: of the cache."""
        self._files = [
            (scope, path, local, Watched((path,), _parse_or_none, time.monotonic))
            for scope, path, local in _files(config, root)
        ]

    @property
    def all_local(self) -> bool:
        """Whether there are none but for clients of this machine."""
        return all(local for _, _, local, _ in self._files)

    async def current(self) -> list[Token]:
        """Return those that there are, the one for everything first."""
        found = []
        for scope, _, local, watched in self._files:
            with suppress(CredentialError):  # logged there
                if text := await watched.value():
                    found.append(Token(text, scope, local))
        return found


def make_tokens(config: Config, root: Path) -> list[str]:
    """Make the tokens that are to be made here and are not there. Returns what is to be logged.

    Raises OSError; its filename says where.
    """
    notes = []
    for scope, path, local in _files(config, root):
        if local:
            made = _make(Path(path))
            what = "everything" if scope is Scope.WRITE else "reading"
            notes.append(f"{'made ' if made else ''}the admin port's token for {what}, {path}")
    return notes


def check_tokens(config: Config) -> None:
    """Raise ConfigError where a file that a setting names has no token, or both have the same one."""
    read = {}
    for scope, path in _configured(config):
        try:
            read[scope] = _parse([read_text(path, LONGEST + 2)])
        except OSError as error:
            why = f"a file that can be read: {error.strerror}"
            raise ConfigError(_SETTINGS[scope], path, why) from None
        except ValueError as error:
            raise ConfigError(_SETTINGS[scope], path, f"not {error}") from None
    if len(read) > len(set(read.values())):
        text = "another token than in REGPROXY_ADMIN_TOKEN_FILE, which is for more"
        raise ConfigError(_SETTINGS[Scope.READ], config.admin_read_token_file, text)


def _configured(config: Config) -> Iterator[tuple[Scope, str]]:
    for scope, path in (
        (Scope.WRITE, config.admin_token_file),
        (Scope.READ, config.admin_read_token_file),
    ):
        if path is not None:
            yield scope, path


def _files(config: Config, root: Path) -> Iterator[tuple[Scope, str, bool]]:
    """Return (scope, file, whether it is made here) of both tokens."""
    configured = dict(_configured(config))
    made = {Scope.WRITE: layout.admin_token(root), Scope.READ: layout.admin_read_token(root)}
    for scope, path in made.items():
        yield scope, configured.get(scope, str(path)), scope not in configured


def _parse_or_none(texts: list[str]) -> str:
    """Return the token in a file's text, "" where somebody has emptied it: then there is none any more."""
    return _parse(texts) if texts[0].strip() else ""


def _parse(texts: list[str]) -> str:
    """Return the token in a file's text. Raises ValueError, which says what there has to be."""
    token = texts[0].strip()
    if not SHORTEST <= len(token) <= LONGEST or _TOKEN.fullmatch(token) is None:
        raise ValueError(f"a token: {_WANTED}")
    return token


def _make(path: Path) -> bool:
    """Write a new token into a file that has none. Returns whether it was written. Raises OSError."""
    token = secrets.token_urlsafe(_BYTES) + "\n"
    return make_once(path, token.encode(), _is_token, LONGEST + 2)


def _is_token(text: bytes) -> bool:
    try:
        _parse([text.decode()])
    except ValueError:  # also what is not UTF-8
        return False
    return True
