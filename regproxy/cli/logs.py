"""`regproxy logs`: the access log for people: one short line a request, chosen by registry, status or client.

It reads both formats, from the file of REGPROXY_ACCESS_LOG or from standard input:
`docker logs -f regproxy | regproxy logs`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Annotated, Any, Final, NoReturn

import typer
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from regproxy.cli.cache.text import size_text
from regproxy.config import loading
from regproxy.core.errors import ConfigError

USAGE_ERROR = 2
INTERRUPTED = 130  # a shell's exit code for SIGINT
_PAUSE: Final = 0.25  # seconds between two looks whether a followed file has grown
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_CACHE_STYLES: Final = {
    "HIT": "green",
    "REVALIDATED": "green",
    "STALE": "magenta",
    "MISS": "yellow",
    "EXPIRED": "yellow",
    "UPDATING": "yellow",
}

app = typer.Typer(add_completion=False)

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="The access log, - for standard input. Not given: the configuration's, else standard input.",
    ),
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, as tail -F does.")]
LinesOption = Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many; 0 is all.")]
RegistryOption = Annotated[str, typer.Option("--registry", help="Of this host alone; * stands for anything.")]
ClientOption = Annotated[str, typer.Option("--client", help="Of this address alone; * stands for anything.")]
StatusOption = Annotated[str, typer.Option("--status", help="Such as 404 or 5xx.")]
CacheOption = Annotated[str, typer.Option("--cache", help="Such as MISS or STALE.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The chosen lines as they are.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REGPROXY_CONFIG", help="TOML file; the environment wins over it."),
]


class Wanted(Struct, frozen=True):
    """Which requests are shown; "" is every one."""

    registry: str = ""
    client: str = ""
    status: str = ""
    cache: str = ""

    def takes(self, entry: dict[str, Any]) -> bool:
        """Tell whether a request is shown."""
        patterns = ((self.registry, "host"), (self.client, "remote_addr"))
        if any(glob and not fnmatchcase(_field(entry, name), glob) for glob, name in patterns):
            return False
        if self.cache and _field(entry, "upstream_cache_status") != self.cache.upper():
            return False
        status = self.status.lower().replace("x", "?")
        return not status or fnmatchcase(_field(entry, "status"), status)


@app.command()
def logs(
    file: FileArgument = None,
    follow: FollowOption = False,
    lines: LinesOption = 0,
    registry: RegistryOption = "",
    client: ClientOption = "",
    status: StatusOption = "",
    cache: CacheOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the access log: time, client, status, cache, size, time taken, and what was asked for.

    Lines that are none of the access log are left out: the container's output has the log of errors, too.
    """
    if status and not re.fullmatch(r"[1-5][0-9xX]{2}", status):
        _fail(f"--status {status}: three digits, x for any, such as 404 or 5xx")
    wanted = Wanted(registry, client, status, cache)
    source = _source(file, config)
    show = _printer(as_json)
    try:
        for line in _chosen(_read(source, follow), wanted, lines, follow):
            show(line)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Of `| head`. What Python would still write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _source(file: Path | None, config: Path | None) -> Path | None:
    """Return the file to read, None for standard input."""
    if file is None:
        try:
            named = loading.read(config, os.environ)[1].access_log
        except ConfigError as error:
            _fail(str(error))
        file = None if named in ("-", "off") else Path(named)
    elif str(file) == "-":
        file = None
    if file is None and sys.stdin.isatty():
        _fail("which file? The configuration names none; else: docker logs -f regproxy | regproxy logs")
    if file is not None and not os.access(file, os.R_OK):
        _fail(f"{file} can't be read: {'no such file' if not file.exists() else 'permission denied'}")
    return file


def _read(path: Path | None, follow: bool) -> Iterator[str]:
    """Yield lines, whole ones; "" says that there are no more for now."""
    if path is None:
        # readline() and not iteration, which waits for a buffer full.
        yield from iter(sys.stdin.readline, "")
        return
    with path.open(errors="replace") as log:
        yield from _of_file(log, path) if follow else log


def _of_file(log: IO[str], path: Path) -> Iterator[str]:
    """Yield the lines of a file that grows, and of its successor where it is moved away (logrotate)."""
    part = ""
    while True:
        text = log.readline()
        part += text
        if part.endswith("\n"):
            yield part
            part = ""
        elif not text:
            yield ""
            if _is_other(log, path):
                with path.open(errors="replace") as successor:
                    yield from _of_file(successor, path)
                return
            time.sleep(_PAUSE)


def _is_other(log: IO[str], path: Path) -> bool:
    """Tell whether `path` is another file now, or was cut to less than what has been read."""
    try:
        now, mine = path.stat(), os.fstat(log.fileno())
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino) or now.st_size < log.tell()


def _chosen(read: Iterable[str], wanted: Wanted, last: int, follow: bool) -> Iterator[str]:
    """Yield the wanted lines; of those that are there at the beginning only the `last` ones, 0 being all."""
    kept: deque[str] = deque(maxlen=last or None)
    waits = bool(last)
    for line in read:
        if not line:
            waits = False
            yield from kept
            kept.clear()
        elif (entry := parsed(line)) is not None and wanted.takes(entry):
            if waits:
                kept.append(line)
            else:
                yield line
    yield from kept


def parsed(line: str) -> dict[str, Any] | None:
    """Return a line of the access log, in either format; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and {"access_time", "uri", "status"} <= entry.keys() else None


def _printer(as_json: bool) -> Callable[[str], None]:
    if as_json:
        return lambda line: typer.echo(line.rstrip("\n"))
    console = Console(soft_wrap=True, highlight=False)

    def show(line: str) -> None:
        entry = parsed(line)
        if entry is not None:
            console.print(pretty(entry))

    return show


def pretty(entry: dict[str, Any]) -> Text:
    """Return a request as a line: nothing of it can move the cursor or be taken for another line."""
    status, cache = _field(entry, "status"), _field(entry, "upstream_cache_status")
    uri = _DIGEST.sub(r"\1", _field(entry, "uri"))
    took = f"{_field(entry, 'request_time')} s" if _field(entry, "request_time") else ""
    text = Text(_clock(_field(entry, "access_time")), style="dim")
    text.append(f" {_field(entry, 'remote_addr'):<15}", style="none")
    text.append(f" {status}", style="bold red" if status[:1] in "45" else "none")
    text.append(f" {cache or '-':<11}", style=_CACHE_STYLES.get(cache, "none"))
    text.append(f" {_size(_field(entry, 'bytes_sent')):>10} {took:>9}", style="none")
    text.append(f"  {_field(entry, 'method')} {_field(entry, 'host')}{uri}", style="none")
    return text


def _field(entry: dict[str, Any], name: str) -> str:
    """Return a field, printable: what a terminal would obey is escaped."""
    text = str(entry.get(name, ""))
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _clock(text: str) -> str:
    """Return the time of day: 2026-01-31T10:00:00.123Z and 31/Jan/2026:10:00:00 +0000 have it."""
    found = re.search(r"[T:](\d\d:\d\d:\d\d(?:\.\d+)?)", text)
    return found[1] if found else text


def _size(text: str) -> str:
    return size_text(int(text)) if text.isdecimal() else text


def _fail(message: str) -> NoReturn:
    typer.echo(f"regproxy: {message}", err=True)
    raise typer.Exit(USAGE_ERROR)
