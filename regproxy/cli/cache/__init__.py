"""The command line of the cache: `regproxy cache list`, `purge`, `pin`, `verify`... One module a verb."""

from __future__ import annotations

import typer

from regproxy.cli.cache.bundles import export_images, import_images
from regproxy.cli.cache.du import du
from regproxy.cli.cache.listing import list_images
from regproxy.cli.cache.pinning import list_pins, pin, unpin
from regproxy.cli.cache.purge import purge
from regproxy.cli.cache.show import show
from regproxy.cli.cache.status import status
from regproxy.cli.cache.verify import verify
from regproxy.cli.cache.warm import warm

app = typer.Typer(
    help="Inspect and maintain the cache, also while the proxy is running.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(status)
app.command("list")(list_images)
app.command()(show)
app.command()(du)
app.command()(purge)
app.command()(pin)
app.command()(unpin)
app.command("pins")(list_pins)
app.command()(verify)
app.command()(warm)
app.command("export")(export_images)
app.command("import")(import_images)
