"""One worker: builds the object graph, listens, and ends as its supervisor wants it to."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.token_realms import Realms
from regproxy.cache import eviction, layout
from regproxy.cache.blobs import Store
from regproxy.cache.index.index import Index
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.dataplane import file as file_module
from regproxy.dataplane import stream as stream_module
from regproxy.dataplane import tls
from regproxy.dataplane.board import Board
from regproxy.dataplane.inotify import Watch
from regproxy.dataplane.listener import Listener
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.records_self_test import sealing_fault
from regproxy.dataplane.stream import Stream
from regproxy.fill.fills import Fills
from regproxy.fill.origin_bodies import CHANCES, Limits
from regproxy.policy.origins import Origins
from regproxy.policy.plans import Policy
from regproxy.process import boot
from regproxy.process.boot import Boot
from regproxy.server.admin import Admin, AdminSession
from regproxy.server.context import Services
from regproxy.server.session import Session
from regproxy.server.setup_pages import Pages
from regproxy.server.tunnel import TunnelEnd
from regproxy.tags.claims import TagClaims
from regproxy.tags.resolver import Tags
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.metrics import Metrics
from regproxy.tls.authority import Authority, throwaway
from regproxy.tls.client_contexts import Trust
from regproxy.tls.server_contexts import Contexts
from regproxy.upstream.admission import Gate
from regproxy.upstream.circuit_breaker import Breakers
from regproxy.upstream.client import Upstream
from regproxy.upstream.dialer import Dialer
from regproxy.upstream.quotas import Quotas

log = logging.getLogger("regproxy.process.worker")  # also where this module is the program

HEAD_MAX: Final = 32_768  # bytes of a client's message head
ACCEPTS: Final = 32  # connections at a time
_FLUSH_SECONDS: Final = 0.25
_MARGIN: Final = 30.0  # seconds that a filler in another process may be late
_LOOK: Final = 0.05  # seconds between two looks at whether all is done
_LOOK_RETIRED: Final = 0.25
# <linux/tcp.h>, <linux/tls.h>; Python has no names for them
_TCP_ULP: Final = 31
_SOL_TLS: Final = 282
_TLS_TX: Final = 1
_AES_128_GCM: Final = struct.pack("=HH36x", 0x0304, 51)  # TLS 1.3, with a key of zeros


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


def seals(config: Config) -> bool:
    """Whether the data plane makes the TLS records of large bodies itself; says so in the log."""
    if config.tls_records == "openssl":
        log.info("TLS records: OpenSSL makes all of them (REGPROXY_TLS_RECORDS=openssl)")
        return False
    fault = sealing_fault(*throwaway())
    if fault:
        log.warning("TLS records: OpenSSL makes all of them, as our own failed the self-test: %s", fault)
        return False
    log.info("TLS records: those of large bodies are made here (%s)", tls.openssl_version())
    return True


class Ending(IntEnum):
    """How a worker is to end. It may be told to hurry, never to take its time again."""

    NONE = 0
    RETIRE = 1  # accept nobody; whoever is connected is answered once more
    DRAIN = 2  # accept nobody, close idle connections, cut what is left after DRAIN_SECONDS
    STOP = 3  # cut what runs


_ENDINGS: Final = {
    boot.RETIRE: Ending.RETIRE,
    boot.DRAIN: Ending.DRAIN,
    boot.STOP: Ending.STOP,
    boot.GONE: Ending.DRAIN,
}


class Worker:
    """One process's proxy. `run()` serves until it is told to end; `cut` then says what had to be cut."""

    def __init__(self, start: Boot) -> None:
        self._config, self._directories = start.config, start.directories
        self._record, self._control = start.record, start.control
        self._ending = Ending.NONE
        self._told = asyncio.Event()
        self._listening = False
        self._listeners: list[Listener] = []
        self.cut: list[str] = []

    def _build(self, loop: asyncio.AbstractEventLoop) -> Services:
        config, directories, record = self._config, self._directories, self._record
        policy = Policy(config)
        self._reactor = reactor = Reactor(loop, record.debug)
        authority = Authority.open(directories.ca_crt, directories.ca_key)
        self._metrics = metrics = Metrics(CollectorRegistry())
        board = Board(record.board)
        store = Store(directories.cache, loop, board=board, counters=metrics)
        index = Index.open(layout.index(directories.cache), board=board, commits_fd=record.commits)
        # What another process removes is forgotten here, before anything is given out.
        store.on_change = index.sync
        index.on_removed, index.on_forget_all = store.forget, store.forget_all
        missing = kernel_tls()
        if missing is None:
            log.info("kTLS: the kernel encrypts; files go out by sendfile")
        else:
            log.info("kTLS: not here (%s); TLS is done by OpenSSL in this process", missing)
        origins = Origins(config)
        dialer = Dialer(config, origins, policy, Trust(config), reactor, loop, metrics)
        quotas = Quotas(layout.quotas(directories.cache), config.quota_reserve, metrics)
        realms = Realms(layout.realms(directories.cache))
        upstream = Upstream(
            *(dialer, origins, Gate(Breakers(metrics), quotas), metrics),
            lambda exchange: Authorizer(config, exchange, origins=origins, counter=metrics, realms=realms),
        )
        watch = _watch(reactor)
        fills = Fills(
            *(store, upstream, index, metrics, loop),
            watch=watch,
            # Eviction goes down to 90 %: what is nearly all of it would go at once, with much else.
            largest=config.cache_max_size // 2,
            fits=lambda total, part: eviction.fits(
                directories.cache, config.cache_max_size, total, time.time(), besides=part
            ),
            patience=2 * origins.patience + config.resume_time + _MARGIN,
            limits=Limits(
                *(config.fill_streams, config.resume_time, config.min_rate, config.min_rate_time),
                chances=CHANCES if config.resume_time else 0,
            ),
        )
        try:
            access = AccessLog.open(config.access_log)
        except OSError as error:
            expected = f"can't be written: {error.strerror}; a path in a directory that exists, - or off"
            raise ConfigError("REGPROXY_ACCESS_LOG", config.access_log, expected) from None
        claims = TagClaims(layout.tag_claims(store.root), bytes.fromhex(record.claim_key), watch)
        tags = Tags(store, index, upstream, fills, claims, loop)
        index.on_tag_dropped = tags.forget
        for source in (reactor, fills, authority, access):
            metrics.watch(source)
        return Services(
            config=config,
            policy=policy,
            reactor=reactor,
            store=store,
            index=index,
            fills=fills,
            tags=tags,
            upstream=upstream,
            contexts=Contexts(authority, ktls=missing is None, seals=missing is not None and seals(config)),
            metrics=metrics,
            access=access,
            pages=Pages(authority.certificate_pem, config.listen.port),
            loop=loop,
            closes=config.keepalive_timeout == 0,
            stretch=quotas.stretch,
        )

    async def run(self) -> None:
        """Serve on the record's listening sockets."""
        loop = asyncio.get_running_loop()
        services = self._build(loop)
        self._reactor.start()
        self._listen(services)
        loop.add_reader(self._control.fileno(), self._obey, loop)
        loop.add_signal_handler(signal.SIGTERM, self._end, Ending.DRAIN)
        boot.open_to_sigterm()
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        flusher = loop.create_task(self._flush(services))
        self._control.say(boot.READY)
        try:
            await self._told.wait()
            await self._finish(services)
        finally:
            flusher.cancel()
            loop.remove_reader(self._control.fileno())
            self._close(services)
            self._control.say(boot.CUT, len(self.cut))

    def _listen(self, services: Services) -> None:
        record, reactor = self._record, self._reactor
        counts = live if record.debug else None
        admin = Admin(services.metrics, services.loop, self._why_not_ready, self._told.is_set, counts)
        # Who takes one at a time leaves the others their share.
        accepts = 1 if record.workers > 1 else ACCEPTS
        handlers = (record.proxy, lambda stream: Session(services, stream)), (record.admin, admin.accept)
        self._listeners = [Listener(reactor, fd, take, True, HEAD_MAX, accepts) for fd, take in handlers]
        self._listening = True

    def _why_not_ready(self) -> str | None:
        if self._ending >= Ending.DRAIN:
            return "shutting down"
        return None if self._listening else "starting"

    def _obey(self, loop: asyncio.AbstractEventLoop) -> None:
        for word in self._control.receive():
            if word == boot.GONE:
                log.error("the supervisor has died")
                loop.remove_reader(self._control.fileno())
                # Its successor needs the ports.
                for listener in self._listeners:
                    listener.close()
            self._end(_ENDINGS.get(word, Ending.NONE))

    def _end(self, how: Ending) -> None:
        if how > self._ending:
            log.info("told to %s", how.name.lower())
            self._ending = how
            self._told.set()

    async def _flush(self, services: Services) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._control.beat(time.monotonic())
            try:
                services.access.flush()
                services.index.tick()
                services.metrics.publish()
            except Exception:
                # Without its beats a worker that serves well would be taken for one that hangs.
                log.exception("what is done now and then")

    async def _finish(self, services: Services) -> None:
        """Accept nobody, finish what runs as `_ending` says, cut what is left and say what that was."""
        services.closes = True
        ends = math.inf
        while self._ending < Ending.STOP and time.monotonic() < ends:
            self._accept_nobody()
            if self._ending is Ending.DRAIN and not services.drains:
                services.drains = True
                ends = time.monotonic() + boot.DRAIN_SECONDS
            if not self._running() and not services.fills.active:
                break
            await asyncio.sleep(_LOOK if self._ending is Ending.DRAIN else _LOOK_RETIRED)
        self._accept_nobody()
        for stream in self._running():
            self.cut.append(_describe(stream))
            stream.abort()
        self.cut += [f"fill of {name}" for name in await services.fills.finish(0.0)]
        services.tags.close()
        for what in self.cut:
            log.warning("cut: %s", what)
        log.info("stopped; %d connections and fills were cut", len(self.cut))

    def _accept_nobody(self) -> None:
        """Close the listeners; while it drains, the admin port goes on to say so."""
        proxy, admin = self._listeners
        proxy.close()
        if self._ending is Ending.RETIRE:
            admin.close()

    def _running(self) -> list[Stream]:
        """Client streams with something to finish. Idle ones are closed on the way, unless we only retire."""
        running = []
        retires = self._ending is Ending.RETIRE
        for item in self._reactor.items():
            if not isinstance(item, Stream):
                continue
            if isinstance(item.handler, AdminSession):
                if retires and not item.idle:
                    running.append(item)
            elif isinstance(item.handler, Session | TunnelEnd):
                if retires or not item.idle:
                    running.append(item)
                else:
                    item.close()
        return running

    def _close(self, services: Services) -> None:
        for listener in self._listeners:
            listener.close()
        services.upstream.close()
        for item in self._reactor.items():
            if isinstance(item, Stream):
                if item.idle and isinstance(item.handler, AdminSession):
                    item.close()
                else:
                    item.abort()
        self._reactor.stop()
        services.store.close()
        services.index.close()
        services.access.close()


def _watch(reactor: Reactor) -> Watch | None:
    """What tells of other workers' fills; without it they are looked at many times a second."""
    try:
        return Watch(reactor)
    except OSError as error:
        log.warning(
            "%s: fills of other workers are followed by polling (fs.inotify.max_user_instances)", error
        )
        return None


def _describe(stream: Stream) -> str:
    handler = stream.handler
    if isinstance(handler, Session):
        return f"{stream.peer} {handler.host} {handler.uri}"
    return f"{stream.peer} tunnel"


def live() -> dict[str, int]:
    """What is open in this process's data plane, its file descriptors, and its id."""
    gc.collect()
    return {
        "ssl": tls.live(),
        "streams": stream_module.live(),
        "files": file_module.live(),
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
        "pid": os.getpid(),
    }


def _serve(start: Boot) -> int:
    gc.set_threshold(20_000, 20, 50)
    worker = Worker(start)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.run())
    if start.record.debug:
        left = {name: n for name, n in live().items() if n and name not in ("fds", "pid")}
        if left:
            log.error("left open at the end: %s", left)
            return boot.LEAK_EXIT
    return boot.CUT_EXIT if worker.cut else 0


def main(argv: Sequence[str]) -> int:
    """A worker's whole life; `argv[1]` is the descriptor of its boot record. Returns the exit code.

    A debug run has /debug/live on the admin port, and exit code 3 where anything is left open at the end.
    """
    return boot.run(argv, _serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
