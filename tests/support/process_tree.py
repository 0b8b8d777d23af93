"""A proxy's process tree: starting one of a test's own, looking into it, and clients all over it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import ROOT
from tests.support.client import Client
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, title
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane
from tests.support.trust import Trust
from tests.support.two_workers import Pair

Start = Callable[..., Proxy]
Addresses = tuple[tuple[str, int], tuple[str, int]]


def starter(lane: Lane, trust: Trust, directory: Path, stack: ExitStack) -> Start:
    """Return what starts proxies before the lane's origin: `start(REGPROXY_WORKERS="2")`, ended with `stack`.

    Its first argument may be where they listen, for clients and for the admin port.
    """

    def start(addresses: Addresses | None = None, **env: str | None) -> Proxy:
        proxy = Proxy(
            directory / f"proxy-{len(list(directory.glob('proxy-*')))}",
            env,
            registries=(lane.origin.authority,),
            resolve=lane.origin.resolve,
            ca=trust.path,
            addresses=addresses,
        )
        stack.callback(proxy.kill)
        return proxy

    return start


def code(proxy: Proxy, timeout: float = 20.0) -> int:
    """Wait for its end; its exit code. Also says that nothing crashed, and that nothing was left."""
    result = proxy.daemon.wait(timeout)
    assert not proxy.daemon.group_alive()
    assert "Traceback" not in proxy.log(), proxy.log()
    assert proxy.shelf() == []
    return result


def stopped(proxy: Proxy) -> int:
    """SIGTERM; its exit code, as code() says it."""
    proxy.signal(signal.SIGTERM)
    return code(proxy)


def age(pid: int) -> float:
    """Seconds since the process began."""
    began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")


def grown_up(pid: int) -> int:
    """Wait until a worker has lived for so long that its death is followed by a new one at once."""
    wait_until(lambda: age(pid) > 2, f"{pid} has lived for a while")
    return pid


def on_both(lane: Lane, proxy: Proxy, stack: ExitStack, count: int = 1) -> dict[int, list[Client]]:
    """Connect `count` clients to each of two workers, and return those by their workers."""
    pair = Pair(proxy, lane.origin.authority)
    return {pid: [stack.enter_context(pair.client(pid)) for _ in range(count)] for pid in pair.pids()}


def flat(clients: dict[int, list[Client]]) -> list[Client]:
    """Return the clients of all workers."""
    return [client for each in clients.values() for client in each]


def janitors(proxy: Proxy, count: int) -> list[int]:
    """Return the ids of the janitors; waits until there are `count`."""

    def found() -> list[int] | None:
        pids = [pid for pid in proxy.pids() if title(pid).startswith("janitor-")]
        return pids if len(pids) == count else None

    return wait_until(found, f"{count} janitors")


def sick(directory: Path, code: str) -> dict[str, str]:
    """Return the variables that make workers run some Python before anything else."""
    text = f"""
import os, sys
def forked():
    boot = sys.modules["regproxy.process.boot"]
    run = boot.run
    def sick(record, *others):
        if record.role == "worker":
            {code}
        return run(record, *others)
    boot.run = sick
if sys.orig_argv[-2:] == ["regproxy", "serve"]:
    os.register_at_fork(after_in_child=forked)
"""
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{directory}:{ROOT}"}


class Crowd:
    """`count` clients that pull without a pause, each a thread with a connection that it keeps or not.

    `errors`: all that went wrong with any of them. `pulls`: how many pulls were right.
    """

    def __init__(self, lane: Lane, proxy: Proxy, count: int, pause: float = 0.05) -> None:
        self._lane, self._proxy, self._pause = lane, proxy, pause
        self._over = threading.Event()
        self.errors: list[str] = []
        self.pulls = 0
        self._threads = [threading.Thread(target=self._pull, args=(n,), daemon=True) for n in range(count)]

    def _pull(self, number: int) -> None:
        while not self._over.is_set():
            try:
                with self._proxy.client(self._lane.origin.authority) as client:
                    self._ask(client, keeps=number % 4 != 0)
            except Exception as error:
                self.errors.append(f"{number}: {error!r}")
                return

    def _ask(self, client: Client, keeps: bool) -> None:
        """Ask until the proxy says that it closes; one that does so without saying it is an error."""
        while not self._over.wait(self._pause):
            reply = client.get(SMALL_PATH)
            if reply.body != SMALL:
                raise AssertionError(f"{reply.status}, {len(reply.body)} bytes, {reply.end}")
            self.pulls += 1
            if not keeps or reply.get("Connection") == "close":
                return

    def more(self, count: int) -> None:
        """Wait for so many more pulls."""
        before = self.pulls
        wait_until(lambda: self.errors or self.pulls >= before + count, f"{count} more pulls", timeout=60)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert self.errors == []
