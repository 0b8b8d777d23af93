"""Threads that ask the system for names: how many, on whose account, and what becomes of those that hang."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from regproxy.core.errors import Busy
from regproxy.upstream.connections import name_lookups
from regproxy.upstream.connections.name_lookups import (
    EACH_MAX,
    SITE_MAX,
    AddrInfo,
    LookupLane,
    Lookups,
    literal,
)
from regproxy.upstream.connections.resolver import address_of

FOUND: AddrInfo = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
NOBODY = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class System:
    """A getaddrinfo(3) that waits for `go`, or what `gates` has, with each name that starts with "slow"."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.gates: dict[str, threading.Event] = {}
        self.begun: list[str] = []
        self.answers: dict[str, Exception] = {}

    def __call__(self, name: str) -> Sequence[AddrInfo]:
        self.begun.append(name)
        if name.startswith("slow"):
            assert self.gates.get(name, self.go).wait(20)
        if name in self.answers:
            raise self.answers[name]
        return (FOUND,)


class Counts(list[tuple[str, str]]):
    def lookup(self, lane: str, outcome: str) -> None:
        self.append((lane, outcome))


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "TURN_SECONDS", 0.05)


@pytest.fixture
def system() -> Iterator[System]:
    system = System()
    yield system
    system.go.set()


@pytest.fixture
def counts() -> Counts:
    return Counts()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def make(system: System, lane: LookupLane = LookupLane.TUNNEL, counts: Counts | None = None) -> Lookups:
    return Lookups(asyncio.get_running_loop(), lane, counts, getaddrinfo=system)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.001)


async def ask(names: Lookups, host: str, asker: str = "") -> list[AddrInfo]:
    return await names.begin(host, asker)


def begin(names: Lookups, hosts: Sequence[str], asker: str = "") -> list[asyncio.Task[list[AddrInfo]]]:
    return [asyncio.create_task(ask(names, host, asker)) for host in hosts]


@pytest.mark.parametrize(
    "answer, outcome",
    [
        (None, "found"),
        (NOBODY, "missing"),
        (UnicodeError("label too long"), "missing"),
        (AWAY, "failed"),
        (OSError("no buffers"), "failed"),
        (ValueError("what nobody thought of"), "failed"),
    ],
    ids=repr,
)
def test_outcomes(system: System, counts: Counts, answer: Exception | None, outcome: str) -> None:
    async def test() -> None:
        names = make(system, LookupLane.WRITTEN, counts)
        if answer is None:
            assert await ask(names, "a") == [FOUND]
        else:
            system.answers["a"] = answer
            with pytest.raises((OSError, UnicodeError)):
                await ask(names, "a")
        assert counts == [("written", outcome)]

    run(test)


@pytest.mark.parametrize("lane", [LookupLane.ANSWER, LookupLane.CLIENT, LookupLane.TUNNEL])
def test_each_asker_has_a_bound(system: System, counts: Counts, lane: LookupLane) -> None:
    async def test() -> None:
        names = make(system, lane, counts)
        hosts = [f"slow-{n}.example" for n in range(EACH_MAX)]
        for host in hosts:
            await names.admit(host, "one")
        tasks = begin(names, hosts, "one")
        await until(lambda: set(system.begun) == set(hosts))
        with pytest.raises(Busy, match="8 other names that one has asked for are not resolved yet") as caught:
            await names.admit("more.example", "one")
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        assert counts == [(lane.value, "refused")]
        await names.admit("more.example", "another")
        system.go.set()
        await asyncio.gather(*tasks)
        await names.admit("more.example", "one")

    run(test)


def test_each_domain_has_a_bound(system: System) -> None:
    async def test() -> None:
        names = make(system)
        hosts = [f"slow-{n}.corp.example" for n in range(SITE_MAX)]
        tasks = begin(names, hosts, "one")
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="4 other names of its domain"):
            await names.admit("x.corp.example", "one")
        await names.admit("x.other.example", "one")
        await names.admit("x.corp.example", "another")
        system.go.set()
        await asyncio.gather(*tasks)

    run(test)


def test_what_the_configuration_names_has_none(system: System) -> None:
    async def test() -> None:
        names = make(system, LookupLane.WRITTEN)
        hosts = [f"slow-{n}.corp.example" for n in range(100)]
        for host in hosts:
            await names.admit(host, "")
        tasks = begin(names, hosts)
        await until(lambda: len(system.begun) == LookupLane.WRITTEN.threads)
        system.go.set()
        assert len(await asyncio.gather(*tasks)) == 100
        assert names._threads == LookupLane.WRITTEN.threads

    run(test)


def test_whoever_has_the_fewest_under_way_is_next(system: System) -> None:
    async def test() -> None:
        names = make(system, LookupLane.WRITTEN)
        full = [f"slow-{n}" for n in range(LookupLane.WRITTEN.threads)]
        gate = system.gates[full[0]] = threading.Event()
        tasks = begin(names, full, "many")
        await until(lambda: len(system.begun) == len(full))
        tasks += begin(names, ["many-1", "many-2"], "many") + begin(names, ["slow-few"], "few")
        await asyncio.sleep(0)
        gate.set()  # one thread is free, and then busy with who is next
        await until(lambda: len(system.begun) == len(full) + 1)
        assert system.begun[-1] == "slow-few"
        system.go.set()
        await asyncio.gather(*tasks)
        assert set(system.begun[-2:]) == {"many-1", "many-2"}

    run(test)


@pytest.mark.parametrize("site", ["", ".corp.example"])
def test_a_burst_waits_for_its_turn(
    system: System, counts: Counts, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many names at once that are answered: none of them is refused."""

    async def one(names: Lookups, host: str) -> list[AddrInfo]:
        await names.admit(host, "one")
        return await names.begin(host, "one")

    async def test() -> None:
        names = make(system, counts=counts)
        monkeypatch.setattr(name_lookups, "TURN_SECONDS", 20.0)
        hosts = [f"slow-{n}{site}" for n in range(EACH_MAX)] + [f"quick-{n}{site}" for n in range(40)]
        tasks = [asyncio.create_task(one(names, host)) for host in hosts]
        await until(lambda: len(system.begun) >= (SITE_MAX if site else EACH_MAX))
        assert len(system.begun) == (SITE_MAX if site else EACH_MAX)
        system.go.set()
        assert await asyncio.gather(*tasks) == [[FOUND]] * len(hosts)
        assert set(counts) == {("tunnel", "found")}

    run(test)


def test_who_waits_for_a_turn_and_leaves_takes_none(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "TURNS_MAX", 1)

    async def test() -> None:
        names = make(system)
        tasks = begin(names, [f"slow-{n}" for n in range(EACH_MAX)], "one")
        await asyncio.sleep(0)
        waits = asyncio.create_task(names.admit("more", "one"))
        await asyncio.sleep(0)
        with pytest.raises(Busy):  # at once: enough of them wait
            await names.admit("another", "one")
        waits.cancel()
        await asyncio.wait([waits])
        assert not names._turns
        system.go.set()
        await asyncio.gather(*tasks)

    run(test)


def test_a_lane_has_an_end(system: System) -> None:
    async def test() -> None:
        names = make(system)
        tasks = []
        for n in range(LookupLane.TUNNEL.threads):  # as many askers as it takes
            await names.admit(f"slow-{n}", f"asker-{n}")
            tasks += begin(names, [f"slow-{n}"], f"asker-{n}")
            await asyncio.sleep(0)
        with pytest.raises(Busy, match="too many names are not resolved yet"):
            await names.admit("slow-x", "asker-x")
        system.go.set()
        await asyncio.gather(*tasks)

    run(test)


def test_who_asks_much_leaves_threads_for_others(system: System) -> None:
    """Some whose names all hang can't take the whole lane."""

    async def test() -> None:
        names = make(system)
        tasks = []
        for asker in range(8):
            for n in range(EACH_MAX):
                with suppress(Busy):
                    await names.admit(f"slow-{asker}-{n}", f"asker-{asker}")
                    tasks += begin(names, [f"slow-{asker}-{n}"], f"asker-{asker}")
                    await asyncio.sleep(0)
        assert len(tasks) < LookupLane.TUNNEL.threads
        await names.admit("quick", "another")
        assert await ask(names, "quick", "another") == [FOUND]
        system.go.set()
        await asyncio.gather(*tasks)

    run(test)


def test_a_lookup_goes_on_when_nobody_waits(system: System, counts: Counts) -> None:
    async def test() -> None:
        names = make(system, counts=counts)
        (task,) = begin(names, ["slow.example"], "one")
        await until(lambda: bool(system.begun))
        task.cancel()
        await asyncio.wait([task])
        assert counts == []
        system.go.set()
        await until(lambda: counts == [("tunnel", "found")])

    run(test)


def test_one_that_hangs_outlives_the_loop(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "IDLE_SECONDS", 0.01)

    before = set(threading.enumerate())

    async def test() -> None:
        begin(make(system), ["slow.example"])
        await until(lambda: bool(system.begun))

    run(test)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    system.go.set()
    thread.join(20)
    assert not thread.is_alive()


def test_threads_end_when_there_is_nothing_to_do(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "IDLE_SECONDS", 0.01)

    async def test() -> None:
        names = make(system)
        for _ in range(2):
            assert await ask(names, "a") == [FOUND]
            await until(lambda: names._threads == 0)

    run(test)


def test_no_thread_to_be_had(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test() -> None:
        names = make(system)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(socket.gaierror, match="no thread to ask the system"):
                await ask(names, "a")
        (task,) = begin(names, ["slow"])
        await until(lambda: bool(system.begun))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            (other,) = begin(names, ["b"])
            await asyncio.sleep(0)
            # The one that there is does that, too.
            system.go.set()
            await asyncio.gather(task, other)

    run(test)


def test_slow_ones_are_logged_once_a_minute(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(name_lookups, "SLOW_SECONDS", 0.01)

    async def test() -> None:
        names = make(system)
        tasks = begin(names, ["slow-1.example", "slow-2.example"], "one")
        await until(lambda: bool(caplog.records))
        await asyncio.sleep(0.02)
        system.go.set()
        await asyncio.gather(*tasks)

    with caplog.at_level(logging.WARNING):
        run(test)
    (record,) = caplog.records
    assert "no answer for the name slow-1.example within 0.01 s" in record.message
    assert "(tunnel) under way: 2, waiting: 0" in record.message


@pytest.mark.parametrize(
    "host, address",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_literals_are_nobodys_question(host: str, address: str) -> None:
    found = literal(host)
    assert found is not None
    assert [address_of(info) for info in found] == [address]


def test_what_is_no_literal() -> None:
    assert literal("reg.test") is None
    with pytest.raises(OSError):
        literal("2001:db8::1", ipv4_only=True)
