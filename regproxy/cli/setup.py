"""`regproxy setup`: print what points a client at a proxy, as the proxy itself hands it out."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from regproxy.cli.serving import USAGE_ERROR
from regproxy.core.errors import ConfigError
from regproxy.doctor.proxy_requests import NoAnswer, ask
from regproxy.onboarding.clients import CLIENTS
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


@app.command()
def setup(client: ClientArgument = "", proxy: ProxyOption = "") -> None:
    """Print the script or configuration that points a client at the proxy; without a client, list them.

    It is what the proxy answers to GET /setup/CLIENT: with its CA, and the host of --proxy.
    """
    if not client:
        typer.echo(listing(), nl=False)
        return
    if client not in CLIENTS:
        _fail(f"there is no set-up for {client!r}; these are known:\n\n{listing()}", USAGE_ERROR)
    try:
        address = ProxyAddress.of_url(proxy or _HERE)
    except ConfigError as wrong:
        _fail(str(wrong), USAGE_ERROR)
    try:
        answer = ask(address, f"/setup/{client}")
    except NoAnswer as reason:
        _fail(f"{address.url} does not answer: {reason}", FOUND_WRONG)
    # Anything else that listens there, an older version included, may say 200 to every path.
    if answer.status != 200 or answer.fields.get("content-type") != CLIENTS[client].content_type:
        _fail(f"{address.url} has no /setup/{client} (status {answer.status})", FOUND_WRONG)
    typer.echo(answer.body, nl=False)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"regproxy: {message}", err=True)
    raise typer.Exit(code)
