"""The content-addressed disk: what is committed is there, what is not leaves nothing behind."""

from __future__ import annotations

import errno
import gc
import os
import random
import stat
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from regproxy.cache import blobs as blobs_module
from regproxy.cache.blobs import SMALL_MAX, Blob, Store
from regproxy.cache.parts import FAILED, OPEN, Meta, Part
from regproxy.core.errors import StoreError
from regproxy.dataplane import file as file_module
from regproxy.dataplane.board import SIZE, Board
from tests.support.images import digest_of
from tests.support.plane import Plane

SIZES = (0, 1, SMALL_MAX, SMALL_MAX + 1, 500_000)
Run = Callable[[Coroutine[Any, Any, None]], None]


class Counted:
    """What the store counts."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    def store_failed(self, reason: str) -> None:
        self.counted.append(reason)

    def store_worked(self) -> None:
        self.counted.append("worked")


def content(size: int, seed: int = 0) -> tuple[str, bytes]:
    """A digest and its bytes."""
    body = random.Random(f"store-{seed}").randbytes(size)
    return digest_of(body), body


@pytest.fixture
def plane() -> Iterator[Plane]:
    """A loop for the store's threads, and streams to write through; no file may be left open in the end."""
    before, plane = file_module.live(), Plane()
    try:
        yield plane
    finally:
        plane.close()
    assert plane.errors == []
    gc.collect()
    assert file_module.live() <= before


@pytest.fixture
def run(plane: Plane) -> Run:
    return plane.loop.run_until_complete


@pytest.fixture
def open_store(plane: Plane, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """A store on the test's directory; again for the same directory after a restart."""
    stores: list[Store] = []

    def start() -> Store:
        stores.append(Store(tmp_path / "cache", plane.loop))
        return stores[-1]

    yield start
    for opened in stores:
        opened.close()


OpenStore = Callable[[], Store]


async def put(plane: Plane, opened: Store, body: bytes) -> Blob:
    """Write and commit, as a fill does."""
    part = opened.begin()
    await plane.write(part.growth, body)
    part.growth.finish()
    return await opened.commit(part, digest_of(body))


def read(blob: Blob) -> bytes:
    return os.pread(blob.file.fd, blob.size + 1, 0)


def parts(opened: Store) -> list[str]:
    return [path.name for path in (opened.root / "parts").iterdir()]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_committed_is_found(size: int, plane: Plane, run: Run, open_store: OpenStore) -> None:
    digest, body = content(size)

    async def test() -> None:
        opened = open_store()
        assert opened.lookup(digest) is None
        blob = await put(plane, opened, body)
        path = Path(opened.path(digest))
        assert path == opened.root / "blobs" / "sha256" / digest[7:9] / digest[7:]
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (body, 0o640)
        assert opened.lookup(digest) is blob
        assert (blob.digest, blob.size, read(blob)) == (digest, size, body)
        assert blob.small == (body if size <= SMALL_MAX else None)
        assert blob.etag == f'"{digest}"'.encode()
        assert parts(opened) == []

    run(test())


def test_a_part_is_not_content(plane: Plane, run: Run, open_store: OpenStore) -> None:
    digest, body = content(1000)

    async def test() -> None:
        opened = open_store()
        one, two = opened.begin(), opened.begin()
        assert one.path != two.path
        for part in (one, two):
            await plane.write(part.growth, body)
            assert part.path is not None and part.path.read_bytes() == body
        assert opened.lookup(digest) is None
        opened.abort(one)
        assert two.path is not None and parts(opened) == [two.path.name]
        opened.abort(two)
        opened.abort(two)
        assert parts(opened) == []

    run(test())


def test_committed_twice_is_one(plane: Plane, run: Run, open_store: OpenStore) -> None:
    """A manifest may arrive by its tag and by its digest at once."""
    digest, body = content(1000)

    async def test() -> None:
        opened = open_store()
        assert await put(plane, opened, body) is await put(plane, opened, body)
        assert Path(opened.path(digest)).read_bytes() == body
        assert parts(opened) == []

    run(test())


def test_a_limit_is_the_growths(plane: Plane, run: Run, open_store: OpenStore) -> None:
    async def test() -> None:
        part = open_store().begin(limit=10)
        assert await plane.write(part.growth, b"x" * 11, complete=False) == "the body is larger than 10 bytes"

    run(test())


@pytest.mark.parametrize("size", SIZES)
def test_a_restart_keeps_content_and_parts(size: int, plane: Plane, run: Run, open_store: OpenStore) -> None:
    digest, body = content(size)

    async def test() -> None:
        opened = open_store()
        await put(plane, opened, body)
        left = opened.claim(content(5, 1)[0])
        await plane.write(left.growth, b"half")
        opened.close()
        again = open_store()
        blob = again.lookup(digest)
        assert blob is not None
        assert read(blob) == body
        assert parts(again) == [left.path.name if left.path else ""]

    run(test())


class TestClaims:
    """A part has one filler, over all processes; here each store stands for one."""

    def test_one_fills_and_the_other_does_not(self, plane: Plane, run: Run, open_store: OpenStore) -> None:
        digest, body = content(1000)

        async def test() -> None:
            one, two = open_store(), open_store()
            mine, other = one.claim(digest), two.claim(digest)
            assert (mine.mine, other.mine, other.take()) == (True, False, False)
            await plane.write(mine.growth, body)
            assert other.size == len(body)
            mine.growth.finish()
            await one.commit(mine, digest)
            assert (other.named, other.take()) == (False, True)
            blob = two.lookup(digest)
            assert blob is not None
            assert read(blob) == body
            assert parts(one) == []

        run(test())

    def test_who_dies_leaves_what_is_there(self, plane: Plane, run: Run, open_store: OpenStore) -> None:
        digest, body = content(1000)

        async def test() -> None:
            one, two = open_store(), open_store()
            mine, other = one.claim(digest), two.claim(digest)
            mine.write(Meta(OPEN, len(body), "text/plain", "127.0.0.9", 0.5, host="reg.test"))
            await plane.write(mine.growth, body[:400])
            mine.growth.file.close()  # as the end of the process does
            assert (other.take(), other.named, other.size) == (True, True, 400)
            assert other.read() == Meta(OPEN, len(body), "text/plain", "127.0.0.9", 0.5, host="reg.test")
            two.abort(other)
            assert parts(two) == []

        run(test())

    def test_what_was_said_before_the_machine_started_is_not_heard(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest, _ = content(1000)
        one = open_store()
        part = one.claim(digest)
        part.write(Meta(OPEN, 1000))
        assert part.read() == Meta(OPEN, 1000)
        monkeypatch.setattr("regproxy.cache.parts.boot_id", lambda: "another")
        assert part.read() is None
        one.abort(part)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"boot": 1}', b"\xff"])
    def test_what_can_not_be_understood_is_not_heard(self, text: bytes, open_store: OpenStore) -> None:
        digest, _ = content(1000)
        opened = open_store()
        (opened.root / "parts" / f"{digest[7:]}.meta").write_bytes(text)
        part = opened.claim(digest)
        assert part.read() is None
        opened.abort(part)
        assert parts(opened) == []

    def test_why_it_failed_can_be_read_afterwards(self, open_store: OpenStore) -> None:
        digest, _ = content(1000)
        one, two = open_store(), open_store()
        mine = one.claim(digest)
        mine.write(Meta(OPEN, 10))
        other = two.claim(digest)
        assert other.read() == Meta(OPEN, 10)
        mine.write(Meta(OPEN, 10, "t" * 5000).failed("digest", "x" * 300))
        one.abort(mine)
        assert parts(one) == []
        said = other.read()
        assert said is not None
        assert (said.state, said.word, said.reason) == (FAILED, "digest", "x" * 300)
        other.close()

    def test_what_was_said_of_another_part_is_not_heard(self, open_store: OpenStore) -> None:
        """It is found by its name, which may be another's by then."""
        digest, _ = content(1000)
        one, two = open_store(), open_store()
        old = one.claim(digest)
        late = two.claim(digest)
        one.abort(old)
        new = one.claim(digest)
        new.write(Meta(OPEN, 1000))
        assert (new.read(), late.read()) == (Meta(OPEN, 1000), None)
        late.close()
        one.abort(new)

    def test_parts_without_a_digest_are_never_shared(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two containers have the same process ids."""
        monkeypatch.setattr(os, "getpid", lambda: 7)
        one, two = open_store(), open_store()
        first, second = one.begin(), two.begin()
        assert (first.mine, second.mine) == (True, True)
        assert first.path != second.path
        one.abort(first)
        two.abort(second)

    def test_a_part_that_somebody_else_has_written_to_is_not_kept(
        self, plane: Plane, run: Run, open_store: OpenStore
    ) -> None:
        digest, body = content(1000)

        async def test() -> None:
            opened = open_store()
            part = opened.claim(digest)
            await plane.write(part.growth, body)
            part.growth.finish()
            assert part.path is not None
            with part.path.open("ab") as other:
                other.write(b"more")
            with pytest.raises(StoreError):
                await opened.commit(part, digest)
            assert opened.lookup(digest) is None
            opened.abort(part)

        run(test())

    def test_a_part_that_was_committed_meanwhile_is_not_taken(
        self, plane: Plane, run: Run, open_store: OpenStore
    ) -> None:
        """Its name leads elsewhere, and what is there now is another one's."""
        digest, body = content(1000)

        async def test() -> None:
            one, two = open_store(), open_store()
            first = one.claim(digest)
            late = two.claim(digest)
            await plane.write(first.growth, body)
            first.growth.finish()
            await one.commit(first, digest)
            second = one.claim(digest)
            assert (second.mine, second.named, late.named) == (True, True, False)
            late.disown()
            assert second.named
            one.abort(second)
            assert parts(one) == []

        run(test())


class TestOthersChanges:
    """What another process removes is not given out, from the moment that the board says so."""

    def test_are_heard_before_a_look_up(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        digest, body = content(1000)
        fd = os.memfd_create("board")
        os.ftruncate(fd, SIZE)
        board = Board(fd)
        os.close(fd)

        async def test() -> None:
            opened = Store(tmp_path / "cache", plane.loop, board=board)
            opened.on_change = opened.forget_all
            await put(plane, opened, body)
            Path(opened.path(digest)).unlink()
            assert opened.lookup(digest) is not None
            board.bump()
            assert opened.lookup(digest) is None

        run(test())


@pytest.mark.parametrize("size", [1000, 500_000])
def test_removed_content_can_be_read_to_its_end(
    size: int, plane: Plane, run: Run, open_store: OpenStore
) -> None:
    digest, body = content(size)

    async def test() -> None:
        opened = open_store()
        blob = await put(plane, opened, body)
        opened.remove(digest)
        opened.remove(digest)
        assert not Path(opened.path(digest)).exists()
        assert opened.lookup(digest) is None
        assert read(blob) == body
        assert (await put(plane, opened, body)) is not blob

    run(test())


class TestMemory:
    """Open files and small contents are bounded; what is forgotten is found again on disk."""

    def test_open_files(
        self, plane: Plane, run: Run, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs_module, "FILES_MAX", 5)
        pairs = [content(SMALL_MAX + 1, seed) for seed in range(20)]

        async def test() -> None:
            opened = open_store()
            before = file_module.live()
            for _, body in pairs:
                await put(plane, opened, body)
            gc.collect()
            assert file_module.live() - before == 5
            for digest, body in pairs:
                blob = opened.lookup(digest)
                assert blob is not None
                assert read(blob) == body
            del blob
            gc.collect()
            assert file_module.live() - before == 5
            opened.close()
            gc.collect()
            assert file_module.live() == before

        run(test())

    def test_what_is_used_stays(
        self, plane: Plane, run: Run, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs_module, "FILES_MAX", 3)
        pairs = [content(100, seed) for seed in range(4)]

        async def test() -> None:
            opened = open_store()
            blobs = [await put(plane, opened, body) for _, body in pairs[:3]]
            assert opened.lookup(pairs[0][0]) is blobs[0]
            await put(plane, opened, pairs[3][1])
            assert opened.lookup(pairs[0][0]) is blobs[0]
            assert opened.lookup(pairs[1][0]) is not blobs[1]

        run(test())

    def test_small_contents(
        self, plane: Plane, run: Run, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs_module, "SMALL_TOTAL", 10_000)
        pairs = [content(1000, seed) for seed in range(30)]

        async def test() -> None:
            opened = open_store()
            blobs = [await put(plane, opened, body) for _, body in pairs]
            for (digest, _), blob in zip(pairs[-10:], blobs[-10:], strict=True):
                assert opened.lookup(digest) is blob
            assert opened.lookup(pairs[0][0]) is not blobs[0]
            opened.remove(pairs[0][0])
            for digest, body in pairs[1:]:
                found = opened.lookup(digest)
                assert found is not None
                assert found.small == body

        run(test())


class TestDamage:
    """What the disk gives back must be what was stored."""

    @pytest.mark.parametrize(
        "damage", [b"", b"x", b"x" * 1000, b"x" * 1001], ids=["empty", "short", "other bytes", "long"]
    )
    def test_of_small_content(self, damage: bytes, plane: Plane, run: Run, open_store: OpenStore) -> None:
        digest, body = content(1000)

        async def test() -> None:
            opened = open_store()
            await put(plane, opened, body)
            opened.close()
            Path(opened.path(digest)).write_bytes(damage)
            again = open_store()
            assert again.lookup(digest) is None
            assert not Path(again.path(digest)).exists()
            assert (await put(plane, again, body)).small == body

        run(test())

    def test_something_else_in_its_place(self, plane: Plane, run: Run, open_store: OpenStore) -> None:
        digest, _ = content(1000)
        opened = open_store()
        Path(opened.path(digest)).mkdir(parents=True)
        assert opened.lookup(digest) is None


class TestTrouble:
    """A directory that can't be used is said by name."""

    @pytest.mark.parametrize("place", ["cache", "cache/parts", "cache/blobs"])
    def test_at_the_start(self, place: str, plane: Plane, open_store: OpenStore, tmp_path: Path) -> None:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text("in the way")
        with pytest.raises(StoreError, match=str(path)) as caught:
            open_store()
        assert (caught.value.status, caught.value.code) == (503, "UNAVAILABLE")

    def test_a_directory_that_is_gone_is_made_anew(self, open_store: OpenStore) -> None:
        opened = open_store()
        (opened.root / "parts").rmdir()
        part = opened.begin()
        assert (part.mine, part.named) == (True, True)
        opened.abort(part)

    def test_at_a_part(
        self, plane: Plane, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is in memory, said once, counted each time; and it is over when the disk is back."""
        digest, body = content(1000)
        counters = Counted()

        async def test() -> None:
            opened = Store(tmp_path / "cache", plane.loop, counters=counters)
            (opened.root / "parts").rmdir()
            (opened.root / "parts").write_text("in the way")
            for _ in range(2):
                part = opened.claim(digest)
                assert (part.mine, part.path) == (True, None)
                await plane.write(part.growth, body)
                part.growth.finish()
                with pytest.raises(StoreError, match="Not a directory"):
                    await opened.commit(part, digest)
                assert read(opened.unstored(part, digest)) == body
            assert counters.counted == ["ENOTDIR", "ENOTDIR"]
            (opened.root / "parts").unlink()
            await put(plane, opened, body)
            assert counters.counted[2:] == ["worked"]

        run(test())
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert "Not a directory (ENOTDIR)" in caplog.text

    def test_at_the_commit(self, plane: Plane, run: Run, open_store: OpenStore) -> None:
        digest, body = content(1000)

        async def test() -> None:
            opened = open_store()
            part: Part = opened.begin()
            await plane.write(part.growth, body)
            part.growth.finish()
            Path(opened.path(digest)).parent.write_text("in the way")
            with pytest.raises(StoreError, match=digest[7:]):
                await opened.commit(part, digest)
            assert opened.lookup(digest) is None
            opened.abort(part)
            assert parts(opened) == []

        run(test())

    def test_no_descriptor_is_left_at_the_commit(
        self, plane: Plane, run: Run, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest, body = content(500_000)

        def refuse(fd: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        async def test() -> None:
            opened = open_store()
            part: Part = opened.begin()
            await plane.write(part.growth, body)
            part.growth.finish()
            with monkeypatch.context() as without:
                without.setattr(os, "dup", refuse)
                with pytest.raises(StoreError, match="Too many open files"):
                    await opened.commit(part, digest)
                with pytest.raises(StoreError, match="Too many open files"):
                    opened.unstored(part, digest)
            opened.abort(part)
            blob = opened.lookup(digest)
            assert blob is not None and read(blob) == body

        run(test())
