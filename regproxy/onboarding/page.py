"""Write the page that lists the set-ups: plain HTML that asks for nothing else."""

from __future__ import annotations

from html import escape
from typing import Final

from regproxy.onboarding.clients import CLIENTS, Client
from regproxy.onboarding.proxy_address import ProxyAddress

_HEAD: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>regproxy: set up a client</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f3f3f3; color: #222; padding: .6rem; overflow-x: auto }
dt { font-weight: 600; margin-top: 1.2rem } dd { margin: 0 }
</style>
"""


def page(address: ProxyAddress) -> str:
    """Return the page, in HTML, for clients that reach the proxy at `address`."""
    entries = "".join(_entry(client, address) for client in CLIENTS.values())
    return (
        f"{_HEAD}<h1>Set up a client</h1>\n"
        f"<p>The proxy is <code>{escape(address.url)}</code>, its CA <a href=/ca.crt>/ca.crt</a>."
        " Look at a script before you run it: its URL shows it. Afterwards, <code>regproxy doctor --proxy"
        f" {escape(address.url)}</code> on the client says whether all is right.</p>\n"
        f"<dl>\n{entries}</dl>\n</html>\n"
    )


def _entry(client: Client, address: ProxyAddress) -> str:
    path = f"/setup/{client.name}"
    command, undo = client.commands(address)
    return (
        f'<dt><a href="{escape(path)}">{escape(client.name)}</a></dt>\n'
        f"<dd>{escape(client.title)}<pre>{escape(command)}</pre>Undo: <code>{escape(undo)}</code></dd>\n"
    )


def listing() -> str:
    """Return the known clients, one a line, in plain text."""
    width = max(map(len, CLIENTS))
    return "".join(f"{client.name:{width}}  {client.title}\n" for client in CLIENTS.values())
