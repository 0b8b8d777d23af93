"""Circuit breakers: when an origin is left alone, who tries it again, and who stops waiting for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from regproxy.core.errors import (
    CircuitOpen,
    ConnectFailed,
    RateLimited,
    UnknownCA,
    UpstreamError,
    UpstreamTimeout,
    log_level,
)
from regproxy.http.origin import Origin
from regproxy.upstream.circuit_breaker import (
    FAILURES,
    JITTER,
    OPEN_MAX,
    OPEN_MIN,
    ORIGINS_MAX,
    PROBE_SECONDS,
    Breakers,
)

A = Origin("https", "a.test", 443)
OTHER_PORT = Origin("https", "a.test", 5000)
B = Origin("https", "b.test", 443)
GONE = ConnectFailed("a.test:443: connection refused")


class Counted:
    """Where it is counted."""

    def __init__(self) -> None:
        self.open: dict[str, bool] = {}
        self.refused: Counter[str] = Counter()

    def circuit(self, registry: str, is_open: bool) -> None:
        self.open[registry] = is_open

    def circuit_refused(self, registry: str) -> None:
        self.refused[registry] += 1


class NoJitter(random.Random):
    """Takes nothing off."""

    def random(self) -> float:
        return 0.0


class Lab:
    """Breakers with a clock that is set by hand."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.now = 1000.0
        self.counted = Counted()
        self.breakers = Breakers(self.counted, lambda: self.now, rng or NoJitter())

    def may(self, origin: Origin = A) -> bool:
        try:
            self.breakers.admit(origin)
        except CircuitOpen:
            return False
        return True

    def fail(self, times: int = FAILURES, origin: Origin = A) -> None:
        for _ in range(times):
            self.breakers.admit(origin)
            self.breakers.failed(origin, GONE)


@pytest.fixture
def lab() -> Lab:
    return Lab()


# --- opening and closing ---------------------------------------------------------------------------------


def test_three_failures_in_a_row_open_it(lab: Lab) -> None:
    lab.fail(FAILURES - 1)
    assert lab.may()
    lab.breakers.answered(A)
    lab.fail(FAILURES - 1)
    assert lab.may()
    lab.breakers.failed(A, GONE)
    with pytest.raises(CircuitOpen) as caught:
        lab.breakers.admit(A)
    error = caught.value
    assert (error.status, error.code, error.retry_after) == (503, "UNAVAILABLE", 1)
    assert str(error) == (
        'a.test is not asked: it has failed 3 times in a row, at last with "a.test:443: connection refused";'
        " the next attempt is made in 1 s"
    )
    assert lab.may(B)
    assert lab.may(OTHER_PORT)
    assert (lab.counted.open, lab.counted.refused) == ({"a.test": True}, {"a.test": 1})


def test_one_tries_again(lab: Lab) -> None:
    lab.fail()
    lab.now += OPEN_MIN
    assert [lab.may() for _ in range(3)] == [True, False, False]
    with pytest.raises(CircuitOpen, match="the next attempt is made just now"):
        lab.breakers.admit(A)
    lab.breakers.answered(A)
    assert [lab.may() for _ in range(3)] == [True, True, True]
    assert lab.counted.open == {"a.test": False}
    lab.fail(FAILURES - 1)
    assert lab.may(), "it begins anew"


def test_the_times_double(lab: Lab) -> None:
    lab.fail()
    for want in (1, 2, 4, 8, 16, OPEN_MAX, OPEN_MAX):
        lab.now += want - 0.125
        assert not lab.may()
        lab.now += 0.125
        lab.fail(1)
    assert not lab.may()


def test_failures_of_who_was_under_way_count_once(lab: Lab) -> None:
    lab.fail()
    for _ in range(100):
        lab.breakers.failed(A, GONE)
    lab.now += OPEN_MIN
    assert lab.may()


def test_who_gives_up_lets_another_one_try(lab: Lab) -> None:
    lab.fail()
    lab.now += OPEN_MIN
    assert lab.may()
    lab.breakers.abandoned(A)
    assert [lab.may(), lab.may()] == [True, False]
    lab.now += PROBE_SECONDS
    assert [lab.may(), lab.may()] == [True, False]
    lab.breakers.abandoned(B)


@pytest.mark.parametrize("error", [RateLimited("a.test", 5), CircuitOpen("a.test", 5)], ids=repr)
def test_where_nobody_was_asked_nothing_failed(lab: Lab, error: UpstreamError) -> None:
    for _ in range(FAILURES):
        lab.breakers.failed(A, error)
    assert lab.may()


def test_an_answer_to_an_earlier_request_closes_it(lab: Lab) -> None:
    lab.fail()
    lab.breakers.answered(A)
    assert lab.may()


def test_each_port_is_told_by_itself(lab: Lab) -> None:
    lab.fail()
    lab.fail(origin=OTHER_PORT)
    lab.breakers.answered(A)
    assert lab.counted.open == {"a.test": False, "a.test:5000": True}
    lab.breakers.answered(OTHER_PORT)
    assert lab.counted.open == {"a.test": False, "a.test:5000": False}


def test_names_that_clients_make_up_are_bounded(lab: Lab) -> None:
    lab.fail()
    for number in range(ORIGINS_MAX):
        lab.breakers.failed(Origin("https", f"{number}.test", 443), GONE)
    assert len(lab.breakers._circuits) == ORIGINS_MAX
    assert lab.counted.open == {"a.test": False}


def test_the_log_says_it_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lab.fail()
    for _ in range(4):
        lab.now += OPEN_MAX
        lab.fail(1)
    lab.breakers.answered(A)
    assert [record.getMessage() for record in caplog.records] == [
        "a.test failed 3 times in a row: a.test:443: connection refused; asked again in 1.0 s",
        "a.test answers again",
    ]


class Rules(RuleBasedStateMachine):
    """Whatever happens: an open circuit is asked at most once in a while, and never given up."""

    @initialize(seed=st.integers())
    def begin(self, seed: int) -> None:
        self.lab = Lab(random.Random(seed))
        self.row = 0
        self.opened: float | None = None
        self.under_way = 0

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 7.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.lab.now += seconds

    @rule()
    def ask(self) -> None:
        allowed = self.lab.may()
        if self.row < FAILURES:
            assert allowed
        elif allowed:
            assert self.opened is not None
            assert self.lab.now - self.opened >= OPEN_MIN * (1 - JITTER)
        self.under_way += allowed

    @precondition(lambda self: self.under_way)
    @rule()
    def fail(self) -> None:
        self.under_way -= 1
        before = self.lab.breakers._circuits.get(A)
        was_shut = before is not None and before.until > self.lab.now
        self.lab.breakers.failed(A, GONE)
        self.row += 1
        if self.row >= FAILURES and not was_shut:
            self.opened = self.lab.now

    @precondition(lambda self: self.under_way)
    @rule()
    def answer(self) -> None:
        self.under_way -= 1
        self.row, self.opened = 0, None
        self.lab.breakers.answered(A)

    @precondition(lambda self: self.under_way)
    @rule()
    def abandon(self) -> None:
        self.under_way -= 1
        self.lab.breakers.abandoned(A)

    @invariant()
    def it_is_shown(self) -> None:
        assert self.lab.counted.open.get("a.test", False) == (self.row >= FAILURES)

    def teardown(self) -> None:
        self.lab.now += max(OPEN_MAX, PROBE_SECONDS)
        assert self.lab.may(), "somebody may always ask after a while"


TestRules = Rules.TestCase


# --- waiting for a connection ----------------------------------------------------------------------------


class Dial:
    """A dial that ends as it is told to."""

    def __init__(self) -> None:
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended = ""

    async def __call__(self) -> str:
        try:
            result = await self.result
        except BaseException as error:
            self.ended = type(error).__name__
            raise
        self.ended = "done"
        return result


Waiting = tuple["Dial", "asyncio.Task[str]"]


async def waiting(lab: Lab, number: int, origin: Origin = A) -> list[Waiting]:
    """So many who wait for a connection."""
    dials = [Dial() for _ in range(number)]
    tasks = [asyncio.create_task(lab.breakers.run(origin, dial())) for dial in dials]
    await settle()
    return list(zip(dials, tasks, strict=True))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_timeout_is_everybodys(lab: Lab) -> None:
    async def run() -> None:
        (first, one), *others = await waiting(lab, 4)
        ((_, elsewhere),) = await waiting(lab, 1, B)
        lab.now += 60
        first.result.set_exception(UpstreamTimeout("a.test:443: no connection within 60 s"))
        for _, task in [(first, one), *others]:
            with pytest.raises(UpstreamTimeout, match=r"a\.test:443: no connection within 60 s"):
                await task
        assert {dial.ended for dial, _ in others} == {"CancelledError"}
        assert not elsewhere.done()
        elsewhere.cancel()

    asyncio.run(run())
    assert not lab.breakers._dials


@pytest.mark.parametrize("how", ["another connection", "an answer"])
def test_a_timeout_is_ones_own_where_the_origin_is_there(lab: Lab, how: str) -> None:
    async def run() -> None:
        (first, one), (second, other), (third, last) = await waiting(lab, 3)
        lab.now += 30
        if how == "an answer":
            lab.breakers.answered(A)
            third.result.set_result("late")
        else:
            third.result.set_result("connection")
        await last
        lab.now += 30
        first.result.set_exception(UpstreamTimeout("no connection"))
        with pytest.raises(UpstreamTimeout):
            await one
        await settle()
        second.result.set_result("connection")
        assert await other == "connection"

    asyncio.run(run())
    assert not lab.breakers._dials


def test_another_failure_is_ones_own_until_it_opens_the_circuit(lab: Lab) -> None:
    async def run() -> None:
        *failing, (_, other) = await waiting(lab, FAILURES + 1)
        for dial, task in failing:
            assert not other.done()
            dial.result.set_exception(GONE)
            with pytest.raises(ConnectFailed):
                await task
            await settle()
            lab.breakers.failed(A, GONE)
        with pytest.raises(ConnectFailed, match="refused"):
            await other

    asyncio.run(run())
    assert not lab.breakers._dials


def test_what_is_logged_is_not_logged_again(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Nor for the error of a circuit that it has opened; another cause is logged."""
    unknown = UnknownCA("a.test: its certificate is not signed by a CA that this proxy knows")
    with caplog.at_level(logging.INFO):
        for error, is_logged in ((unknown, True), (GONE, False)):
            for _ in range(FAILURES):
                lab.breakers.failed(A, error)
                lab.now += OPEN_MAX
            lab.breakers.failed(A, error)
            with pytest.raises(CircuitOpen) as caught:
                lab.breakers.admit(A)
            assert caught.value.is_logged is is_logged
            assert (log_level(caught.value), bool(caplog.records)) == (
                (logging.DEBUG, False) if is_logged else (logging.WARNING, True)
            )
            lab.breakers.answered(A)
            caplog.clear()


def test_a_client_that_leaves_is_no_failure(lab: Lab) -> None:
    async def run() -> None:
        (_, one), (second, other) = await waiting(lab, 2)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        second.result.set_result("connection")
        assert await other == "connection"

    asyncio.run(run())
    assert not lab.breakers._dials


def test_a_result_that_comes_at_the_same_moment_is_not_lost(lab: Lab) -> None:
    async def run() -> None:
        (first, one), (second, other) = await waiting(lab, 2)
        first.result.set_exception(UpstreamTimeout("no connection"))
        second.result.set_result("connection")
        with pytest.raises(UpstreamTimeout):
            await one
        assert await other == "connection"
        assert second.ended == "done"

    asyncio.run(run())


def test_a_dials_own_time_limit_stays_its_own(lab: Lab) -> None:
    async def never() -> str:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return ""

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await lab.breakers.run(A, never())

    asyncio.run(run())
    assert not lab.breakers._dials
