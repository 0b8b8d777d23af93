"""Addresses that are free, waiting with a deadline, and daemons that are ended by their id."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
PORTS = range(10_000, 32_000)  # below net.ipv4.ip_local_port_range: no outgoing connection takes one of them


def free_address(host: str | None = None) -> tuple[str, int]:
    """Return a loopback address and a port that nobody listens on.

    Without `host` an address of 127.0.0.0/8 is drawn at random, so that test runs side by side do not meet.
    """
    chance = random.SystemRandom()
    if host is None:
        host = f"127.{chance.randrange(1, 255)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in chance.sample(PORTS, 100):
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return host, port
    raise OSError(f"no free port on {host}")


def wait_until(check: Callable[[], T | None], what: str, *, timeout: float = 20.0) -> T:
    """Poll `check` until it gives something true, and return that; else TimeoutError names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)


def accepts(address: tuple[str, int]) -> bool:
    """Tell whether something accepts TCP connections there."""
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


class Daemon:
    """A child process in a group of its own; it writes to `<name>.out` and `<name>.err` in `directory`."""

    def __init__(
        self,
        name: str,
        command: Iterable[str | Path],
        *,
        directory: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.out, self.err = directory / f"{name}.out", directory / f"{name}.err"
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=None if env is None else dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def wait_ready(self, check: Callable[[], T | None], *, timeout: float = 30.0) -> T:
        """Poll `check`; RuntimeError with the end of its log when it dies meanwhile, or past the deadline."""

        def look() -> T | None:
            if self.exit_code() is not None:
                raise RuntimeError(f"{self.name} ended with {self.exit_code()}:\n{self.log_tail()}")
            return check()

        try:
            return wait_until(look, f"{self.name} is ready", timeout=timeout)
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from None

    def log_tail(self, size: int = 4000) -> str:
        """Return the end of both outputs."""
        return "\n".join(path.read_text(errors="replace")[-size:] for path in (self.err, self.out))

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself, not its children."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Return the exit code; subprocess.TimeoutExpired past the deadline."""
        return self._process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 20.0) -> int:
        """Ask it to end and return its exit code; what is left of its group after the deadline is killed."""
        try:
            if self.exit_code() is None:
                self.send(number)
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill_group()

    def kill_group(self) -> None:
        """Kill whatever is left of the group, and reap the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)

    def group_alive(self) -> bool:
        """Tell whether any process of the group runs (a child may outlive its parent)."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
