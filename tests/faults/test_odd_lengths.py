"""Origins that say wrong lengths of what they send, while a client waits, or to who takes a part over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.client import Client
from tests.support.cold_blobs import MIB, Cold, forget, origin, span
from tests.support.origin import Answer, Origin, Seen
from tests.support.proxy import Proxy
from tests.support.trust import Trust

__all__ = ["forget", "origin"]  # fixtures

Start = Callable[..., Proxy]
Talk = Callable[[Proxy, Origin], Client]
JUNK = b"A" * 1_000_000


def rest(
    blob: Cold, start: int, said: str, body: bytes | None = None, *fields: str, chunked: bool = False
) -> Answer:
    """A 206 for the rest of it that says `said` in Content-Range, and has this body."""
    body = blob.body[start:] if body is None else body
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = ["HTTP/1.1 206 Partial Content", f"Content-Range: bytes {said}", framing, *fields, "", ""]
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return Answer(raw="\r\n".join(lines).encode() + body)


def beyond(blob: Cold, start: int, more: int, total: str) -> Answer:
    end = len(blob.body) + more
    return rest(blob, start, f"{start}-{end - 1}/{total or end}", blob.body[start:] + JUNK[:more])


# name -> (blob, its first byte that is lacking) -> the answer
FAULTS: dict[str, Callable[[Cold, int], Answer]] = {
    "behind the end": lambda blob, start: beyond(blob, start, 1_000_000, "*"),
    "one byte behind the end": lambda blob, start: beyond(blob, start, 1, "*"),
    "another whole": lambda blob, start: beyond(blob, start, 1000, ""),
    "18 digits": lambda blob, start: rest(blob, start, f"{start}-{10**18 - 1}/*", chunked=True),
    "a smaller whole": lambda blob, start: rest(blob, start, f"{start}-{start}/{start + 1}", b"x"),
    "longer than its range": lambda blob, start: rest(
        blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", blob.body[start:] + JUNK
    ),
    "longer than its range, in chunks": lambda blob, start: rest(
        *(blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", blob.body[start:] + JUNK),
        chunked=True,
    ),
    "shorter than its range": lambda blob, start: rest(
        blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", blob.body[start:-1000]
    ),
    "shorter than its range, in chunks": lambda blob, start: rest(
        *(blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", blob.body[start:-1000]),
        chunked=True,
    ),
    "two ranges": lambda blob, start: rest(
        *(blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", None),
        "Content-Range: bytes 0-0/1",
    ),
    "several ranges": lambda blob, start: rest(
        *(blob, start, f"{start}-{len(blob.body) - 1}/{len(blob.body)}", None),
        "Content-Type: multipart/byteranges; boundary=x",
    ),
    "another length": lambda blob, start: Answer(blob.body + JUNK, ranges=False),
    "less than is there": lambda blob, start: Answer(blob.body[:1000], ranges=False),
    "nothing": lambda blob, start: Answer(b"", ranges=False),
    "nothing behind another length": lambda blob, start: Answer(
        b"", 416, {"Content-Range": f"bytes */{start - 1}"}
    ),
}
SIZES = {"linear": 2 * MIB, "scattered": 8 * MIB}


@pytest.fixture(params=list(SIZES.values()), ids=list(SIZES))
def size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Callable[[Cold, int], Answer]:
    return FAULTS[request.param]


@pytest.fixture(scope="module")
def proxy(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    env = {"REGPROXY_RESUME_TIME": "2s", "REGPROXY_HANG_TIMEOUT": "4s"}
    with Proxy(
        *(tmp_path_factory.mktemp("proxy"), env),
        registries=(origin.authority,),
        resolve=origin.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy
        assert "Traceback" not in proxy.log(), proxy.log()
        assert len(proxy.workers()) == 1


class TestLengths:
    """Nobody is given a wrong byte, no worker spins, and the next one to ask gets all of it."""

    def test_while_a_client_waits(
        self, fault: Callable[[Cold, int], Answer], size: int, proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        faults: list[int] = []

        def script(blob: Cold, seen: Seen) -> Answer:
            if len(blob.requests) <= 1:
                return blob.answer(cut_at=size * 5 // 8)
            start = started(seen)
            if len(blob.requests) != 2 or not start:
                return blob.answer()
            faults.append(start)
            return fault(blob, start)

        blob = Cold(origin, size, script)
        worker = proxy.workers(1)
        reply = talk(proxy, origin).get(blob.path)
        assert blob.body.startswith(reply.body)
        assert reply.complete == (reply.body == blob.body)
        assert talk(proxy, origin).get(blob.path).body == blob.body
        proxy.wait_kept(blob.digest)
        assert proxy.workers(1) == worker
        assert faults, "nothing was resumed: the fault was never served"

    def test_of_what_was_left(
        self, fault: Callable[[Cold, int], Answer], size: int, proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        """Who takes it over has seen nothing of it: it is fetched anew."""

        faults: list[int] = []

        def script(blob: Cold, seen: Seen) -> Answer:
            if len(blob.requests) <= 1:
                return blob.answer(cut_at=size * 5 // 8)
            if len(blob.requests) <= 3:
                return Answer(b"gone", 404)  # the rest, and all of it
            start = started(seen)
            if len(blob.requests) != 4 or not start:
                return blob.answer()
            faults.append(start)
            return fault(blob, start)

        blob = Cold(origin, size, script)
        worker = proxy.workers(1)
        assert not talk(proxy, origin).get(blob.path).complete
        reply = talk(proxy, origin).get(blob.path)
        assert reply.body == blob.body
        assert reply.complete
        assert len(blob.requests) >= 3
        proxy.wait_kept(blob.digest)
        assert proxy.workers(1) == worker
        assert faults, "nothing was resumed: the fault was never served"


def started(seen: Seen) -> int:
    """The first byte that is asked for."""
    return int((seen.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])


def test_no_worker_after_another(origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """An origin that goes on saying so: nobody takes over a part that would be the end of it, too."""

    def script(blob: Cold, seen: Seen) -> Answer:
        if len(blob.requests) <= 1:
            return blob.answer(cut_at=5 * MIB)
        if len(blob.requests) <= 3:
            return Answer(b"gone", 404)
        return beyond(blob, started(seen), 1_000_000, "*")

    blob = Cold(origin, 8 * MIB, script)
    proxy = start_proxy(origin, REGPROXY_WORKERS="2", REGPROXY_HANG_TIMEOUT="4s")
    workers = proxy.workers(2)
    assert not talk(proxy, origin).get(blob.path).complete
    for _ in range(4):
        reply = talk(proxy, origin).get(blob.path)
        assert reply.status == 502 or not reply.complete
    assert proxy.workers(2) == workers
    assert f"bytes up to {9 * MIB - MIB + 1_000_000}, but the content has {8 * MIB}" in proxy.log()
    assert not [path for path in proxy.parts() if path.suffix == ".part"]


@pytest.mark.parametrize("first", ["206", "chunks without an end"])
def test_the_first_answer(first: str, origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """A 206 with all of it that nobody has asked for, and a range that goes on behind its end for ever."""

    def script(blob: Cold, seen: Seen) -> Answer:
        if first == "206" and len(blob.requests) <= 1:
            return rest(blob, 0, f"0-{len(blob.body) - 1}/{len(blob.body)}")
        if first != "206" and seen.get("Range"):
            start, stop = span(blob, seen)
            said = f"bytes {start}-{stop - 1}/{len(blob.body)}"
            fields = {"Content-Range": said}
            return Answer(blob.body[start:stop] + os.urandom(30_000_000), 206, fields, framing="chunked")
        return blob.answer()

    blob = Cold(origin, 16 * MIB, script)
    proxy = start_proxy(origin)
    if first == "206":
        reply = talk(proxy, origin).get(blob.path)
        assert (reply.status, reply.body) == (200, blob.body)
    else:
        start = 8 * MIB
        asked = {"Range": f"bytes={start}-{start + MIB - 1}"}
        assert talk(proxy, origin).get(blob.path, asked).body == blob.body[start : start + MIB]
        assert talk(proxy, origin).get(blob.path).body == blob.body
        proxy.wait_kept(blob.digest)


def test_a_range_of_nothing(origin: Origin, start_proxy: Start, talk: Talk) -> None:
    blob = Cold(origin, 0)
    client = talk(start_proxy(origin), origin)
    reply = client.get(blob.path, {"Range": "bytes=0-99"})
    assert reply.status in (200, 416)
    assert reply.body == b"" or reply.status == 416
    reply = client.get(blob.path)
    assert (reply.status, reply.body) == (200, b"")
