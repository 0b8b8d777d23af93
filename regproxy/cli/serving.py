"""`regproxy serve`, without the library of the command line: what is imported for it stays in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from regproxy.cli.common.exit_codes import USAGE_ERROR


def plain_arguments(arguments: list[str]) -> bool:
    """Tell whether these are `serve` and nothing else, or `serve --config FILE`."""
    return arguments == ["serve"] or (arguments[:2] == ["serve", "--config"] and len(arguments) == 3)


def run(config: str | None) -> NoReturn:
    """Run the proxy until it is told to end, and leave with its exit code.

    `config`: the path of the TOML file; without one, REGPROXY_CONFIG names it, if any.
    """
    from regproxy.config.sources import loading
    from regproxy.core.errors import RegproxyError
    from regproxy.process import boot, supervisor
    from regproxy.telemetry import log_format

    named = config or os.environ.get("REGPROXY_CONFIG")
    path = Path(named) if named else None
    try:
        code = supervisor.run(path, os.environ, debug=os.environ.get("REGPROXY_DEBUG") == "1")
    except RegproxyError as error:
        log_format.say_end(error, log_format.style_of(os.environ, loading.text_of(path)), "supervisor")
        raise SystemExit(USAGE_ERROR) from None
    boot.leave(code)
