"""`regproxy setup`: print what points a client at a proxy, as the proxy itself hands it out."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer

from regproxy.cli.serving import USAGE_ERROR
from regproxy.core.errors import ConfigError
from regproxy.doctor.proxy_requests import NoAnswer, ask
from regproxy.onboarding.clients import CLIENTS, Client
from regproxy.onboarding.page import listing
from regproxy.onboarding.proxy_address import ProxyAddress

app = typer.Typer(add_completion=False)

FOUND_WRONG = 1

_HERE = "http://localhost:3128"

ClientArgument = Annotated[str, typer.Argument(metavar="[CLIENT]", help="One of the list; none: the list.")]
ProxyOption = Annotated[
    str,
    typer.Option(
        "--proxy",
        envvar="HTTPS_PROXY",
        show_envvar=False,
        help=f"The proxy as clients call it, http://host:port; HTTPS_PROXY, else {_HERE}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs, with its commands.")]


@app.command()
def setup(client: ClientArgument = "", proxy: ProxyOption = "", as_json: JsonOption = False) -> None:
    """Print the script or configuration that points a client at the proxy; without a client, list them.

    It is what the proxy answers to GET /setup/CLIENT: with its CA, and the host of --proxy.
    """
    if client and client not in CLIENTS:
        _fail(f"there is no set-up for {client!r}; these are known:\n\n{listing()}", USAGE_ERROR)
    try:
        address = ProxyAddress.of_url(proxy or _HERE)
    except ConfigError as wrong:
        _fail(str(wrong), USAGE_ERROR)
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
        _fail(f"{address.url} does not answer: {reason}", FOUND_WRONG)
    # Anything else that listens there, an older version included, may say 200 to every path.
    if answer.status != 200 or answer.fields.get("content-type") != client.content_type:
        _fail(f"{address.url} has no /setup/{client.name} (status {answer.status})", FOUND_WRONG)
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


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"regproxy: {message}", err=True)
    raise typer.Exit(code)
