"""The first process: opens the sockets, starts workers and the janitor, and replaces them.

It does nothing else, so that no client can harm it. Signals are only queued; `handle_<signal>` acts, in the
loop. After any event, `_settle` then compares the children that exist with those that should.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import secrets
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, get_args

from prometheus_client import CollectorRegistry

from regproxy.admin.tokens import make_tokens
from regproxy.cache import layout
from regproxy.config import directories
from regproxy.config.settings import Config
from regproxy.config.sources import loading
from regproxy.core.errors import RegproxyError
from regproxy.dataplane import board as board_module
from regproxy.debug import views
from regproxy.debug.views import HubView
from regproxy.policy.exposure import exposed
from regproxy.process import boot, configured_files, janitor, worker
from regproxy.process.boot import Program, Role
from regproxy.process.ca_keeper import CaKeeper
from regproxy.process.children import Child, Commons, ProxySetup
from regproxy.process.cpus import cores
from regproxy.process.listeners import Listeners
from regproxy.process.reloads import Askers
from regproxy.process.restart_delay import RestartDelay
from regproxy.telemetry import log_format, metrics
from regproxy.telemetry.metrics import Metrics
from regproxy.telemetry.metrics_dir import Shelf

log = logging.getLogger(__name__)

BOOT_EXIT: Final = 4  # no worker came up
_OTHERS: Final = 0o007  # of a umask: nothing is for others; what is for the group is the operator's to say
BOOTS: Final = 3  # failed starts after which the supervisor gives up

_PORT_PATIENCE: Final = 2.0  # seconds that a port may still be in use at the start
# Seconds beyond REGPROXY_DRAIN_TIMEOUT until a worker is killed, and until all has ended. With the
# default that is a second before Docker kills; docs/configuration.md says to allow 3 s more than the setting.
_WORKER_MARGIN: Final = 1.5
_MARGIN: Final = 2.0
_STOP_SECONDS: Final = 5.0
_JANITOR_SECONDS: Final = 0.5  # the least that it has
_LATE: Final = 1.0  # seconds; if a turn takes so much longer, the supervisor was not running
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(path: Path | None, env: Mapping[str, str], *, debug: bool = False) -> int:
    """Serve until a signal. `path`: of the TOML file. Returns the exit code.

    0; 1 where something had to be cut; 2 where a worker could not use the configuration (and said why);
    3 in a debug run that left something open; 4 where no worker came up. Raises RegproxyError where not even
    one can be started.
    """
    _open_standard_streams()
    # What is kept here may be private: other users of this machine are to read nothing of it.
    os.umask(os.umask(_OTHERS) | _OTHERS)
    log_format.log_to_stderr("info", log_format.style_of(env, loading.text_of(path)), "supervisor")
    if not debug:
        boot.keep_memory_private()
    config = loading.read(path, env)
    log_format.log_to_stderr(config.log_level, config.log_format, "supervisor")
    supervisor = Supervisor(path, env, debug=debug)
    try:
        return supervisor.run(config)
    finally:
        supervisor.close()


class Supervisor:
    """The processes of one proxy. A setup is in use once a worker has come up with it.

    `_setup`: the one in use. `_next`: one that is being tried, by the worker `_trial` alone: an error in it
    is then reported once, and the serving workers are not disturbed.
    """

    def __init__(self, path: Path | None, env: Mapping[str, str], *, debug: bool) -> None:
        self._path, self._env = path, env
        self._selector = selectors.DefaultSelector()
        self._wakes, self._woken = socket.socketpair()
        self._children: dict[int, Child] = {}
        self._setup: ProxySetup | None = None
        self._next: ProxySetup | None = None
        self._trial: Child | None = None
        self._delays: dict[Role, RestartDelay] = {role: RestartDelay() for role in get_args(Role)}
        self._failed_boots = 0
        self._replacing = False
        self._hup = False
        self._askers = Askers()
        self._unclean = False
        self._looked = time.monotonic()
        self._ending = 0
        self._end_by = 0.0  # of time.monotonic(), once a signal has come
        self._code = 0
        self._debug = debug
        self._shelf: Shelf | None = None
        self._ca = CaKeeper()

    def run(self, config: Config) -> int:
        """Serve with a configuration that was read. Returns the exit code, or raises as run() does."""
        self._take_signals()
        self._next = self._prepare(config)
        self._commons = self._make_commons(self._next)
        # A child's garbage collector writes to each object that it visits, and so would copy shared pages.
        gc.freeze()
        while not self._over():
            self._turn()
        log.info("stopped")
        return self._code

    def close(self) -> None:
        """Release all resources. Children that are left see their channel end, and end too."""
        signal.set_wakeup_fd(-1)
        for child in self._children.values():
            child.close()
        self._close_listeners()
        if self._shelf is not None:
            metrics.unshare()
            self._shelf.remove()
        for sock in (self._wakes, self._woken):
            sock.close()
        self._selector.close()

    # --- setups ------------------------------------------------------------------------------------------

    def _prepare(self, config: Config) -> ProxySetup:
        """Make or open all that a setup needs. Raises RegproxyError."""
        places = directories.choose(config, self._env)
        for note in places.notes:
            log.info("%s", note)
        for warning in config.warnings:
            log.warning("%s", warning)
        if exposure := exposed(config):
            log.warning("%s", exposure)
        # A file of no use is an error of the configuration, not of each worker.
        configured_files.check(config)
        if self._setup is not None:
            views.check_same(config, self._setup.config)
        for fault in configured_files.doubtful(config):
            log.warning("%s", fault)
        self._ca.prepare(config, places)
        _make_tokens(config, places.cache)
        former = self._setup.listeners if self._setup is not None else None
        listeners = Listeners.open(config, former, 0.0 if former else _PORT_PATIENCE)
        log.info("listening on %s, admin on %s", config.listen, config.admin_listen)
        if config.transparent_listen:
            every = ", ".join(map(str, config.transparent_listen))
            log.info("listening on %s for clients without CONNECT", every)
        if config.tls_listen:
            log.info("listening on %s for TLS", ", ".join(map(str, config.tls_listen)))
        return ProxySetup(config, places, listeners, config.workers or cores())

    def _make_commons(self, setup: ProxySetup) -> Commons:
        places = [Path("/dev/shm")]
        with suppress(OSError):
            places.append(Path(tempfile.gettempdir()))
        self._shelf = Shelf.make([*places, setup.directories.cache])
        metrics.share(self._shelf.path, "supervisor")
        self._metrics = Metrics(CollectorRegistry())
        board = os.memfd_create("regproxy-board")
        os.ftruncate(board, board_module.SIZE)
        commits = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        audit = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        if layout.offline(setup.directories.cache).exists():
            log.warning("offline, as it was switched before: no registry is asked")
            board_module.Board(board).set_offline(True)
        hub = HubView.make(self._shelf.path / views.HUB) if setup.config.debug_hub else None
        key = secrets.token_hex(16)
        return Commons(self._shelf, board, commits, audit, key, self._debug, time.time(), hub)

    # --- the loop ----------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for sock in (self._wakes, self._woken):
            sock.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # set_wakeup_fd() is silent about those without a handler
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakes, selectors.EVENT_READ, self._on_signals)

    def _turn(self) -> None:
        """Wait for an event, and act upon it."""
        self._settle(time.monotonic())
        if self._over():
            return
        timeout = self._timeout()
        for key, _ in self._selector.select(timeout):
            key.data()
        self._ca.remind(time.time())
        now = time.monotonic()
        late = now - self._looked - timeout
        self._looked = now
        for child in self._children.values():
            if late > _LATE:
                # Ctrl-Z, a frozen container, a log that is not read: the supervisor did not listen.
                child.heard = max(child.heard, now)
            if child.overdue(now):
                log.error("%s is killed: it %s", child, "hangs" if child.hung else "does not end")

    def _timeout(self) -> float:
        """Return the seconds until something has to be done even without an event."""
        now = time.monotonic()
        deadlines = [child.deadline for child in self._children.values()]
        deadlines += [delay.until for delay in self._delays.values() if delay.until > now]
        return min(60.0, max(0.0, min(deadlines, default=math.inf) - now))

    def _over(self) -> bool:
        return self._ending > 0 and not self._children

    def _on_signals(self) -> None:
        for number in self._wakes.recv(4096):
            getattr(self, f"handle_{signal.Signals(number).name[3:].lower()}")()

    # --- signals -----------------------------------------------------------------------------------------

    def handle_term(self) -> None:
        """Drain and end. A second signal stops the workers at once, a third kills all children."""
        self._end(signal.SIGTERM)

    def handle_int(self) -> None:
        """Do the same as for SIGTERM."""
        self._end(signal.SIGINT)

    def handle_hup(self) -> None:
        """Reload the configuration, once no reload is under way."""
        self._hup = True

    def handle_chld(self) -> None:
        """Reap processes that have ended: children, and as process 1 orphans of other processes."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                child = self._children.get(ended[0])
                if child is not None:
                    self._on_end(child, os.waitstatus_to_exitcode(ended[1]))

    def _end(self, number: signal.Signals) -> None:
        self._ending += 1
        now = time.monotonic()
        if self._ending == 1:
            limits = [child.setup.config.drain_timeout for child in self._of("worker")]
            longest = max(limits, default=0.0)
            log.info("%s: draining for up to %g s", number.name, longest)
            self._end_by = now + longest + _MARGIN
            self._close_listeners()
            self._metrics.workers_ready(0)
            for child in self._of("worker"):
                child.tell(boot.DRAIN, now + child.setup.config.drain_timeout + _WORKER_MARGIN)
        elif self._ending == 2:
            log.warning("second signal: stopping at once")
            self._end_by = min(self._end_by, now + _STOP_SECONDS)
            for child in self._of("worker"):
                child.tell(boot.STOP, self._end_by)
        else:
            for child in self._children.values():
                child.kill()

    def _close_listeners(self) -> None:
        for setup in filter(None, (self._setup, self._next)):
            setup.listeners.close()

    # --- which children should run -----------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Start missing children, and end surplus ones."""
        if self._ending:
            self._settle_end(now)
            return
        busy = self._next is not None or self._replacing
        if self._hup and self._setup is not None and (not busy or self._in_trouble(now)):
            self._hup = False
            self._reload()
        if self._next is not None and self._trial is None and self._due("worker", now):
            self._trial = self._start("worker", self._next, now)
        if self._setup is not None:
            self._settle_workers(self._setup, now)
            self._settle_janitor(self._setup, now)
            for role in debug_views(self._setup.config):
                if not self._of(role) and self._due(role, now):
                    self._start(role, self._setup, now)
            ready = [child for child in self._serving() if child.ready]
            self._metrics.workers_ready(len(ready))

    def _in_trouble(self, now: float) -> bool:
        """Return whether replacing workers makes no progress, so that another configuration may help."""
        return self._next is None and not self._due("worker", now)

    def _settle_workers(self, setup: ProxySetup, now: float) -> None:
        serving = self._serving()
        mine = [child for child in serving if child.setup is setup]
        stale = [child for child in serving if child.setup not in (setup, self._next)]
        ready = sum(child.ready for child in mine)
        while stale and ready + len(stale) > setup.workers:
            stale.pop(0).tell(boot.RETIRE)
        missing = setup.workers - len(mine)
        if stale:
            missing = min(missing, 1 - (len(mine) - ready))  # one by one
        for _ in range(missing):
            if self._due("worker", now):
                self._start("worker", setup, now)
        if self._replacing and ready == setup.workers and not stale:
            self._replacing = False
            self._reloaded("done")
            log.info("SIGHUP: the new configuration is in use")

    def _settle_janitor(self, setup: ProxySetup, now: float) -> None:
        there = [child for child in self._of("janitor") if not child.leaving]
        mine = [child for child in there if child.setup is setup]
        stale = [child for child in there if child.setup is not setup]
        if not mine and not (stale and self._replacing) and self._due("janitor", now):
            self._start("janitor", setup, now)
        for child in mine:
            if child.ready:
                for old in stale:
                    old.tell(boot.RETIRE)
                if self._unclean:
                    self._unclean = False
                    child.tell(boot.RECONCILE)

    def _settle_end(self, now: float) -> None:
        """End the janitor last, as workers leave work for it; and what workers' clients are connected to."""
        if self._of("worker"):
            return
        for child in self._children.values():
            if not child.leaving:
                word = boot.DRAIN if self._ending == 1 else boot.STOP
                child.tell(word, max(self._end_by, now + _JANITOR_SECONDS))

    def _of(self, role: Role) -> list[Child]:
        return [child for child in self._children.values() if child.role == role]

    def _serving(self) -> list[Child]:
        """Return the workers that have not been told to end."""
        return [child for child in self._of("worker") if not child.leaving]

    def _due(self, role: Role, now: float) -> bool:
        return now >= self._delays[role].until

    # --- children ----------------------------------------------------------------------------------------

    def _start(self, role: Role, setup: ProxySetup, now: float) -> Child | None:
        """Start a child in the lowest free slot; None: the system lacks the resources."""
        taken = {child.slot for child in self._children.values()}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        try:
            child = Child(role, slot, setup, self._commons, _program(role), now)
        except OSError as error:
            self._delays[role].failed(now, None)
            log.error("no new %s: %s", role, error)
            if setup is self._next:
                self._on_failed_trial(BOOT_EXIT, f"could not be started: {error.strerror}")
            return None
        self._children[child.pid] = child
        self._selector.register(child, selectors.EVENT_READ, lambda: self._on_words(child))
        return child

    def _on_words(self, child: Child) -> None:
        if self._children.get(child.pid) is not child:
            return  # reaped in this very turn
        was_ready = child.ready
        if not child.hear(time.monotonic()):
            self._selector.unregister(child)
        self._hup |= self._askers.take(child)
        if child.ready and not was_ready:
            log.info("%s is ready", child)
            if child is self._trial:
                self._adopt()

    def _on_end(self, child: Child, code: int) -> None:
        with suppress(KeyError):
            self._selector.get_key(child)
            self._on_words(child)  # its last ones
            self._selector.unregister(child)
        del self._children[child.pid]
        child.close()
        self._commons.shelf.forget(str(child.slot))
        is_worker = child.role == "worker"
        if code == boot.LEAK_EXIT:
            self._code = code
        elif is_worker and self._ending and code and not self._code:
            self._code = boot.CUT_EXIT
        # A child that was killed, or has crashed, has not cleaned up.
        tidy = code in (0, boot.USAGE_EXIT, boot.LEAK_EXIT) or (code == boot.CUT_EXIT and child.cut > 0)
        self._unclean |= is_worker and not tidy
        if child.unexpected(code):
            self._on_death(child, code)
        else:
            log.info("%s has ended", child)

    def _on_death(self, child: Child, code: int) -> None:
        now = time.monotonic()
        lived = now - child.ready_at if child.ready else None
        how = "hung" if child.hung else _how(code)
        if child.role == "worker":
            self._metrics.worker_ended("hung" if child.hung else "killed" if code < 0 else "exit")
        if self._delays[child.role].failed(now, lived):
            when = "before it was ready" if lived is None else f"after {lived:.1f} s"
            log.error("%s %s, %s", child, how, when)
        if child is self._trial:
            self._trial = None
            self._on_failed_trial(code, how)

    def _on_failed_trial(self, code: int, how: str) -> None:
        if self._setup is not None and self._next is not None:
            self._next.listeners.close(spare=self._setup.listeners)
            self._next = None
            self._delays["worker"] = RestartDelay()
            self._reloaded("failed", f"a worker with the new configuration {how}")
            log.error("SIGHUP: a worker with the new configuration %s; the old configuration goes on", how)
            return
        self._failed_boots += 1
        if code == boot.USAGE_EXIT:
            self._code, self._ending = code, 1
        elif self._failed_boots == BOOTS:
            self._code, self._ending = BOOT_EXIT, 1
            style = log_format.style_of(self._env, loading.text_of(self._path))
            text = f"{BOOTS} workers in a row did not come up; the last one {how}"
            log_format.say_end(text, style, "supervisor")

    # --- another configuration ---------------------------------------------------------------------------

    def _reload(self) -> None:
        log.info("SIGHUP: reading the configuration again")
        self._askers.begin()
        self._delays["worker"] = RestartDelay()
        try:
            self._next = self._prepare(loading.read(self._path, self._env))
        except RegproxyError as error:
            log.error("SIGHUP: %s; the old configuration goes on", "; ".join(str(error).splitlines()))
            self._reloaded("refused", str(error))

    def _reloaded(self, result: str, reason: str = "") -> None:
        self._metrics.reloaded(result)
        self._askers.answer(result, reason)

    def _adopt(self) -> None:
        """Put `_next` into use, as a worker has come up with it; workers of the former setup retire."""
        former, self._setup = self._setup, self._next
        self._next = self._trial = None
        assert self._setup is not None
        if former is not None:
            self._replacing = True
            former.listeners.close(spare=self._setup.listeners)
            config = self._setup.config
            log_format.log_to_stderr(config.log_level, config.log_format, "supervisor")


def _open_standard_streams() -> None:
    """Open /dev/null for streams that are closed: sockets would get their numbers, which children keep."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _program(role: Role) -> Program:
    if role == "worker":
        return worker.serve
    if role == "janitor":
        return janitor.serve
    from regproxy.process import debug_view  # it loads more than a proxy without debug views needs

    return debug_view.serve


def _make_tokens(config: Config, cache: Path) -> None:
    """Make the admin port's tokens before a worker reads them."""
    try:
        for note in make_tokens(config, cache):
            log.info("%s", note)
    except OSError as error:
        log.warning("%s: %s; nobody can use the admin API", error.filename or cache, error.strerror)


def debug_views(config: Config) -> Iterator[Role]:
    """Return the debug views that there should be."""
    if config.debug:
        yield "debug_view"
    if config.debug_hub:
        yield "debug_hub"


def _how(code: int) -> str:
    """Return an exit code in words; a negative one is the signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
