"""Read the public keys of the TOML file's [key.NAME] tables, from their files where they are in files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from regproxy.config.faults import try_all
from regproxy.config.signing_keys import WANT, KeySource, SigningKey, parse_public_key
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file

FILE_MAX: Final = 65_536  # bytes of a file


def read_keys(sources: Mapping[str, KeySource]) -> dict[str, SigningKey]:
    """Return the keys by their names; their files are read now. Raises ConfigError, ConfigErrors."""
    keys: dict[str, SigningKey] = {}

    def read(source: KeySource) -> None:
        keys[source.name] = _read(source)

    try_all(partial(read, source) for source in sources.values())
    return keys


def _read(source: KeySource) -> SigningKey:
    label = f"key.{source.name}.file" if source.file else f"key.{source.name}.pem"
    try:
        pem = read_file(source.file, FILE_MAX) if source.file else source.pem.encode()
        return parse_public_key(source.name, pem)
    except OSError as error:
        raise ConfigError(label, source.file, f"can't be read: {error.strerror}; {WANT}") from None
    except ValueError as error:
        raise ConfigError(label, source.file or None, str(error)) from None
