"""Blobs that nobody has asked for yet, at an origin of a module's own."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from tests.support.client import Reply
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, Seen, blob_answer
from tests.support.trust import Trust

MIB = 1 << 20
SIZE = 64 * MIB
SEEDS = itertools.count()


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(autouse=True)
def forget(origin: Origin) -> Iterator[None]:
    """Let go of a test's blobs when it is over: they are large, and the origin is the module's."""
    yield
    origin.forget()
    gc.collect()


class Cold:
    """A blob that nobody has asked for yet. `script` says how it is answered; else as registries do."""

    def __init__(
        self, origin: Origin, size: int = SIZE, script: Callable[[Cold, Seen], Answer] | None = None
    ) -> None:
        self.body = random.Random(f"scattered-{next(SEEDS)}").randbytes(size)
        self.digest = digest_of(self.body)
        self.path = f"/v2/app/blobs/{self.digest}"
        self._origin = origin
        origin.on(self.path, self.answer() if script is None else lambda seen: script(self, seen))

    def answer(self, **faults: object) -> Answer:
        return blob_answer(self.digest, self.body, **faults)

    def arrived(self, reply: Reply) -> bool:
        return (reply.status, reply.complete, reply.digest) == (200, True, self.digest)

    @property
    def requests(self) -> list[Seen]:
        """What the origin was asked for it, in order."""
        return [seen for seen in list(self._origin.requests) if seen.path == self.path]

    @property
    def ranges(self) -> list[str | None]:
        return [seen.get("range") for seen in self.requests]

    @property
    def sent(self) -> int:
        """How many bytes of it the origin has sent, once it sends no more."""
        self._origin.wait_idle()
        return sum(seen.sent for seen in self.requests)


def span(blob: Cold, seen: Seen) -> tuple[int, int]:
    """What is asked for."""
    first, _, last = (seen.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
    size = len(blob.body)
    return int(first), min(int(last) + 1 if last else size, size)
