"""Fixtures that end-to-end test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.known_addresses import KnownAddresses
from tests.support.proxies import Proxies
from tests.support.trust import Trust
from tests.support.virtual_hosts import VirtualHosts


@pytest.fixture(scope="module")
def hosts(trust: Trust) -> Iterator[VirtualHosts]:
    """Origins for the tests of a module, a new one for each."""
    with VirtualHosts(trust) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def proxies(hosts: VirtualHosts, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Proxies before all of `hosts`, one for each setting."""
    with Proxies(tmp_path_factory, trust, hosts) as proxies:
        yield proxies


@pytest.fixture(scope="module")
def addresses() -> KnownAddresses:
    """Where tests of a module start their registries, so that they can share the proxies before them."""
    return KnownAddresses()


@pytest.fixture(scope="module")
def shared(
    addresses: KnownAddresses, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxies]:
    """Proxies before all of `addresses`, one for each setting."""
    registries = addresses.registries
    with Proxies(tmp_path_factory, trust, registries=registries, **addresses.env) as proxies:
        yield proxies
