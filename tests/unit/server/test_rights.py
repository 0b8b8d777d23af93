"""What is remembered of whom a registry lets in."""

from __future__ import annotations

import time

import pytest

from regproxy.config.sources.assembly import load
from regproxy.http.origin import Origin
from regproxy.policy.access import PUBLIC_SECONDS, Access
from regproxy.policy.origins import Origins
from regproxy.policy.principals import ANONYMOUS
from regproxy.server.rights import PUBLIC, Rights

REG = Origin("https", "reg.example", 443)


class Rows:
    """The index's rows, in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, ...], float] = {}

    def put_access(self, host: str, port: int, repository: str, who: str) -> None:
        self.rows[host, port, repository, who] = time.time()

    def accessed_at(self, host: str, port: int, repository: str, who: str) -> float:
        return self.rows.get((host, port, repository, who), 0.0)


def rights(rows: Rows, key: bytes = b"k" * 32, **env: str) -> Rights:
    config = load(env, "")
    return Rights(Access(config, Origins(config)), rows, key)


@pytest.mark.parametrize(
    ("age", "known"),
    [(10, True), (61, False), (-5, False)],  # the clock was set back
)
def test_how_long_something_is_known(age: float, known: bool) -> None:
    rows, seconds = Rows(), 60
    rows.rows["reg.example", 443, "a/b", "x"] = time.time() - age
    found = rights(rows, REGPROXY_ACCESS="verified")
    assert found.recall(REG, "a/b", "x", seconds) is known
    assert not found.recall(REG, "a/c", "x", seconds)


def test_marks_show_nothing_and_are_equal_in_all_workers() -> None:
    rows = Rows()
    one, two, other = rights(rows), rights(rows), rights(rows, b"o" * 32)
    value = b"Basic dXNlcjpwYXNzd29yZA=="
    mark = one.mark("credential", value)
    assert mark == two.mark("credential", value)
    assert mark not in (other.mark("credential", value), one.mark("login", value), PUBLIC)
    assert "dXNl" not in mark


def test_a_public_repository_is_so_for_an_hour() -> None:
    rows = Rows()
    found = rights(rows, REGPROXY_ACCESS="verified")
    assert not found.is_public(REG, "a/b")
    found.note(REG, "a/b", PUBLIC)
    assert found.is_public(REG, "a/b")
    assert found.lends(ANONYMOUS, REG, "a/b")
    assert not found.lends(ANONYMOUS, REG, "a/c")
    rows.rows["reg.example", 443, "a/b", PUBLIC] = time.time() - PUBLIC_SECONDS - 1
    assert not found.is_public(REG, "a/b")


def test_modes_are_looked_up_once() -> None:
    assert rights(Rows()).mode(REG) == "shared"
    found = rights(Rows(), REGPROXY_ACCESS="denied")
    assert [found.mode(REG) for _ in range(2)] == ["denied"] * 2
    assert not rights(Rows()).access.restricted
