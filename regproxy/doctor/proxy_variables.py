"""The proxy variables of the running dockerd, containerd and the like. No password in them is ever shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from regproxy.config.parent_proxy import read_no_proxy
from regproxy.core.errors import ConfigError
from regproxy.doctor.findings import Finding, error, ok, warning, without_login
from regproxy.doctor.host_files import HostFiles, Process, Unreadable, table
from regproxy.doctor.mirrors import DAEMON_JSON
from regproxy.onboarding.proxy_address import ProxyAddress

SUBJECT: Final = "variables"
DAEMONS: Final = ("dockerd", "containerd", "crio", "buildkitd", "k3s-server", "k3s-agent", "rke2")
_MIRROR_NAMES: Final = {"dockerd": "docker", "crio": "podman"}
_UNIT: Final = {"dockerd": "docker", "containerd": "containerd", "crio": "crio"}
_DROP_IN: Final = re.compile(r"^\s*Environment=.*\bHTTPS_PROXY=", re.MULTILINE | re.IGNORECASE)


def of(process: Process, name: str) -> str:
    """Return a variable, in capitals or not, as Go reads it; "" if it is not there."""
    environ = process.environ or {}
    return environ.get(name) or environ.get(name.lower()) or ""


def is_address(url: str, address: ProxyAddress) -> bool:
    """Tell whether a proxy's URL is this proxy."""
    try:
        found = ProxyAddress.of_url(url)
    except ConfigError:
        return False
    return (found.endpoint[0].lower(), found.endpoint[1]) == (
        address.endpoint[0].lower(),
        address.endpoint[1],
    )


def used(host: HostFiles) -> list[str]:
    """Return the HTTPS_PROXY of each daemon that runs and has one, by daemon.json or by its variables."""
    found = [_proxy(host, process)[0] for process in host.processes(DAEMONS)]
    return [url for url in found if url]


def examine(
    host: HostFiles, address: ProxyAddress, registry: tuple[str, int], by_mirror: set[str]
) -> list[Finding]:
    """Return what is to be said. `by_mirror`: who has the proxy as its mirror, as in `Mirrors.by_proxy`."""
    processes = host.processes(DAEMONS)
    if not processes:
        return [ok(SUBJECT, "no dockerd, containerd, CRI-O or buildkitd runs here")]
    return [finding for process in processes for finding in _one(host, process, address, registry, by_mirror)]


def _one(
    host: HostFiles, process: Process, address: ProxyAddress, registry: tuple[str, int], by_mirror: set[str]
) -> Iterator[Finding]:
    name = f"{process.name} (pid {process.pid})"
    url, spared, source = *_proxy(host, process), ""
    if process.environ is None and not url:
        yield warning(SUBJECT, f"the environment of {name} can't be read", "run regproxy doctor as root")
    elif not url:
        yield _without(host, process, name, by_mirror)
    elif not is_address(url, address):
        what = f"{name} has another proxy, {without_login(url)}"
        yield error(
            SUBJECT,
            what,
            f"set HTTPS_PROXY={address.url} for it (regproxy goes through that one by HTTPS_PROXY)",
        )
    elif read_no_proxy(spared)[0].matches(*registry):
        what = f"{name} has {registry[0]} in NO_PROXY"
        yield error(SUBJECT, what, "take it out: its pulls go past the proxy")
    else:
        yield ok(SUBJECT, f"{name} has HTTPS_PROXY={without_login(url)}{source}")


def _proxy(host: HostFiles, process: Process) -> tuple[str, str]:
    """Return a process' HTTPS_PROXY and NO_PROXY; for dockerd, daemon.json outranks its variables."""
    proxies: dict[str, object] = {}
    if process.name == "dockerd":
        try:
            proxies = table(host.json(DAEMON_JSON), "proxies")
        except Unreadable:
            proxies = {}  # said by `mirrors`
    url, spared = proxies.get("https-proxy"), proxies.get("no-proxy")
    return (
        url if isinstance(url, str) and url else of(process, "HTTPS_PROXY"),
        spared if isinstance(spared, str) and spared else of(process, "NO_PROXY"),
    )


def _without(host: HostFiles, process: Process, name: str, by_mirror: set[str]) -> Finding:
    if _MIRROR_NAMES.get(process.name, process.name) in by_mirror:
        return ok(SUBJECT, f"{name} has no HTTPS_PROXY, and the proxy as its mirror")
    unit = _UNIT.get(process.name)
    for path in host.paths("/etc/systemd/system", f"{unit}.service.d/*.conf") if unit else []:
        if _DROP_IN.search(host.text(path) or ""):
            fix = f"systemctl daemon-reload && systemctl restart {unit}"
            return error(SUBJECT, f"{name} was started before {path} was written", fix)
    fix = "run its /setup script: it pulls past the proxy"
    return error(SUBJECT, f"{name} has neither HTTPS_PROXY nor the proxy as its mirror", fix)
