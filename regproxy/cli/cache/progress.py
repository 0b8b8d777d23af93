"""Progress of what takes long: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from regproxy.cli.common.text import say
from regproxy.core.sizes import size_text
from regproxy.telemetry.log_format import printable

if TYPE_CHECKING:
    from rich.console import Console

    from regproxy.cache.verify import Problem, Result

_LINE_EVERY: Final = 10.0  # seconds between two lines where there is no terminal


class Lines:
    """Progress as lines, for a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = self._said = time.monotonic()

    def __enter__(self) -> None:
        self._began = self._said = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is left on the screen."""

    def say(self, text: str) -> None:
        say(text)

    def problem(self, problem: Problem) -> None:
        self.say(str(problem))

    def progress(self, result: Result) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_EVERY:
            return
        self._said = now
        rate = result.bytes / (now - self._began)
        text = f"{result.checked} blobs, {size_text(result.bytes)} of {size_text(self._total)}"
        text += f", {size_text(rate)}/s"
        if self._total > result.bytes and rate:
            text += f", {(self._total - result.bytes) / rate:.0f} s left"
        self.say(text)


class Bar:
    """Progress as a bar, on a terminal."""

    def __init__(self, total: int) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._total = total
        self._progress = Progress(
            TextColumn("{task.fields[blobs]} blobs"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("verify", total=total, blobs=0)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def problem(self, problem: Problem) -> None:
        self.say(str(problem))

    def progress(self, result: Result) -> None:
        # The index may know of fewer bytes than exist.
        self._total = max(self._total, result.bytes)
        self._progress.update(self._task, completed=result.bytes, total=self._total, blobs=result.checked)


def view(total: int) -> Lines | Bar:
    """Return what shows the progress over so many bytes."""
    return Bar(total) if sys.stdout.isatty() else Lines(total)


class Quiet(Lines):
    """No progress, where one JSON document is all that is printed."""

    def __init__(self) -> None:
        super().__init__(0)

    def say(self, text: str) -> None:
        """Say nothing."""


class Counting:
    """Progress by numbers: a bar on a terminal, else nothing."""

    def __init__(self, what: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            disable=not sys.stderr.isatty(),
            console=_stderr(),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, done: int, total: int) -> None:
        """Show how much is done."""
        self._progress.update(self._task, completed=done, total=total)


def count_view(what: str) -> Counting:
    """Return what shows how many of something are done."""
    return Counting(what)


class Bytes:
    """Progress by bytes: a bar on a terminal, else nothing."""

    def __init__(self, what: str, total: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            disable=not sys.stderr.isatty(),
            console=_stderr(),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total or None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, size: int) -> None:
        """Show so many bytes more."""
        self._progress.update(self._task, advance=size)


def bytes_view(what: str, total: int) -> Bytes:
    """Return what shows the progress over so many bytes; 0: how many is not known."""
    return Bytes(what, total)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)
