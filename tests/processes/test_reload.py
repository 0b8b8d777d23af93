"""SIGHUP: the configuration is read again, and workers are replaced, without anybody noticing."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.byte_streams import End, Plain
from tests.support.client import Client
from tests.support.process_tree import Crowd, Start, code, janitors, sick, stopped
from tests.support.processes import accepts, free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, UPLOADS, Lane, ended

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "regproxy.toml"


def has_workers(proxy: Proxy, count: int) -> bool:
    return len(proxy.workers()) == count


class TestReload:
    """SIGHUP: other settings, without anybody noticing."""

    @staticmethod
    def done(proxy: Proxy, times: int = 1) -> None:
        text = "the new configuration is in use"
        wait_until(lambda: proxy.log().count(text) == times, f"{text}, {times} times\n{proxy.log()}")

    @staticmethod
    def refused(proxy: Proxy, times: int = 1) -> str:
        """Wait for the refusal, and return what was said."""
        text = "; the old configuration goes on"
        wait_until(lambda: proxy.log().count(text) == times, f"{text}, {times} times\n{proxy.log()}")
        return [line for line in proxy.log().splitlines() if text in line][-1]

    def test_a_balancer_has_yet_to_say_who_connects(self, lane: Lane, start: Start) -> None:
        """Its client has asked for nothing so far, and is not cut off either."""
        proxy = start(REGPROXY_WORKERS="1", REGPROXY_PROXY_PROTOCOL="127.0.3.3")
        with socket.create_connection(proxy.address, 20, source_address=("127.0.3.3", 0)) as sock:
            with proxy.client(lane.origin.authority) as client:  # accepted behind it
                assert client.get(SMALL_PATH).body == SMALL
            proxy.signal(HUP)
            wait_until(lambda: "told to retire" in proxy.log(), "the former worker retires")
            balanced = Client(Plain(sock), authority="proxy.test")
            balanced.send(b"PROXY TCP4 192.0.2.77 198.51.100.2 4711 3128\r\n")
            reply = balanced.get("/ca.crt")
            assert (reply.status, reply.get("Connection")) == (200, "close")
            assert reply.body.startswith(b"-----BEGIN CERTIFICATE-----")

    def test_settings_change_while_everybody_pulls(
        self, lane: Lane, start: Start, toml: Path, stack: ExitStack, hold: threading.Event
    ) -> None:
        toml.write_text("allow_push = false\n")
        proxy = start(REGPROXY_WORKERS="2", REGPROXY_CONFIG=str(toml))
        before = proxy.workers(2)
        held_path, held = lane.publish(300_000, hold_at=100_000, hold=hold)
        long_path, long = lane.publish(20_000_000)
        filling = stack.enter_context(proxy.client(lane.origin.authority))
        filling.ask("GET", held_path)
        reading = stack.enter_context(proxy.client(lane.origin.authority, recv_buffer=65536))
        reading.ask("GET", long_path)
        for client in (filling, reading):
            assert client.read_head().status == 200
        with proxy.client(lane.origin.authority) as client:
            assert client.request("PUT", UPLOADS + "before", body=b"x").status == 403
        with Crowd(lane, proxy, 100) as crowd:
            crowd.more(200)
            toml.write_text("allow_push = true\n")
            proxy.signal(HUP)
            self.done(proxy)
            crowd.more(200)
            after = proxy.workers(2)[-2:]
            assert set(after).isdisjoint(before)
            with proxy.client(lane.origin.authority) as client:
                assert client.request("PUT", UPLOADS + "after", body=b"x").status == 201
        assert proxy.owner(filling) in before
        hold.set()
        assert filling.read(len(held)) == held
        assert reading.read(len(long)) == long
        for client in (filling, reading):  # nothing was said of an end: they are asked once more
            reply = client.get(SMALL_PATH)
            assert (reply.body, reply.get("Connection")) == (SMALL, "close")
            assert ended(client) is End.CLOSE_NOTIFY
        wait_until(lambda: proxy.workers() == after, "the old ones have ended")
        assert proxy.metric("regproxy_reloads_total", result="done") == 1
        assert proxy.metric("regproxy_worker_exits_total") == 0
        assert stopped(proxy) == 0

    def test_idle_connections_are_answered_once_more(
        self, lane: Lane, start: Start, stack: ExitStack
    ) -> None:
        proxy = start()
        used, fresh = (stack.enter_context(proxy.client(lane.origin.authority)) for _ in range(2))
        assert used.get(SMALL_PATH).body == SMALL
        admin = stack.enter_context(Client.connect(proxy.admin_address))
        assert admin.get("/readyz").body == b"ready\n"
        (old,) = proxy.workers(1)
        proxy.signal(HUP)
        self.done(proxy)
        wait_until(lambda: "worker-0 regproxy.process.worker: told to retire" in proxy.log(), "it is told")
        reply = admin.get("/readyz")
        assert (reply.status, reply.get("Connection")) == (200, "close")
        assert ended(admin) is End.FIN
        for client in (used, fresh):
            assert proxy.owner(client) == old
            reply = client.get(SMALL_PATH)
            assert (reply.body, reply.get("Connection")) == (SMALL, "close")
            assert ended(client) is End.CLOSE_NOTIFY
        wait_until(lambda: old not in proxy.pids(), "it has ended")
        assert stopped(proxy) == 0

    def test_a_retired_worker_drains_with_the_others(
        self, lane: Lane, start: Start, stack: ExitStack
    ) -> None:
        proxy = start()
        idle = stack.enter_context(proxy.client(lane.origin.authority))
        proxy.signal(HUP)
        self.done(proxy)
        proxy.signal(TERM)
        assert ended(idle) is End.CLOSE_NOTIFY
        assert code(proxy) == 0

    def test_more_and_fewer_workers(self, start: Start, toml: Path) -> None:
        toml.write_text("workers = 1\n")
        proxy = start(REGPROXY_WORKERS="", REGPROXY_CONFIG=str(toml))
        proxy.workers(1)
        for number, count in enumerate((3, 1, 2), 1):
            toml.write_text(f"workers = {count}\n")
            proxy.signal(HUP)
            self.done(proxy, number)
            wait_until(partial(has_workers, proxy, count), f"{count} workers")
            assert proxy.metric("regproxy_workers") == count
        assert len(janitors(proxy, 1)) == 1
        assert stopped(proxy) == 0

    def test_two_in_a_row(self, start: Start) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        proxy.workers(2)
        proxy.signal(HUP)
        wait_until(lambda: "reading the configuration again" in proxy.log(), "it has begun")
        proxy.signal(HUP)
        self.done(proxy, 2)
        wait_until(lambda: len(proxy.workers()) == 2, "the old ones have ended")
        assert stopped(proxy) == 0

    def test_the_end_comes_meanwhile(self, start: Start) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        proxy.signal(HUP)
        wait_until(lambda: "reading the configuration again" in proxy.log(), "it has begun")
        assert stopped(proxy) == 0

    def test_what_can_not_be_used(self, start: Start, toml: Path, tmp_path: Path, stack: ExitStack) -> None:
        """The reason is logged, and those that serve are the same as before."""
        address, admin = free_address(), free_address()
        taken = free_address()
        stack.enter_context(socket.create_server(taken))
        good = {
            "listen": "{}:{}".format(*address),
            "admin_listen": "{}:{}".format(*admin),
            "ca_dir": str(tmp_path / "ca"),
            "access_log": str(tmp_path / "log"),
            "cache_dir": str(tmp_path / "cache"),
        }

        def configure(**changes: str) -> None:
            toml.write_text("".join(f'{name} = "{value}"\n' for name, value in (good | changes).items()))

        (tmp_path / "odd" / "index.sqlite3").mkdir(parents=True)
        (tmp_path / "broken").mkdir()
        for name in ("ca.crt", "ca.key"):
            (tmp_path / "broken" / name).write_text("-----BEGIN NONSENSE-----")
        configure()
        names = ("LISTEN", "ADMIN_LISTEN", "CA_DIR", "ACCESS_LOG", "CACHE_DIR")
        unset: dict[str, str | None] = {f"REGPROXY_{name}": None for name in names}
        proxy = start((address, admin), REGPROXY_CONFIG=str(toml), **unset)
        before = proxy.workers(1)
        cases = [
            ({"worker": "1"}, "no such setting; did you mean workers?"),
            ({"log_level": "loud", "cache_max_size": "much"}, "; "),
            ({"ca_dir": str(tmp_path / "broken")}, "ca.crt"),
            ({"ca_dir": str(tmp_path / "log" / "ca")}, "Not a directory"),
            ({"listen": "{}:{}".format(*taken)}, "can't listen there: Address already in use"),
            ({"access_log": "/nowhere/log"}, "can't be written: No such file or directory"),
            (
                {"cache_dir": str(tmp_path / "odd")},
                "a worker with the new configuration ended with exit code 2",
            ),
        ]
        for number, (changes, reason) in enumerate(cases, 1):
            configure(**changes)
            proxy.signal(HUP)
            assert reason in self.refused(proxy, number)
        toml.write_text("listen = ")
        proxy.signal(HUP)
        assert "a TOML file" in self.refused(proxy, len(cases) + 1)
        assert proxy.workers(1) == before
        assert proxy.metric("regproxy_reloads_total", result="refused") == len(cases)
        assert proxy.metric("regproxy_reloads_total", result="failed") == 1
        configure()
        proxy.signal(HUP)
        self.done(proxy)
        assert stopped(proxy) == 0

    def test_a_worker_that_never_comes_up(self, tmp_path: Path, start: Start) -> None:
        flag = tmp_path / "flag"
        proxy = start(**sick(tmp_path, f"os.path.exists({str(flag)!r}) and os.kill(os.getpid(), 9)"))
        before = proxy.workers(1)
        flag.touch()
        proxy.signal(HUP)
        assert "was killed by SIGKILL" in self.refused(proxy)
        assert proxy.workers(1) == before
        flag.unlink()
        proxy.signal(HUP)
        self.done(proxy)
        assert stopped(proxy) == 0

    def test_other_addresses(self, lane: Lane, start: Start, toml: Path, stack: ExitStack) -> None:
        """Clients of the old ones are served to their end."""
        first, second, admin = free_address(), free_address(), free_address()
        toml.write_text('listen = "{}:{}"'.format(*first))
        env = {"REGPROXY_LISTEN": None, "REGPROXY_WORKERS": "2", "REGPROXY_CONFIG": str(toml)}
        proxy = start((first, admin), REGPROXY_ADMIN_LISTEN="{}:{}".format(*admin), **env)
        proxy.workers(2)
        client = stack.enter_context(proxy.client(lane.origin.authority))
        toml.write_text('listen = "{}:{}"'.format(*second))
        proxy.signal(HUP)
        self.done(proxy)
        proxy.address = second
        with proxy.client(lane.origin.authority) as other:
            assert other.get(SMALL_PATH).body == SMALL
        wait_until(lambda: not accepts(first), "the old one is closed")
        assert client.get(SMALL_PATH).body == SMALL
        assert stopped(proxy) == 0
