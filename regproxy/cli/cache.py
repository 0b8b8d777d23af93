"""The command line of the cache: `regproxy cache verify`, `status`, `pin`, `unpin`, `pins`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from regproxy.cache import layout
from regproxy.config import loading
from regproxy.config.directories import VOLUME_CACHE
from regproxy.config.settings import Config
from regproxy.core.errors import RegproxyError, StoreError

if TYPE_CHECKING:
    from regproxy.cache.index.index import Index
    from regproxy.cache.pins import Pinned
    from regproxy.cache.verify import Problem, Result

FOUND_WRONG = 1
USAGE_ERROR = 2
INTERRUPTED = 130  # a shell's exit code for SIGINT
_LINE_EVERY = 10.0  # seconds between two lines about progress where there is no terminal

app = typer.Typer(
    help="Look after the cache directory, also while the proxy runs.",
    no_args_is_help=True,
    add_completion=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REGPROXY_CONFIG", help="TOML file; the environment wins over it."),
]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=0, max=64, help="Threads; 0 is one per core.")]
NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="An image, as for docker pull, or sha256:...")
]


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache directory that can be used, and its index."""

    root: Path
    config: Config
    index: Index


@app.command()
def verify(config: ConfigOption = None, jobs: JobsOption = 0) -> None:
    """Check every blob against its digest; what is wrong is moved to quarantine/ in the cache directory.

    Exit code 0: all is right. 1: something was wrong. 2: the cache can't be used.
    """
    from regproxy.cache.verify import Verifier

    jobs = jobs or len(os.sched_getaffinity(0))
    with _opened(config) as cache:
        totals = cache.index.totals()
        view = _view(totals.bytes)
        view.say(f"{cache.root}: {totals.objects} blobs, {size_text(totals.bytes)} by the index")
        verifier = Verifier(cache.root, cache.index, jobs, on_problem=view.problem, on_progress=view.progress)
        began = time.monotonic()
        try:
            with view:
                result = verifier.run()
        except KeyboardInterrupt:
            view.say("interrupted: what was not looked at is as it was")
            raise typer.Exit(INTERRUPTED) from None
        view.say(_summary(cache, result, time.monotonic() - began))
    raise typer.Exit(FOUND_WRONG if result.wrong else 0)


def _summary(cache: Cache, result: Result, seconds: float) -> str:
    text = f"checked {result.checked} blobs, {size_text(result.bytes)}, in {seconds:.1f} s: "
    text += f"{result.wrong} wrong" if result.wrong else "all are right"
    if result.quarantined:
        text += f"; {result.quarantined} moved to {cache.root / 'quarantine'}, to be looked at or deleted"
    if result.entered:
        text += f"; {result.entered} entered into the new index"
    return text


@app.command()
def pin(names: NamesArgument, config: ConfigOption = None) -> None:
    """Keep images or contents in the cache, whatever its limits say. Exit code 1: one is not in it."""
    from regproxy.cache import pins

    with _opened(config) as cache:
        done = True
        for name in names:
            try:
                _say_pinned(pins.pin(cache.root, cache.index, name))
            except pins.PinError as error:
                done = _complain(error)
    raise typer.Exit(0 if done else 1)


def _say_pinned(pinned: Pinned) -> None:
    typer.echo(f"pinned {pinned.name}: {_held(pinned)}")


@app.command()
def unpin(names: NamesArgument, config: ConfigOption = None) -> None:
    """Let go of what was pinned. Exit code 1: one was not."""
    from regproxy.cache import pins

    with _opened(config) as cache:
        done = True
        for name in names:
            try:
                typer.echo(f"unpinned {pins.unpin(cache.index, name).name}")
            except pins.PinError as error:
                done = _complain(error)
    raise typer.Exit(0 if done else 1)


@app.command("pins")
def list_pins(config: ConfigOption = None) -> None:
    """List what is pinned."""
    from regproxy.cache import pins

    with _opened(config) as cache:
        found = pins.listing(cache.root, cache.index)
    for pinned in found:
        typer.echo(f"{pinned.name}\t{_held(pinned)}")
    if not found:
        typer.echo("nothing is pinned", err=True)


def _held(pinned: Pinned) -> str:
    text = f"{pinned.held} blobs, {size_text(pinned.bytes)}"
    missing = pinned.digests - pinned.held
    return f"{text}; {missing} more will be kept when they come" if missing else text


@app.command()
def status(config: ConfigOption = None) -> None:
    """Say what is in the cache and what its limits are."""
    from regproxy.cache.eviction import Disk, parts_disk

    with _opened(config) as cache:
        index, settings = cache.index, cache.config
        totals = index.totals()
        disk = Disk.of(cache.root)
        oldest = index.oldest(1)
        pinned = {name for name, _ in index.pins()}
        lines = [
            ("directory", str(cache.root)),
            ("index", "complete" if index.complete else "being made anew from the blobs"),
            ("objects", f"{totals.objects}, {size_text(totals.bytes)}"),
            ("on disk", size_text(totals.disk)),
            ("downloads", size_text(parts_disk(cache.root, time.time())[0])),
            ("limit", size_text(settings.cache_max_size) if settings.cache_max_size else "none"),
            ("free", f"{size_text(disk.free)}; to be left: {size_text(disk.floor(settings.min_free))}"),
            ("pins", str(len(pinned))),
            ("oldest use", _time_text(oldest[0].last_used) if oldest else "none"),
            ("quarantine", f"{_count(cache.root / 'quarantine')} files"),
        ]
    for name, value in lines:
        typer.echo(f"{name:<11} {value}")


def _count(directory: Path) -> int:
    return sum(1 for _ in directory.iterdir()) if directory.is_dir() else 0


def _time_text(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at))


def size_text(size: float) -> str:
    """Return a human-readable size: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


# --- the cache directory ---------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path | None) -> Iterator[Cache]:
    """Open the cache that the configuration names; end the command with code 2 where it can't be used."""
    from regproxy.cache.index.index import Index

    try:
        config = loading.read(path, os.environ)[1]
        root = _find(config)
        _become_owner(root)
        _check(root)
        index = Index.open(layout.index(root))
        try:
            yield Cache(root, config, index)
        finally:
            index.close()
    except RegproxyError as error:
        _fail(error)
    except OSError as error:
        _fail(StoreError(f"{error.filename or 'the cache'}: {error.strerror or error}"))


def _find(config: Config) -> Path:
    """Return the cache directory as directories.choose() does, but without making it."""
    if config.cache_dir:
        return Path(config.cache_dir)
    volume = Path(VOLUME_CACHE)
    home = Path(os.environ.get("HOME") or "/nonexistent")
    users = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "regproxy"
    if os.access(volume, os.W_OK | os.X_OK) or (volume.is_dir() and not users.is_dir()):
        return volume
    return users


def _become_owner(root: Path) -> None:
    """Drop root for the directory's owner: files that root makes would be inaccessible to the proxy."""
    status = root.stat() if os.geteuid() == 0 and root.is_dir() else None
    if status is not None and status.st_uid != 0:
        os.setgroups([])
        os.setgid(status.st_gid)
        os.setuid(status.st_uid)


def _check(root: Path) -> None:
    """Raise StoreError where this is no cache, or one that this user may not use."""
    blobs = layout.blobs(root)
    try:
        if not root.is_dir():
            raise StoreError(f"{root}: no such directory; REGPROXY_CACHE_DIR, or --config, names the cache's")
        held = blobs.is_dir()
    except PermissionError:
        raise StoreError(f"{root} can't be reached by uid {os.geteuid()}; run this as its owner") from None
    for place in (root, blobs) if held else (root,):
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            who = f"uid {os.geteuid()}; run this as its owner, uid {place.stat().st_uid}"
            raise StoreError(f"{place} is not writable by {who}")
    if not held and not layout.index(root).exists():
        raise StoreError(f"{root} holds no cache: there is no blobs/ in it; REGPROXY_CACHE_DIR names another")


def _complain(error: Exception) -> bool:
    typer.echo(f"regproxy: {error}", err=True)
    return False


def _fail(error: Exception) -> NoReturn:
    _complain(error)
    raise typer.Exit(USAGE_ERROR)


# --- progress --------------------------------------------------------------------------------------------


class _Lines:
    """Progress as lines, for a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = self._said = time.monotonic()

    def __enter__(self) -> None:
        self._began = self._said = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is left on the screen."""

    def say(self, text: str) -> None:
        typer.echo(text)

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


class _Bar:
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
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def problem(self, problem: Problem) -> None:
        self.say(str(problem))

    def progress(self, result: Result) -> None:
        # The index may know of fewer bytes than exist.
        self._total = max(self._total, result.bytes)
        self._progress.update(self._task, completed=result.bytes, total=self._total, blobs=result.checked)


def _view(total: int) -> _Lines | _Bar:
    return _Bar(total) if sys.stdout.isatty() else _Lines(total)
