"""What REGPROXY_TLS_LISTEN shows its clients: the operator's certificate, or one by the proxy's own CA."""

from __future__ import annotations

import socket
from pathlib import Path

from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.dataplane.tls import Context
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
    own = _own_names(config)
    rules = config.tls_names
    return contexts.by_name(
        lambda host: host in own if not rules else any(rule.matches(host, 0) for rule in rules), own[0]
    )


def _own_names(config: Config) -> tuple[str, ...]:
    """Return what clients call this machine; first what is shown to those that name no host."""
    named = (address.host for address in config.tls_listen)
    hosts = [host for host in named if host not in ("", "::", "0.0.0.0")]
    names = (*hosts, socket.gethostname().lower(), socket.getfqdn().lower(), "localhost")
    return tuple(dict.fromkeys(name for name in names if name))
