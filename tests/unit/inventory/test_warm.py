"""Warming what is held already. All else needs registries: tests/e2e/test_cache_steering.py."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from regproxy.inventory import warm
from regproxy.inventory.warm import Parts, Warming
from regproxy.inventory.warm_list import wish
from regproxy.registry.descriptors import Descriptor, described
from tests.support.images import make_image
from tests.support.stocked_images import bodies


def test_the_event_loop_reads_no_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have megabytes, and clients wait meanwhile."""
    image = make_image(size=1000)
    held = {
        digest: SimpleNamespace(digest=digest, size=len(body), small=body)
        for digest, body in bodies(image).items()
    }
    store, index = SimpleNamespace(lookup=held.get), SimpleNamespace(touch=lambda digest: None)
    access = SimpleNamespace(mode=lambda origin: "shared", lends=lambda *_: None, guarded=False)
    nothing: Any = None
    parts = Parts(
        cast("Any", store), cast("Any", index), nothing, nothing, nothing, cast("Any", access),
        lambda host: 1.0, b"", lambda: False, lambda host, port: True,
    )  # fmt: skip
    readers: list[int] = []

    def noted(body: bytes) -> tuple[Descriptor, ...]:
        readers.append(threading.get_ident())
        return described(body)

    monkeypatch.setattr(warm, "described", noted)
    wishes = [wish(f"r.test/app@{image.digest}", ())]
    (done,) = asyncio.run(Warming(parts).run(wishes, lambda warmed: None))
    assert (done.error, done.objects) == ("", len(held))
    assert len(readers) == 1 and threading.get_ident() not in readers
