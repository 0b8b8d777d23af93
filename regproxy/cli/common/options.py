"""Options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="REGPROXY_CONFIG",
        help="TOML configuration file. Environment variables take precedence.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
