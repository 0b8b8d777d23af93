"""Signatures in a real registry: open, behind tokens, down; signed here, or by cosign where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regproxy.config.signing_keys import parse_public_key
from regproxy.core.errors import UpstreamError
from tests.support import cosign
from tests.support.cosign import Cosign
from tests.support.docker_registry import Registry
from tests.support.images import Image, make_index
from tests.support.proxy import Proxy
from tests.support.signature_asker import SignatureAsker
from tests.support.signatures import Signer, Stored, Uploader
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

MINE, THEIRS = Signer.new(), Signer.new()
KEYS = {"release": MINE.key("release"), "other": THEIRS.key("other")}


def signed(image: Image, how: str) -> Stored:
    stored = Stored()
    (stored.sign_under_tag if how == "tag" else stored.sign_by_bundles)(image.digest, [THEIRS, MINE])
    return stored


@pytest.mark.parametrize("how", ["tag", "bundles"])
def test_an_open_registry(
    start_registry: Callable[..., Registry], trust: Trust, image: Image, tmp_path: Path, how: str
) -> None:
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    registry.push("lib/else", "v1", image)
    with SignatureAsker(tmp_path / "before", trust, registry, KEYS) as asker:
        assert not asker.check("lib/app", image.digest).signed
    Uploader(registry.address, trust).put("lib/app", signed(image, how))
    with SignatureAsker(tmp_path / "cache", trust, registry, KEYS) as asker:
        assert asker.check("lib/app", image.digest).signed
        assert asker.check("lib/app", image.digest, "other").signed
        # The same image where nobody has signed it.
        assert not asker.check("lib/else", image.digest).signed
        count = len(registry.requests())
        assert asker.check("lib/app", image.digest).signed
        assert len(registry.requests()) == count
        registry.stop()
        assert asker.check("lib/app", image.digest).signed
        with pytest.raises(UpstreamError):
            asker.check("lib/app", make_index().digest)


def test_behind_tokens(
    start_registry: Callable[..., Registry],
    start_tokens: Callable[..., TokenServer],
    trust: Trust,
    image: Image,
    tmp_path: Path,
) -> None:
    """A public repository for everybody; a private one for the proxy's own account or the client's token."""
    tokens = start_tokens(name="auth.reg.test", users={"u": "p"}, private=("lib/private",))
    registry = start_registry(tokens=tokens)
    for repository in ("lib/public", "lib/private"):
        token = tokens.token(registry.name, [f"repository:{repository}:pull,push"], "u")
        uploader = Uploader(registry.address, trust, f"Bearer {token}")
        uploader.put(repository, Stored(dict(image.blobs), {"v1": image.manifest}))
        uploader.put(repository, signed(image, "tag"))
    pull = tokens.token(registry.name, ["repository:lib/private:pull"], "u")
    with SignatureAsker(tmp_path / "none", trust, registry, KEYS) as asker:
        assert asker.check("lib/public", image.digest).signed
        assert "does not show" in asker.check("lib/private", image.digest).reason
        assert asker.check("lib/private", image.digest, authorization=f"Bearer {pull}").signed
        assert asker.check("lib/private", image.digest).signed
    login = "reg.test:u:p"
    with SignatureAsker(tmp_path / "own", trust, registry, KEYS, AUTH_REGISTRIES=login) as asker:
        assert asker.check("lib/private", image.digest).signed


def test_an_index_and_its_children(
    start_registry: Callable[..., Registry], trust: Trust, tmp_path: Path
) -> None:
    """A signature is of what it names: one of the index is none of each child."""
    registry, index = start_registry(), make_index()
    registry.push("lib/app", "v1", index)
    stored = Stored()
    stored.sign_under_tag(index.digest, [MINE])
    Uploader(registry.address, trust).put("lib/app", stored)
    with SignatureAsker(tmp_path / "cache", trust, registry, KEYS) as asker:
        assert asker.check("lib/app", index.digest).signed
        assert not asker.check("lib/app", index.images[0].digest).signed


MODES = {
    "2, tag": (2, ()),
    "2, referrers": (2, ("--registry-referrers-mode=oci-1-1",)),
    "3, bundle": (3, ("--use-signing-config=false",)),
    "3, tag": (3, ("--use-signing-config=false", "--new-bundle-format=false")),
}


@pytest.mark.skipif(cosign.PROGRAM is None, reason="cosign is not installed (COSIGN=... names it)")
@pytest.mark.parametrize("major, options", MODES.values(), ids=MODES.keys())
def test_by_cosign(
    start_registry: Callable[..., Registry],
    trust: Trust,
    tmp_path: Path,
    major: int,
    options: tuple[str, ...],
) -> None:
    program = Cosign(tmp_path / "cosign", trust)
    if program.major != major:
        pytest.skip(f"this is cosign {program.major}")
    registry, index = start_registry(), make_index()
    registry.push("lib/app", "v1", index)
    name = f"{registry.address[0]}:{registry.port}/lib/app@{index.digest}"
    program.sign(name, "--recursive", *options)
    keys = {"cosign": parse_public_key("cosign", program.pem), "other": MINE.key("other")}
    with SignatureAsker(tmp_path / "cache", trust, registry, keys) as asker:
        for digest in (index.digest, *(child.digest for child in index.images)):
            assert asker.check("lib/app", digest, "other", "cosign").signed
            assert not asker.check("lib/app", digest, "other").signed


def test_the_proxy_starts_with_keys(
    start_registry: Callable[..., Registry], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    config, key = tmp_path / "regproxy.toml", tmp_path / "cosign.pub"
    key.write_text(MINE.pem)
    config.write_text(f'[key.release]\nfile = "{key}"\n')
    assert start_proxy(start_registry(), REGPROXY_CONFIG=str(config)).admin("/readyz")[0] == 200
