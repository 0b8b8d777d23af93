"""The console script: hands over to the command line, which takes a while to import, where that is needed."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the console script."""
    if sys.argv[1:] == ["healthcheck"]:
        from regproxy.cli import healthcheck

        raise SystemExit(healthcheck.run(os.environ.get("REGPROXY_CONFIG"), os.environ))
    from regproxy.cli import serving

    if serving.plain_arguments(sys.argv[1:]):
        serving.run(sys.argv[3] if sys.argv[3:] else None)
    from regproxy.cli.main import app

    app()
