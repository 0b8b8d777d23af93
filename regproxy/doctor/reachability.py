"""Is the proxy there, and what is its CA?"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509
from msgspec import Struct

from regproxy.doctor.findings import Finding, error, ok
from regproxy.doctor.proxy_requests import Answer, NoAnswer, ask
from regproxy.onboarding.proxy_address import ProxyAddress

SUBJECT: Final = "proxy"
_MARK: Final = b"docker-registry-proxy: The docker caching proxy is working!"
_CHECK: Final = "check its address and port, that it runs, and firewalls between"


class Reached(Struct, frozen=True):
    """A proxy that answers: its CAs, of which `ca` is the newest, and what its clock said.

    `date`: seconds since the epoch; None: nothing.
    """

    address: ProxyAddress
    ca_pem: str
    cas: tuple[x509.Certificate, ...]
    date: float | None

    @property
    def ca(self) -> x509.Certificate:
        """The one that will last."""
        return self.cas[0]


def examine(address: ProxyAddress) -> tuple[Reached | None, list[Finding]]:
    """Return the proxy, None if it can't be used, and what is to be said of that."""
    try:
        front, ca = ask(address, "/"), ask(address, "/ca.crt")
    except NoAnswer as reason:
        return None, [error(SUBJECT, f"{address.url} does not answer: {reason}", _CHECK)]
    if not front.body.startswith(_MARK):
        what = f"{address.url} is something else than regproxy (status {front.status})"
        return None, [error(SUBJECT, what, _CHECK)]
    try:
        pem = ca.body.decode("ascii")
        certificates = tuple(x509.load_pem_x509_certificates(ca.body))
    except ValueError:
        return None, [error(SUBJECT, f"{address.url}/ca.crt is no certificate", "look at the proxy's log")]
    return Reached(address, pem, certificates, _date(front)), [ok(SUBJECT, f"{address.url} answers")]


def _date(answer: Answer) -> float | None:
    try:
        return parsedate_to_datetime(answer.fields["date"]).timestamp()
    except (KeyError, ValueError):
        return None
