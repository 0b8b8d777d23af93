"""`regproxy top`: what the proxy on this machine does just now, live in a terminal.

It asks the admin port, so it shows what all workers do.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from regproxy.cli.common.admin_client import AdminClient, NotRunning, Refused
from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption
from regproxy.cli.common.text import show_json
from regproxy.config.directories import cache_path
from regproxy.config.sources import loading
from regproxy.core.errors import ConfigError
from regproxy.core.sizes import size_text
from regproxy.telemetry.log_format import printable

_TOLD: Final = 1.5  # seconds in which all workers have told it
_ROWS: Final = 15  # of each table
_WIDE: Final = 200  # columns where there is no terminal

app = typer.Typer(add_completion=False)

EveryOption = Annotated[float, typer.Option("--every", min=0.5, max=60, help="Seconds between updates.")]
OnceOption = Annotated[
    bool, typer.Option("--once", help="Print once and exit. The default when the output is not a terminal.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print once, as JSON.")]


@app.command()
def top(
    every: EveryOption = 1.0,
    once: OnceOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show downloads, clients, registries and the cache, live. Exit code 1: no proxy answers."""
    try:
        settings = loading.read(config, os.environ)
    except ConfigError as error:
        fail(error)
    client = AdminClient(settings, cache_path(settings, os.environ), writes=False)
    try:
        if as_json:
            show_json(_once(client))
        elif once or not sys.stdout.isatty():
            width = None if sys.stdout.isatty() else _WIDE
            Console(width=width).print(drawn(_once(client), time.time()))
        else:
            _watch(client, every)
    except (NotRunning, Refused) as error:
        fail(error, FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def look(client: AdminClient) -> dict[str, Any]:
    """Return what the admin API says of the proxy just now."""
    status = client.ask("GET", "status")
    lists = {name: client.ask("GET", name)["items"] for name in ("downloads", "clients", "registries")}
    return {"status": status, **lists}


def _once(client: AdminClient) -> dict[str, Any]:
    """Look a second time: workers begin to tell what they do when somebody asks."""
    look(client)
    time.sleep(_TOLD)
    return look(client)


def _watch(client: AdminClient, every: float) -> None:
    with Live(drawn(look(client), time.time()), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(drawn(look(client), time.time()), refresh=True)


def drawn(seen: dict[str, Any], now: float) -> Group:
    """Return the screen. `now`: seconds since the epoch."""
    return Group(
        _summary(seen["status"]), "", _downloads(seen["downloads"], now), "", _clients(seen["clients"]), "",
        _registries(seen["registries"], now),
    )  # fmt: skip


def _summary(status: dict[str, Any]) -> Text:
    counts, cache = status["answered"], status["cache"]
    text = Text(f"regproxy {status['version']}, {status['workers']} workers, ")
    text.append(f"{status['connections']} connections, {status['downloads']} downloads\n")
    text.append(f"hits {_share(counts['hit_ratio'])} of requests, {_share(counts['byte_ratio'])} of bytes; ")
    text.append(f"saved {size_text(counts['saved_bytes'])} of {size_text(counts['bytes'])}\n")
    limit = size_text(cache["max_bytes"]) if cache["max_bytes"] else "no limit"
    text.append(f"cache {size_text(cache['bytes'])} of {limit}, {cache['objects']} blobs, ")
    text.append(f"{size_text(cache['free_bytes'])} free on its disk")
    if not status["ready"]:
        text.append(f"\nnot ready: {status['not_ready_because']}", style="bold red")
    if status["offline"]["on"]:
        text.append("\noffline: no registry is asked", style="bold magenta")
    return text


def _downloads(items: list[dict[str, Any]], now: float) -> Table:
    table = Table(
        "download", "of", "", "", "rate", "for", "waiters", title=_title("downloads", items), box=None
    )
    for item in sorted(items, key=lambda each: each["since"])[:_ROWS]:
        total = item["total"]
        bar = ProgressBar(total or 1, item["bytes"] if total else 0, width=20)
        there = f"{size_text(item['bytes'])} of {size_text(total) if total else '?'}"
        table.add_row(
            _told(_short(item["digest"])),
            _told(f"{item['registry']}/{item['repository']}"),
            bar,
            there,
            f"{size_text(item['rate'])}/s",
            f"{max(now - item['since'], 0):.0f} s",
            str(item["waiters"]),
        )
    return table


def _clients(items: list[dict[str, Any]]) -> Table:
    table = Table("client", "connections", "requests", title=_title("clients", items), box=None)
    for item in sorted(items, key=lambda each: (-each["requests"], -each["connections"]))[:_ROWS]:
        table.add_row(_told(item["name"]), str(item["connections"]), str(item["requests"]))
    return table


def _registries(items: list[dict[str, Any]], now: float) -> Table:
    table = Table(
        "registry", "circuit", "quota", "used up", "429", "errors", "last error", title="registries", box=None
    )
    for item in items[:_ROWS]:
        state = item["circuit"]["state"]
        known = [each for each in item["quotas"] if each["limit"] is not None]
        left = ", ".join(f"{each['remaining']} of {each['limit']}" for each in known)
        ends = [each["ends_at"] for each in known if each["ends_at"] is not None]
        table.add_row(
            _told(item["name"]),
            Text(state, style="bold red" if state != "closed" else ""),
            left or "-",
            f"in {max(min(ends) - now, 0) / 60:.0f} min" if ends else "-",
            str(item["refused_429"]),
            str(item["errors"]["count"]),
            _told(item["errors"]["last"] or "-"),
        )
    return table


def _told(text: str) -> Text:
    """Return what a client or registry has said, without anything that a terminal would obey."""
    return Text(printable(text))


def _title(name: str, items: list[Any]) -> str:
    return name if len(items) <= _ROWS else f"{name}: {_ROWS} of {len(items)} or more"


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _short(name: str) -> str:
    return name[:19] if name.startswith("sha256:") else name
