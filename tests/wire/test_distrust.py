"""Clients that do not trust the proxy's CA: each address is told of, and none of them fills the log."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import Lane

SAID = "the client does not trust this proxy's CA"


def distrust(proxy: Proxy, source: str, target: str) -> None:
    """Begin TLS through the proxy from this address, and refuse its certificate."""
    with socket.create_connection(proxy.address, 20, (source, 0)) as plain:
        plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        assert b" 200 " in plain.recv(4096)
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname=target.partition(":")[0])


def test_each_client_is_told_of_once(lane: Lane) -> None:
    proxy = lane.proxy()
    before = proxy.log().count(SAID)
    for source in ("127.0.5.1", "127.0.5.1", "127.0.5.2"):
        distrust(proxy, source, lane.origin.authority)
    wait_until(lambda: f"127.0.5.2: {lane.origin.authority.partition(':')[0]}" in proxy.log(), "it is said")
    assert proxy.log().count(SAID) - before == 2
