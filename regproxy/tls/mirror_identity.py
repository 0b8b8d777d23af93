"""What REGPROXY_TLS_LISTEN shows its clients: the operator's certificate, or one by the proxy's own CA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from regproxy.config.faults import try_all
from regproxy.config.settings import Config
from regproxy.core.addresses import as_address
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file
from regproxy.dataplane.tls_contexts import Context, server_context
from regproxy.tls.ca_scope import listened_names, machine_name
from regproxy.tls.server_contexts import Contexts


def mirror_context(config: Config, contexts: Contexts) -> Context:
    """Return the TLS context of REGPROXY_TLS_LISTEN. Raises ConfigError where a file is of no use."""
    given = _given(config, contexts.given)
    if given is not None:
        return given
    rules = config.tls_names
    names = (
        tuple(rule.pattern for rule in rules if rule.is_exact)
        if rules
        else (machine_name(), *listened_names(config))
    )
    # Clients send no name where they connect to an address.
    unnamed = next((name for name in names if as_address(name) is not None), next(iter(names), ""))
    return contexts.by_name(
        lambda host: host in names or any(rule.matches(host, 0) for rule in rules), unnamed
    )


def check_tls_files(config: Config) -> None:
    """Raise ConfigError where the certificate or the key that REGPROXY_TLS_LISTEN is to show is of no use."""
    if config.tls_listen:
        _given(config, server_context)


def _given(config: Config, make: Callable[[bytes, bytes], Context]) -> Context | None:
    """Return the context of the operator's certificate, None where none is configured. Raises ConfigError."""
    cert, key = config.tls_cert_file, config.tls_key_file
    if cert is None or key is None:
        return None
    pair: dict[str, bytes] = {}

    def read(name: str, path: str) -> None:
        try:
            pair[name] = read_file(path)
        except OSError as error:
            raise ConfigError(name, path, f"a file that can be read: {error.strerror}") from None

    names = {"REGPROXY_TLS_CERT_FILE": cert, "REGPROXY_TLS_KEY_FILE": key}
    try_all(partial(read, name, path) for name, path in names.items())
    try:
        return make(*(pair[name] for name in names))
    except (ValueError, OSError) as error:
        expected = f"a certificate in PEM with the key in {key}: {error}"
        raise ConfigError("REGPROXY_TLS_CERT_FILE", cert, expected) from None
