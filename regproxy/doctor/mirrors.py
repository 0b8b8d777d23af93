"""Which mirrors the host's programs ask: the proxy, or others, whose pulls it never sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct, field

from regproxy.config.hosts import DOCKER_HUB, DOCKER_HUB_REGISTRY
from regproxy.doctor.findings import Finding, error, ok, warning, without_login
from regproxy.doctor.host_files import HostFiles, Unreadable, strings, table
from regproxy.doctor.proxy_requests import NoAnswer, ask
from regproxy.onboarding.proxy_address import ProxyAddress

SUBJECT: Final = "mirrors"
DAEMON_JSON: Final = "/etc/docker/daemon.json"
CONTAINERD: Final = "/etc/containerd/config.toml"
CERTS_D: Final = ("/etc/containerd/certs.d", "/etc/docker/certs.d")
_BESIDE: Final = "take it out, or put the proxy's ahead of it: what it serves is not cached"

_PORT_IN_PATH: Final = (
    "take that [[registry]] out, or run /setup/podman or /setup/crio anew, and set HTTPS_PROXY={url} for it"
)


class Mirrors(Struct):
    """The findings, and who has the proxy as its mirror: "docker", "containerd", "podman"."""

    by_proxy: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def examine(host: HostFiles, address: ProxyAddress) -> Mirrors:
    """Return which programs have the proxy as their mirror, and the mirrors that go past it."""
    found = Mirrors()
    for part in (_docker, _hosts, _config_path, _podman):
        try:
            for program, finding in part(host, address):
                found.findings.append(finding)
                if finding.level == "ok":
                    found.by_proxy.add(program)
        except Unreadable as reason:
            found.findings.append(
                error(SUBJECT, str(reason), "correct the file: the program can't read it either")
            )
    return found


def examine_proxy(address: ProxyAddress, registry: tuple[str, int]) -> Finding:
    """Ask the proxy whether it is a mirror of a registry, by GET /v2/, which it answers itself."""
    host, port = registry
    name = DOCKER_HUB if host == DOCKER_HUB_REGISTRY else host if port == 443 else f"{host}:{port}"
    try:
        answer = ask(address, f"/v2/?ns={quote(name)}")
    except NoAnswer as reason:
        return error(SUBJECT, f"the proxy does not answer for {name}: {reason}", "look at the proxy's log")
    if answer.status == 200 and "docker-distribution-api-version" in answer.fields:
        return ok(SUBJECT, f"the proxy is a mirror of {name}")
    what = f"the proxy is no mirror of {name} (status {answer.status})"
    fix = "name it at the proxy in REGISTRIES, or in REGPROXY_MIRROR_REGISTRIES where that is set"
    return error(SUBJECT, what, fix)


def _is_proxy(url: str, address: ProxyAddress) -> bool:
    """Tell whether a mirror's URL, or `host[:port][/path]`, is the proxy's. Its name has to be the same."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port
    except ValueError:
        return False
    host, own = (parts.hostname or "").lower(), address.endpoint
    return (host, port if port is not None else (443 if parts.scheme == "https" else 80)) == (
        own[0].lower(),
        own[1],
    )


def _has_port_in_path(location: str) -> bool:
    """Tell whether `host[:port]/path` has a colon in its path, which no name of an image may have.

    containers/image then ends with "rewriting reference: invalid reference format", asking nobody.
    """
    return ":" in location.partition("/")[2]


def _docker(host: HostFiles, address: ProxyAddress) -> Iterator[tuple[str, Finding]]:
    urls = strings((host.json(DAEMON_JSON) or {}).get("registry-mirrors"))
    for position, url in enumerate(urls):
        if _is_proxy(url, address):
            yield "docker", ok(SUBJECT, f"dockerd asks the proxy for Docker Hub ({DAEMON_JSON})")
        elif not any(_is_proxy(earlier, address) for earlier in urls[:position]):
            what = f"dockerd asks {without_login(url)} for Docker Hub ({DAEMON_JSON})"
            yield "docker", warning(SUBJECT, what, _BESIDE)


def _hosts(host: HostFiles, address: ProxyAddress) -> Iterator[tuple[str, Finding]]:
    for folder in CERTS_D:
        program = PurePosixPath(folder).parts[2]
        for path in host.paths(folder, "*/hosts.toml"):
            tables = host.toml(path) or {}
            server = tables.get("server")
            if isinstance(server, str) and _is_proxy(server, address):
                fix = "take the line out: without it the registry is asked when the proxy does not answer"
                yield program, warning(SUBJECT, f"{path} has the proxy as its server", fix)
            urls = list(table(tables, "host"))  # in the file's order, which is the order of asking
            if urls and _is_proxy(urls[0], address):
                yield program, ok(SUBJECT, f"{path} asks the proxy first")
            elif urls:
                what = f"{path} asks {without_login(urls[0])} first"
                yield program, warning(SUBJECT, what, _BESIDE)


def _config_path(host: HostFiles, address: ProxyAddress) -> Iterator[tuple[str, Finding]]:
    """Look for hosts.toml files that CRI does not read, and for mirrors in config.toml itself."""
    plugins = table(host.toml(CONTAINERD), "plugins")
    registries = [
        *(
            table(plugins, name, "registry")
            for name in ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
        ),
        table(plugins, "cri", "registry"),
    ]
    if any(table(registry, "mirrors") for registry in registries):
        what = f"{CONTAINERD} has registry.mirrors, which exclude hosts.toml files"
        yield "containerd", warning(SUBJECT, what, "move them into hosts.toml files, run /setup/containerd")
    files = host.paths(CERTS_D[0], "*/hosts.toml")
    paths = [
        path for registry in registries for path in str(registry.get("config_path") or "").split(":") if path
    ]
    if files and CERTS_D[0] not in paths and host.text(CONTAINERD) is not None:
        what = f'{CONTAINERD} has no config_path = "{CERTS_D[0]}": CRI may not read {files[0]}'
        yield "containerd", warning(SUBJECT, what, "run /setup/containerd, which sets it")


def _podman(host: HostFiles, address: ProxyAddress) -> Iterator[tuple[str, Finding]]:
    files = ["/etc/containers/registries.conf", *host.paths("/etc/containers/registries.conf.d", "*.conf")]
    for path in files:
        entries = (host.toml(path) or {}).get("registry")
        for entry in entries if isinstance(entries, list) else []:
            registry = table(entry).get("location") or table(entry).get("prefix")
            mirrors = table(entry).get("mirror")
            places = [table(m).get("location") for m in mirrors] if isinstance(mirrors, list) else []
            first = places[0] if places else None
            if broken := next((p for p in places if isinstance(p, str) and _has_port_in_path(p)), None):
                what = (
                    f"{path}: {without_login(broken)} has a port in its path: no pull from {registry} works"
                )
                yield "podman", error(SUBJECT, what, _PORT_IN_PATH.format(url=address.url))
            elif isinstance(first, str) and _is_proxy(first, address):
                yield "podman", ok(SUBJECT, f"podman, CRI-O ask the proxy for {registry} ({path})")
            elif isinstance(first, str):
                what = f"podman, CRI-O ask {without_login(first)} for {registry} ({path})"
                yield "podman", warning(SUBJECT, what, _BESIDE)
