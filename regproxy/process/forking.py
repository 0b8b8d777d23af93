"""Start a process that has the supervisor's modules and configuration, and nothing else of it.

It is forked, without exec: most of what a Python process takes to start is to load modules, and most of its
memory is theirs. All processes share both that way.
"""

from __future__ import annotations

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
    """Start a process that ends with the exit code that `run` returns, and return its id. Raises OSError.

    `title`: what `ps` shows of it. `kept`: the descriptors that it has, beside stdout and stderr. Only for a
    process with one thread: another one's locks would never be released in the child.
    """
    for stream in (sys.stdout, sys.stderr):
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
        boot.leave(code)


def _let_go(kept: set[int]) -> None:
    """Undo what a fork leaves to the child and an exec would not: signal handlers, mappings, descriptors."""
    signal.set_wakeup_fd(-1)  # before any handler runs: it would tell the supervisor
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    metrics.unshare()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.__stdin__.fileno() if sys.__stdin__ is not None else 0)
    kept |= {0, 1, 2}
    for place in tuple(Path("/proc/self/fd").iterdir()):
        if (fd := int(place.name)) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(fd)
