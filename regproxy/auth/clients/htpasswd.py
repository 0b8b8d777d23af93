"""Parse a htpasswd file, and verify passwords by it: bcrypt and argon2.

What htpasswd(1) makes otherwise (MD5, SHA-1, crypt) can be guessed too fast from a copy of the file.
"""

from __future__ import annotations

import re
from typing import Final

import argon2
import bcrypt
from msgspec import Struct

_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2: Final = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,9}),t=(\d{1,6}),p=(\d{1,4})"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,86}"
)
# Beyond these one login would hold a processor, memory or threads that others need.
BCRYPT_MAX: Final = 15  # about 2 s
ARGON2_KIB_MAX: Final = 262_144
ARGON2_PASSES_MAX: Final = 64
ARGON2_WORK_MAX: Final = 1_048_576  # KiB that are filled by all passes, about 1 s
ARGON2_LANES_MAX: Final = 16  # each is a thread while the hash is computed
_ARGON2_LANE_KIB: Final = 8  # at least (RFC 9106 3.1)
_NAME_SHOWN: Final = 64  # characters of a user's name
_BCRYPT_BYTES: Final = 72  # of a password are all that bcrypt looks at
_WANT: Final = "bcrypt (htpasswd -B) and argon2 are taken"
_OTHERS: Final = (
    ("$apr1$", "MD5 (htpasswd -m, its default)"),
    ("$1$", "MD5"),
    ("{SHA}", "SHA-1 (htpasswd -s)"),
    ("{SSHA}", "SHA-1"),
    ("$5$", "SHA-256 (htpasswd -2)"),
    ("$6$", "SHA-512 (htpasswd -5)"),
    ("$2", "bcrypt, but not as htpasswd -B writes it"),
    ("$argon2", "argon2, but not in the usual form ($argon2id$v=19$m=...,t=...,p=...$salt$hash)"),
)


class Users(Struct, frozen=True):
    """The hashes of a file by its users' names, and by themselves."""

    hashes: dict[str, str]
    all_hashes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Users({len(self.hashes)})"


def parse_htpasswd(text: str) -> Users:
    """Return the users of a file.

    Raises ValueError, which names the line, and its user where the hash costs too much; never the hash.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user, colon, hashed = line.partition(":")
        if not colon or not user or not user.isprintable():
            raise ValueError(f"of lines user:hash (line {number})")
        if user in hashes:
            raise ValueError(f"of one line for each user (line {number} names one again)")
        wrong = _fault(user, hashed)
        if wrong:
            raise ValueError(f"usable in line {number}: {wrong}")
        hashes[user] = hashed
    return Users(hashes, tuple(hashes.values()))


def _fault(user: str, hashed: str) -> str:
    """Return what is wrong with a user's hash, "" for nothing."""
    by_bcrypt, by_argon2 = _BCRYPT.fullmatch(hashed), _ARGON2.fullmatch(hashed)
    if by_bcrypt is not None:
        wrong = _bcrypt_fault(int(by_bcrypt[1]))
    elif by_argon2 is not None:
        wrong = _argon2_fault(*(int(each) for each in by_argon2.groups()))
    else:
        # Whoever has swapped name and hash is not to find the hash in a log: the name is not said.
        kind = next((what for start, what in _OTHERS if hashed.startswith(start)), "crypt, or no hash at all")
        return f"the password is kept as {kind}; {_WANT}"
    return f"the hash of {user[:_NAME_SHOWN]!r} has {wrong}" if wrong else ""


def _bcrypt_fault(cost: int) -> str:
    return "" if 4 <= cost <= BCRYPT_MAX else f"a bcrypt cost of {cost}, where 4 to {BCRYPT_MAX} are taken"


def _argon2_fault(memory: int, passes: int, lanes: int) -> str:
    """Return which of argon2's parameters is beyond what is taken, or what argon2 itself refuses."""
    for name, value, least, most in (
        ("p", lanes, 1, ARGON2_LANES_MAX),
        ("m", memory, _ARGON2_LANE_KIB * lanes, ARGON2_KIB_MAX),
        ("t", passes, 1, ARGON2_PASSES_MAX),
        ("m*t", memory * passes, 1, ARGON2_WORK_MAX),
    ):
        if not least <= value <= most:
            return f"argon2's {name}={value}, where {least} to {most} are taken"
    return ""


def matches(hashed: str, password: str) -> bool:
    """Return whether a hash of parse_htpasswd() is that of a password. Takes long, and lets the GIL go."""
    secret = password.encode()
    try:
        if hashed.startswith("$2"):
            return bcrypt.checkpw(secret[:_BCRYPT_BYTES], hashed.encode())
        return argon2.PasswordHasher().verify(hashed, secret)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, ValueError):
        return False
