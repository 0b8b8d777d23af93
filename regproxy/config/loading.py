"""Read the configuration from the environment and the TOML file that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from regproxy.config.settings import Config, load
from regproxy.core.errors import ConfigError


def read(path: Path | None, env: Mapping[str, str]) -> tuple[str | None, Config]:
    """Return the text of the TOML file, if there is one, and the configuration. Raises ConfigError."""
    text = None
    try:
        if path is not None:
            text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError("REGPROXY_CONFIG", str(path), f"can't be read: {reason}") from None
    return text, load(env, text, str(path or ""))
