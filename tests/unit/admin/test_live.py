"""A worker's downloads, as it tells the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from regproxy.admin.live import Live
from regproxy.fill.fill import CacheRequest
from regproxy.http.messages import parse_request
from regproxy.http.origin import Origin
from regproxy.registry.targets import parse_target
from regproxy.telemetry.snapshots import LiveDownload

REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
HUB = Origin("https", "registry-1.docker.io", 443)


def fill(repository: str, tag: str, began: float) -> Any:
    wanted = CacheRequest(HUB, REQUEST, parse_target(f"/v2/{repository}/manifests/{tag}"))
    return SimpleNamespace(wanted=wanted, head=None, began=began, progress=None, joined=False)


def test_when_they_began_is_told_once() -> None:
    """Lists are in that order: a clock that is set, or an instant between two looks, must not change it."""
    fills = [fill("library/nginx", "latest", 10.0), fill("library/redis", "latest", 10.0)]

    async def run() -> list[list[LiveDownload]]:
        nothing: Any = None
        services: Any = SimpleNamespace(
            fills=SimpleNamespace(under_way=lambda: fills), loop=asyncio.get_running_loop()
        )
        live = Live(services, nothing, 0, 1, nothing)
        return [list(live._downloads(Counter(), now)) for now in (1000.0, 2000.0)]

    first, second = asyncio.run(run())
    assert [each.repository for each in first] == ["library/nginx", "library/redis"]
    assert [each.since for each in first] == [each.since for each in second]
