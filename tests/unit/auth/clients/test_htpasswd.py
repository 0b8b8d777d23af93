"""htpasswd files: what is taken, what is refused and in which words."""

from __future__ import annotations

import subprocess

import argon2
import bcrypt
import pytest

from regproxy.auth.clients.htpasswd import matches, parse_htpasswd

BCRYPT = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(
    "secret", salt=b"0123456789abcdef"
)


def argon2_of(m: int = 64, t: int = 1, p: int = 1) -> str:
    """Return a hash that says to have been made at this cost."""
    return ARGON2.replace("m=64,t=1,p=1", f"m={m},t={t},p={p}")


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
    ("ann:" + BCRYPT.replace("$04$", "$31$"), "the hash of 'ann' has a bcrypt cost of 31, where 4 to 15"),
    ("a:" + BCRYPT.replace("$04$", "$03$"), "a bcrypt cost of 3"),
    (
        "ann:" + argon2_of(m=9_999_999),
        "the hash of 'ann' has argon2's m=9999999, where 8 to 262144 are taken",
    ),
    ("ann:" + argon2_of(t=65), "argon2's t=65, where 1 to 64"),
    ("ann:" + argon2_of(p=17), "argon2's p=17, where 1 to 16"),
    ("ann:" + argon2_of(p=9999), "the hash of 'ann' has argon2's p=9999"),
    ("ann:" + argon2_of(m=262_144, t=5), "argon2's m*t=1310720, where 1 to 1048576"),
    # argon2 itself can't compute these, so nobody could ever log in by them
    ("ann:" + argon2_of(p=0), "argon2's p=0"),
    ("ann:" + argon2_of(t=0), "argon2's t=0"),
    ("ann:" + argon2_of(m=31, p=4), "argon2's m=31, where 32 to"),
    ("a:" + ARGON2 + "A" * 86, "argon2, but not in the usual form"),
    ("a:$argon2id$v=19$x", "argon2, but not in the usual form"),
]


@pytest.mark.parametrize("text, why", WRONG)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_htpasswd(text)
    assert why in str(caught.value)
    assert "plain" not in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (BCRYPT[7:], *ARGON2.split("$")[4:]))


@pytest.mark.parametrize("reversed_line", [f"{BCRYPT}:ann", f"{ARGON2}:ann"])
def test_name_and_hash_that_were_swapped(reversed_line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_htpasswd(reversed_line)
    assert "line 1" in str(caught.value) and "$" not in str(caught.value)


@pytest.mark.parametrize(
    "cost", [{"m": 262_144, "t": 4}, {"m": 16_384, "t": 64}, {"p": 8}, {"m": 128, "p": 16}], ids=str
)
def test_the_highest_costs(cost: dict[str, int]) -> None:
    assert list(parse_htpasswd(f"ann:{argon2_of(**cost)}").hashes) == ["ann"]


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
