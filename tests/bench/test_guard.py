"""The guard over instruction counts: what it reads, and when it fails. `make bench-guard` counts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench.guard import __main__ as guard
from bench.guard import stored
from bench.guard.counting import instructions
from bench.guard.paths import least, summary
from bench.guard.stored import Build, Verdict

# https://valgrind.org/docs/manual/cl-format.html: names once, then numbers; calls= before an inclusive cost.
PROFILE = """\
version: 1
positions: line
events: Ir

ob=(1) /usr/lib/x86_64-linux-gnu/libcrypto.so.3
fl=(1) ???
fn=(1) sha256
0 1000
+3 7

ob=(2) /opt/reactor.so
fn=(2) poll
16 20
* 4
cob=(1)
cfn=(1)
calls=2 0
16 1007
-1 6
cob=(3) /usr/bin/python3.11
cfn=(3) eval
calls=1 0
+1 5

ob=(3)
fn=(3)
0 5

totals: 1042
"""
HERE = Build("here", {"cpu": "aes avx2"})


def test_a_profile_is_read() -> None:
    found = instructions(PROFILE)
    assert found == {"libcrypto.so.3": 1007, "reactor.so": 30, "python3.11": 5}
    assert found.total() == 1042
    assert summary(found, 1) == {"all": 1042, "without libcrypto": 35}


def test_the_cheapest_group_counts() -> None:
    assert least([{"all": 5, "x": 2}, {"all": 4, "x": 3}]) == {"all": 4, "x": 2}


def verdicts(cpu: str, now: int) -> list[Verdict]:
    known: dict[str, Any] = {
        "build": {"cpu": cpu},
        "instructions": {"hit": {"all": 1000, "without libcrypto": 1000}},
    }
    found = {"hit": {"all": now, "without libcrypto": now}, "new": {"all": 1}}
    return list(stored.compare(HERE, known, found))


@pytest.mark.parametrize(
    "cpu, now, failed",
    [
        ("aes avx2", 1000, [False, False]),
        ("aes avx2", 1050, [False, False]),
        ("aes avx2", 1051, [True, True]),
        ("aes avx2", 500, [False, False]),
        ("aes", 2000, [False, True]),  # OpenSSL chooses other code on another CPU
    ],
)
def test_five_per_cent_more_fail(cpu: str, now: int, failed: list[bool]) -> None:
    assert [verdict.failed for verdict in verdicts(cpu, now)] == failed


def test_a_small_part_of_a_path_may_vary_by_a_part_of_the_whole() -> None:
    known = {
        "build": HERE.details,
        "instructions": {"fill": {"all": 1_000_000, "without libcrypto": 10_000}},
    }
    for now, failed in ((11_900, False), (12_100, True)):
        found = {"fill": {"all": 1_000_000, "without libcrypto": now}}
        assert [verdict.failed for verdict in stored.compare(HERE, known, found)] == [False, failed]


def test_counts_of_a_platform_replace_its_own_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(stored, "FILE", tmp_path / "counts.json")
    stored.save(HERE, {"hit": {"all": 1}})
    stored.save(Build("there", {}), {"hit": {"all": 2}})
    stored.save(HERE, {"hit": {"all": 3}})
    assert {name: each["instructions"]["hit"]["all"] for name, each in stored.load().items()} == {
        "here": 3,
        "there": 2,
    }


@pytest.mark.parametrize(
    "missing, update, code, said",
    [
        ("valgrind is not installed", False, 0, "SKIPPED: .*valgrind is not installed"),
        ("valgrind is not installed", True, 1, "SKIPPED: .*valgrind is not installed"),
        (None, False, 0, "SKIPPED: .*no counts are stored for "),
    ],
)
def test_what_can_not_be_compared_is_said(
    missing: str | None,
    update: bool,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stored, "FILE", tmp_path / "counts.json")
    monkeypatch.setattr(guard, "missing", lambda: missing)
    assert guard.main(update) == code
    out = capsys.readouterr().out
    assert re.search(said, out), out


def test_there_are_counts_of_every_path() -> None:
    for platform, told in stored.load().items():
        assert len(told["instructions"]) == 5, platform
        assert all(n > 0 for counts in told["instructions"].values() for n in counts.values())
