"""One worker: builds the object graph, listens, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from regproxy import _relay, _stream, _tls
from regproxy._reactor import Reactor
from regproxy._stream import Listener, Stream
from regproxy.accesslog import AccessLog
from regproxy.admin import Admin
from regproxy.auth import Credentials
from regproxy.certs import Authority
from regproxy.config import Address, Config
from regproxy.contexts import Contexts
from regproxy.directories import Directories
from regproxy.errors import ConfigError
from regproxy.fill import Fills
from regproxy.index import Index
from regproxy.metrics import Metrics
from regproxy.pages import Pages
from regproxy.policy import Policy
from regproxy.services import Services
from regproxy.session import Session
from regproxy.store import Store
from regproxy.tunnel import TunnelEnd
from regproxy.upstream import Upstream

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 30.0
LEAK_EXIT: Final = 3
HEAD_MAX: Final = 32_768  # bytes of a client's message head
BACKLOG: Final = 4096
_FLUSH_SECONDS: Final = 0.25
_DRAIN_LOOK: Final = 0.05
# <linux/tcp.h>, <linux/tls.h>; Python has no names for them
_TCP_ULP: Final = 31
_SOL_TLS: Final = 282
_TLS_TX: Final = 1
_AES_128_GCM: Final = struct.pack("=HH36x", 0x0304, 51)  # TLS 1.3, with a key of zeros


def listen(address: Address, variable: str) -> socket.socket:
    """A listening, non-blocking socket; `[::]` takes IPv4 too. Raises ConfigError naming the variable."""
    host = address.host or "::"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host == "::" and not _has_ipv6():
        host, family = "0.0.0.0", socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it, which saves a system call for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(variable, str(address), f"can't listen there: {error.strerror or error}") from None
    return sock


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def kernel_tls() -> str | None:
    """None where the kernel does TLS on sockets (kTLS), else why not."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        try:
            client.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
            # The module `tls` may be there without the cipher's own, `gcm`.
            client.setsockopt(_SOL_TLS, _TLS_TX, _AES_128_GCM)
        except OSError as error:
            return error.strerror or str(error)
    return None


class Worker:
    """One process's proxy. `run()` serves until a signal and returns what had to be cut."""

    def __init__(self, config: Config, directories: Directories, *, debug: bool = False) -> None:
        self._config = config
        self._directories = directories
        self._debug = debug
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._listening = False
        self.cut: list[str] = []

    def _build(self, loop: asyncio.AbstractEventLoop) -> Services:
        config, directories = self._config, self._directories
        policy = Policy(config)
        credentials = Credentials(config.credentials)
        self._reactor = reactor = Reactor(loop)
        made = not directories.ca_crt.exists()
        authority = Authority.open(directories.ca_crt, directories.ca_key)
        if made:
            log.warning("made a new CA, %s: clients have to trust it", directories.ca_crt)
        store = Store(directories.cache, loop)
        index = Index.open(directories.cache / "index.sqlite3")
        self._metrics = metrics = Metrics(CollectorRegistry())
        missing = kernel_tls()
        if missing is None:
            log.info("kTLS: the kernel encrypts; files go out by sendfile")
        else:
            log.info("kTLS: not here (%s); TLS is done by OpenSSL in this process", missing)
        try:
            trust = _tls.client_context(config.verify_ssl, config.upstream_ca_file)
        except ValueError as error:
            raise ConfigError("REGPROXY_UPSTREAM_CA_FILE", config.upstream_ca_file, str(error)) from None
        upstream = Upstream(config, policy, credentials, reactor, trust, metrics, loop)
        fills = Fills(store, upstream, index, metrics, loop)
        try:
            access = AccessLog.open(config.access_log)
        except OSError as error:
            expected = f"can't be written: {error.strerror}; a path in a directory that exists, - or off"
            raise ConfigError("REGPROXY_ACCESS_LOG", config.access_log, expected) from None
        for source in (reactor, fills, index, authority, access):
            metrics.watch(source)
        return Services(
            config=config,
            policy=policy,
            reactor=reactor,
            store=store,
            index=index,
            fills=fills,
            upstream=upstream,
            contexts=Contexts(authority, ktls=missing is None),
            metrics=metrics,
            access=access,
            pages=Pages(authority.certificate_pem, config.listen.port),
            loop=loop,
            closes=config.keepalive_timeout == 0,
        )

    async def run(self, proxy: socket.socket, admin: socket.socket) -> None:
        """Serve on two listening sockets, which are ours from here on."""
        loop = asyncio.get_running_loop()
        services = self._build(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._reactor.start()
        pages = Admin(services.metrics, self._why_not_ready, live if self._debug else None)
        listeners = [
            Listener(self._reactor, proxy.detach(), lambda stream: Session(services, stream), True, HEAD_MAX),
            Listener(self._reactor, admin.detach(), pages.accept, True, HEAD_MAX),
        ]
        self._listening = True
        log.info("listening on %s, admin on %s", self._config.listen, self._config.admin_listen)
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        flusher = loop.create_task(self._flush(services))
        try:
            await self._stop.wait()
            await self._drain(services, listeners)
        finally:
            flusher.cancel()
            self._close(services, listeners)

    def _why_not_ready(self) -> str | None:
        if self._stop.is_set():
            return "shutting down"
        return None if self._listening else "starting"

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("second signal: stopping at once")
            self._hurry.set()
        else:
            log.info("%s: draining for up to %g s", signal.Signals(number).name, DRAIN_SECONDS)
            self._stop.set()

    async def _flush(self, services: Services) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            services.access.flush()
            services.metrics.publish()

    async def _drain(self, services: Services, listeners: Sequence[Listener]) -> None:
        """Accept nobody, finish what runs, cut what is left after DRAIN_SECONDS and say what that was."""
        listeners[0].close()
        services.closes = True
        ends = time.monotonic() + DRAIN_SECONDS
        while not self._hurry.is_set() and time.monotonic() < ends:
            if not self._running() and not services.fills.active:
                break
            await asyncio.sleep(_DRAIN_LOOK)
        for stream in self._running():
            self.cut.append(_describe(stream))
            stream.abort()
        self.cut += [f"fill of {name}" for name in await services.fills.finish(0.0)]
        for what in self.cut:
            log.warning("cut: %s", what)
        log.info("stopped; %d connections and fills were cut", len(self.cut))

    def _running(self) -> list[Stream]:
        """Client streams with something to finish; idle ones are closed on the way."""
        running = []
        for item in self._reactor.items():
            if not isinstance(item, Stream) or not isinstance(item.handler, Session | TunnelEnd):
                continue
            if item.idle:
                item.close()
            else:
                running.append(item)
        return running

    def _close(self, services: Services, listeners: Sequence[Listener]) -> None:
        for listener in listeners:
            listener.close()
        services.upstream.close()
        for item in self._reactor.items():
            if isinstance(item, Stream):
                item.abort()
        self._reactor.stop()
        services.store.close()
        services.index.close()
        services.access.close()


def _describe(stream: Stream) -> str:
    handler = stream.handler
    if isinstance(handler, Session):
        return f"{stream.peer} {handler.host} {handler.uri}"
    return f"{stream.peer} tunnel"


def live() -> dict[str, int]:
    """What is open in the data plane, and the process's file descriptors."""
    gc.collect()
    return {
        "ssl": _tls.live(),
        "streams": _stream.live(),
        "files": _relay.live(),
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
    }


def run(config: Config, directories: Directories, *, debug: bool = False) -> int:
    """Serve until a signal. Returns the exit code: 0, or 1 where something had to be cut.

    `debug` adds /debug/live to the admin port, and exit code 3 where anything is left open at the end.
    """
    for note in directories.notes:
        log.info("%s", note)
    for warning in config.warnings:
        log.warning("%s", warning)
    if config.workers > 1:
        log.warning("REGPROXY_WORKERS=%d: this version runs one worker", config.workers)
    log.warning("CACHE_MAX_SIZE and CACHE_INACTIVE have no effect in this version: nothing is removed")
    proxy = listen(config.listen, "REGPROXY_LISTEN")
    try:
        admin = listen(config.admin_listen, "REGPROXY_ADMIN_LISTEN")
    except ConfigError:
        proxy.close()
        raise
    worker = Worker(config, directories, debug=debug)
    gc.set_threshold(20_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.run(proxy, admin))
    left = {name: n for name, n in live().items() if n and name != "fds"} if debug else {}
    if left:
        log.error("left open at the end: %s", left)
        return LEAK_EXIT
    return 1 if worker.cut else 0
