"""What clients' certificates say of their owners, and the CAs that they are believed by."""

from __future__ import annotations

import logging
import time
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from regproxy.auth.secret_files import Watched
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file
from regproxy.dataplane.tls_contexts import ClientTrust, client_trust
from regproxy.tls.x509 import UNREADABLE

log = logging.getLogger(__name__)

_SAID_MAX: Final = 64
_NAME_MAX: Final = 1024  # characters; a name goes into logs and keys


def said_by(certificate: bytes) -> tuple[tuple[str, str], ...]:
    """Return what a certificate (DER) says of its owner, as `Principals.of_certificate` takes it.

    Nothing of one that can't be read; no CN of one with several, of which any might be meant.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [("CN", str(common[0].value))] if len(common) == 1 else []
        names += _alternatives(parsed)
    except UNREADABLE as error:
        log.info("a client's certificate can't be read: %s", error)
        return ()
    return tuple((kind, value) for kind, value in names[:_SAID_MAX] if _may_be_name(value))


def _may_be_name(value: str) -> bool:
    return 0 < len(value) <= _NAME_MAX and value.isprintable()


def _alternatives(certificate: x509.Certificate) -> list[tuple[str, str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (("URI", x509.UniformResourceIdentifier), ("email", x509.RFC822Name), ("DNS", x509.DNSName))
    return [(kind, value) for kind, of in kinds for value in found.get_values_for_type(of)]


class ClientCas:
    """The file in REGPROXY_CLIENT_CA_FILE, read again when it changes."""

    def __init__(self, path: str, required: bool) -> None:
        def parse(texts: list[str]) -> ClientTrust:
            return client_trust(texts[0].encode(), required)

        self._watched = Watched((path,), parse, time.monotonic)

    async def trust(self) -> ClientTrust:
        """Return whom to believe now. Raises CredentialError, which names the file that can't be used."""
        return await self._watched.value()


def client_cas(config: Config) -> ClientCas | None:
    """Return the CAs of clients' certificates, None where none are asked for."""
    path = config.client_ca_file
    return ClientCas(path, config.client_certs == "required") if path is not None else None


def check_client_cas(config: Config) -> None:
    """Raise ConfigError where REGPROXY_CLIENT_CA_FILE can't be used at the start."""
    path = config.client_ca_file
    if path is None:
        return
    try:
        client_trust(read_file(path))
    except OSError as error:
        expected = f"a file that can be read: {error.strerror}"
        raise ConfigError("REGPROXY_CLIENT_CA_FILE", path, expected) from None
    except ValueError as error:
        expected = f"CA certificates in PEM, and maybe CRLs: {error}"
        raise ConfigError("REGPROXY_CLIENT_CA_FILE", path, expected) from None
