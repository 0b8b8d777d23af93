"""The pages that plain HTTP on the proxy port serves: a greeting, the CA certificate, set-ups of clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from regproxy.config.values.host_rules import HostRule
from regproxy.http.messages import Request
from regproxy.onboarding import page as overview
from regproxy.onboarding.clients import CLIENTS, Setup, mirrored
from regproxy.onboarding.proxy_address import ProxyAddress

_TEXT: Final = b"text/plain; charset=utf-8"


class SetupPage(Struct, frozen=True):
    """An answer that fits into memory."""

    status: int
    content_type: bytes
    body: bytes


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Return whether a host is an IP literal."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def text(status: int, message: str) -> SetupPage:
    """Return a page of plain text."""
    return SetupPage(status, _TEXT, message.encode())


_WORKING: Final = text(
    200,
    # docker-registry-proxy's words
    "docker-registry-proxy: The docker caching proxy is working!\n\n"
    "This is regproxy. Set HTTPS_PROXY to this address and trust the CA certificate at /ca.crt.\n"
    "/setup/systemd is a script that does both for dockerd under systemd; /setup lists other clients.\n"
    "As a mirror it is asked here, by plain HTTP: registry-mirrors, hosts.toml, registries.conf.\n",
)


_BAD_HOST: Final = text(
    400,
    "The Host field is not a plain host[:port]: no set-up can be written for it.\n",
)


_NO_MIRROR: Final = text(
    404,
    "This is for mirror mode, and this proxy is a mirror of none (REGPROXY_MIRROR_REGISTRIES).\n",
)


class SetupPages:
    """The pages of one proxy; `port` is where it listens, `rules` say whose mirror it is."""

    def __init__(self, ca_pem: bytes, port: int, rules: Iterable[HostRule] = ()) -> None:
        self.use_ca(ca_pem)
        self._port = port
        self._registries = mirrored(rules)

    def use_ca(self, ca_pem: bytes) -> None:
        """Hand out these CA certificates from now on."""
        self._ca = SetupPage(200, b"application/x-x509-ca-cert", ca_pem)

    def front(self, request: Request) -> SetupPage:
        """The answer to a request that did not come through a CONNECT, whatever its method.

        As with docker-registry-proxy /ca.crt and /setup/systemd are prefixes, and every path that is not
        one of ours says that it works: monitors look for that.
        """
        path = request.path.partition("?")[0]
        if path.startswith("/ca.crt"):
            return self._ca
        if path != "/setup" and not path.startswith("/setup/"):
            return _WORKING
        address = ProxyAddress.parse(request.authority or f"localhost:{self._port}")
        if address is None:
            return _BAD_HOST
        if path.startswith("/setup/systemd"):
            script = _SETUP.replace("@AUTHORITY@", address.authority)
            return SetupPage(200, b"text/x-shellscript; charset=utf-8", script.encode())
        return self._setup(path.removeprefix("/setup").strip("/"), address)

    def _setup(self, name: str, address: ProxyAddress) -> SetupPage:
        """Return the page /setup (`name` is "") or a client's set-up."""
        if not name:
            return SetupPage(200, b"text/html; charset=utf-8", overview.page(address).encode())
        client = CLIENTS.get(name)
        if client is None:
            return text(404, f"There is no set-up of that name. These are known:\n\n{overview.listing()}")
        if client.mirror and not self._registries:
            return _NO_MIRROR
        setup = Setup(address, self._ca.body.decode(), self._registries)
        return SetupPage(200, client.content_type.encode(), setup.render(client).encode())


# The lines that people edit with sed for other services are kept: the drop-in's path, its Environment lines.
_SETUP: Final = """\
#!/usr/bin/env bash
# Points dockerd at the proxy and makes the system trust its CA. Run as root.
set -e

install -d /etc/systemd/system/docker.service.d
cat <<EOD >/etc/systemd/system/docker.service.d/http-proxy.conf
[Service]
Environment="HTTP_PROXY=http://@AUTHORITY@/"
Environment="HTTPS_PROXY=http://@AUTHORITY@/"
EOD

fetch() {
    if command -v curl >/dev/null; then curl -fsS "$1"; else wget -qO- "$1"; fi
}

if [ -d /usr/local/share/ca-certificates ]; then
    # Debian, Ubuntu, Alpine
    fetch http://@AUTHORITY@/ca.crt >/usr/local/share/ca-certificates/docker_registry_proxy.crt
    update-ca-certificates --fresh
elif [ -d /etc/pki/ca-trust/source/anchors ]; then
    # Fedora, RHEL
    fetch http://@AUTHORITY@/ca.crt >/etc/pki/ca-trust/source/anchors/docker_registry_proxy.crt
    update-ca-trust
elif [ -d /etc/ca-certificates/trust-source/anchors ]; then
    # Arch
    fetch http://@AUTHORITY@/ca.crt >/etc/ca-certificates/trust-source/anchors/docker_registry_proxy.crt
    trust extract-compat
else
    echo "no known place for CA certificates: install http://@AUTHORITY@/ca.crt by hand" >&2
    exit 1
fi

systemctl daemon-reload
systemctl restart docker.service
"""
