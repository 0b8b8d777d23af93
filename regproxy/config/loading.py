"""Read the configuration from the environment and the TOML file that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from regproxy.config.settings import Config, load
from regproxy.config.signing_keys import read_keys
from regproxy.core.errors import ConfigError

# docker-registry-proxy takes one that is mounted in place of resolv.conf.
NGINX_RESOLVERS: Final = Path("/etc/nginx/resolvers.conf")


def read(path: Path | None, env: Mapping[str, str]) -> tuple[str | None, Config]:
    """Return the text of the TOML file, if there is one, and the configuration; files of keys are read too.

    Raises ConfigError.
    """
    text = None
    try:
        if path is not None:
            text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError("REGPROXY_CONFIG", str(path), f"can't be read: {reason}") from None
    config = load(env, text, str(path or ""))
    # Also by check-config: a key that can't be used would leave every image that has to be signed refused.
    read_keys(config.signing_keys)
    if NGINX_RESOLVERS.exists():
        warning = (
            f"{NGINX_RESOLVERS} has no effect: names are looked up as resolv.conf says (docker run --dns)"
        )
        config = replace(config, warnings=(*config.warnings, warning))
    return text, config
