"""htpasswd files: what is taken, what is refused and in which words."""

from __future__ import annotations

import subprocess

import argon2
import bcrypt
import pytest

from regproxy.auth.htpasswd import matches, parse_htpasswd

BCRYPT = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(
    "secret", salt=b"0123456789abcdef"
)
HASHED = "$" + "x" * 22


def test_a_file() -> None:
    text = f"# users\n\nalice:{BCRYPT}\r\n  bob:{ARGON2}\n"
    assert parse_htpasswd(text).hashes == {"alice": BCRYPT, "bob": ARGON2}
    assert BCRYPT not in repr(parse_htpasswd(text))


WRONG = [
    ("alice", "of lines user:hash (line 1)"),
    (f"\n:{BCRYPT}", "of lines user:hash (line 2)"),
    (f"a:{BCRYPT}\na:{BCRYPT}", "one line for each user (line 2 names one again)"),
    (
        "a:$apr1$x$y",
        "the password is kept as MD5 (htpasswd -m, its default); bcrypt (htpasswd -B) and argon2",
    ),
    ("a:{SHA}x", "SHA-1 (htpasswd -s)"),
    ("a:$5$x", "SHA-256"),
    ("a:$6$x", "SHA-512"),
    ("a:plain", "crypt, or no hash at all"),
    ("a:", "crypt, or no hash at all"),
    ("a:$2y$05$short", "bcrypt, but not as htpasswd -B writes it"),
    ("a:" + BCRYPT.replace("$04$", "$31$"), "a bcrypt cost of 31, where 4 to 15 are taken"),
    ("a:" + BCRYPT.replace("$04$", "$03$"), "a bcrypt cost of 3"),
    ("a:" + ARGON2.replace("m=64", "m=9999999"), "argon2 with more than m=262144"),
    ("a:" + ARGON2.replace("t=1", "t=999"), "argon2 with more than m=262144 (KiB) or t=64"),
    ("a:$argon2id$v=19$x", "argon2, but not in the usual form"),
]


@pytest.mark.parametrize("text, why", WRONG)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_htpasswd(text)
    assert why in str(caught.value)
    assert "$2" not in str(caught.value) and "plain" not in str(caught.value)


@pytest.mark.parametrize("hashed", [BCRYPT, ARGON2], ids=["bcrypt", "argon2"])
@pytest.mark.parametrize(
    "password, want",
    [("secret", True), ("Secret", False), ("", False), ("secret ", False), ("é" * 60, False)],
)
def test_passwords(hashed: str, password: str, want: bool) -> None:
    assert matches(hashed, password) is want


def test_bcrypt_looks_at_72_bytes() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert matches(hashed, "x" * 80)
    assert not matches(hashed, "x" * 71)


def test_what_htpasswd_writes() -> None:
    line = subprocess.run(
        ["htpasswd", "-nbB", "-C", "5", "alice", "secret"], capture_output=True, text=True, check=True
    ).stdout
    assert matches(parse_htpasswd(line).hashes["alice"], "secret")
