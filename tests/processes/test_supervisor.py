"""The processes: who starts, watches and replaces whom, and what clients notice of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.process_tree import Start, code, flat, grown_up, janitors, on_both, sick, stopped
from tests.support.processes import accepts, free_address, wait_until
from tests.support.proxy import Proxy, title
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane, ended

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


class TestWorkers:
    """Several of them share the ports, and one that is lost is replaced."""

    def test_both_answer(self, lane: Lane, start: Start, stack: ExitStack) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        asked = 0
        for clients in on_both(lane, proxy, stack).values():
            for client in clients:
                assert client.get(SMALL_PATH).body == SMALL
                asked += 1
        lines = proxy.access_log(asked)  # one file, and no line of it is broken
        assert len(lines) == asked
        assert wait_until(lambda: proxy.metric("regproxy_workers") == 2, "it says so")
        for client in flat(on_both(lane, proxy, stack)):
            client.close()
        assert stopped(proxy) == 0

    def test_one_is_killed(self, lane: Lane, start: Start, stack: ExitStack, hold: threading.Event) -> None:
        """Its own connections break, and nobody else's; who comes meanwhile is served."""
        proxy = start(REGPROXY_WORKERS="2")
        path, body = lane.publish(300_000, hold_at=100_000, hold=hold)
        clients = on_both(lane, proxy, stack, 10)
        for client in flat(clients):
            client.ask("GET", path)
            assert client.read_head().status == 200
        victim, other = clients
        os.kill(grown_up(victim), KILL)
        wait_until(lambda: victim not in proxy.pids(), "it is gone")
        for _ in range(20):
            with proxy.client(lane.origin.authority) as client:
                assert client.get(SMALL_PATH).body == SMALL
        assert victim not in proxy.workers(2)
        hold.set()
        for client in clients[other]:
            assert client.read(len(body)) == body
        for client in clients[victim]:
            rest, end = client.read_end()
            assert (len(rest) < len(body), end) == (True, End.RST if rest == b"" else end)
            assert end is not End.CLOSE_NOTIFY
        assert proxy.metric("regproxy_worker_exits_total", reason="killed") == 1
        for client in clients[other]:
            client.close()
        assert stopped(proxy) == 0

    def test_the_only_one_hangs(self, lane: Lane, start: Start) -> None:
        """Who has connected meanwhile is served by the next one."""
        proxy = start(REGPROXY_HANG_TIMEOUT="1s")
        (victim,) = proxy.workers(1)
        os.kill(victim, signal.SIGSTOP)
        with proxy.client(lane.origin.authority) as client:
            assert client.get(SMALL_PATH).body == SMALL
        assert victim not in proxy.workers(1)
        assert proxy.metric("regproxy_worker_exits_total", reason="hung") == 1
        assert stopped(proxy) == 0

    def test_all_were_stopped(self, start: Start) -> None:
        """As by Ctrl-Z, or in a frozen container. Nobody has hung."""
        proxy = start(REGPROXY_HANG_TIMEOUT="1s", REGPROXY_WORKERS="2")
        before = proxy.workers(2)
        os.killpg(proxy.daemon.pid, signal.SIGSTOP)
        time.sleep(3)  # longer than the hang timeout: nothing can happen meanwhile that could be waited for
        os.killpg(proxy.daemon.pid, signal.SIGCONT)
        assert proxy.admin("/readyz")[0] == 200
        assert proxy.metric("regproxy_worker_exits_total") == 0
        assert proxy.workers(2) == before
        assert stopped(proxy) == 0

    def test_one_is_told_to_end(self, start: Start) -> None:
        """By an operator, with SIGTERM. It drains, and is replaced."""
        proxy = start()
        (victim,) = proxy.workers(1)
        os.kill(grown_up(victim), TERM)
        wait_until(lambda: victim not in proxy.pids(), "it has ended")
        assert proxy.workers(1) != [victim]
        assert proxy.metric("regproxy_worker_exits_total", reason="exit") == 1
        assert stopped(proxy) == 0

    def test_the_janitor_is_killed(self, start: Start) -> None:
        proxy = start()
        (victim,) = janitors(proxy, 1)
        os.kill(grown_up(victim), KILL)
        wait_until(lambda: victim not in proxy.pids(), "it is gone")
        assert janitors(proxy, 1) != [victim]
        assert stopped(proxy) == 0


class TestBoot:
    """What becomes of workers that can't begin."""

    def test_files_that_settings_name(self, tmp_path: Path) -> None:
        """All that are wrong are told, in the words of check-config; no pipe among them is waited for."""
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "verdicts").write_text("nonsense\n")
        toml = tmp_path / "regproxy.toml"
        toml.write_text(
            f"rule = [{{name = 'r', verdict = '{tmp_path}/verdicts', action = 'deny'}}]\n"
            f"[key.release]\nfile = '{tmp_path}/none'\n"
        )
        env = {"REGPROXY_CONFIG": str(toml), "REGPROXY_HTPASSWD": f"{tmp_path}/pipe"}
        env["REGPROXY_CLIENT_CA_FILE"] = str(tmp_path)
        proxy = Proxy(tmp_path / "proxy", env, ready=False)
        assert code(proxy) == 2
        command = [sys.executable, "-m", "regproxy", "check-config"]
        checked = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 2
        warning, _, faults = checked.stderr.partition("regproxy: ")
        assert warning.startswith("warning: REGPROXY_CLIENT_CA_FILE has no effect")
        assert f"regproxy: {faults}" in proxy.log()
        told = [line.partition("=")[0] for line in faults.splitlines()]
        named = ["REGPROXY_HTPASSWD", "REGPROXY_CLIENT_CA_FILE", "key.release.file", "rule 'r': verdict"]
        assert told == named

    def test_a_file_of_verdicts_that_breaks_later(self, start: Start, tmp_path: Path) -> None:
        """Workers that are replaced come up with it; a reload is refused, until it is right again."""
        verdicts, toml = tmp_path / "verdicts", tmp_path / "regproxy.toml"
        verdicts.write_text("* allow\n")
        toml.write_text(f"rule = [{{name = 'r', verdict = '{verdicts}', action = 'deny'}}]\n")
        proxy = start(REGPROXY_CONFIG=str(toml))
        verdicts.write_text("nonsense\n")
        (first,) = proxy.workers(1)
        os.kill(grown_up(first), KILL)
        wait_until(lambda: first not in proxy.workers() and proxy.workers(1), "there is another")
        proxy.signal(HUP)
        wait_until(lambda: "line 1: a digest or *, then allow" in proxy.log(), "it is refused")
        verdicts.unlink()
        proxy.signal(HUP)
        wait_until(
            lambda: f"verdict='{verdicts}': a file that can be read: No such" in proxy.log(), "so is this"
        )
        verdicts.write_text("* deny\n")
        proxy.signal(HUP)
        wait_until(lambda: proxy.metric("regproxy_reloads_total", result="done") == 1, "it is taken")
        assert proxy.metric("regproxy_reloads_total", result="refused") == 2
        assert stopped(proxy) == 0

    def test_files_of_logins_may_come_later(self, start: Start, tmp_path: Path) -> None:
        proxy = start(REGPROXY_DOCKER_CONFIG=str(tmp_path / "config.json"))
        told = (
            f"REGPROXY_DOCKER_CONFIG='{tmp_path}/config.json': a file of text that can be read: No such file"
        )
        assert told in proxy.log()
        assert stopped(proxy) == 0

    def test_the_configuration(self, tmp_path: Path) -> None:
        """What is wrong is said once, not by each worker, and ends it."""
        for name in ("REGPROXY_ACCESS_LOG", "REGPROXY_UPSTREAM_CA_FILE"):
            env = {"REGPROXY_WORKERS": "4", name: "/nowhere/at/all"}
            proxy = Proxy(tmp_path / name, env, ready=False)
            assert code(proxy) == 2
            assert proxy.log().count(f"regproxy: {name}='/nowhere/at/all'") == 1

    def test_a_log_in_json(self, tmp_path: Path) -> None:
        """All of it, from the first warning on, and with the errors that end the start."""
        toml = tmp_path / "regproxy.toml"
        toml.write_text("log_format = 'json'\nsend_timeout = 'long'\nhang_timeout = '-'\n")
        proxy = Proxy(tmp_path / "refused", {"REGPROXY_CONFIG": str(toml)}, ready=False)
        assert code(proxy) == 2
        ends = [json.loads(line) for line in proxy.log().splitlines() if line]
        assert [(line["level"], line["role"]) for line in ends] == [("critical", "supervisor")] * 2
        assert ends[0]["message"].startswith(f"{toml}: hang_timeout='-': ")
        toml.write_text("log_format = 'json'\n")
        code_of = "import regproxy.process.wiring as w; w.build = lambda *_: 1 // 0"
        env = sick(tmp_path, code_of) | {"REGPROXY_CONFIG": str(toml), "REGPROXY_LISTN": ":1"}
        proxy = Proxy(tmp_path / "sick", env, ready=False)
        assert proxy.daemon.wait(20.0) == 4
        lines = [json.loads(line) for line in proxy.log().splitlines() if line]
        assert {line["role"] for line in lines} == {"supervisor", "worker"}
        assert any(line["message"].startswith("REGPROXY_LISTN is not a setting") for line in lines)
        assert sum("ZeroDivisionError" in line.get("exception", "") for line in lines) == 3
        assert any("3 workers in a row" in line["message"] for line in lines)

    def test_a_port_in_use(self, tmp_path: Path, stack: ExitStack) -> None:
        host, port = free_address()
        stack.enter_context(socket.create_server((host, port)))
        proxy = Proxy(tmp_path, {"REGPROXY_ADMIN_LISTEN": f"{host}:{port}"}, ready=False)
        assert code(proxy) == 2
        assert f"regproxy: REGPROXY_ADMIN_LISTEN='{host}:{port}': can't listen there: Addr" in proxy.log()

    def test_no_worker_comes_up(self, tmp_path: Path) -> None:
        proxy = Proxy(tmp_path / "proxy", sick(tmp_path, "os._exit(7)"), ready=False)
        assert code(proxy) == 4
        said = [line for line in proxy.log().splitlines() if line.startswith("regproxy: ")]
        assert said == ["regproxy: 3 workers in a row did not come up; the last one ended with exit code 7"]

    def test_later_on_it_does_not_give_up(self, tmp_path: Path, start: Start) -> None:
        flag = tmp_path / "flag"
        proxy = start(**sick(tmp_path, f"os.path.exists({str(flag)!r}) and os._exit(9)"))
        (victim,) = proxy.workers(1)
        flag.touch()
        os.kill(victim, KILL)
        wait_until(lambda: proxy.log().count("ended with exit code 9") > 3, "it tries")
        flag.unlink()
        assert proxy.workers(1) != [victim]
        assert proxy.admin("/readyz")[0] == 200
        assert stopped(proxy) == 0

    def test_a_leak_is_told(self, tmp_path: Path, start: Start) -> None:
        leaky = sick(tmp_path, "import regproxy.dataplane.tls; regproxy.dataplane.tls.live = lambda: 1")
        proxy = start(**leaky, REGPROXY_WORKERS="2")
        proxy.workers(2)
        assert stopped(proxy) == 3
        assert "left open at the end" in proxy.log()


class TestStandardStreams:
    """What the proxy is started with need not be there, or not for long."""

    @pytest.mark.parametrize("shape", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
    def test_it_serves_without(self, shape: str, tmp_path: Path) -> None:
        with Proxy(tmp_path, within=["sh", "-c", f'exec "$@" {shape}', "sh"]) as proxy:
            self.replaces_a_worker(proxy)

    def test_whoever_reads_the_log_goes(self, tmp_path: Path) -> None:
        with Proxy(tmp_path, within=["bash", "-c", 'exec "$@" 2> >(head -c 1)', "bash"]) as proxy:
            self.replaces_a_worker(proxy)
            proxy.signal(signal.SIGHUP)
            self.replaces_a_worker(proxy)

    @staticmethod
    def replaces_a_worker(proxy: Proxy) -> None:
        def worker() -> int | None:
            return next((pid for pid in proxy.pids() if title(pid).startswith("worker-")), None)

        victim = wait_until(worker, "there is a worker")
        held = [str(Path(f"/proc/{victim}/fd/{fd}").readlink()) for fd in range(3)]
        assert not any(name.startswith(("socket:", "anon_inode:")) for name in held), held
        os.kill(victim, KILL)
        wait_until(lambda: worker() not in (None, victim), "there is another one")
        wait_until(proxy.ready, "it is ready")


class TestEnd:
    """SIGTERM and SIGINT; test_drain has what a client sees of it."""

    @pytest.mark.parametrize("number", [TERM, signal.SIGINT], ids=str)
    def test_each_worker_finishes(
        self, number: signal.Signals, lane: Lane, start: Start, stack: ExitStack, hold: threading.Event
    ) -> None:
        """Also where all of a terminal's processes get the signal."""
        proxy = start(REGPROXY_WORKERS="2")
        path, body = lane.publish(300_000, hold_at=100_000, hold=hold)
        clients = [client for (client, *_) in on_both(lane, proxy, stack).values()]
        for client in clients:
            client.ask("GET", path)
            assert client.read_head().status == 200
        os.killpg(proxy.daemon.pid, number)
        wait_until(lambda: not accepts(proxy.address), "it does not listen any more")
        hold.set()
        for client in clients:
            assert client.read(len(body)) == body
            assert ended(client) is End.CLOSE_NOTIFY
        assert code(proxy) == 0

    def test_the_second_signal(
        self, lane: Lane, start: Start, stack: ExitStack, hold: threading.Event
    ) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        path, body = lane.publish(300_000, hold_at=100_000, hold=hold)
        client = stack.enter_context(proxy.client(lane.origin.authority))
        client.ask("GET", path)
        assert client.read_head().status == 200
        proxy.signal(TERM)
        wait_until(lambda: not accepts(proxy.address), "it does not listen any more")
        proxy.signal(TERM)
        rest, end = client.read_end()
        assert (len(rest) < len(body), end is End.CLOSE_NOTIFY) == (True, False)
        assert code(proxy) == 1

    def test_before_it_is_ready(self, tmp_path: Path) -> None:
        proxy = Proxy(tmp_path, ready=False)
        wait_until(lambda: "listening on" in proxy.log(), "it has its handlers")
        assert stopped(proxy) == 0

    def test_the_supervisor_is_killed(
        self, lane: Lane, start: Start, stack: ExitStack, hold: threading.Event
    ) -> None:
        """Its children end by themselves, and its successor need not wait for that."""
        proxy = start(REGPROXY_WORKERS="2")
        path, body = lane.publish(300_000, hold_at=100_000, hold=hold)
        client = stack.enter_context(proxy.client(lane.origin.authority))
        client.ask("GET", path)
        assert client.read_head().status == 200
        proxy.workers(2)
        left = proxy.shelf()
        assert left != []
        proxy.signal(KILL)
        assert proxy.daemon.wait() == -KILL
        successor = start((proxy.address, proxy.admin_address))
        assert proxy.shelf() == []  # nobody can scrape it any more
        with successor.client(lane.origin.authority) as other:
            assert other.get(SMALL_PATH).body == SMALL
        hold.set()
        assert client.read(len(body)) == body
        assert ended(client) is End.CLOSE_NOTIFY
        wait_until(lambda: not proxy.daemon.group_alive(), "the old workers have ended")
        assert stopped(successor) == 0


class TestFirstProcess:
    """As process 1 of a container."""

    @pytest.fixture
    def container(self, tmp_path: Path, stack: ExitStack) -> Proxy:
        """A proxy that is process 1."""
        within = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this user can't make namespaces")
        proxy = Proxy(tmp_path, within=within)
        stack.callback(proxy.kill)
        return proxy

    @staticmethod
    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def test_orphans_are_reaped(self, container: Proxy) -> None:
        (first,) = self.children(container.daemon.pid)
        wait_until(lambda: len(self.children(first)) == 2, "worker and janitor")
        before = set(self.children(first))
        inside = ["nsenter", "--pid", "--mount", "--target", str(first)]
        subprocess.run([*inside, "sh", "-c", "sleep 1000 >/dev/null 2>&1 &"], check=True)
        (orphan,) = wait_until(lambda: set(self.children(first)) - before, "it has an orphan")
        os.kill(orphan, KILL)
        wait_until(lambda: set(self.children(first)) == before, "it is reaped")
        os.kill(first, TERM)
        assert container.daemon.wait() == 0
        assert "Traceback" not in container.log()
