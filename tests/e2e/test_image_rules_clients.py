"""What users of real clients see of the rules for images, before a real registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.docker_registry import Registry
from tests.support.images import make_index
from tests.support.proxy import Proxy
from tests.support.real_clients import Containerd, Failed, Podman, Skopeo
from tests.support.trust import Trust

StartProxy = Callable[..., Proxy]

WHOLE = make_index(seed=962)
RULES = """
[[rule]]
name = "releases"
tag = "v*"
action = "allow"

[[rule]]
name = "beware"
tag = "beta"
action = "warn"
message = "Not for production"

[[rule]]
name = "quarantine"
tag = "new"
action = "hold"
message = "It is being scanned"

[[rule]]
name = "nothing-else"
action = "deny"
message = "Ask the platform team"
"""


@pytest.fixture(scope="module")
def registry(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), trust) as registry:
        for tag in ("v1", "beta", "new", "old"):
            registry.push("team/app", tag, WHOLE)
        yield registry


@pytest.fixture
def proxy(start_proxy: StartProxy, registry: Registry, tmp_path: Path) -> Proxy:
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    return start_proxy(registry, REGPROXY_CONFIG=str(config))


def refusal(pull: Callable[[], object]) -> str:
    with pytest.raises(Failed) as failed:
        pull()
    return str(failed.value)


def test_skopeo(proxy: Proxy, registry: Registry, tmp_path: Path) -> None:
    skopeo = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
    image = f"{registry.authority}/team/app"
    assert skopeo.copy(f"{image}:v1").digest
    assert skopeo.copy(f"{image}@{WHOLE.digest}", every=True).digest == WHOLE.digest
    assert skopeo.copy(f"{image}:beta").digest
    said = refusal(lambda: skopeo.copy(f"{image}:old"))
    assert f"denied: Ask the platform team ({image}:old, rule 'nothing-else')" in said
    # A 5xx is shown without its body.
    assert "503 Service Unavailable" in refusal(lambda: skopeo.copy(f"{image}:new"))


def test_podman(proxy: Proxy, registry: Registry) -> None:
    image = f"{registry.authority}/team/app"
    with Podman(proxy=proxy.url, ca=proxy.ca_path) as podman:
        assert podman.pull(f"{image}:v1")
        assert podman.pull(f"{image}:beta")
        assert "denied: Ask the platform team" in refusal(lambda: podman.pull(f"{image}:old"))
        assert "503 Service Unavailable" in refusal(lambda: podman.pull(f"{image}:new"))


def test_containerd(proxy: Proxy, registry: Registry, tmp_path: Path) -> None:
    """It asks by HEAD, whose answer has no body: it shows the status alone."""
    image = f"{registry.authority}/team/app"
    with Containerd(tmp_path / "containerd", proxy=proxy.url, ca=proxy.ca_path) as ctr:
        ctr.pull(f"{image}:v1")
        ctr.pull(f"{image}:beta")
        assert "403 Forbidden" in refusal(lambda: ctr.pull(f"{image}:old"))
        assert "503 Service Unavailable" in refusal(lambda: ctr.pull(f"{image}:new"))
