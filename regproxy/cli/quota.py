"""`regproxy quota`: what registries allow, what is left of it, and since when the proxy is refused.

It reads the file that the workers share, so it can be asked beside a running proxy and without one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping

import typer
from msgspec import Struct, to_builtins

from regproxy.cache import layout
from regproxy.cli.cache.opening import check_is_cache
from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.config.directories import cache_path
from regproxy.config.sources import loading
from regproxy.core.errors import RegproxyError
from regproxy.registry.rate_limits import Lane, label
from regproxy.telemetry.log_format import printable
from regproxy.upstream.quota_file import Key, QuotaEntry, QuotaFile

_WIDE = 300  # columns where there is no terminal

app = typer.Typer(add_completion=False)


class Quota(Struct, frozen=True):
    """What is known of one credential at one registry. Times are seconds since the epoch.

    Names are those of the admin API. `limit`, `remaining`, `window_seconds`, `seen_at`: None where the
    registry has never told. `refused_until`: by kind of request, while the registry is left alone.
    """

    registry: str
    credential: str
    limit: int | None
    remaining: int | None
    window_seconds: float | None
    seen_at: float | None
    refused_until: dict[Lane, float]

    @property
    def spent(self) -> bool:
        """Nothing is left, or requests are refused."""
        return self.remaining == 0 or bool(self.refused_until)


@app.command()
def quota(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the rate limits of registries and what is left of them. Exit code 1: one is used up.

    These are the last values that registries reported: none is asked now.
    """
    try:
        settings = loading.read(config, os.environ)
        root = cache_path(settings, os.environ)
        path = layout.quotas(root)
        check_is_cache(root)
    except RegproxyError as error:
        fail(str(error))
    if path.exists() and not os.access(path, os.R_OK):
        fail(f"{path} can't be read by uid {os.geteuid()}; run this as its owner")
    found = quotas(QuotaFile(path).read() or {}, time.time())
    if as_json:
        rows = [to_builtins(each) | {"spent": each.spent} for each in found]
        typer.echo(json.dumps({"quotas": rows}, indent=2))
    else:
        _show(found)
    raise typer.Exit(FAILED if any(each.spent for each in found) else 0)


def quotas(entries: Mapping[Key, QuotaEntry], now: float) -> list[Quota]:
    """Return what still holds, by registry. Clients' own credentials are told apart, but not named."""
    found = []
    for (registry, credential), entry in sorted(entries.items()):
        if not entry.prune(now):
            continue
        report = entry.report
        refused = {lane: block.until for lane, block in entry.blocks.items() if block.wait(now)}
        if report is None and not refused:
            continue
        found.append(
            Quota(
                registry=registry,
                credential=label(credential),
                limit=report.limit if report is not None else None,
                remaining=report.remaining if report is not None else None,
                window_seconds=report.window if report is not None else None,
                seen_at=report.seen if report is not None else None,
                refused_until=refused,
            )
        )
    return found


def _show(found: list[Quota]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not found:
        typer.echo("no registry has reported a limit, and none refuses requests", err=True)
        return
    table = Table("registry", "credential", "left", "of", "window", "reported", "refused until", box=None)
    for each in found:
        told = ("-",) * 4
        if each.limit is not None and each.window_seconds is not None and each.seen_at is not None:
            told = (str(each.remaining), str(each.limit), _span(each.window_seconds), _clock(each.seen_at))
        refused = ", ".join(f"{lane} {_clock(until)}" for lane, until in each.refused_until.items())
        style = "bold red" if each.spent else None
        names = (Text(printable(each.registry)), Text(printable(each.credential)))
        table.add_row(*names, *told, refused or "-", style=style)
    # A line stays a line for programs that read it.
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def _span(seconds: float) -> str:
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
