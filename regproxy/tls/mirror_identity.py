"""What REGPROXY_TLS_LISTEN shows its clients: the operator's certificate, or one by the proxy's own CA."""

from __future__ import annotations

from pathlib import Path

from regproxy.config.settings import Config
from regproxy.core.addresses import as_address
from regproxy.core.errors import ConfigError
from regproxy.dataplane.tls import Context
from regproxy.tls.ca_scope import listened_names, machine_name
from regproxy.tls.server_contexts import Contexts


def mirror_context(config: Config, contexts: Contexts) -> Context:
    """Return the TLS context of REGPROXY_TLS_LISTEN. Raises ConfigError where a file is of no use."""
    cert, key = config.tls_cert_file, config.tls_key_file
    if cert is not None and key is not None:
        pair = []
        for name, path in (("REGPROXY_TLS_CERT_FILE", cert), ("REGPROXY_TLS_KEY_FILE", key)):
            try:
                pair.append(Path(path).read_bytes())
            except OSError as error:
                raise ConfigError(name, path, f"a file that can be read: {error.strerror}") from None
        try:
            return contexts.given(*pair)
        except (ValueError, OSError) as error:
            expected = f"a certificate in PEM with the key in {key}: {error}"
            raise ConfigError("REGPROXY_TLS_CERT_FILE", cert, expected) from None
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
