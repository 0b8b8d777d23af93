"""Read a TOML file: the values of settings as text, and the tables that others parse."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from regproxy.config.misspelt import key_hint, setting_hint
from regproxy.config.settings import SETTINGS, Setting
from regproxy.config.sources.given import Given
from regproxy.config.values.lists import Raw
from regproxy.core.errors import ConfigError

_TABLES = ("origin", "principal", "key", "rule")
_BY_KEY = {key: setting for setting in SETTINGS for key in (setting.key, setting.name.lower())}


class TomlFile(Struct, frozen=True):
    """A TOML file: its values by the settings' names, and its unparsed tables."""

    name: str
    found: Mapping[str, Given]
    origins: Any
    principals: Any
    keys: Any
    rules: Any


def read_toml(text: str, file: str, errors: list[ConfigError]) -> TomlFile:
    """Parse a file; errors are added to `errors`."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(file, None, f"a TOML file: {error}") from None
    origins, principals, keys = (table.pop(name, {}) for name in ("origin", "principal", "key"))
    rules = table.pop("rule", [])
    found: dict[str, Given] = {}
    for key, value in table.items():
        setting = _BY_KEY.get(key)
        if setting is None:
            errors.append(ConfigError(f"{file}: {key}", None, f"no such setting{_toml_hint(key, value)}"))
        elif setting.name in found:
            errors.append(ConfigError(f"{file}: {key}", None, f"also given as {found[setting.name].label}"))
        else:
            try:
                raw = _raw(setting, value)
            except ValueError as error:
                errors.append(ConfigError(f"{file}: {key}", None, str(error)))
            else:
                found[setting.name] = Given(setting, f"{file}: {key}", raw, "toml")
    return TomlFile(file, found, origins, principals, keys, rules)


def _toml_hint(key: str, value: Any) -> str:
    """Return what may have been meant by a key: a table by a table, a setting by all else."""
    if isinstance(value, dict | list) and (hint := key_hint(key, _TABLES, lists=False)):
        return hint
    return setting_hint(key, _BY_KEY)


def _raw(setting: Setting, value: Any) -> Raw:
    """Return a TOML value as the text that the environment would have, or as a list of such texts."""
    if setting.name == "REGPROXY_RESOLVE" and isinstance(value, dict):
        pairs = ((host, entry if isinstance(entry, list) else [entry]) for host, entry in value.items())
        return tuple(f"{host}={_scalar(address)}" for host, addresses in pairs for address in addresses)
    if setting.many and isinstance(value, list):
        return tuple(_scalar(entry) for entry in value)
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    name = type(value).__name__
    kind = {"dict": "table", "list": "array"}.get(name, name)
    raise ValueError(f"a string, a number or a boolean, not a TOML {kind}")
