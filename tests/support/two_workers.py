"""A proxy of two workers, and clients that are certain to be served by one of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.client import Client
from tests.support.processes import wait_until
from tests.support.proxy import Proxy


class Pair:
    """The two workers of a proxy that was started with REGPROXY_WORKERS=2."""

    def __init__(self, proxy: Proxy, authority: str) -> None:
        self.proxy = proxy
        self._authority = authority

    def pids(self) -> tuple[int, int]:
        """The workers' process ids, once there are two of them."""
        one, two = wait_until(
            lambda: tuple(sorted(self.proxy.workers())) if len(self.proxy.workers()) == 2 else None,
            "two workers are ready",
        )
        return one, two

    def client(self, pid: int, **options: Any) -> Client:
        """A raw client that worker `pid` has accepted: the other one is stopped meanwhile."""
        with stopped(*(other for other in self.pids() if other != pid)):
            return self.proxy.client(self._authority, **options)

    def filler(self, digest: str) -> int:
        """The worker that has the lock of this content's part, by the kernel's list of locks."""
        part = self.proxy.cache_dir / "parts" / f"{digest[7:]}.part"
        for pid in self.pids():
            if any(inode == part.stat().st_ino for inode in _locked_by(pid)):
                return pid
        raise AssertionError(f"nobody fills {digest}")

    def kill(self, *pids: int) -> None:
        """SIGKILL, and wait until others have taken their places."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: len(workers := set(self.proxy.workers())) == 2 and not workers & set(pids),
            "the killed workers are replaced",
        )


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let these processes rest."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        # The signal is sent; it takes effect a moment later.
        wait_until(partial(_is_stopped, pid), f"{pid} has stopped")
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    return _state(pid) == "T"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _locked_by(pid: int) -> Iterator[int]:
    """The inodes on which open descriptions of `pid` have locks (proc(5), /proc/pid/fdinfo)."""
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            for line in entry.read_text().splitlines():
                if line.startswith("lock:") and "OFDLCK" in line:
                    yield int(line.split()[6].rpartition(":")[2])
