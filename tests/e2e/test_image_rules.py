"""Rules for images: what users see, and that what was judged is what is served, by every way in."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, Image, Index, make_image, make_index
from tests.support.origin import Answer, Origin, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]

REPOSITORY = "team/app"
ACCEPT = [("Accept", f"{INDEX}, {MANIFEST}")]
IMAGE, OTHER = make_image(seed=951), make_image(seed=952)
WHOLE = make_index(seed=953)
DAY = 86_400.0


class Ruled:
    """A proxy with rules before an origin."""

    def __init__(self, proxy: Proxy, origin: Origin) -> None:
        self.proxy, self.origin = proxy, origin

    def ask(
        self,
        reference: str,
        method: str = "GET",
        *,
        repository: str = REPOSITORY,
        section: str = "manifests",
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        return self.path(f"/v2/{repository}/{section}/{reference}", method, headers, body)

    def path(
        self, path: str, method: str = "GET", headers: list[tuple[str, str]] | None = None, body: bytes | None = None
    ) -> Reply:
        with self.proxy.client(self.origin.authority) as client:
            return client.request(method, path, [*ACCEPT, *(headers or [])], body)

    def publish(self, image: Image | Index, *tags: str, repository: str = REPOSITORY) -> None:
        self.origin.publish(repository, image, *tags)


def told(reply: Reply) -> tuple[str, str]:
    """Return code and message of an error."""
    (error,) = json.loads(reply.body)["errors"]
    return error["code"], error["message"]


@pytest.fixture
def ruled(start_proxy: StartProxy, start_origin: StartOrigin, tmp_path: Path) -> Callable[..., Ruled]:
    def start(rules: str, **env: Any) -> Ruled:
        origin = start_origin()
        config = tmp_path / "rules.toml"
        config.write_text(rules)
        settings = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_CONFIG": str(config), **env}
        return Ruled(start_proxy(origin, **settings), origin)

    return start


DENY_LATEST = """
[[rule]]
name = "no-latest"
repository = "team/**"
tag = ["latest", "*-dev"]
action = "deny"
message = "Use a release"
"""


def test_a_denied_tag(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(DENY_LATEST)
    scene.publish(IMAGE, "latest", "1.0-dev", "1.0")
    scene.publish(IMAGE, "latest", repository="other/app")
    for tag in ("latest", "1.0-dev"):
        reply = scene.ask(tag)
        assert reply.status == 403
        code, message = told(reply)
        assert code == "DENIED"
        assert "Use a release" in message
        assert "'no-latest'" in message
        assert scene.ask(tag, "HEAD").status == 403
    assert scene.origin.count(part="latest") == 0
    assert scene.ask("1.0").digest == IMAGE.digest
    assert scene.ask("1.0", "HEAD").status == 200
    assert scene.ask("latest", repository="other/app").status == 200
    labels = {"rule": "no-latest", "action": "deny"}
    wait_until(lambda: scene.proxy.metric("regproxy_rule_decisions_total", **labels) == 4, "four are counted")
