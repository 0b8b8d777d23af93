"""Fills that wait for another process let the loop go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from regproxy.cache.blobs import Store
from regproxy.cache.parts import OPEN, Meta
from regproxy.fill.fills import CacheRequest, Fills
from regproxy.fill.provenance import Provenance
from regproxy.http.messages import parse_request
from regproxy.http.origin import Origin as At
from regproxy.registry.targets import parse_target
from tests.support.images import digest_of
from tests.support.plane import LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures

SIZE, THERE = 300_000, 100_000


def blob(seed: object) -> tuple[str, str, bytes]:
    """A path, digest and bytes."""
    body = random.Random(f"takeover-{seed}").randbytes(SIZE)
    digest = digest_of(body)
    return f"/v2/app/blobs/{digest}", digest, body


class Nothing:
    """An index, and counters, to which nothing matters; an upstream that is never asked."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class TestTheLoop:
    """Who waits for another process lets its own go on."""

    def join(self, plane: Plane, fills: Fills, digest: str) -> None:
        path = f"/v2/app/blobs/{digest}"
        request = parse_request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        fills.join(CacheRequest(At("https", "mirror.test", 443), request, parse_target(path)))

    async def turns(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            for _ in range(count):
                await asyncio.sleep(0.01)

    def test_behind_a_filler_that_has_stopped(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """It has said that it failed, and did not come to take its part's name away."""
        one, two = (Store(tmp_path / "cache", plane.loop) for _ in range(2))
        _, digest, _ = blob("stopped")

        async def test() -> None:
            part = one.claim(digest)
            part.write(Meta(OPEN, host="other.test").failed("timeout", "sent nothing"))
            fills = Fills(two, Nothing(), Nothing(), Nothing(), plane.loop)  # type: ignore[arg-type]
            self.join(plane, fills, digest)
            await self.turns(20)
            assert await fills.finish(0) == []
            one.abort(part)

        run(test())

    def test_with_a_part_that_can_not_be_removed(
        self, plane: Plane, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store(tmp_path / "cache", plane.loop)
        _, digest, body = blob("stuck")
        path = tmp_path / "cache" / "parts" / f"{digest[7:]}.part"
        path.write_bytes(body[:1000])
        unlink = Path.unlink

        def refuse(self: Path, missing_ok: bool = False) -> None:
            if self == path:
                raise OSError(28, "No space left on device")
            unlink(self, missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)

        class Silent(Nothing):
            async def fetch(self, *args: object) -> None:
                await asyncio.sleep(LIMIT)

        async def test() -> None:
            fills = Fills(store, Silent(), Nothing(), Nothing(), plane.loop)  # type: ignore[arg-type]
            self.join(plane, fills, digest)
            await self.turns(20)
            assert path.stat().st_size == 0  # it is begun anew
            assert await fills.finish(0) == [digest]

        run(test())

    @pytest.mark.parametrize("source", ["liar.test:443", "mirror.test:443"])
    def test_what_another_source_has_begun(self, source: str, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Its clients, who may still follow an empty part, do not get what comes from this one."""
        killed, follower, store = (Store(tmp_path / "cache", plane.loop) for _ in range(3))
        _, digest, _ = blob("foreign")
        provenance = Provenance(Nothing(), lambda host, port: False, guarded=True)  # type: ignore[arg-type]

        class Silent(Nothing):
            async def fetch(self, *args: object) -> None:
                await asyncio.sleep(LIMIT)

        async def test() -> None:
            part = killed.claim(digest)
            part.write(Meta(OPEN, SIZE, host=source))
            followed = follower.claim(digest)
            part.release()
            fills = Fills(
                *(store, Silent(), Nothing(), Nothing(), plane.loop),  # type: ignore[arg-type]
                provenance=provenance,
            )
            self.join(plane, fills, digest)
            await self.turns(20)
            assert followed.named is (source == "mirror.test:443")
            assert await fills.finish(0) == [digest]
            for each in (part, followed):
                each.close()

        run(test())
