"""Start a process by fork, without exec, with only those of the supervisor's descriptors that it is told of.

Most of what a Python process takes to start is loading modules, and most of its memory is theirs: all
processes share both. The rest of the supervisor's memory is in the child too, secrets included.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from regproxy.process import boot
from regproxy.telemetry import metrics


def start(title: str, kept: Iterable[int], run: Callable[[], int]) -> int:
    """Fork a process that ends with the exit code that `run` returns; return its id. Raises OSError.

    `title`: what `ps` shows of it. `kept`: the descriptors that it keeps besides 0 to 2, all above 2. Call it
    only where there is one thread: locks that others hold would never be released in the child.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
        with suppress(OSError, ValueError):  # a full disk, a reader that is gone: no reason not to serve
            stream.flush()  # or both would write what is in it
    mask = boot.hold_signals_back()
    try:
        pid = os.fork()
        if not pid:
            _become(title, kept, run)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(title: str, kept: Iterable[int], run: Callable[[], int]) -> NoReturn:
    """Be the child. Nothing may return to the frames of the supervisor, which still hold what was closed."""
    code = 1
    try:
        _let_go({*kept})
        setproctitle(title)
        code = run()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        try:
            boot.leave(code)
        finally:
            os._exit(code)


def _let_go(kept: set[int]) -> None:
    """Undo what a child inherits by fork and would not by exec: handlers, mappings, descriptors."""
    signal.set_wakeup_fd(-1)  # before any handler runs: it would tell the supervisor
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    metrics.unshare()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    _close_all_but({0, 1, 2} | kept)


def _close_all_but(kept: set[int]) -> None:
    try:
        places = tuple(Path("/proc/self/fd").iterdir())
    except OSError:  # without /proc
        for before, after in itertools.pairwise((-1, *sorted(kept), os.sysconf("SC_OPEN_MAX"))):
            if before + 1 < after:  # closerange(0, 0) closes all
                os.closerange(before + 1, after)
        return
    for fd in {int(place.name) for place in places} - kept:
        with suppress(OSError):  # the listing's own
            os.close(fd)
