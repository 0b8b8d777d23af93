"""What the peers have in common: a place, a certificate, an origin, and a cache that can be emptied."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.errors import BenchError
from bench.loadgen import Load, Route
from bench.material import HOST, Identity, Item
from bench.servers import Process, accepts, free_port

SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # where daemons are that PATH may not have


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer lives and what it serves.

    `origin` is the port on 127.0.0.1 of the TLS server that it caches; `identity` is what clients trust, and
    signed that server too. `workers`: processes or threads, where the peer lets one choose.
    """

    directory: Path  # its own, absolute
    identity: Identity
    origin: int
    workers: int = 1


class Peer(ABC):
    """A caching server in front of one origin: started, emptied and stopped by its process id.

    It is a reverse proxy of HOST on `port` over TLS unless `route` says otherwise. Subclasses write their
    configuration in `_write`, which finds the directory made.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]  # Debian's, that has the program
    user: ClassVar[str] = ""  # that it turns into when root starts it; empty: it stays root
    separate: ClassVar[str] = (
        ""  # why clients that ask at once are not served by one fetch; empty if they are
    )

    def __init__(self, site: Site) -> None:
        self.site = site
        self.port = free_port()
        self._process: Process | None = None
        site.directory.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def cache(self) -> Path:
        """The directory that has all of the cache."""
        return self.site.directory / "cache"

    @classmethod
    def missing(cls) -> str:
        """Why this peer cannot be measured on this machine; empty if it can."""
        return "" if cls.where() else f"{cls.program} is not here: .ci/packages bench installs {cls.package}"

    @classmethod
    def where(cls) -> str | None:
        """The program's path."""
        return shutil.which(cls.program, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM]))

    def refuses(self, item: Item) -> str:
        """Why this peer answers requests for `item` otherwise than from its cache; empty if it does not."""
        return ""

    def enough(self, load: Load) -> Load:
        """As much of `load` as is worth its time; what is measured is per request or per byte."""
        return load

    def stored(self, item: Item) -> bool:
        """Whether the cache holds `item`, once a client has it: some store after they have answered."""
        return True

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def _write(self) -> None:
        """Write the configuration."""

    def _prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Do what has to be done between an empty cache and a start."""

    def _environ(self) -> Mapping[str, str]:
        return {}

    def _ready(self) -> Callable[[], bool]:
        return lambda: accepts(self.port)

    @property
    def pid(self) -> int:
        """Of the root process; BenchError if it is not running."""
        if self._process is None:
            raise BenchError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start with what is in the cache; BenchError, with the server's words, if it does not come up."""
        self._hand_over()
        log = self.site.directory / "output.log"
        self._process = Process(self.command(), log, self._ready(), self._environ())

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def empty(self) -> None:
        """Forget everything that is cached; only between stop and start."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir()
        self._prepare()

    def restart(self) -> None:
        """Start with an empty cache."""
        if self._process is not None:  # some take two seconds to end, to keep what is deleted next
            self._process.kill()
            self._process = None
        self.empty()
        self.start()

    def route(self) -> Route:
        return Route(f"127.0.0.1:{self.port}", f"{HOST}:{self.port}", self.site.identity.ca)

    def _hand_over(self) -> None:
        """Give everything to the user that the server turns into when root starts it."""
        if not self.user or os.geteuid() != 0:
            return
        directory = self.site.directory
        for above in directory.parents:
            if not above.stat().st_mode & 0o001:
                raise BenchError(f"{self.name} runs as {self.user}, who may not enter {above}: choose --work")
        for path in [directory, *directory.rglob("*")]:
            shutil.chown(path, self.user, self.user)
