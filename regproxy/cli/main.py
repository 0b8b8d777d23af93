"""The command line: `regproxy serve`, `check-config`, and the commands that other modules here have.

A command imports what it needs when it runs: `regproxy serve` stays in memory, and starts at once.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import USAGE_ERROR
from regproxy.cli.common.options import ConfigOption
from regproxy.cli.common.text import say
from regproxy.config import settings as configuration
from regproxy.config.faults import ConfigErrors
from regproxy.config.settings import Config
from regproxy.config.sources import loading
from regproxy.core.errors import ConfigError

_NAMES: Final = ("cache", "ca", "doctor", "logs", "offline", "policy", "quota", "setup", "top")
# The commands of other modules, and these modules.
MODULES: Final = {
    **{name: name for name in _NAMES},
    "man": "manual",
}


_PIPE_WIDTH: Final = 100_000  # characters


class Commands(TyperGroup):
    """The commands of this module, and those of MODULES, each of which is imported when it is wanted."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name in MODULES:
            self.add_command(TyperCommand(name))  # stands for it in lists of names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, None without one."""
        if cmd_name not in MODULES:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(import_module(f"regproxy.cli.{MODULES[cmd_name]}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Commands,
    help="A caching, intercepting proxy for container image pulls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib import metadata

        from regproxy.dataplane import tls

        python = platform.python_version()
        typer.echo(f"regproxy {metadata.version('regproxy')} (Python {python}, {tls.openssl_version()})")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
]


@app.callback()
def root(version: VersionOption = False) -> None:
    """A caching, intercepting proxy for container image pulls."""


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the proxy until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
    from regproxy.cli import serving

    serving.run(None if config is None else str(config))


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors included.")]


@app.command("check-config")
def check_config(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every setting and where it comes from. Exit code 2: a setting, or a file it names, is unusable."""
    warnings: tuple[str, ...] = ()
    try:
        settings = loading.read(config, os.environ)
        warnings = settings.warnings
        _check_files(settings)
    except ConfigError as error:
        warnings = warnings or error.warnings
        if as_json:
            found = {"good": False, "faults": _faults(error), "warnings": list(warnings)}
            typer.echo(json.dumps(found, indent=2))
            raise typer.Exit(USAGE_ERROR) from None
        for warning in warnings:
            say(f"warning: {warning}", err=True)
        fail(error)
    if as_json:
        typer.echo(json.dumps(_described(settings), indent=2))
    else:
        _show(settings)


def _check_files(settings: Config) -> None:
    from regproxy.process import configured_files

    configured_files.check_all(settings, os.environ)


def _faults(error: ConfigError) -> list[dict[str, str | None]]:
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    return [{"setting": each.variable, "value": each.value, "expected": each.expected} for each in errors]


def _described(settings: Config) -> dict[str, Any]:
    rows = [
        {"setting": name, "value": value, "from": origin}
        | ({"read_as": settings.read_as[name]} if name in settings.read_as else {})
        for name, value, origin in configuration.describe(settings)
    ]
    return {"good": True, "settings": rows, "warnings": list(settings.warnings)}


def _show(settings: Config) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, header_style="bold")
    for name, value, origin in configuration.describe(settings):
        if name in settings.read_as:
            value = f"{value} (read as {settings.read_as[name]})"
        table.add_row(name, value.replace("[", "\\["), origin)
    # A program reads one line a setting, however long its value is.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    # Where the table goes, behind it: by another stream they would come ahead of it, in a pager for one.
    for warning in settings.warnings:
        say(f"warning: {warning}")
    count = len(settings.warnings)
    many = f"{count} warning{'s' * (count > 1)}"
    say(f"The configuration is usable, with {many}." if count else "The configuration is good.")


@app.command("healthcheck")
def check_health(config: ConfigOption = None) -> None:
    """Check whether the proxy is ready for requests. Exit code 1 if it is not, with the reason."""
    from regproxy.cli import healthcheck

    raise typer.Exit(healthcheck.run(str(config) if config else None, os.environ))
