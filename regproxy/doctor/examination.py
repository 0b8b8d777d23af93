"""Look at everything in turn, and say what was found."""

from __future__ import annotations

from msgspec import Struct, field

from regproxy.config.hosts import DOCKER_HUB_REGISTRY
from regproxy.doctor import clocks, interception, mirrors, proxy_variables, reachability, trust
from regproxy.doctor.findings import Finding
from regproxy.doctor.host_files import HostFiles, Process
from regproxy.onboarding.proxy_address import ProxyAddress


class Subject(Struct, frozen=True):
    """What is examined: a host's files, the proxy that it should use, a registry to try.

    `own`: the process that examines, whose environment is that of the shell's other programs.
    """

    address: ProxyAddress
    registry: tuple[str, int] = (DOCKER_HUB_REGISTRY, 443)
    host: HostFiles = field(default_factory=HostFiles)
    own: Process | None = None


def examine(subject: Subject, now: float) -> list[Finding]:
    """Return the findings, in the order in which they are best read. `now`: seconds since the epoch."""
    host, address, registry = subject.host, subject.address, subject.registry
    proxy, found = reachability.examine(address)
    if proxy is not None:
        by_clock = clocks.examine(proxy.ca, proxy.date, now)
        found += [*by_clock, *interception.examine(proxy, registry)]
        needed = any(proxy_variables.is_address(url, address) for url in proxy_variables.used(host))
        found += trust.examine(host, proxy.ca_pem, needed=needed, environ=_through_it(subject))
    asked = mirrors.examine(host, address)
    if proxy is not None and asked.by_proxy:
        asked.findings.append(mirrors.examine_proxy(address, registry))
    return [*found, *proxy_variables.examine(host, address, registry, asked.by_proxy), *asked.findings]


def _through_it(subject: Subject) -> dict[str, str] | None:
    """Return the examiner's own variables where programs with these reach the proxy by HTTPS_PROXY."""
    own = subject.own
    if own is None or not proxy_variables.is_address(proxy_variables.of(own, "HTTPS_PROXY"), subject.address):
        return None
    return own.environ
