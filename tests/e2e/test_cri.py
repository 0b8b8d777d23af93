"""Kubernetes nodes: containerd's CRI pulls through the proxy, by CONNECT and by it as a mirror."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cri import Cri
from tests.support.docker_registry import Registry
from tests.support.images import Image
from tests.support.proxy import Proxy
from tests.support.real_clients import Failed

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("containerd", "docker-registry")
]

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize("way", ["HTTPS_PROXY", "mirror"])
def test_pulls(
    way: str,
    start_registry: Callable[..., Registry],
    start_proxy: Callable[..., Proxy],
    tmp_path: Path,
    image: Image,
) -> None:
    registry = start_registry()
    target = registry.push("lib/app", "v1", image)
    proxy = start_proxy(registry, ENABLE_MANIFEST_CACHE="true")
    hosts = tmp_path / "hosts" / "_default"
    hosts.mkdir(parents=True)
    if way == "mirror":
        (hosts / "hosts.toml").write_text(f'[host."{proxy.url}"]\ncapabilities = ["pull", "resolve"]\n')
    asked = proxy.url if way == "HTTPS_PROXY" else NOWHERE
    told = hosts.parent if way == "mirror" else None
    with Cri(tmp_path / "cri", proxy=asked, ca=proxy.ca_path, hosts=told) as cri:
        assert cri.pull(target) == image.config_digest
        before = registry.requests()
        cri.remove(target)
        assert cri.pull(target) == image.config_digest
        assert registry.requests() == before
        registry.stop()
        cri.remove(target)
        assert cri.pull(target) == image.config_digest
        with pytest.raises(Failed):
            cri.pull(f"{registry.authority}/lib/other:v1")
