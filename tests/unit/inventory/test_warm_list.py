"""Lists of images to warm the cache with."""

from __future__ import annotations

import pytest

from regproxy.cache.pins import PinError
from regproxy.inventory.warm_list import parse_list, wish

LIST = """\
# those of every node

nginx
registry.k8s.io/pause:3.9  linux/amd64 linux/arm64/v8  # with platforms
host:5000/a/b@sha256:{digest} linux/amd64,linux/s390x
""".format(digest="a1" * 32)


def test_a_list() -> None:
    found = [(each.reference.name, each.platforms) for each in parse_list(LIST, ("linux/riscv64",))]
    assert found == [
        ("docker.io/library/nginx:latest", ("linux/riscv64",)),
        ("registry.k8s.io/pause:3.9", ("linux/amd64", "linux/arm64/v8")),
        (f"host:5000/a/b@sha256:{'a1' * 32}", ("linux/amd64", "linux/s390x")),
    ]
    assert parse_list("") == parse_list("\n# nothing\n") == []


@pytest.mark.parametrize(
    "text, says",
    [
        ("nginx\nNGINX:1", "line 2: NGINX:1: not the name of an image"),
        ("nginx arm", "line 1: arm: not a platform, such as linux/amd64"),
        ("nginx linux/amd64/v8/x", "line 1: linux/amd64/v8/x: not a platform"),
        (f"sha256:{'0' * 64}", "line 1: .* an image is wanted"),
    ],
)
def test_what_is_none(text: str, says: str) -> None:
    with pytest.raises(PinError, match=says):
        parse_list(text)


def test_one() -> None:
    assert wish("nginx", ["linux/amd64"]).platforms == ("linux/amd64",)
