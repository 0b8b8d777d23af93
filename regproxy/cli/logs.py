"""`regproxy logs`: the access log for people: one short line a request, chosen by registry, status or client.

It reads both formats, from the file of REGPROXY_ACCESS_LOG or from standard input:
`docker logs -f regproxy | regproxy logs`.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import INTERRUPTED
from regproxy.cli.common.options import ConfigOption
from regproxy.config.sources import loading
from regproxy.core.errors import ConfigError
from regproxy.core.sizes import size_text

_SILENCE: Final = 1.0  # seconds after which a pipe has told what it had
_PIECE: Final = 1 << 16  # bytes
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
        metavar="FILE",
        help="Access log; - for standard input. Default: the configured one, else standard input.",
    ),
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines, like tail -F.")]
LinesOption = Annotated[
    int, typer.Option("--lines", "-n", min=0, help="Show only the last N lines; 0 for all.")
]
RegistryOption = Annotated[str, typer.Option("--registry", help="Only this registry; * matches anything.")]
ClientOption = Annotated[str, typer.Option("--client", help="Only this client address; * matches anything.")]
StatusOption = Annotated[str, typer.Option("--status", help="Only this status, such as 404 or 5xx.")]
CacheOption = Annotated[str, typer.Option("--cache", help="Only this cache status, such as MISS or STALE.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the selected lines unchanged, as JSON.")]


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
    """Show the access log: time, client, status, cache status, size, duration, and the request.

    Other lines are skipped: a container's output contains the error log, too.
    """
    if status and not re.fullmatch(r"[1-5][0-9xX]{2}", status):
        fail(f"--status {status}: three digits, x for any, such as 404 or 5xx")
    wanted = Wanted(registry, client, status, cache)
    source = _source(file, config)
    show = _printer(as_json)
    try:
        for line in _chosen(_read(source, follow), wanted, lines):
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
            named = loading.read(config, os.environ).access_log
        except ConfigError as error:
            fail(str(error))
        file = None if named in ("-", "off") else Path(named)
    elif str(file) == "-":
        file = None
    if file is None and sys.stdin.isatty():
        fail("no file given, and the configuration names none; try: docker logs -f regproxy | regproxy logs")
    if file is not None and not os.access(file, os.R_OK):
        fail(f"{file} can't be read: {'no such file' if not file.exists() else 'permission denied'}")
    return file


def _read(path: Path | None, follow: bool) -> Iterator[str]:
    """Yield lines, whole ones; "" says that there are no more for now."""
    if path is None:
        yield from _of_pipe(sys.stdin.fileno())
    elif follow:
        yield from _of_file(path)
    else:
        with path.open(errors="replace") as log:
            yield from log


def _of_pipe(fd: int) -> Iterator[str]:
    """Yield the lines of what may be a pipe, and "" once it is silent after some.

    Nothing tells one that only waits, as of `docker logs -f`, from one that ends.
    """
    part, silent = b"", True
    while True:
        if not select.select([fd], [], [], None if silent else _SILENCE)[0]:
            silent = True
            yield ""
            continue
        data, silent = os.read(fd, _PIECE), False
        *lines, part = (part + data).split(b"\n")
        yield from (f"{line.decode(errors='replace')}\n" for line in lines)
        if not data:
            if part:
                yield part.decode(errors="replace")
            return


def _of_file(path: Path) -> Iterator[str]:
    """Yield the lines of a file that grows, and of its successors where it is moved away (logrotate)."""
    log, part, left = path.open(errors="replace"), "", False
    try:
        while True:
            text = log.readline()
            part += text
            if part.endswith("\n"):
                yield part
                part = ""
            elif text:
                continue
            elif left:
                # All of it is read, what was written before it was moved included.
                try:
                    successor = path.open(errors="replace")
                except FileNotFoundError:
                    time.sleep(_PAUSE)
                    continue
                log.close()
                log, part, left = successor, "", False
            else:
                yield ""
                left = _is_other(log, path)
                if not left:
                    time.sleep(_PAUSE)
    finally:
        log.close()


def _is_other(log: IO[str], path: Path) -> bool:
    """Tell whether `path` is another file now, or was cut to less than what has been read."""
    try:
        now, mine = path.stat(), os.fstat(log.fileno())
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino) or now.st_size < log.tell()


def _chosen(read: Iterable[str], wanted: Wanted, last: int) -> Iterator[str]:
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
