"""Keep TLS contexts for upstream connections, one for each set of CA and client certificate files."""

from __future__ import annotations

from pathlib import Path

from regproxy.config.origin_tables import OriginSettings, label_of
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.dataplane.tls import Context, client_context

_Files = tuple[bool, str | None, str | None, str | None]


class Trust:
    """Client contexts by their files, which are read at the start. ConfigError names the file, and the
    setting.
    """

    def __init__(self, config: Config) -> None:
        tables = config.origin_tables
        self._contexts: dict[_Files, Context] = {}
        self._add(tables.default, "")
        for key, settings in tables.own.items():
            self._add(settings, label_of(key))

    def context(self, settings: OriginSettings) -> Context:
        """Return the context for connections to an origin with these settings."""
        return self._contexts[_files(settings)]

    def _add(self, settings: OriginSettings, label: str) -> None:
        files = verify, ca_file, cert_file, key_file = _files(settings)
        if files in self._contexts:
            return
        ca_name = f"{label}.ca_file" if label else "REGPROXY_UPSTREAM_CA_FILE"
        if ca_file is not None:
            _read(ca_name, ca_file)
        chain = _read(f"{label}.client_cert_file", cert_file)
        key = _read(f"{label}.client_key_file", key_file)
        try:
            # Checked alone first: OpenSSL's error does not say which file it is about.
            client_context(verify, ca_file)
        except ValueError as error:
            raise ConfigError(ca_name, ca_file, str(error)) from None
        try:
            self._contexts[files] = client_context(verify, ca_file, False, chain, key)
        except ValueError as error:
            raise ConfigError(f"{label}.client_cert_file", cert_file, str(error)) from None


def _files(settings: OriginSettings) -> _Files:
    return settings.verify, settings.ca_file, settings.client_cert_file, settings.client_key_file


def _read(name: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        what = "a key" if name.endswith("key_file") else "certificates"
        raise ConfigError(name, path, f"can't be read: {error.strerror}; a file of {what} in PEM") from None
