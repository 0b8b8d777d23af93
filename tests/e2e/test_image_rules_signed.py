"""Rules that want signatures, before a real registry, with keys and signatures as cosign makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, make_image, make_index
from tests.support.proxy import Proxy
from tests.support.real_clients import Failed, Skopeo
from tests.support.signatures import Signer, Stored, Uploader
from tests.support.trust import Trust

StartProxy = Callable[..., Proxy]

MINE, THEIRS = Signer.new(), Signer.new()
WHOLE, UNSIGNED, LATER = make_index(seed=971), make_index(seed=972), make_image(seed=973)
ACCEPT = [("Accept", f"{INDEX}, {MANIFEST}")]
RULES = """
[key.team]
file = "{key}"

[[rule]]
name = "signed"
repository = "team/**"
signed = ["team"]
action = "deny"
message = "Sign it"
"""


class Scene:
    def __init__(self, proxy: Proxy, registry: Registry, uploader: Uploader) -> None:
        self.proxy, self.registry, self.uploader = proxy, registry, uploader

    def status(self, reference: str, method: str = "GET", section: str = "manifests") -> int:
        with self.proxy.client(self.registry.authority) as client:
            return client.request(method, f"/v2/team/app/{section}/{reference}", ACCEPT).status

    def sign(self, digest: str, signer: Signer) -> None:
        stored = Stored()
        stored.sign_under_tag(digest, [signer])
        self.uploader.put("team/app", stored)


@pytest.fixture
def scene(
    start_registry: Callable[..., Registry], start_proxy: StartProxy, trust: Trust, tmp_path: Path
) -> Scene:
    registry = start_registry()
    for tag, image in (("signed", WHOLE), ("unsigned", UNSIGNED), ("later", LATER)):
        registry.push("team/app", tag, image)
    registry.push("free/app", "unsigned", UNSIGNED)
    key, config = tmp_path / "team.pub", tmp_path / "rules.toml"
    key.write_text(MINE.pem)
    config.write_text(RULES.format(key=key))
    proxy = start_proxy(registry, REGPROXY_CONFIG=str(config), ENABLE_MANIFEST_CACHE="true")
    scene = Scene(proxy, registry, Uploader(registry.address, trust))
    scene.sign(WHOLE.digest, MINE)
    scene.sign(UNSIGNED.digest, THEIRS)
    return scene


def test_only_signed_images(scene: Scene, tmp_path: Path) -> None:
    skopeo = Skopeo(tmp_path / "skopeo", proxy=scene.proxy.url, ca=scene.proxy.ca_path)
    image = f"{scene.registry.authority}/team/app"
    assert skopeo.copy(f"{image}:signed", every=True).digest == WHOLE.digest
    assert skopeo.copy(f"{image}@{WHOLE.digest}").digest
    with pytest.raises(Failed, match="denied: Sign it"):
        skopeo.copy(f"{image}:unsigned")
    assert skopeo.copy(f"{scene.registry.authority}/free/app:unsigned", every=True).digest == UNSIGNED.digest
    for method in ("GET", "HEAD"):
        assert scene.status("unsigned", method) == 403
        assert scene.status(UNSIGNED.digest, method) == 403
        for child in UNSIGNED.images:
            # It is stored, by the pull from the other repository.
            assert scene.status(child.digest, method) == 403
    # It was seen with the tag: what only it names goes with it.
    child = UNSIGNED.images[0]
    assert scene.status(child.layers[0], section="blobs") == 403


def test_a_signature_that_comes_later(scene: Scene, start_proxy: StartProxy, tmp_path: Path) -> None:
    assert scene.status("later") == 403
    scene.sign(LATER.digest, MINE)
    assert scene.proxy.stop() == 0  # a worker remembers for some seconds what is not signed
    config = str(tmp_path / "rules.toml")
    scene.proxy = start_proxy(scene.registry, at=scene.proxy.directory, REGPROXY_CONFIG=config)
    assert scene.status("later") == 200
    assert scene.status(LATER.layers[0], section="blobs") == 200


def test_the_registry_is_down(scene: Scene) -> None:
    """What is known to be signed is served; of anything else that can't be told, and it is held back."""
    assert scene.status("signed") == 200
    scene.registry.stop()
    assert scene.status("signed") == 200
    assert scene.status(WHOLE.digest) == 200
    assert scene.status(UNSIGNED.digest) == 503
