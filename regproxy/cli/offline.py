"""`regproxy offline`: have the running proxy ask no registry any more, or ask them again.

It asks the admin port, so it changes all workers at once.
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
from regproxy.config import loading
from regproxy.config.directories import cache_path
from regproxy.config.settings import Config
from regproxy.core.errors import RegproxyError

_OFFLINE = "No registry is asked. What is held is served, whatever its age; everything else gets a 503."

app = typer.Typer(
    help="Have the running proxy ask no registry (offline mode), or ask them again.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def on(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Switch offline mode on: no registry is asked, and what is held is served, whatever its age.

    It counts for all workers, and over a restart. Exit code 2: no proxy is running here, or it refused.
    """
    _show(_asked(config, True), as_json)


@app.command()
def off(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Switch offline mode off: registries are asked again.

    Where it is the setting REGPROXY_OFFLINE=true that keeps the proxy offline, this is refused: change the
    setting. Exit code 2: no proxy is running here, or it refused.
    """
    _show(_asked(config, False), as_json)


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show whether the running proxy is offline, and by what. Exit code 2: no proxy is running here."""
    _show(_asked(config, None), as_json)


def _asked(path: Path | None, switch: bool | None) -> dict[str, Any]:
    """Return `on` and `by` as the proxy has them, once it is switched. `switch`: None to look alone.

    Ends the command where no proxy answers, or it refuses.
    """
    try:
        config = loading.read(path, os.environ)[1]
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
    """Return what a proxy that is started now would be, and how that is changed."""
    if config.offline:
        return "REGPROXY_OFFLINE is true: a proxy that is started with it is offline"
    with suppress(OSError):  # of a directory that this user may not look into
        if layout.offline(root).exists():
            return (
                "it was switched offline before, and starts so; then `regproxy offline off` switches it back"
            )
    return "start it first; a proxy that is started with REGPROXY_OFFLINE=true is offline from the start"


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
    elif not found["on"]:
        say("Not offline: registries are asked.")
    elif found["by"] == "setting":
        say(f"Offline, by the setting REGPROXY_OFFLINE=true. {_OFFLINE}")
        say("`regproxy offline off` can't change that: change the setting, and reload or restart.")
    else:
        say(f"Offline. {_OFFLINE}")
        say("That holds over a restart, until `regproxy offline off`.")
