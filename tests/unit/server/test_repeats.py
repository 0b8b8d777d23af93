"""Which answers may be sent again, and until when."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from regproxy.http.origin import Origin
from regproxy.policy.freshness import Lifetime
from regproxy.policy.principals import Principal
from regproxy.server.repeats import SECOND, Repeats

CI, GUEST = Principal("ci", "user"), Principal("guest", "user")
ORIGIN = Origin("https", "reg.test", 443)

# What the guards have let pass: whom, where, until how many seconds from now. None: nothing is remembered, as
# where a registry has been asked for this one request.
PASSED: dict[str, tuple[tuple[Principal, str, int, float] | None, bool]] = {
    "asked each time": (None, False),
    "this client": ((CI, "reg.test", 443, 60.0), True),
    "this client, until now": ((CI, "reg.test", 443, 0.0), False),
    "another client": ((GUEST, "reg.test", 443, 60.0), False),
    "at another registry": ((CI, "other.test", 443, 60.0), False),
    "at another port": ((CI, "reg.test", 444, 60.0), False),
}


def good_for(guarded: bool, passed: Any = None, age: float = 0.0, ttl: float = math.inf) -> float:
    """Return for how many seconds an answer to CI is good whose request has come just now."""
    answers, index, access = SimpleNamespace(revoke=None), SimpleNamespace(), SimpleNamespace(flush=None)
    answers.scope = lambda key: None
    nothing: Any = None
    repeats = Repeats(answers, index, nothing, access, nothing, guarded)  # type: ignore[arg-type]
    exchange: Any = SimpleNamespace(principal=CI, origin=ORIGIN, started=time.monotonic(), good_until=0.0)
    route: Any = SimpleNamespace(passed=passed and (*passed[:3], exchange.started + passed[3]))
    repeats.may_keep(exchange, route, age, None if ttl == math.inf else Lifetime("tier", ttl, 0.0, 0.0))
    return float(exchange.good_until - exchange.started)


@pytest.mark.parametrize("case", PASSED)
def test_what_guards_have_let_pass(case: str) -> None:
    passed, good = PASSED[case]
    assert (good_for(True, passed) > 0) is good


def test_without_guards() -> None:
    assert good_for(False) > 0


def test_it_ends_with_a_second() -> None:
    assert good_for(False) == pytest.approx(SECOND)


@pytest.mark.parametrize(("age", "good"), [(0.0, True), (58.9, True), (59.0, False), (61.0, False)])
def test_a_tag_that_expires_meanwhile(age: float, good: bool) -> None:
    assert (good_for(False, None, age, 60.0) > 0) is good
