"""Origins that go wrong: nothing wrong passes for whole, nothing of it is kept, and it heals by itself."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import MANIFEST, digest_of
from tests.support.origin import Answer, Origin
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

SMALL, MIDDLE, LARGE = 900, 60_000, 400_000  # below 64 KiB content is verified before its head goes out
MANIFEST_MAX = 4 * 1024 * 1024
SEEDS = itertools.count()


class CacheRequest(NamedTuple):
    """Content that an origin is asked for, and how it describes it when all is well."""

    path: str
    digest: str
    body: bytes
    media_type: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": self.media_type, "Docker-Content-Digest": self.digest}

    def answer(self, **faults: object) -> Answer:
        return Answer(self.body, headers=self.headers, **faults)  # type: ignore[arg-type]


Fault = Callable[[CacheRequest], Answer]


def head(wanted: CacheRequest, *lines: str) -> bytes:
    """A response head with these lines; the empty line included."""
    fields = [f"{name}: {value}" for name, value in wanted.headers.items()]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, *lines, "", ""]).encode()


def raw(wanted: CacheRequest, data: bytes, *lines: str, cut: End = End.CLOSE_NOTIFY) -> Answer:
    return Answer(raw=head(wanted, *lines) + data, cut=cut)


def short(end: End, missing: int = 1) -> Fault:
    """All but so many bytes; an origin that can't resume, so that it stays short."""
    return lambda wanted: wanted.answer(cut_at=max(0, len(wanted.body) - missing), cut=end, ranges=False)


def close_delimited(end: End) -> Fault:
    return lambda wanted: wanted.answer(framing="eof", cut_at=len(wanted.body) // 2, cut=end, ranges=False)


def other_type(wanted: CacheRequest, body: bytes, media_type: str, **fields: str) -> Answer:
    return Answer(body, headers=wanted.headers | {"Content-Type": media_type} | fields)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HTML = b"<html><title>Sign in to this network</title></html>"
CHUNKED = "Transfer-Encoding: chunked"

FAULTS: dict[str, Fault] = {
    "wrong first byte": lambda w: w.answer(wrong_at=0),
    "wrong byte in the middle": lambda w: w.answer(wrong_at=len(w.body) // 2),
    "wrong byte in the last 16 KiB": lambda w: w.answer(wrong_at=max(0, len(w.body) - 10_000)),
    "wrong last byte": lambda w: w.answer(wrong_at=len(w.body) - 1),
    "wrong byte, chunked": lambda w: w.answer(wrong_at=5, framing="chunked"),
    "wrong last byte, chunked": lambda w: w.answer(wrong_at=len(w.body) - 1, framing="chunked"),
    "wrong last byte, to the end": lambda w: w.answer(wrong_at=len(w.body) - 1, framing="eof"),
    "a byte short, close_notify": short(End.CLOSE_NOTIFY),
    "a byte short, FIN": short(End.FIN),
    "a byte short, RST": short(End.RST),
    "nothing but a head, FIN": lambda w: w.answer(cut_at=0, ranges=False),
    "nothing but a head, RST": lambda w: w.answer(cut_at=0, cut=End.RST, ranges=False),
    "half, FIN": lambda w: w.answer(cut_at=len(w.body) // 2, ranges=False),
    "half, RST": lambda w: w.answer(cut_at=len(w.body) // 2, cut=End.RST, ranges=False),
    "half, chunked, FIN": lambda w: w.answer(framing="chunked", cut_at=len(w.body) // 2, ranges=False),
    "half, chunked, clean": lambda w: Answer(
        w.body[: len(w.body) // 2], headers=w.headers, framing="chunked"
    ),
    "half, to the end, close_notify": close_delimited(End.CLOSE_NOTIFY),
    "half, to the end, FIN": close_delimited(End.FIN),
    "half, to the end, RST": close_delimited(End.RST),
    "no head, FIN": lambda w: Answer(cut_at=-1),
    "no head, RST": lambda w: Answer(cut_at=-1, cut=End.RST),
    "part of a head": lambda w: Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Le"),
    "not HTTP": lambda w: Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "a byte more, declared": lambda w: Answer(w.body + b"x", headers=w.headers),
    "a byte less, declared": lambda w: Answer(w.body[:-1], headers=w.headers),
    "declares less than it sends": lambda w: w.answer(declared=len(w.body) - 1),
    "declares more than it sends": lambda w: w.answer(declared=len(w.body) + 1, ranges=False),
    "empty": lambda w: Answer(b"", headers=w.headers),
    "HTML": lambda w: other_type(w, HTML, "text/html"),
    "HTML under its type": lambda w: Answer(HTML, headers=w.headers),
    "a chunk size that is none": lambda w: raw(w, b"xyz\r\n" + w.body, CHUNKED),
    "a chunk size of 20 digits": lambda w: raw(w, b"f" * 20 + b"\r\n" + w.body, CHUNKED),
    "a chunk size below zero": lambda w: raw(w, b"-1\r\n" + w.body, CHUNKED),
    "a chunk longer than its size": lambda w: raw(
        w, b"%x\r\n%b\r\n0\r\n\r\n" % (len(w.body) - 5, w.body), CHUNKED
    ),
    "a second chunk malformed": lambda w: raw(w, chunk(w.body[:-1]) + b"\r\n1\r\n", CHUNKED),
    "no last chunk": lambda w: raw(w, chunk(w.body[:-1]), CHUNKED),
    "two lengths": lambda w: raw(
        w, w.body[:-1], f"Content-Length: {len(w.body)}", f"Content-Length: {len(w.body) - 1}"
    ),
    "length and chunked": lambda w: raw(
        w, chunk(w.body[:-1]) + b"0\r\n\r\n", f"Content-Length: {len(w.body)}", CHUNKED
    ),
    "a length that is none": lambda w: raw(w, w.body, "Content-Length: many"),
    "206 that nobody asked for": lambda w: Answer(
        w.body[:10], 206, w.headers | {"Content-Range": f"bytes 0-9/{len(w.body)}"}
    ),
    "204": lambda w: Answer(b"", 204, w.headers),
    "304 that nobody asked for": lambda w: Answer(b"", 304, w.headers),
}


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the module; it fails at the end where anything was left open."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        {"REGPROXY_DEBUG": "1", "REGPROXY_RESUME_TIME": "500ms"},
        registries=(origin.authority,),
        resolve=origin.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy


@pytest.fixture
def ask(proxy: Proxy, origin: Origin, stack: ExitStack) -> Callable[..., Reply]:
    """GET through a connection of its own."""

    def get(path: str, **headers: str) -> Reply:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return stack.enter_context(proxy.client(origin.authority)).get(path, fields)

    return get


Ask = Callable[..., Reply]


def blob(size: int) -> CacheRequest:
    body = random.Random(f"faults-{next(SEEDS)}").randbytes(size)
    return CacheRequest(f"/v2/app/blobs/{digest_of(body)}", digest_of(body), body, "application/octet-stream")


def manifest(by: str = "digest", size: int = 0) -> CacheRequest:
    """A manifest of its own for a test; `size` in bytes, 0 for as many as it needs."""
    number = next(SEEDS)
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "annotations": {"n": str(number)}}
    body = json.dumps(value).encode()
    body += b" " * (size - len(body))
    reference = digest_of(body) if by == "digest" else f"tag-{number}"
    return CacheRequest(f"/v2/app/manifests/{reference}", digest_of(body), body, MANIFEST)


def assert_wrong(reply: Reply, wanted: CacheRequest, proxy: Proxy) -> None:
    """Assert that the client can't take the reply for the content, and that it is not kept for that."""
    if reply.complete and reply.status == 404:
        assert reply.body == b"no"  # the origin's own word
    elif reply.complete:
        assert reply.status in (502, 504), reply
        assert reply.json()["errors"][0]["code"] == "UNAVAILABLE"
        assert "reg.test" in reply.json()["errors"][0]["message"]
    else:
        assert reply.status in (0, 200)
        assert len(reply.body) < len(wanted.body)
    wait_until(lambda: proxy.metric("regproxy_fills_active") == 0, "no fill is under way")
    assert wanted.digest not in proxy.blobs()
    # What broke off stays, for who goes on with it.
    assert {path.stem for path in proxy.parts()} <= {wanted.digest[7:]}


def assert_recovers(wanted: CacheRequest, origin: Origin, proxy: Proxy, ask: Ask) -> None:
    """Assert that the next request has the content once the origin does what it should, and that it stays."""
    origin.on(wanted.path, wanted.answer())
    reply = ask(wanted.path)
    assert (reply.status, reply.digest, reply.complete) == (200, wanted.digest, True)
    wait_until(lambda: wanted.digest in proxy.blobs(), "it is in the store")
    wait_until(lambda: not proxy.parts(), "nothing else is there")


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_blob(fault: str, size: int, proxy: Proxy, origin: Origin, ask: Ask) -> None:
    wanted = blob(size)
    origin.on(wanted.path, FAULTS[fault](wanted))
    reply = ask(wanted.path)
    assert_wrong(reply, wanted, proxy)
    assert_recovers(wanted, origin, proxy, ask)
    assert said(ask(wanted.path))[0] == "HIT"


@pytest.mark.parametrize("by", ["digest", "tag"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_manifest(fault: str, by: str, proxy: Proxy, origin: Origin, ask: Ask) -> None:
    wanted = manifest(by)
    origin.on(wanted.path, FAULTS[fault](wanted))
    reply = ask(wanted.path)
    assert reply.complete
    assert_wrong(reply, wanted, proxy)
    assert_recovers(wanted, origin, proxy, ask)


class TestLongBodies:
    """What comes behind the declared end."""

    def test_a_connection_with_more_to_say_is_not_used_again(
        self, proxy: Proxy, origin: Origin, ask: Ask
    ) -> None:
        """The second response of the pair must not become the answer to somebody's next request."""
        for size in (SMALL, MIDDLE, LARGE):
            first, second, injected = blob(size), blob(size), blob(SMALL)
            whole = head(first, f"Content-Length: {size}") + first.body
            origin.on(first.path, injected.answer(interim=(whole,)))
            origin.on(second.path, second.answer())
            assert ask(first.path).digest == first.digest
            assert ask(second.path).digest == second.digest
            asked = {seen.path: seen.connection for seen in origin.requests}
            assert asked[first.path] != asked[second.path]
            assert injected.digest not in proxy.blobs()

    def test_an_error_with_more_to_say(self, origin: Origin, ask: Ask) -> None:
        first, second, injected = blob(SMALL), blob(SMALL), blob(SMALL)
        refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
        origin.on(first.path, injected.answer(interim=(refusal,)))
        origin.on(second.path, second.answer())
        assert (ask(first.path).status, ask(second.path).digest) == (404, second.digest)


class TestFraming:
    """Ways to end a body that are right, whether or not the origin says its length."""

    @pytest.mark.parametrize("size", [0, SMALL, MIDDLE, LARGE])
    @pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
    def test_is_one_to_the_client(
        self, framing: str, size: int, proxy: Proxy, origin: Origin, ask: Ask
    ) -> None:
        wanted = blob(size)
        origin.on(wanted.path, wanted.answer(framing=framing))
        for _ in range(2):
            reply = ask(wanted.path)
            assert (reply.status, reply.digest, reply.complete) == (200, wanted.digest, True)
        assert origin.hits[wanted.path] == 1

    @pytest.mark.parametrize("framing", ["chunked", "eof"])
    def test_http_1_0_knows_no_chunks(
        self, framing: str, proxy: Proxy, origin: Origin, stack: ExitStack
    ) -> None:
        wanted = blob(LARGE)
        origin.on(wanted.path, wanted.answer(framing=framing))
        client: Client = stack.enter_context(proxy.client(origin.authority))
        client.send(f"GET {wanted.path} HTTP/1.0\r\nHost: {origin.authority}\r\n\r\n".encode())
        reply = client.read_reply("GET")
        assert (reply.status, reply.digest) == (200, wanted.digest)
        assert reply.get("Transfer-Encoding") is None

    def test_small_chunks_with_extensions_and_trailers(self, origin: Origin, ask: Ask) -> None:
        wanted = blob(SMALL)
        chunks = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in wanted.body)
        origin.on(wanted.path, raw(wanted, chunks + b"0\r\nX-Sum: 1\r\n\r\n", CHUNKED))
        reply = ask(wanted.path)
        assert (reply.status, reply.digest) == (200, wanted.digest)

    def test_interim_responses_are_passed_over(self, origin: Origin, ask: Ask) -> None:
        wanted = blob(SMALL)
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        origin.on(wanted.path, wanted.answer(interim=(early, early)))
        reply = ask(wanted.path)
        assert (reply.status, reply.digest, reply.interim) == (200, wanted.digest, ())


@pytest.mark.parametrize("make", [blob, lambda size: manifest(), lambda size: manifest("tag")])
def test_unencoded_content_is_asked_for(
    make: Callable[[int], CacheRequest], proxy: Proxy, origin: Origin, ask: Ask
) -> None:
    """What is stored must not depend on one client's Accept-Encoding, range or conditions."""
    wanted = make(SMALL)
    origin.on(wanted.path, wanted.answer())
    reply = ask(wanted.path, Accept_Encoding="gzip, zstd", If_None_Match='"x"', If_Modified_Since="now")
    assert (reply.status, reply.digest) == (200, wanted.digest)
    (seen,) = (seen for seen in origin.requests if seen.path == wanted.path)
    assert seen.get("Accept-Encoding") == "identity"
    assert seen.get("If-None-Match") is seen.get("If-Modified-Since") is seen.get("Range") is None


class TestLargeManifests:
    """The OCI distribution spec lets a registry refuse more than 4 MiB: such a manifest is not stored."""

    @pytest.mark.parametrize("by", ["digest", "tag"])
    @pytest.mark.parametrize("framing", ["length", "chunked"])
    def test_over_the_limit(self, framing: str, by: str, proxy: Proxy, origin: Origin, ask: Ask) -> None:
        wanted = manifest(by, MANIFEST_MAX + 1)
        origin.on(wanted.path, wanted.answer(framing=framing))
        reply = ask(wanted.path)
        assert (reply.status, reply.digest, said(reply)[0]) == (200, wanted.digest, "BYPASS")
        assert wanted.digest not in proxy.blobs()
        assert f"more than {MANIFEST_MAX}" in proxy.log() or f"larger than {MANIFEST_MAX}" in proxy.log()

    @pytest.mark.parametrize("by", ["digest", "tag"])
    def test_at_the_limit(self, by: str, origin: Origin, ask: Ask) -> None:
        wanted = manifest(by, MANIFEST_MAX)
        origin.on(wanted.path, wanted.answer())
        assert ask(wanted.path).digest == wanted.digest


class TestErrorBodies:
    """An origin's error keeps its status whatever its body is like."""

    @pytest.mark.parametrize("make", [blob, lambda size: manifest("tag")], ids=["blob", "tag"])
    @pytest.mark.parametrize(
        "answer",
        [
            Answer(b"x" * 1000, 404),
            Answer(b"x" * 1000, 404, framing="chunked"),
            Answer(b"x" * 1000, 404, framing="eof"),
            Answer(b"x" * 500_000, 404),
            Answer(b"x" * 1000, 404, cut_at=10),
        ],
        ids=["plain", "chunked", "to the end", "large", "cut"],
    )
    def test_of_any_size(
        self, answer: Answer, make: Callable[[int], CacheRequest], origin: Origin, ask: Ask
    ) -> None:
        wanted = make(SMALL)
        origin.on(wanted.path, answer)
        reply = ask(wanted.path)
        assert (reply.status, reply.complete) == (404, True)


def partial(wanted: CacheRequest, start: int, body: bytes, content_range: str | None) -> Answer:
    """What an origin may say to `Range: bytes=<start>-`, right or wrong."""
    fields = {} if content_range is None else {"Content-Range": content_range}
    return Answer(body[start:], 206, wanted.headers | fields)


@pytest.mark.parametrize(
    "second",
    [
        lambda w, at: w.answer(),
        lambda w, at: w.answer(ranges=False),
        lambda w, at: w.answer(wrong_at=len(w.body) - 1),
        lambda w, at: w.answer(wrong_at=at + 1, ranges=False),
        lambda w, at: partial(w, at, w.body[::-1], f"bytes {at}-{len(w.body) - 1}/{len(w.body)}"),
        lambda w, at: partial(w, at + 1, w.body, f"bytes {at + 1}-{len(w.body) - 1}/{len(w.body)}"),
        lambda w, at: partial(w, at + 1, w.body, f"bytes {at}-{len(w.body) - 2}/{len(w.body) - 1}"),
        lambda w, at: partial(w, at, w.body + b"x", f"bytes {at}-{len(w.body)}/{len(w.body) + 1}"),
        lambda w, at: partial(w, at, w.body, f"bytes {at}-{len(w.body) - 1}/*"),
        lambda w, at: partial(w, at, w.body, None),
        lambda w, at: partial(w, at, w.body, "bytes nonsense"),
        lambda w, at: Answer(b"", 416, {"Content-Range": f"bytes */{len(w.body)}"}),
        lambda w, at: Answer(b"no", 404),
        lambda w, at: Answer(HTML, headers={"Content-Type": "text/html"}),
        lambda w, at: Answer(cut_at=-1),
    ],
    ids=[
        "right",
        "whole",
        "wrong last byte",
        "whole and wrong",
        "other bytes",
        "from further on",
        "of less",
        "of more",
        "of an unknown length",
        "no Content-Range",
        "nonsense",
        "416",
        "404",
        "HTML",
        "cut again",
    ],
)
@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_a_broken_download_is_never_patched_up_wrongly(
    size: int, second: Callable[[CacheRequest, int], Answer], proxy: Proxy, origin: Origin, ask: Ask
) -> None:
    """Whatever the origin says where a download may be resumed: it ends in the content or visibly not."""
    wanted = blob(size)
    again = second(wanted, size // 2)
    origin.on(wanted.path, wanted.answer(cut_at=size // 2), again)
    reply = ask(wanted.path)
    if reply.status == 200 and reply.complete:
        assert reply.digest == wanted.digest
        wait_until(lambda: wanted.digest in proxy.blobs(), "it is in the store")
    else:
        assert_wrong(reply, wanted, proxy)
    assert_recovers(wanted, origin, proxy, ask)
    assert proxy.parts() == []


def test_one_bad_answer_is_everybodys(proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
    """Many followers of one wrong download: each of them is cut."""
    wanted = blob(LARGE)
    origin.on(wanted.path, wanted.answer(wrong_at=LARGE - 1, rate=4_000_000))
    clients = [stack.enter_context(proxy.client(origin.authority)) for _ in range(20)]
    for client in clients:
        client.ask("GET", wanted.path)
    for client in clients:
        assert not client.read_reply().complete
    assert wanted.digest not in proxy.blobs()
    assert proxy.metric("regproxy_digest_mismatches_total") > 0
