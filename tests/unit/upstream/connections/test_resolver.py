"""Names and their addresses: what is remembered and for how long, who may ask, what is tried first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator

import pytest

from regproxy.core.errors import Busy
from regproxy.upstream.connections import resolver as resolver_module
from regproxy.upstream.connections.name_lookups import AddrInfo
from regproxy.upstream.connections.resolver import Order, Resolver, address_of


class System:
    """What a Resolver asks, and when it is. `took`: seconds an answer takes; `full`: nobody may ask."""

    def __init__(self, **known: list[str] | OSError | UnicodeError) -> None:
        self.known, self.asked = known, 0
        self.now, self.took = 1000.0, 0.0
        self.go = asyncio.Event()
        self.go.set()
        self.full = False

    async def admit(self, name: str, asker: str) -> None:
        if self.full:
            raise Busy(f"{asker} asks too much")

    def begin(self, name: str, asker: str) -> asyncio.Future[list[AddrInfo]]:
        self.asked += 1
        return asyncio.create_task(self._ask(name))

    async def _ask(self, name: str) -> list[AddrInfo]:
        await self.go.wait()
        self.now += self.took
        found = self.known[name]
        if isinstance(found, Exception):
            raise found
        return list(infos(found, 0))


def infos(addresses: Iterable[str], port: int = 443) -> Iterator[AddrInfo]:
    for address in addresses:
        tail = (0, 0) if ":" in address else ()
        family = socket.AF_INET6 if tail else socket.AF_INET
        yield family, socket.SOCK_STREAM, 6, "", (address, port, *tail)


def resolver(system: System) -> Resolver:
    return Resolver(system, monotonic=lambda: system.now)


AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NOBODY = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_answers_are_remembered_for_a_moment() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1", "2001:db8::1"])
        names = resolver(system)
        assert await names.lookup("a", 443) == list(infos(["192.0.2.1", "2001:db8::1"], 443))
        system.now += resolver_module.FOUND_SECONDS - 0.1
        assert await names.lookup("a", 5000) == list(infos(["192.0.2.1", "2001:db8::1"], 5000))
        assert system.asked == 1

    asyncio.run(run())


def test_an_answer_whose_time_is_over_is_given_while_it_is_renewed() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        await names.lookup("a", 443)
        assert not names.renews("a")
        assert await names.newer("a", 443) == []
        system.now += resolver_module.FOUND_SECONDS
        system.known["a"] = ["192.0.2.2"]
        system.go.clear()
        for _ in range(2):
            assert await names.lookup("a", 443) == list(infos(["192.0.2.1"], 443))
        assert names.renews("a")
        system.go.set()
        assert await names.newer("a", 443) == list(infos(["192.0.2.2"], 443))
        assert await names.lookup("a", 443) == list(infos(["192.0.2.2"], 443))
        assert system.asked == 2

    asyncio.run(run())


def test_an_old_answer_is_not_given_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        await names.lookup("a", 443)
        system.now += resolver_module.AT_ONCE_SECONDS
        system.known["a"] = ["192.0.2.2"]
        assert await names.lookup("a", 443) == list(infos(["192.0.2.2"], 443))
        system.now += resolver_module.AT_ONCE_SECONDS
        # None comes in time: it is better than none.
        monkeypatch.setattr(resolver_module, "PATIENCE", 0.0)
        system.go.clear()
        assert await names.lookup("a", 443) == list(infos(["192.0.2.2"], 443))
        # Of one that is too old there is nothing to be had.
        system.now += resolver_module.STALE_SECONDS
        late = asyncio.create_task(names.lookup("a", 443))
        await asyncio.sleep(0)
        system.known["a"] = ["192.0.2.3"]
        assert not late.done()
        system.go.set()
        assert await late == list(infos(["192.0.2.3"], 443))

    asyncio.run(run())


def test_who_may_not_ask_gets_what_is_known() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        system.full = True
        with pytest.raises(Busy, match="one asks too much"):
            await names.lookup("a", 443, "one")
        system.full = False
        await names.lookup("a", 443, "one")
        system.full = True
        system.now += resolver_module.FOUND_SECONDS
        assert await names.lookup("a", 443, "one") == list(infos(["192.0.2.1"], 443))
        assert system.asked == 1

    asyncio.run(run())


def test_a_name_that_takes_long_to_fail_is_not_asked_for_all_the_time() -> None:
    async def run() -> None:
        system = System(a=AWAY)
        system.took = 10.0
        names = resolver(system)
        for wait in (0.0, resolver_module.AWAY_SECONDS - 0.1):
            system.now += wait
            with pytest.raises(socket.gaierror):
                await names.lookup("a", 443)
        assert system.asked == 1
        system.now += 0.1
        system.known["a"] = ["192.0.2.1"]
        assert await names.lookup("a", 443)

    asyncio.run(run())


@pytest.mark.parametrize("error", [AWAY, NOBODY, UnicodeError("label too long")], ids=repr)
def test_failures_are_remembered_for_less(error: OSError | UnicodeError) -> None:
    async def run() -> None:
        system = System(a=error)
        names = resolver(system)
        for _ in range(3):
            with pytest.raises(type(error)) as caught:
                await names.lookup("a", 443)
            assert caught.value is not error
            assert caught.value.args == error.args
        assert system.asked == 1
        system.now += resolver_module.MISSING_SECONDS
        system.known["a"] = ["192.0.2.1"]
        assert await names.lookup("a", 443)

    asyncio.run(run())


def test_one_asks_for_all() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        system.go.clear()
        waiting = [asyncio.create_task(names.lookup("a", 443)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        system.go.set()
        assert [len(found) for found in await asyncio.gather(*waiting[1:])] == [1, 1, 1, 1]
        assert system.asked == 1 and waiting[0].cancelled()

    asyncio.run(run())


def test_the_last_answer_is_better_than_no_name_server() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        await names.lookup("a", 443)
        system.known["a"] = AWAY
        system.now += resolver_module.FOUND_SECONDS
        assert await names.lookup("a", 443)
        assert await names.newer("a", 443)
        system.now += resolver_module.STALE_SECONDS
        with pytest.raises(socket.gaierror):
            await names.lookup("a", 443)

    asyncio.run(run())


def test_a_name_that_is_gone_is_gone() -> None:
    async def run() -> None:
        system = System(a=["192.0.2.1"])
        names = resolver(system)
        await names.lookup("a", 443)
        system.known["a"] = NOBODY
        system.now += resolver_module.FOUND_SECONDS
        assert await names.lookup("a", 443)
        with pytest.raises(socket.gaierror):
            await names.newer("a", 443)
        with pytest.raises(socket.gaierror):
            await names.lookup("a", 443)

    asyncio.run(run())


def test_order() -> None:
    now = [1000.0]
    names = Order(lambda: now[0])
    found = list(infos(["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]))
    in_turn = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]
    assert [address_of(info) for info in names.order(found)] == in_turn
    names.failed(found[:1])
    assert [address_of(info) for info in names.order(found)] == [*in_turn[1:], in_turn[0]]
    names.failed(found)
    assert [address_of(info) for info in names.order(found)] == in_turn
    names.worked("192.0.2.2")
    assert address_of(names.order(found)[0]) == "192.0.2.2"
    now[0] += resolver_module.FAILED_SECONDS
    assert [address_of(info) for info in names.order(found)] == in_turn
    assert names.order([]) == []
