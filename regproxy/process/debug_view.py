"""The process that runs a mitmweb, for DEBUG (`debug_view`) or DEBUG_HUB (`debug_hub`), and ends it.

mitmweb knows nothing of the supervisor's channel. It ends with this process, whatever ends that.
"""

from __future__ import annotations

import ctypes
import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from regproxy.cache import layout
from regproxy.config.values.host_rules import Address
from regproxy.core.addresses import reachable_at
from regproxy.debug import mitmweb, views
from regproxy.process import boot
from regproxy.process.boot import Boot, ControlChannel
from regproxy.tls.ca_files import files_of, load

log = logging.getLogger(__name__)

_TICK: Final = 0.25  # seconds between two looks whether it listens, and beats
_ENDS_WITHIN: Final = 0.3  # seconds after SIGTERM
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_PASSED_ON: Final = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")


def serve(start: Boot) -> int:
    """Run a debug view, and return its exit code."""
    config, record = start.config, start.record
    password, password_file = views.page_password(config, layout.debug_password(start.directories.cache))
    if record.role == "debug_view":
        directory, page, listens = Path(record.views, views.CLIENT), config.debug_listen, config.listen
        files = files_of(config, start.directories.ca_crt, start.directories.ca_key)
        pair = load(files, time.time())[0]
        mitmweb.write_client_view(directory, config, password, pair, record.inner_port)
    else:
        assert record.hub is not None
        hub = record.hub
        directory, page = Path(record.views, views.HUB), config.debug_hub_listen
        listens = Address(views.LOOPBACK, hub.port)
        mitmweb.write_hub_view(directory, config, password, hub)
    with ExitStack() as stack:
        process = _spawn(directory)
        stack.callback(_end, process)
        boot.open_to_sigterm()
        if _watch(start.control, process, (listens, page), f"its password is in {password_file}"):
            return 0
    return boot.CUT_EXIT


def _watch(
    control: ControlChannel, process: subprocess.Popen[bytes], ports: Sequence[Address], hint: str
) -> bool:
    """Tell the supervisor how mitmweb is, until it is to end. False: it has ended by itself."""
    ready = False
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        ended = os.pidfd_open(process.pid)
        try:
            selector.register(ended, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(_TICK):
                    if key.fd == ended:
                        log.error("mitmweb has ended, with exit code %d", process.wait())
                        return False
                if control.receive():
                    return True
                control.beat(time.monotonic())
                if not ready and all(map(_listens, ports)):
                    ready = True
                    control.say(boot.READY)
                    log.warning("mitmweb takes what is for %s; its page is at %s, %s", *ports, hint)
        finally:
            os.close(ended)


def _spawn(directory: Path) -> subprocess.Popen[bytes]:
    program = views.program()
    assert program is not None  # the supervisor has looked
    # Nothing of our settings, logins among them, is in its environment.
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [program, "--set", f"confdir={directory}"]
    return subprocess.Popen(
        command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=_end_with_parent
    )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it: soon, as nobody is served any more."""
    process.terminate()
    try:
        process.wait(_ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listens(address: Address) -> bool:
    for host in reachable_at(address.host):
        with suppress(OSError), socket.create_connection((host, address.port), 1.0):
            return True
    return False
