"""The command line: `regproxy serve`, `check-config`, and the commands that other modules here have."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from regproxy.cli import ca, cache, doctor, policy, setup
from regproxy.config import loading
from regproxy.config import settings as configuration
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError, RegproxyError
from regproxy.dataplane import tls
from regproxy.process import configured_files, supervisor

USAGE_ERROR = 2

app = typer.Typer(
    help="A caching, intercepting proxy for container image pulls.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache.app, name="cache")
app.add_typer(ca.app, name="ca")
app.add_typer(policy.app, name="policy")
app.command("setup")(setup.setup)
app.command("doctor")(doctor.doctor)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REGPROXY_CONFIG", help="TOML file; the environment wins over it."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        python = platform.python_version()
        typer.echo(f"regproxy {metadata.version('regproxy')} (Python {python}, {tls.openssl_version()})")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end.")
]


@app.callback()
def root(version: VersionOption = False) -> None:
    """A caching, intercepting proxy for container image pulls."""


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the proxy until SIGTERM or SIGINT; SIGHUP makes it read its configuration again."""
    try:
        code = supervisor.run(config, os.environ, debug=os.environ.get("REGPROXY_DEBUG") == "1")
    except RegproxyError as error:
        _fail(error)
    raise typer.Exit(code)


@app.command("check-config")
def check_config(config: ConfigOption = None) -> None:
    """Show every setting and where it comes from; exit code 2 if one, or a file it names, can't be used."""
    settings = _load(config)
    try:
        configured_files.check_all(settings, os.environ)
    except ConfigError as error:
        _fail(error)
    table = Table("setting", "value", "from", box=None, header_style="bold")
    for name, value, origin in configuration.describe(settings):
        table.add_row(name, value.replace("[", "\\["), origin)
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(table)
    for warning in settings.warnings:
        Console(stderr=True).print(f"warning: {warning}", markup=False)
    console.print("The configuration is good.")


def _load(path: Path | None) -> Config:
    try:
        return loading.read(path, os.environ)[1]
    except ConfigError as error:
        _fail(error)


def _fail(error: Exception, code: int = USAGE_ERROR) -> NoReturn:
    typer.echo(f"regproxy: {error}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the console script."""
    app()
