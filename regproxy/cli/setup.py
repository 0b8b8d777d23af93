"""`regproxy setup`: print what points a client at a proxy, as the proxy itself hands it out."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.core.errors import ConfigError
from regproxy.doctor.proxy_requests import NoAnswer, ask
from regproxy.onboarding.clients import CLIENTS, Client
from regproxy.onboarding.page import listing
from regproxy.onboarding.proxy_address import ProxyAddress

app = typer.Typer(add_completion=False)


_HERE = "http://localhost:3128"

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help="Client to set up; omit to list them.")]
ProxyOption = Annotated[
    str,
    typer.Option(
        "--proxy",
        envvar="HTTPS_PROXY",
        show_envvar=False,
        help=f"The proxy as clients reach it, http://host:port. Default: HTTPS_PROXY, else {_HERE}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, with the commands to run.")]


@app.command()
def setup(client: ClientArgument = "", proxy: ProxyOption = "", as_json: JsonOption = False) -> None:
    """Print the script or configuration that points a client at the proxy.

    It is what the proxy serves at /setup/CLIENT, with its CA and the host of --proxy.
    """
    if client and client not in CLIENTS:
        fail(f"there is no set-up for {client!r}; choose one of these:\n\n{listing()}")
    try:
        address = ProxyAddress.of_url(proxy or _HERE)
    except ConfigError as wrong:
        fail(str(wrong))
    if not client:
        every = {"clients": [_described(each, address) for each in CLIENTS.values()]}
        typer.echo(_json(every) if as_json else listing(), nl=False)
        return
    text = _fetch(CLIENTS[client], address)
    if as_json:
        typer.echo(_json(_described(CLIENTS[client], address) | {"text": text.decode()}), nl=False)
    else:
        typer.echo(text, nl=False)


def _fetch(client: Client, address: ProxyAddress) -> bytes:
    """Return the set-up that the proxy hands out."""
    try:
        answer = ask(address, f"/setup/{client.name}")
    except NoAnswer as reason:
        fail(f"{address.url} does not answer: {reason}", FAILED)
    # Anything else that listens there, an older version included, may say 200 to every path.
    if answer.status != 200 or answer.fields.get("content-type") != client.content_type:
        fail(f"{address.url} has no /setup/{client.name} (status {answer.status})", FAILED)
    return answer.body


def _described(client: Client, address: ProxyAddress) -> dict[str, Any]:
    """Return what a client's set-up is, as a JSON object; `kind`: of its text."""
    command, undo = client.commands(address)
    return {
        "name": client.name,
        "title": client.title,
        "kind": client.kind,
        "mirror": client.mirror,
        "url": client.url(address),
        "command": command,
        "undo": undo,
    }


def _json(document: Any) -> str:
    return json.dumps(document, indent=2) + "\n"
