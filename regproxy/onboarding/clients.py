"""List the clients that there is a set-up for, and render one of them."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from regproxy.config.hosts import (
    DOCKER_HUB,
    DOCKER_HUB_NAMES,
    DOCKER_HUB_REGISTRY,
    DOCKER_HUB_TOKENS,
    OWN_HOST,
)
from regproxy.config.values.host_rules import HostRule
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
# Not in names of images, which are docker.io/... for Docker Hub.
_UNNAMED: Final = DOCKER_HUB_NAMES | {DOCKER_HUB_TOKENS, OWN_HOST}
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
# What never goes through the proxy: the machine itself, clouds' metadata service, and what is inside of
# clusters. Service and pod ranges are nearly everywhere private addresses (RFC 1918, RFC 4193) or shared ones
# (RFC 6598).
NO_PROXY: Final = (
    *("localhost", "127.0.0.0/8", "::1", "169.254.169.254", ".svc", ".cluster.local"),
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
)


class Client(Struct, frozen=True):
    """A client, and how its set-up is used. `{url}` in the commands is the set-up's own URL."""

    name: str
    title: str
    kind: Kind
    command: str
    undo: str
    mirror: bool = False
    """Whether it asks the proxy as a mirror, so that the proxy has to be one."""
    options: str = ""

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self.kind]

    def url(self, address: ProxyAddress) -> str:
        """Return where a proxy hands its set-up out."""
        return f"{address.url}/setup/{self.name}"

    def commands(self, address: ProxyAddress) -> tuple[str, str]:
        """Return the command that uses the set-up of a proxy, and the one that undoes it."""
        url = self.url(address)
        return self.command.format(url=url), self.undo.format(url=url)


def _script(name: str, title: str, *, mirror: bool = False) -> Client:
    command = "curl -fsS {url} | sudo sh"
    # Plain HTTP to a mirror needs no CA: it is installed if that is asked for.
    return Client(name, title, "sh", command, f"{command} -s -- --undo", mirror, " [--ca]" if mirror else "")


def _file(name: str, title: str, kind: Kind, use: str, undo: str, *, mirror: bool = True) -> Client:
    """Return a client whose set-up is a file, `{file}`, which goes into a command, or is merged by hand."""
    file = f"regproxy-{name}.{kind}"
    return Client(name, title, kind, f"curl -fsSo {file} {{url}}{use.format(file=file)}", undo, mirror)


_AKS: Final = "az aks update -g GROUP -n CLUSTER"
_GKE: Final = "gcloud container clusters update CLUSTER --containerd-config-from-file"
_TALOS: Final = "talosctl patch machineconfig --nodes NODE --patch @{file}"
_BUILDX: Final = (
    "docker buildx create --name regproxy --driver docker-container --use --buildkitd-config {file}"
)

CLIENTS: Final = {
    client.name: client
    for client in (
        _script("docker-systemd", "Docker under systemd, by HTTPS_PROXY"),
        _script("docker-daemon-json", "Docker 23 and newer, by HTTPS_PROXY in daemon.json"),
        _script(
            "docker-certs-d", "Docker 28 and newer with the containerd image store: mirror mode", mirror=True
        ),
        _file(
            *("docker-desktop", "Docker Desktop: what to enter where", "txt"),
            *("", "its last lines say"),
            mirror=False,
        ),
        _script(
            "containerd", "containerd, as Kubernetes has it: mirror mode for every registry", mirror=True
        ),
        _script("containerd-proxy", "containerd under systemd, by HTTPS_PROXY"),
        _script("k3s", "k3s: mirror mode, registries.yaml", mirror=True),
        _script("rke2", "RKE2: mirror mode, registries.yaml", mirror=True),
        Client(
            *("kind", "kind: mirror mode in the nodes of a cluster that runs", "sh"),
            *("curl -fsS {url} | sh", "curl -fsS {url} | sh -s -- --undo", True),
        ),
        _script("crio", "CRI-O: mirror mode, registries.conf.d", mirror=True),
        _script("podman", "podman, buildah, skopeo: mirror mode, registries.conf.d", mirror=True),
        _file(
            *("buildkit", "BuildKit: mirror mode, buildkitd.toml", "toml"),
            *(f" && {_BUILDX}", "docker buildx rm regproxy"),
        ),
        _file(
            *("gitlab-runner", "GitLab runner: docker in docker in its jobs, parts of config.toml", "toml"),
            *("", "take the lines out of config.toml again"),
        ),
        _file(
            *("talos", "Talos Linux: mirror mode, a patch of the machine configuration", "yaml"),
            *(f" && {_TALOS}", "talosctl edit machineconfig --nodes NODE, take the registries out"),
        ),
        _file(
            *("bottlerocket", "Bottlerocket: mirror mode, user data", "toml"),
            *("", "take the tables out of the user data, replace the nodes"),
        ),
        _file(
            *("aks", "AKS: HTTPS_PROXY and the CA for the nodes, by --http-proxy-config", "json"),
            *(f" && {_AKS} --http-proxy-config {{file}}", f"{_AKS} --disable-http-proxy"),
            mirror=False,
        ),
        _file(
            *("gke", "GKE: mirror mode, a containerd configuration file", "yaml"),
            *(f" && {_GKE}={{file}}", f"echo 'registryHosts: []' >none.yaml && {_GKE}=none.yaml"),
        ),
        _file(
            *("eks", "EKS: mirror mode, user data for nodes with Amazon Linux 2023", "txt"),
            *("", "the earlier version of the launch template"),
        ),
    )
}


class Setup(Struct, frozen=True):
    """What set-ups are filled with: the proxy's address, its CA in PEM, the registries that it caches."""

    address: ProxyAddress
    ca_pem: str
    registries: tuple[str, ...] = (DOCKER_HUB,)

    def render(self, client: Client) -> str:
        """Return the script or configuration of a client."""
        return fill(f"{client.name}.{client.kind}", self._values(client), self.registries)

    def _values(self, client: Client) -> dict[str, str]:
        containerd = CLIENTS["containerd"]
        return {
            "CLIENT": client.name,
            "USAGE": client.options,
            "PROXY": self.address.authority,
            "CA_ANCHORS": _anchors(self.ca_pem),
            "CA_COUNT": str(self.ca_pem.count(_BEGIN)),
            "CA_BASE64": b64encode(self.ca_pem.encode()).decode(),
            "CA_COMMENT": "".join(f"#   {line}\n" for line in self.ca_pem.strip().splitlines()).rstrip(),
            "NO_PROXY": ",".join(NO_PROXY),
            "NO_PROXY_QUOTED": ", ".join(f'"{name}"' for name in NO_PROXY),
            "SCRIPT_CONTAINERD": self.render(containerd).rstrip() if client is not containerd else "",
        }


def _anchors(ca_pem: str) -> str:
    """Return the commands of a script that put each certificate into a file of its own."""
    commands = []
    for number, text in enumerate(ca_pem.split(_BEGIN)[1:], 1):
        name = '"$anchor"' if number == 1 else f'"${{anchor%.crt}}-{number}.crt"'
        commands.append(f"    put {name} <<'CERTIFICATE'\n{_BEGIN}{text.rstrip()}\nCERTIFICATE")
    return "\n".join(commands)


def mirrored(rules: Iterable[HostRule]) -> tuple[str, ...]:
    """Return the registries that images are named by, Docker Hub first, of those that the proxy mirrors.

    Masks and regular expressions name no registry that could be written into a client's configuration.
    """
    every = tuple(rules)
    hub = (DOCKER_HUB,) if any(rule.matches(DOCKER_HUB_REGISTRY, 443) for rule in every) else ()
    names = (
        r.pattern if r.port is None else f"{r.pattern}:{r.port}" for r in every if _NAME.fullmatch(r.pattern)
    )
    return (*hub, *dict.fromkeys(name for name in names if name not in _UNNAMED))
