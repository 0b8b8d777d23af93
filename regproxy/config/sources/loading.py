"""Read the configuration from the environment and the TOML file that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from regproxy.config.settings import Config
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_text

TOML_MAX: Final = 4 * 1024 * 1024  # bytes
# docker-registry-proxy takes one that is mounted in place of resolv.conf.
NGINX_RESOLVERS: Final = Path("/etc/nginx/resolvers.conf")


def text_of(path: Path | None) -> str | None:
    """Return the text of the TOML file, None where there is none, or it can't be read."""
    try:
        return read_text(path, TOML_MAX) if path is not None else None
    except (OSError, ConfigError):
        return None


def read(path: Path | None, env: Mapping[str, str]) -> Config:
    """Return the configuration. Raises ConfigError.

    The files that the settings name are not read (see `process.configured_files`).
    """
    text = None
    try:
        if path is not None:
            text = read_text(path, TOML_MAX)
    except OSError as error:
        raise ConfigError("REGPROXY_CONFIG", str(path), f"can't be read: {error.strerror}") from None
    config = load(env, text, str(path or ""))
    if NGINX_RESOLVERS.exists():
        warning = (
            f"{NGINX_RESOLVERS} has no effect: names are looked up as resolv.conf says (docker run --dns)"
        )
        config = replace(config, warnings=(*config.warnings, warning))
    return config
