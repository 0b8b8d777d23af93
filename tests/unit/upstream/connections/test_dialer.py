"""Which addresses are connected to, by who has named the host. Connections are recorded, and never made."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import aiohappyeyeballs
import pytest

from regproxy.config.sources import assembly
from regproxy.core.errors import Busy, ConnectFailed, OffLimits, Refused, RegproxyError, UpstreamTimeout
from regproxy.http.messages import NONE, Response
from regproxy.http.origin import Origin
from regproxy.policy.interception import Interception
from regproxy.policy.origins import Origins
from regproxy.upstream.connections import dialer
from regproxy.upstream.connections.connection import Connection
from regproxy.upstream.connections.dialer import Dialer
from regproxy.upstream.connections.name_lookups import CLIENT, AddrInfo, LookupLane
from regproxy.upstream.connections.pool import Idle
from regproxy.upstream.connections.resolver import FOUND_SECONDS, Resolver

REGISTRY = Origin("https", "reg.test", 443)
PRIVATE = ["10.255.255.1", "192.168.0.1", "100.64.0.1", "fd00::1", "198.18.0.1", "240.0.0.1", "64:ff9b:1::1"]
SPECIAL = ["127.0.0.1", "169.254.169.254", "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b:1::a9fe:a9fe"]
PUBLIC = ["8.8.8.8", "2606:4700::1"]


class Socket:
    """A connection that was never made."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.closed = False

    def setsockopt(self, *_: object) -> None: ...

    def getpeername(self) -> tuple[str, int]:
        return self.address, self.port

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.99", 1

    def detach(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True


class System:
    """What names stand for; `asked` are those that were looked up: (lane, name, on whose account)."""

    def __init__(self, lane: LookupLane, net: Net) -> None:
        self.lane, self.net = lane, net

    async def admit(self, name: str, asker: str) -> None: ...

    def begin(self, name: str, asker: str) -> asyncio.Future[list[AddrInfo]]:
        self.net.asked.append((self.lane, name, asker))
        return asyncio.create_task(self._answer(name))

    async def _answer(self, name: str) -> list[AddrInfo]:
        await self.net.go.wait()
        found = self.net.names.get(name)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info(address) for address in found]


def info(address: str) -> AddrInfo:
    tail = (0, 0) if ":" in address else ()
    family = socket.AF_INET6 if tail else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (address, 0, *tail)


class Net:
    """A network in which `dead` addresses refuse, `silent` ones say nothing, and all others are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.asked: list[tuple[LookupLane, str, str]] = []
        self.tried: list[str] = []
        self.sockets: list[Socket] = []
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.refused: list[str] = []
        self.now = 1000.0
        self.go = asyncio.Event()
        self.go.set()
        self.answer_proxy: Callable[..., Coroutine[Any, Any, None]] | None = None
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", self._connect)
        monkeypatch.setattr(dialer, "open_tunnel", self._tunnel)
        self.through: list[tuple[str, int]] = []

    async def _connect(self, infos: Sequence[AddrInfo], **_: object) -> Socket:
        for each in infos:
            address, port = str(each[4][0]), int(each[4][1])
            self.tried.append(address)
            if address in self.silent:
                await asyncio.Event().wait()
            if address not in self.dead:
                self.sockets.append(Socket(address, port))
                return self.sockets[-1]
        raise ConnectionRefusedError(111, "Connection refused")

    async def _tunnel(self, loop: object, sock: object, proxy: object, host: str, port: int) -> None:
        self.through.append((host, port))

    def lookup(self, lane: str, outcome: str) -> None: ...

    def target_refused(self, by: str) -> None:
        self.refused.append(by)


class Bench:
    """A dialer of these settings within a Net."""

    def __init__(self, net: Net, toml: str = "", **env: str) -> None:
        usual = {"REGISTRIES": "reg.test *.masked.test wide.*", "REGPROXY_PRIVATE_TARGETS": "allow"}
        env = {**usual, **env}
        config = assembly.load(env, toml)
        self.net, self.origins = net, Origins(config)

        def resolver(lane: LookupLane) -> Resolver:
            return Resolver(System(lane, net), monotonic=lambda: net.now)

        self.dialer = Dialer(
            *(config, self.origins, Interception(config), cast(Any, None), cast(Any, None)),
            *(asyncio.get_running_loop(), net, resolver),
        )

    async def tunnel(self, host: str, port: int = 443, timeout: float = 5.0) -> str:
        return (await self.dialer.dial(host, port, timeout))[1]

    async def connect(self, host: str, answer_of: Origin | None = None, port: int = 443) -> str:
        """The address that a request to an origin would go to."""
        origin = Origin("https", host, port)
        trip = self.dialer._trip(host, self.origins.way(origin), answer_of)
        return (await self.dialer._open(trip, 5.0))[1]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    return Net(monkeypatch)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def refusal(dialled: Coroutine[Any, Any, str], kind: type[RegproxyError]) -> str:
    with pytest.raises(kind) as caught:
        await dialled
    return str(caught.value)


# --- a registry's answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*PRIVATE, *SPECIAL], ids=str)
def test_an_answer_leads_to_no_private_address(net: Net, address: str) -> None:
    async def test() -> None:
        it = Bench(net)
        net.names["cdn.test"] = [address]
        text = await refusal(it.connect("cdn.test", REGISTRY), OffLimits)
        for word in ("reg.test leads to cdn.test", address, "REGPROXY_ALLOW_TARGETS"):
            assert word in text
        await refusal(it.connect(address, REGISTRY), OffLimits)
        await refusal(it.connect("cdn.test", REGISTRY, 6443), OffLimits)
        assert net.tried == []
        assert net.refused == ["answer"] * 3

    run(test)


SPELLINGS = [
    "10.1",
    "0xa.1",
    "167772161",
    "012.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a00:1",
    "0x7f.1",
    "2130706433",
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("proxy", ["", "http://192.0.2.77:3128"], ids=["straight", "by a proxy"])
def test_however_it_is_written(net: Net, spelling: str, proxy: str) -> None:
    async def test() -> None:
        it = Bench(net, HTTPS_PROXY=proxy)
        await refusal(it.connect(spelling, REGISTRY), OffLimits)
        assert net.tried == []

    run(test)


def test_only_what_is_allowed_is_connected_to(net: Net) -> None:
    """Of several addresses those that may be, at first and when the name is asked for anew."""

    async def test() -> None:
        it = Bench(net)
        net.names["cdn.test"] = ["10.0.0.1", PUBLIC[0], "127.0.0.1"]
        assert await it.connect("cdn.test", REGISTRY) == PUBLIC[0]
        net.now += FOUND_SECONDS
        net.dead.add(PUBLIC[0])
        net.names["cdn.test"] = ["10.0.0.1"]
        await refusal(it.connect("cdn.test", REGISTRY), ConnectFailed)
        await refusal(it.connect("cdn.test", REGISTRY), OffLimits)
        assert set(net.tried) == {PUBLIC[0]}

    run(test)


TABLE = '[origin."cdn.test"]\nread_timeout = "5s"'
ADDRESS = '[origin."cdn.test"]\naddress = "10.0.0.1"'
MIRROR = '[origin."reg.test"]\nmirrors = ["https://cdn.test"]'
TOKEN_SERVER = """
[origin."reg.test".credentials]
username = "u"
password = "p"
token_server = "cdn.test"
"""
NAMED: list[tuple[str, dict[str, str], bool]] = [
    # what names cdn.test, and whether that is enough for loopback addresses
    ("", {"REGISTRIES": "reg.test cdn.test"}, True),
    ("", {"REGISTRIES": "reg.test cdn.test:443"}, True),
    ("", {"REGISTRIES": "reg.test .test"}, False),
    ("", {"REGISTRIES": "reg.test *.test"}, False),
    ("", {"REGPROXY_ALLOW_TARGETS": "cdn.test"}, True),
    ("", {"REGPROXY_ALLOW_TARGETS": "*.test"}, True),
    ("", {"AUTH_REGISTRIES": "cdn.test:u:p"}, False),
    (TABLE, {}, True),
    (MIRROR, {}, True),
    (TOKEN_SERVER, {}, False),
]


@pytest.mark.parametrize("toml, env, special", NAMED, ids=str)
def test_an_answer_leads_to_hosts_that_are_named(
    net: Net, toml: str, env: dict[str, str], special: bool
) -> None:
    async def test() -> None:
        it = Bench(net, toml, **env)
        for address in PRIVATE:
            net.names = {"cdn.test": [address]}
            net.now += 10_000
            assert await it.connect("cdn.test", REGISTRY) == address
        for address in SPECIAL:
            net.names = {"cdn.test": [address]}
            net.now += 10_000
            if special:
                assert await it.connect("cdn.test", REGISTRY) == address
            else:
                await refusal(it.connect("cdn.test", REGISTRY), OffLimits)

    run(test)


def test_the_names_address_is_the_settings(net: Net) -> None:
    async def test() -> None:
        assert await Bench(net, ADDRESS).connect("cdn.test", REGISTRY) == "10.0.0.1"
        resolved = Bench(net, REGPROXY_RESOLVE="cdn.test=10.0.0.2")
        assert await resolved.connect("cdn.test", REGISTRY) == "10.0.0.2"

    run(test)


NOT_NAMED = [
    {"REGISTRIES": "reg.test cdn.test:5000"},
    # Anybody can have a name that begins so.
    {"REGISTRIES": "reg.test cdn.*"},
    {"REGPROXY_ALLOW_TARGETS": "cdn.test:5000"},
    {"AUTH_REGISTRIES": "cdn.test:5000:u:p"},
    {"REGISTRIES": "reg.test *.test", "REGPROXY_PRIVATE_TARGETS": "deny"},
    {"REGISTRIES": "reg.test cdn.test", "REGPROXY_PRIVATE_TARGETS": "deny"},
]


@pytest.mark.parametrize("env", NOT_NAMED, ids=str)
def test_what_does_not_name_it(net: Net, env: dict[str, str]) -> None:
    async def test() -> None:
        it = Bench(net, **env)
        net.names["cdn.test"] = ["10.0.0.1"]
        await refusal(it.connect("cdn.test", REGISTRY), OffLimits)
        assert net.tried == []

    run(test)


def test_a_registry_may_lead_to_itself(net: Net) -> None:
    """Such as `wide.lan`, which a client has named, with its realm. Not to another port of it."""

    async def test() -> None:
        it = Bench(net)
        net.names["wide.lan"] = ["10.0.0.1"]
        wide = Origin("https", "wide.lan", 443)
        assert await it.connect("wide.lan") == "10.0.0.1"
        assert await it.connect("wide.lan", wide) == "10.0.0.1"
        await refusal(it.connect("wide.lan", wide, 8443), OffLimits)
        await refusal(it.connect("wide.lan", REGISTRY), OffLimits)

    run(test)


def test_a_registry_that_is_named_leads_to_other_ports_of_its_host(net: Net) -> None:
    """GitLab's registry at :5050 with its tokens at :443; MinIO beside a registry. Not to what is special."""

    async def test() -> None:
        it = Bench(net, REGISTRIES="git.lan:5050")
        net.names["git.lan"] = ["10.0.0.1"]
        git = Origin("https", "git.lan", 5050)
        assert await it.connect("git.lan", git) == "10.0.0.1"
        assert await it.connect("git.lan", git, 9000) == "10.0.0.1"
        await refusal(it.connect("git.lan", REGISTRY), OffLimits)
        net.names["git.lan"] = ["169.254.169.254"]
        net.now += 10_000
        await refusal(it.connect("git.lan", git), OffLimits)

    run(test)


def test_public_addresses_are_for_everybody(net: Net) -> None:
    async def test() -> None:
        it = Bench(net, REGPROXY_PRIVATE_TARGETS="deny")
        for address in PUBLIC:
            net.names = {"cdn.test": [address]}
            net.now += 10_000
            assert await it.connect("cdn.test", REGISTRY, 8443) == address
            assert await it.tunnel("cdn.test") == address

    run(test)


def test_a_proxy_resolves_names(net: Net) -> None:
    """What it resolves is for it to refuse; what is written as an address is not."""

    async def test() -> None:
        it = Bench(net, HTTPS_PROXY="http://192.0.2.77:3128")
        assert await it.connect("cdn.test", REGISTRY) == "192.0.2.77"
        assert net.through == [("cdn.test", 443)]
        await refusal(it.connect("10.0.0.1", REGISTRY), OffLimits)
        assert net.asked == []

    run(test)


@pytest.mark.parametrize("host", ["localhost", "any.localhost", "127.0.0.1", "0x7f.1", "[::1]", "10.0.0.1"])
@pytest.mark.parametrize("mode", ["registries", "deny"])
def test_a_proxy_is_not_asked_for_its_own_loopback(net: Net, mode: str, host: str) -> None:
    """RFC 6761 6.3: whoever resolves such a name has its own loopback for it."""

    async def test() -> None:
        it = Bench(net, HTTPS_PROXY="http://192.0.2.77:3128", REGPROXY_PRIVATE_TARGETS=mode)
        net.names = {host: ["127.0.0.1"]}
        await refusal(it.tunnel(host.strip("[]")), Refused)
        await refusal(it.connect(host.strip("[]"), REGISTRY), OffLimits)
        assert net.tried == []
        assert net.through == []

    run(test)


# --- connections that are kept ---------------------------------------------------------------------------


class Stream:
    """As much of a stream as a connection that is idle needs."""

    open = True

    def watch_idle(self, seconds: float) -> bool:
        return True

    def reusable(self) -> bool:
        return True


def kept(host: str, address: str) -> Connection:
    return Connection(cast(Any, Stream()), Origin("https", host, 443), address, 5.0)


@pytest.mark.parametrize("proxy", ["", "http://192.0.2.77:3128"], ids=["straight", "by a proxy"])
def test_a_connection_of_somebody_who_may_is_not_for_one_who_may_not(net: Net, proxy: str) -> None:
    async def test() -> None:
        it, idle = Bench(net, HTTPS_PROXY=proxy), Idle()
        address = "192.0.2.77" if proxy else "10.0.0.1"
        host = "10.0.0.1" if proxy else "wide.lan"
        connection = kept(host, address)
        idle.give(connection, Response(200, b"", 1, (), NONE, True))
        assert idle.take(connection.origin, lambda each: it.dialer.may_reuse(each, REGISTRY)) is None
        assert idle.take(connection.origin, lambda each: it.dialer.may_reuse(each, None)) is connection
        assert it.dialer.may_reuse(kept("cdn.test", (proxy and address) or "8.8.8.8"), REGISTRY)

    run(test)


# --- clients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PRIVATE, ids=str)
def test_clients_reach_private_addresses_where_that_is_allowed(
    net: Net, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        net.names = {"app.lan": [address], "wide.lan": [address], "reg.test": [address]}
        it = Bench(net)
        for _ in range(2):
            assert await it.tunnel("app.lan") == address
            assert await it.connect("wide.lan") == address
        told = [
            record for record in caplog.records if "REGPROXY_PRIVATE_TARGETS=registries" in record.message
        ]
        assert len(told) == 1
        net.tried.clear()
        env = {"REGPROXY_PRIVATE_TARGETS": "registries", "REGPROXY_ALLOW_TARGETS": "named.lan"}
        closed = Bench(net, **env)
        for dialled in (closed.tunnel("app.lan"), closed.connect("wide.lan"), closed.tunnel(address)):
            text = await refusal(dialled, Refused)
            for word in (address, "REGPROXY_PRIVATE_TARGETS", "REGPROXY_ALLOW_TARGETS"):
                assert word in text
        assert net.tried == []
        assert net.refused == ["client"] * 3
        net.names["named.lan"] = [address]
        net.names["a.masked.test"] = [address]
        assert await closed.tunnel("named.lan") == address
        assert await closed.connect("reg.test") == address
        assert await closed.connect("a.masked.test") == address
        assert await closed.connect("a.masked.test", REGISTRY) == address

    with caplog.at_level(logging.WARNING):
        run(test)


@pytest.mark.parametrize("address", [*PRIVATE, *SPECIAL], ids=str)
def test_denied_is_whatever_a_name_leads_to(net: Net, address: str) -> None:
    """Registries, mirrors and tables too: only what is written as an address, and the exceptions."""

    async def test() -> None:
        toml = """
[origin."tabled.test"]
address = "inner.test"
[origin."reg.test"]
mirrors = ["https://mirror.test"]
[origin."fixed.test"]
address = "10.0.0.9"
"""
        env = {"AUTH_REGISTRIES": "login.test:u:p", "REGPROXY_ALLOW_TARGETS": "named.lan"}
        it = Bench(net, toml, REGPROXY_PRIVATE_TARGETS="deny", REGPROXY_RESOLVE="put.test=10.0.0.8", **env)
        hosts = ("reg.test", "tabled.test", "inner.test", "mirror.test", "login.test", "a.masked.test")
        net.names = {host: [address] for host in (*hosts, "named.lan")}
        for host in hosts:
            await refusal(it.tunnel(host), Refused)
            await refusal(it.connect(host), Refused)
            await refusal(it.connect(host, REGISTRY), OffLimits)
        assert net.tried == []
        assert await it.connect("fixed.test") == "10.0.0.9"
        assert await it.connect("put.test", REGISTRY) == "10.0.0.8"
        assert await it.tunnel("named.lan") == address

    run(test)


@pytest.mark.parametrize("mode", ["registries", "deny"])
def test_a_name_that_is_rebound_is_judged_each_time(net: Net, mode: str) -> None:
    """What is dialled is what was judged: of several addresses, of new ones, and of kept connections."""

    async def test() -> None:
        it = Bench(net, REGPROXY_PRIVATE_TARGETS=mode)
        inside = ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "127.0.0.1"]
        net.names["app.test"] = [*inside[:3], *PUBLIC, *inside[3:]]
        assert await it.tunnel("app.test") in PUBLIC
        net.now += FOUND_SECONDS
        net.names["app.test"] = inside
        net.dead |= set(PUBLIC)
        await refusal(it.tunnel("app.test"), ConnectFailed)  # the old ones; the new ones came meanwhile
        await refusal(it.tunnel("app.test"), Refused)
        assert set(net.tried) == set(PUBLIC)
        for address in inside:
            assert not it.dialer.may_reuse(kept("app.test", address), None)
        assert it.dialer.may_reuse(kept("app.test", PUBLIC[0]), None)

    run(test)


def test_a_refusal_is_logged_once_a_minute(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        it = Bench(net)
        for _ in range(3):
            await refusal(it.connect("10.0.0.1", REGISTRY), OffLimits)
        await refusal(it.connect("10.0.0.2", REGISTRY), OffLimits)

    with caplog.at_level(logging.WARNING):
        run(test)
    assert [record.message.count("leads to") for record in caplog.records] == [1, 1]


# --- whose lookup it is ----------------------------------------------------------------------------------


def test_lookups_are_kept_apart(net: Net) -> None:
    async def test() -> None:
        toml = '[origin."mirrored.test"]\nmirrors = ["https://mirror.test"]\naddress = "inner.test"'
        it = Bench(net, toml)
        CLIENT.set("2001:db8::1:2:3:4")
        client = "2001:db8::/64"
        wide = Origin("https", "wide.one", 443)
        want = [
            (it.connect("reg.test"), (LookupLane.WRITTEN, "reg.test", "")),
            (it.connect("reg.test", wide, 8443), (LookupLane.WRITTEN, "reg.test", "")),
            (it.connect("mirrored.test"), (LookupLane.WRITTEN, "inner.test", "")),
            (it.connect("mirror.test"), (LookupLane.WRITTEN, "mirror.test", "")),
            (it.connect("wide.one"), (LookupLane.CLIENT, "wide.one", client)),
            (it.connect("a.masked.test"), (LookupLane.CLIENT, "a.masked.test", client)),
            (it.connect("cdn.one", wide), (LookupLane.CLIENT, "cdn.one", client)),
            (it.connect("cdn.two", REGISTRY), (LookupLane.ANSWER, "cdn.two", "reg.test")),
            (it.tunnel("else.test"), (LookupLane.TUNNEL, "else.test", client)),
            (it.tunnel("reg.test"), (LookupLane.TUNNEL, "reg.test", client)),
        ]
        for dialled, asked in want:
            net.now += 10
            await refusal(dialled, ConnectFailed)
            assert net.asked[-1] == asked
        assert net.asked == [asked for _, asked in want]

    run(test)


def test_the_name_of_a_proxy_is_the_settings(net: Net) -> None:
    async def test() -> None:
        it = Bench(net, HTTPS_PROXY="http://proxy.test:3128")
        net.names["proxy.test"] = ["192.0.2.77"]
        assert await it.tunnel("else.test") == "192.0.2.77"
        assert net.asked == [(LookupLane.WRITTEN, "proxy.test", "")]

    run(test)


# --- addresses that move ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dead", "silent"])
def test_an_address_that_has_moved_is_found(net: Net, how: str) -> None:
    """The old one is tried at once, and those that come of asking meanwhile where it is no good."""

    async def test() -> None:
        it = Bench(net)
        net.names["app.test"] = ["192.0.2.1"]
        assert await it.tunnel("app.test") == "192.0.2.1"
        net.now += FOUND_SECONDS
        net.names["app.test"] = ["192.0.2.2"]
        getattr(net, how).add("192.0.2.1")
        net.go.clear()
        dialled = asyncio.create_task(it.tunnel("app.test"))
        while net.tried != ["192.0.2.1"] * 2:
            await asyncio.sleep(0)
        assert not dialled.done()
        net.go.set()
        assert await dialled == "192.0.2.2"
        assert net.tried == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]

    run(test)


def test_an_old_address_that_answers_waits_for_nothing(net: Net) -> None:
    async def test() -> None:
        it = Bench(net)
        net.names["app.test"] = ["192.0.2.1"]
        await it.tunnel("app.test")
        net.now += FOUND_SECONDS
        net.go.clear()
        assert await it.tunnel("app.test") == "192.0.2.1"
        net.go.set()

    run(test)


def test_nothing_new_is_the_old_error(net: Net) -> None:
    async def test() -> None:
        it = Bench(net)
        net.names["app.test"] = ["192.0.2.1"]
        await it.tunnel("app.test")
        net.now += FOUND_SECONDS
        net.dead.add("192.0.2.1")
        assert "Connection refused" in await refusal(it.tunnel("app.test"), ConnectFailed)
        net.now += FOUND_SECONDS
        del net.names["app.test"]
        assert "Connection refused" in await refusal(it.tunnel("app.test"), ConnectFailed)
        assert "name resolution failed" in await refusal(it.tunnel("app.test"), ConnectFailed)

    run(test)


def test_the_time_is_over_while_both_are_waited_for(net: Net) -> None:
    async def test() -> None:
        it = Bench(net)
        net.names["app.test"] = ["192.0.2.1"]
        await it.tunnel("app.test")
        net.now += FOUND_SECONDS
        net.silent.add("192.0.2.1")
        net.go.clear()
        await refusal(it.tunnel("app.test", timeout=0.05), UpstreamTimeout)
        net.go.set()

    run(test)


def test_who_may_not_ask_is_told_so(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit(self: System, name: str, asker: str) -> None:
        raise Busy(f"{name} is not looked up")

    async def test() -> None:
        monkeypatch.setattr(System, "admit", admit)
        text = await refusal(Bench(net).tunnel("app.test"), Busy)
        assert text == "app.test is not looked up"

    run(test)
