"""Keep TLS contexts for upstream connections, one for each set of CA and client certificate files."""

from __future__ import annotations

from functools import partial

from regproxy.config.faults import try_all
from regproxy.config.origin_tables import OriginSettings, label_of
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file
from regproxy.dataplane.tls_contexts import Context, client_context

_Files = tuple[bool, str | None, str | None, str | None]


class Trust:
    """Client contexts by their files, which are read at the start. ConfigError names the file, and the
    setting.

    `opens`: the data plane opens the TLS records of large bodies itself.
    """

    def __init__(self, config: Config, *, opens: bool = False) -> None:
        tables = config.origin_tables
        self._contexts: dict[_Files, Context] = {}
        self._default_ca = tables.default.ca_file
        self._opens = opens
        every = [("", tables.default), *((label_of(key), settings) for key, settings in tables.own.items())]
        try_all(partial(self._add, settings, label) for label, settings in every)

    def context(self, settings: OriginSettings) -> Context:
        """Return the context for connections to an origin with these settings."""
        return self._contexts[_files(settings)]

    def _add(self, settings: OriginSettings, label: str) -> None:
        files = _files(settings)
        if files not in self._contexts:
            self._contexts[files] = self._made(files, label)

    def _made(self, files: _Files, label: str) -> Context:
        verify, ca_file, cert_file, key_file = files
        ca_name = "REGPROXY_UPSTREAM_CA_FILE" if ca_file == self._default_ca else f"{label}.ca_file"
        pair: dict[str, bytes] = {}

        def check_ca() -> None:
            if ca_file is None:
                return
            _read(ca_name, ca_file)
            try:
                # Checked alone first: OpenSSL's error does not say which file it is about.
                client_context(False, ca_file)
            except ValueError as error:
                raise ConfigError(
                    ca_name, ca_file, f"not a file of CA certificates in PEM: {error}"
                ) from None

        def read(key: str, path: str | None) -> None:
            if path is not None:
                pair[key] = _read(f"{label}.{key}", path)

        try_all(
            (
                check_ca,
                partial(read, "client_cert_file", cert_file),
                partial(read, "client_key_file", key_file),
            )
        )
        try:
            return client_context(
                *(verify, ca_file, False, pair.get("client_cert_file"), pair.get("client_key_file")),
                self._opens,
            )
        except ValueError as error:
            expected = f"a certificate in PEM with the key in {key_file}: {error}"
            raise ConfigError(f"{label}.client_cert_file", cert_file, expected) from None


def check_trust(config: Config) -> None:
    """Raise ConfigError where a file of CAs or client certificates for origins is of no use."""
    every = (config.origin_tables.default, *config.origin_tables.own.values())
    if any(any(_files(settings)[1:]) for settings in every):
        Trust(config)  # which reads the system's CAs too, and takes its time


def _files(settings: OriginSettings) -> _Files:
    return settings.verify, settings.ca_file, settings.client_cert_file, settings.client_key_file


def _read(name: str, path: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        what = "a key" if name.endswith("key_file") else "certificates"
        raise ConfigError(name, path, f"can't be read: {error.strerror}; a file of {what} in PEM") from None
