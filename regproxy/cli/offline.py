"""`regproxy offline`: switch the running proxy's offline mode on or off, or show it.

This goes through the admin port, so it applies to all workers at once.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from regproxy.cache import layout
from regproxy.cli.common.admin_client import AdminClient, NotRunning
from regproxy.cli.common.ending import fail
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json
from regproxy.config.directories import cache_path
from regproxy.config.settings import Config
from regproxy.config.sources import loading
from regproxy.core.errors import RegproxyError

_OFFLINE = "No registry is asked. What is in the cache is served, however old; everything else gets a 503."

app = typer.Typer(
    help="Switch offline mode, in which the running proxy asks no registry, on or off.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def on(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Switch offline mode on: no registry is asked, and what is in the cache is served, however old.

    This applies to all workers and survives a restart. Exit code 2: no proxy is running here, or it refused.
    """
    _show(_asked(config, True), as_json)


@app.command()
def off(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Switch offline mode off: registries are asked again.

    Refused while the setting REGPROXY_OFFLINE=true keeps the proxy offline: change the setting instead.
    Exit code 2: no proxy is running here, or it refused.
    """
    _show(_asked(config, False), as_json)


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show whether the running proxy is offline, and why.

    Exit code 2: no proxy is running here, or it refused.
    """
    _show(_asked(config, None), as_json)


def _asked(path: Path | None, switch: bool | None) -> dict[str, Any]:
    """Return `on` and `by` as the proxy reports them, after switching it. `switch`: None only looks.

    Ends the command if no proxy answers, or it refuses.
    """
    try:
        config = loading.read(path, os.environ)
        root = cache_path(config, os.environ)
        client = AdminClient(config, root, writes=switch is not None)
        found = (
            client.ask("GET", "status")["offline"]
            if switch is None
            else client.ask("POST", "offline", {"on": switch})
        )
    except NotRunning as error:
        fail(f"{error}\n{_next_start(config, root)}")
    except RegproxyError as error:
        fail(error)
    return {"on": found["on"], "by": found["by"]}


def _next_start(config: Config, root: Path) -> str:
    """Return whether a proxy that is started now would be offline, and how to change that."""
    if config.offline:
        return "REGPROXY_OFFLINE is true: a proxy that is started with it will be offline"
    with suppress(OSError):  # of a directory that this user may not look into
        if layout.offline(root).exists():
            return (
                "it was switched offline and will start offline; `regproxy offline off` then switches it back"
            )
    return "start it first; with REGPROXY_OFFLINE=true it is offline from the start"


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
    elif not found["on"]:
        say("Not offline: registries are asked.")
    elif found["by"] == "setting":
        say(f"Offline because of the setting REGPROXY_OFFLINE=true. {_OFFLINE}")
        say("`regproxy offline off` can't change that: change the setting, then reload or restart.")
    else:
        say(f"Offline. {_OFFLINE}")
        say("This survives a restart, until `regproxy offline off`.")
