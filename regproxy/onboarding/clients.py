"""List the clients that there is a set-up for, and render one of them."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from regproxy.config.values import HostRule
from regproxy.onboarding.proxy_address import ProxyAddress
from regproxy.onboarding.templates import fill

Kind = Literal["sh", "json", "toml", "yaml", "txt"]

CONTENT_TYPES: Final[dict[Kind, str]] = {
    "sh": "text/x-shellscript; charset=utf-8",
    "json": "application/json",
    "toml": "application/toml",
    "yaml": "application/yaml",
    "txt": "text/plain; charset=utf-8",
}
HUB: Final = "docker.io"
# Some hosts of Docker Hub are registries to nobody, or no registry at all: images are named docker.io/...
_HUB_HOSTS: Final = frozenset({"registry-1.docker.io", "index.docker.io", "auth.docker.io"})
_OWN_HOSTS: Final = frozenset({"docker.caching.proxy.internal"})
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
# What never goes through the proxy: the machine itself, clouds' metadata service, and what is inside of
# clusters. Service and pod ranges are nearly everywhere private addresses (RFC 1918, RFC 4193) or shared ones
# (RFC 6598).
NO_PROXY: Final = (
    *("localhost", "127.0.0.0/8", "::1", "169.254.169.254", ".svc", ".cluster.local"),
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
)


@dataclass(frozen=True, slots=True)
class Client:
    """A client, and how its set-up is used. `{url}` in the commands is the set-up's own URL."""

    name: str
    title: str
    kind: Kind
    command: str
    undo: str
    options: str = field(default="")

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self.kind]


def _script(name: str, title: str, options: str = "") -> Client:
    run = "curl -fsS {url} | sudo sh"
    return Client(name, title, "sh", run, f"{run} -s -- --undo", options)


CLIENTS: Final = {
    client.name: client
    for client in (
        _script("docker-systemd", "Docker under systemd, by HTTPS_PROXY"),
        _script(
            "containerd",
            "containerd, as Kubernetes has it: mirror mode, hosts.toml for every registry",
            " [--ca]",
        ),
        _script("containerd-proxy", "containerd under systemd, by HTTPS_PROXY"),
    )
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What set-ups are filled with: the proxy's address, its CA in PEM, the registries that it caches."""

    address: ProxyAddress
    ca_pem: str
    registries: tuple[str, ...] = (HUB,)

    def render(self, client: Client) -> str:
        """Return the script or configuration of a client."""
        values = self._values(client)
        return fill(f"{client.name}.{client.kind}", values)

    def _values(self, client: Client) -> dict[str, str]:
        return {
            "CLIENT": client.name,
            "USAGE": client.options,
            "PROXY": self.address.authority,
            "CA": self.ca_pem.strip(),
            "CA_BASE64": b64encode(self.ca_pem.encode()).decode(),
            "NO_PROXY": ",".join(NO_PROXY),
        }


def mirrored(rules: Iterable[HostRule]) -> tuple[str, ...]:
    """Return the registries that images are named by, Docker Hub first, from the hosts that are intercepted.

    Masks and regular expressions name no registry that could be written into a client's configuration.
    """
    names = (
        r.pattern if r.port is None else f"{r.pattern}:{r.port}" for r in rules if _NAME.fullmatch(r.pattern)
    )
    return (HUB, *dict.fromkeys(name for name in names if name not in _HUB_HOSTS | _OWN_HOSTS | {HUB}))
