"""`regproxy doctor`: what on this host keeps pulls from going through the proxy."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import JsonOption
from regproxy.config.hosts import DOCKER_HUB_REGISTRY
from regproxy.config.values.host_rules import split_host_port
from regproxy.core.errors import ConfigError
from regproxy.doctor import proxy_variables
from regproxy.doctor.examination import Subject, examine
from regproxy.doctor.host_files import HostFiles, Process
from regproxy.onboarding.proxy_address import ProxyAddress

app = typer.Typer(add_completion=False)


ProxyOption = Annotated[
    str,
    typer.Option(
        "--proxy",
        envvar=["HTTPS_PROXY", "https_proxy"],
        show_envvar=False,
        help="The proxy, http://host:port. Default: HTTPS_PROXY.",
    ),
]
RegistryOption = Annotated[str, typer.Option("--registry", help="Registry to try, host[:port].")]
RootOption = Annotated[Path, typer.Option("--root", hidden=True, help="The host's file system.")]


@app.command()
def doctor(
    proxy: ProxyOption = "",
    registry: RegistryOption = DOCKER_HUB_REGISTRY,
    as_json: JsonOption = False,
    root: RootOption = Path("/"),
) -> None:
    """Check whether this host pulls through the proxy: one line per finding, and how to fix it.

    Without --proxy or HTTPS_PROXY, the proxy that dockerd or containerd uses. Run it as root: other users
    can't read those daemons' variables. Exit code 1: something is wrong.
    """
    host = HostFiles(root)
    try:
        address = _address(proxy, host)
        name, port = split_host_port(registry)
    except (ConfigError, ValueError) as wrong:
        fail(str(wrong))
    own = Process(os.getpid(), "regproxy", dict(os.environ))
    findings = examine(Subject(address, (name, port or 443), host, own), time.time())
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(finding.line())
    raise typer.Exit(FAILED if any(finding.level == "error" for finding in findings) else 0)


def _address(given: str, host: HostFiles) -> ProxyAddress:
    """Return the proxy that is meant. Raises ConfigError."""
    if given:
        return ProxyAddress.of_url(given)
    for url in proxy_variables.used(host):
        return ProxyAddress.of_url(url, "HTTPS_PROXY of a daemon")
    raise ConfigError("--proxy", None, "say which proxy: --proxy http://proxy.example:3128")
