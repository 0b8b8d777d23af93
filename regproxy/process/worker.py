"""One worker process: build the object graph, listen, and end as the supervisor says."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final

import uvloop

from regproxy.admin.session import AdminSession
from regproxy.auth.clients.certificates import client_cas
from regproxy.config.settings import Config
from regproxy.config.values.networks import Prefixes
from regproxy.dataplane import file as file_module
from regproxy.dataplane import splice, tls
from regproxy.dataplane import stream as stream_module
from regproxy.dataplane.listener import Listener
from regproxy.dataplane.stream import Stream
from regproxy.process import admin_wiring, boot, wiring
from regproxy.process.boot import Boot
from regproxy.process.cache_wiring import jobs_of
from regproxy.process.reloads import Reloads
from regproxy.server.context import Services
from regproxy.server.sessions.handlers import Handlers
from regproxy.server.sessions.session import ProxyPort, Session
from regproxy.server.sessions.tls_port import TlsPort
from regproxy.server.sessions.transparent import Transparent
from regproxy.server.tunnel import TunnelEnd
from regproxy.tls.mirror_identity import mirror_context

log = logging.getLogger(__name__)

HEAD_MAX: Final = 32_768  # bytes of a client's message head
_FLUSH_SECONDS: Final = 0.25
_LOOK: Final = 0.05  # seconds between two checks whether all is done
_LOOK_RETIRED: Final = 0.25
_JOBS_SECONDS: Final = 5.0  # for jobs to end that were told to


class Ending(IntEnum):
    """How a worker has to end. It may later be told to hurry, never to take more time."""

    NONE = 0
    RETIRE = 1  # accept no connection; connected clients are answered once more
    DRAIN = 2  # accept no connection, close idle ones, cut the rest after Config.drain_timeout
    STOP = 3  # cut all connections and fills


_ENDINGS: Final = {
    boot.RETIRE: Ending.RETIRE,
    boot.DRAIN: Ending.DRAIN,
    boot.STOP: Ending.STOP,
    boot.GONE: Ending.DRAIN,
}


class Worker:
    """The proxy of one process. `run()` serves until it is told to end; `cut` then lists what was cut."""

    def __init__(self, start: Boot) -> None:
        self._config, self._directories = start.config, start.directories
        self._record, self._control = start.record, start.control
        self._ending = Ending.NONE
        self._told = asyncio.Event()
        self._listening = False
        self._listeners: list[Listener] = []
        self._reloads = Reloads(self._control)
        self.cut: list[str] = []

    async def run(self) -> None:
        """Serve on the record's listening sockets."""
        loop = asyncio.get_running_loop()
        services = wiring.build(self._config, self._directories, self._record, loop)
        self._reactor = services.reactor
        self._reactor.start()
        self._listen(services)
        loop.add_reader(self._control.fileno(), self._obey, loop)
        loop.add_signal_handler(signal.SIGTERM, self._end, Ending.DRAIN)
        boot.open_to_sigterm()
        # All objects of now live as long as the process: the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()
        flusher = loop.create_task(self._flush(services))
        ca_watcher = loop.create_task(services.ca_watch.run(services.use_cas))
        live = loop.create_task(self._admin.background())
        self._control.say(boot.READY)
        try:
            await self._told.wait()
            await self._finish(services)
        finally:
            flusher.cancel()
            ca_watcher.cancel()
            live.cancel()
            loop.remove_reader(self._control.fileno())
            self._close(services)
            self._control.say(boot.CUT, len(self.cut))

    def _listen(self, services: Services) -> None:
        record, reactor = self._record, self._reactor
        counts = live if record.debug else None
        state = (self._why_not_ready, self._told.is_set, counts)
        directories = self._directories
        self._jobs = jobs = jobs_of(directories.cache)
        admin = admin_wiring.build(services, directories, record, self._reloads, jobs, *state)
        self._admin = admin
        shared = record.workers > 1
        handlers = Handlers(services)
        takers = [(record.proxy, ProxyPort(handlers).accept), (record.admin, admin_wiring.taker(admin))]
        if record.transparent:
            takers += [(fd, Transparent(handlers).accept) for fd in record.transparent]
        if record.tls:
            context = mirror_context(services.config, services.contexts)
            port = TlsPort(handlers, context, client_cas(services.config))
            takers += [(fd, port.accept) for fd in record.tls]
        balances = _balances(services.config)
        for fd, take in takers:
            # Whoever watches over the proxy asks it itself.
            asks = balances if fd != record.admin else None
            refused = services.say_no_preface
            self._listeners.append(Listener(reactor, fd, take, True, HEAD_MAX, shared, asks, refused))
        self._listening = True

    def _why_not_ready(self) -> str | None:
        if self._ending >= Ending.DRAIN:
            return "shutting down"
        return None if self._listening else "starting"

    def _obey(self, loop: asyncio.AbstractEventLoop) -> None:
        for word in self._control.receive():
            if self._reloads.hear(word):
                continue
            if word == boot.GONE:
                self._reloads.give_up()
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
                self._flush_audit(services)
                services.index.tick()
                if services.repeats is not None:
                    services.repeats.tidy(time.monotonic())
                services.usage.tick(time.monotonic())
                services.metrics.publish()
            except Exception:
                # Without beats a worker that serves well would be taken for one that hangs.
                log.exception("what is done now and then")

    def _flush_audit(self, services: Services) -> None:
        audit = services.audit
        if audit is None:
            return
        if audit.is_due():
            handlers = (item.handler for item in self._reactor.items() if isinstance(item, Stream))
            audit.note_alive(each.exchange for each in handlers if isinstance(each, Session))
        audit.flush()

    async def _finish(self, services: Services) -> None:
        """Accept no connection, finish requests as `_ending` says, cut the rest and log it."""
        services.closes = True
        self._admin.end_streams()
        if services.repeats is not None:
            services.repeats.close()
        ends = math.inf
        while self._ending < Ending.STOP and time.monotonic() < ends:
            self._accept_nobody()
            if self._ending is Ending.DRAIN and not services.drains:
                services.drains = True
                self.cut += self._jobs.cut()
                ends = time.monotonic() + self._config.drain_timeout
            if not self._running() and not services.fills.active and not self._jobs.active:
                break
            await asyncio.sleep(_LOOK if self._ending is Ending.DRAIN else _LOOK_RETIRED)
        self._accept_nobody()
        for stream in self._running():
            self.cut.append(_describe(stream))
            stream.abort()
        self.cut += await self._jobs.finish(_JOBS_SECONDS)
        self.cut += [f"fill of {name}" for name in await services.fills.finish(0.0)]
        services.tags.close()
        services.signatures.close()
        for what in self.cut:
            log.warning("cut: %s", what)
        log.info("stopped; %d connections and fills were cut", len(self.cut))

    def _accept_nobody(self) -> None:
        """Close the listeners; while it drains, the admin port goes on to say so."""
        proxy, admin, *others = self._listeners
        for listener in (proxy, *others):
            listener.close()
        if self._ending is Ending.RETIRE:
            admin.close()

    def _running(self) -> list[Stream]:
        """Return client streams with something to finish. Close idle ones, unless the worker only retires."""
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
            elif retires and item.unannounced:
                running.append(item)
        return running

    def _close(self, services: Services) -> None:
        for listener in self._listeners:
            listener.close()
        services.upstream.close()
        self._admin.close()
        if services.clients is not None:
            services.clients.close()
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
        services.usage.close()
        if services.tracer is not None:
            services.tracer.close()
        if services.audit is not None:
            services.audit.close()


def _describe(stream: Stream) -> str:
    handler = stream.handler
    if isinstance(handler, Session):
        return f"{stream.peer} {handler.exchange.host} {handler.exchange.uri}"
    return f"{stream.peer} tunnel"


def _balances(config: Config) -> Callable[[str], bool] | None:
    """Return what tells the addresses of balancers that speak the PROXY protocol, None without any."""
    if not config.proxy_protocol:
        return None
    prefixes = Prefixes(dict.fromkeys(config.proxy_protocol, True))
    return lambda peer: prefixes.of(peer) is not None


def live() -> dict[str, int]:
    """Return counts of open objects in this process's data plane, of its file descriptors, and its id."""
    gc.collect()
    return {
        "ssl": tls.live(),
        "streams": stream_module.live(),
        "files": file_module.live(),
        "pipes": splice.live(),
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
        "pid": os.getpid(),
    }


def serve(start: Boot) -> int:
    """Run a worker, and return its exit code.

    A debug run has /debug/live on the admin port, and exit code 3 where anything is left open at the end.
    """
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
