"""Content as real origins send it: no pull fails through the proxy that works without it.

What can't be verified or stored goes on as it came, uncached, and Cache-Status says why.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any

import pytest

from tests.support.byte_streams import End
from tests.support.client import Reply
from tests.support.images import INDEX, MANIFEST, digest_of, make_image
from tests.support.origin import RANGE, Answer, Origin, Script, Seen, blob_answer, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX), ("Accept", DOCKER), ("Accept", SIGNED)]
NUMBERS = itertools.count()
MIB = 1 << 20
Ask = Callable[..., Reply]


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


def start(tmp_path_factory: pytest.TempPathFactory, origin: Origin, trust: Trust, **env: str) -> Proxy:
    return Proxy(
        tmp_path_factory.mktemp("proxy"),
        {
            "MANIFEST_CACHE_DEFAULT_TIME": "1s",
            "MANIFEST_CACHE_PRIMARY_TIME": "1s",
            "REGPROXY_RESUME_TIME": "1s",
            **env,
        },
        registries=(origin.authority,),
        resolve=origin.resolve,
        ca=trust.path,
    )


@pytest.fixture(scope="module")
def kept(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that keeps tags."""
    with start(tmp_path_factory, origin, trust, ENABLE_MANIFEST_CACHE="true") as proxy:
        yield proxy
    assert "Traceback" not in proxy.log(), proxy.log()


@pytest.fixture(scope="module")
def asked(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that asks for tags each time."""
    with start(tmp_path_factory, origin, trust, ENABLE_MANIFEST_CACHE="false") as proxy:
        yield proxy
    assert "Traceback" not in proxy.log(), proxy.log()


@pytest.fixture(params=["kept", "asked"])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    found: Proxy = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def ask(proxy: Proxy, origin: Origin, stack: ExitStack) -> Ask:
    client = stack.enter_context(proxy.client(origin.authority))

    def ask(path: str, method: str = "GET", *more: tuple[str, str]) -> Reply:
        return client.request(method, path, [*ACCEPT, *more])

    return ask


def noise(size: int) -> bytes:
    return random.Random(f"field {next(NUMBERS)}").randbytes(size)


def letters() -> str:
    """Return the end of a tag's name that makes it no version: those are of a tier with a longer time."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(next(NUMBERS)))


def blob_path(body: bytes) -> str:
    return f"/v2/app/blobs/{digest_of(body)}"


def detail(reply: Reply) -> str:
    """What Cache-Status says of why the cache was passed by."""
    said_of_it = reply.get("Cache-Status") or ""
    return said_of_it.partition("fwd=bypass; detail=")[2]


# --- what goes on as it came -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Odd:
    """Content that can't be stored: what is sent, and why it is not."""

    body: bytes
    headers: dict[str, str]
    detail: str
    status: int = 200

    def answer(self, **how: Any) -> Answer:
        return Answer(self.body, self.status, self.headers, ranges=False, **how)


def manifest(media_type: str = MANIFEST, **fields: object) -> bytes:
    document = {"schemaVersion": 2, "mediaType": media_type, "config": {}, "layers": [], "n": next(NUMBERS)}
    return json.dumps(document | fields).encode()


def signed_schema1() -> tuple[bytes, str]:
    """A manifest with signatures, and the digest of its payload (distribution, manifest v2 schema 1)."""
    payload = json.dumps(
        {"schemaVersion": 1, "name": "app", "tag": f"t{next(NUMBERS)}", "fsLayers": []}, indent=3
    )
    end = payload.rindex("\n}")
    signatures = ',\n   "signatures": [{"signature": "x", "protected": "e30"}]'
    return (payload[:end] + signatures + "\n}").encode(), digest_of(payload.encode())


def schema1_without_digest() -> Odd:
    return Odd(signed_schema1()[0], {"Content-Type": SIGNED}, "signed-schema1")


def schema1() -> Odd:
    body, digest = signed_schema1()
    return Odd(body, {"Content-Type": SIGNED, "Docker-Content-Digest": digest}, "signed-schema1")


def described(body: bytes, media_type: str, why: str, status: int = 200, **more: str) -> Odd:
    names = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(body)}
    return Odd(body, names | more, why, status)


def coded(coding: str) -> Odd:
    return described(manifest(), MANIFEST, "content-coding", 200, **{"Content-Encoding": coding})


TAGS: dict[str, Callable[[], Odd]] = {
    "signed schema 1": schema1,
    "signed schema 1 without a digest": schema1_without_digest,
    "4.4 MiB": lambda: described(manifest(pad="x" * int(4.4 * MIB)), MANIFEST, "too-large"),
    "just over 4 MiB": lambda: described(manifest(pad="x" * (4 * MIB)), MANIFEST, "too-large"),
    "OCI sent as Docker's": lambda: described(manifest(), DOCKER, "media-type"),
    "an index's type over a manifest": lambda: described(manifest(), INDEX, "media-type"),
    "mediaType is a number": lambda: described(manifest(mediaType=7), MANIFEST, "media-type"),
    "gzip": lambda: coded("gzip"),
    "zstd": lambda: coded("zstd"),
    "gzip and aws-chunked": lambda: coded("gzip, aws-chunked"),
    "no schemaVersion": lambda: described(manifest(schemaVersion=None), MANIFEST, "no-manifest"),
    "schemaVersion is a text": lambda: described(manifest(schemaVersion="2"), MANIFEST, "no-manifest"),
    "an index whose manifests are null": lambda: described(
        manifest(INDEX, manifests=None), INDEX, "no-manifest"
    ),
    "letters that are no UTF-8": lambda: described(
        manifest(by="?").replace(b"?", b"\xfc"), MANIFEST, "no-manifest"
    ),
    "a number of 5,000 digits": lambda: described(
        manifest(n2="?").replace(b'"?"', b"9" * 5000), MANIFEST, "no-manifest"
    ),
}
FRAMINGS = ["length", "chunked", "eof"]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("make", TAGS.values(), ids=TAGS)
def test_a_tag_goes_on_as_it_came(
    make: Callable[[], Odd], framing: Any, proxy: Proxy, origin: Origin, ask: Ask
) -> None:
    """To each who asks, and the second time at once: it is known by then."""
    odd, path = make(), f"/v2/app/manifests/odd{letters()}"
    origin.on(path, odd.answer(framing=framing))
    for _ in range(2):
        reply = ask(path)
        assert (reply.status, reply.body, reply.complete) == (200, odd.body, True)
        for name, value in odd.headers.items():
            assert reply.get(name) == value
        assert (said(reply)[0], detail(reply)) == ("BYPASS", odd.detail)
        assert reply.get("Docker-Content-Digest") == odd.headers.get("Docker-Content-Digest")
    assert origin.hits[path] == 3
    head = ask(path, "HEAD")
    assert (head.status, head.get("Docker-Content-Digest")) == (200, odd.headers.get("Docker-Content-Digest"))


def test_it_is_counted(proxy: Proxy, origin: Origin, ask: Ask) -> None:
    before = proxy.metric("regproxy_passed_on_total", reason="content-coding")
    path = f"/v2/app/manifests/odd{letters()}"
    origin.on(path, coded("br").answer())
    assert ask(path).status == 200
    assert proxy.metric("regproxy_passed_on_total", reason="content-coding") == before + 1


DIGESTS: dict[str, Callable[[], Odd]] = {name: TAGS[name] for name in ("signed schema 1", "4.4 MiB", "gzip")}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("make", DIGESTS.values(), ids=DIGESTS)
def test_a_manifest_by_digest_goes_on_as_it_came(
    make: Callable[[], Odd], framing: Any, proxy: Proxy, origin: Origin, ask: Ask
) -> None:
    odd = make()
    path = f"/v2/app/manifests/{odd.headers['Docker-Content-Digest']}"
    origin.on(path, odd.answer(framing=framing))
    for _ in range(2):
        reply = ask(path)
        assert (reply.status, reply.body, detail(reply)) == (200, odd.body, odd.detail)


@pytest.mark.parametrize("held", [False, True], ids=["cold", "held"])
def test_what_is_newer_goes_before_an_older_copy(
    held: bool, kept: Proxy, origin: Origin, stack: ExitStack
) -> None:
    path = f"/v2/app/manifests/moves{letters()}"
    odd = TAGS["4.4 MiB"]()
    client = stack.enter_context(kept.client(origin.authority))
    if held:
        origin.on(path, manifest_answer(make_image(size=100, layers=1, seed=next(NUMBERS))))
        assert said(client.get(path, ACCEPT))[0] == "MISS"
    origin.on(path, odd.answer())
    wait_until(lambda: client.get(path, ACCEPT).body == odd.body, "the copy expires")


@pytest.mark.parametrize("status", [500, 503])
def test_an_older_copy_goes_before_trouble(
    status: int, proxy: Proxy, origin: Origin, stack: ExitStack
) -> None:
    path, odd = f"/v2/app/manifests/falls{letters()}", TAGS["4.4 MiB"]()
    image = make_image(size=100, layers=1, seed=next(NUMBERS))
    client = stack.enter_context(proxy.client(origin.authority))
    origin.on(path, manifest_answer(image))
    assert client.get(path, ACCEPT).body == image.manifest
    origin.on(path, odd.answer())
    wait_until(lambda: client.get(path, ACCEPT).body == odd.body, "the copy expires")
    origin.on(path, Answer(b"{}", status))
    for _ in range(2):
        reply = client.get(path, ACCEPT)
        assert (reply.status, reply.body, said(reply)[0]) == (200, image.manifest, "STALE")


MOVED = ["OCI sent as Docker's", "an index's type over a manifest", "no schemaVersion", "gzip"]


@pytest.mark.parametrize("name", MOVED)
def test_a_tag_that_has_moved_to_it(name: str, proxy: Proxy, origin: Origin, ask: Ask) -> None:
    """A HEAD names it, and it comes by its digest; it is sent as the registry sends the tag all the same."""
    path, odd = f"/v2/app/manifests/moved{letters()}", TAGS[name]()
    origin.on(path, manifest_answer(make_image(size=100, layers=1, seed=next(NUMBERS))))
    ask(path)
    origin.on(path, odd.answer())
    origin.on(f"/v2/app/manifests/{odd.headers['Docker-Content-Digest']}", odd.answer())
    wait_until(lambda: ask(path).body == odd.body, "the copy expires")
    for _ in range(2):
        reply = ask(path)
        assert (reply.status, reply.body) == (200, odd.body)
        assert reply.get("Content-Type") == odd.headers["Content-Type"]


def test_a_manifest_that_is_held_as_a_blob(proxy: Proxy, origin: Origin, ask: Ask) -> None:
    """Its registry says what it is as a manifest."""
    body = manifest(pad="x" * (5 * MIB))
    odd = described(body, MANIFEST, "no-manifest")
    origin.on(blob_path(body), blob_answer(digest_of(body), body))
    assert ask(blob_path(body)).body == body
    proxy.wait_kept(digest_of(body))
    path = f"/v2/app/manifests/{digest_of(body)}"
    origin.on(path, odd.answer())
    reply = ask(path)
    assert (reply.status, reply.body, reply.get("Content-Type")) == (200, body, MANIFEST)


BLOBS: dict[str, Callable[[bytes], Odd]] = {
    "gzip": lambda body: described(body, "x/y", "content-coding", 200, **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("size", [900, 400_000])
@pytest.mark.parametrize("make", BLOBS.values(), ids=BLOBS)
def test_a_blob_goes_on_as_it_came(
    make: Callable[[bytes], Odd], size: int, proxy: Proxy, origin: Origin, ask: Ask
) -> None:
    body = noise(size)
    odd = make(body)
    origin.on(blob_path(body), odd.answer())
    reply = ask(blob_path(body))
    assert (reply.status, reply.body, detail(reply)) == (odd.status, odd.body, odd.detail)


# --- what is stored all the same -------------------------------------------------------------------------


def raw_head(body: bytes, *lines: str, first: str = "HTTP/1.1 200 OK") -> Answer:
    fields = (first, *lines, f"Content-Length: {len(body)}", "", "")
    return Answer(raw="\r\n".join(fields).encode("latin-1") + body)


STORED: dict[str, Callable[[bytes], Script]] = {
    "aws-chunked": lambda body: Answer(body, headers={"Content-Encoding": "aws-chunked"}),
    "aws-chunked and identity": lambda body: Answer(
        body, headers={"Content-Encoding": "identity,aws-chunked"}
    ),
    "status 201": lambda body: Answer(body, 201),
    "status 202": lambda body: Answer(body, 202),
    "status 203": lambda body: Answer(body, 203),
    "status 226": lambda body: Answer(body, 226),
    "206 of an unknown length": lambda body: Answer(
        body, 206, {"Content-Range": f"bytes 0-{len(body) - 1}/*"}
    ),
    "206 without Content-Range": lambda body: Answer(body, 206),
    "206 with an odd Content-Range": lambda body: Answer(
        body, 206, {"Content-Range": f"bytes=0-{len(body) - 1}/{len(body)}"}
    ),
    "206 with all of it": lambda body: Answer(
        body, 206, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
    ),
    "a folded field": lambda body: raw_head(body, "X-Amz-Meta: a", "\tb"),
    "blanks ahead of colons": lambda body: raw_head(body, "Content-Type : x/y", "X\t:z"),
    "a control character": lambda body: raw_head(body, "X-Amz-Meta: a\x01b"),
    "an odd reason": lambda body: raw_head(body, first="HTTP/1.1 200 \x01\x7f!"),
    "no reason": lambda body: raw_head(body, first="HTTP/1.1 200"),
    "two blanks": lambda body: raw_head(body, first="HTTP/1.1  200 OK"),
    "lines without CR": lambda body: Answer(
        raw=f"HTTP/1.1 200 OK\nContent-Length: {len(body)}\n\n".encode() + body
    ),
    "a length twice": lambda body: raw_head(body, f"Content-Length: {len(body)}"),
    "a line that is no field": lambda body: raw_head(body, "nonsense"),
    "to the end, close_notify": lambda body: Answer(body, framing="eof"),
    "to the end, FIN": lambda body: Answer(body, framing="eof", cut_at=len(body), cut=End.FIN),
    "HTTP/1.0 to the end, FIN": lambda body: Answer(raw=b"HTTP/1.0 200 OK\r\n\r\n" + body, cut=End.FIN),
    "with a length, then FIN": lambda body: Answer(body, declared=len(body), cut=End.FIN),
}


@pytest.mark.parametrize("size", [900, 400_000])
@pytest.mark.parametrize("make", STORED.values(), ids=STORED)
def test_a_blob_that_its_digest_names_is_stored(
    make: Callable[[bytes], Script], size: int, kept: Proxy, origin: Origin, stack: ExitStack
) -> None:
    body = noise(size)
    origin.on(blob_path(body), make(body))
    client = stack.enter_context(kept.client(origin.authority))
    if not isinstance(script := make(body), Answer) or script.raw is None:
        head = client.request("HEAD", blob_path(body))
        assert (head.status, head.get("Content-Encoding")) == (200, None)
    first = client.get(blob_path(body))
    assert (first.status, first.digest, first.complete) == (200, digest_of(body), True)
    assert first.get("Content-Encoding") is None
    kept.wait_kept(digest_of(body))
    with kept.client(origin.authority) as other:
        assert said(other.get(blob_path(body)))[0] == "HIT"


@pytest.mark.parametrize("end", [End.FIN, End.CLOSE_NOTIFY, End.RST], ids=lambda end: end.name)
@pytest.mark.parametrize("sized", [False, True], ids=["to the end", "with a length"])
@pytest.mark.parametrize("size", [900, 400_000])
def test_a_body_that_ends_early_is_never_whole(
    size: int, sized: bool, end: End, kept: Proxy, origin: Origin
) -> None:
    body = noise(size)
    framing: Any = "length" if sized else "eof"
    answer = blob_answer(digest_of(body), body, framing=framing, cut_at=size // 2, cut=end, ranges=False)
    origin.on(blob_path(body), answer)
    with kept.client(origin.authority) as client:
        reply = client.get(blob_path(body))
    assert not (reply.status == 200 and reply.complete)
    assert digest_of(body) not in kept.blobs()


# --- ranges ----------------------------------------------------------------------------------------------


def larger(body: bytes, most: int) -> Script:
    """Answer a range by one that begins where it should, and ends `most` bytes later than was asked."""

    def answer(seen: Seen) -> Answer:
        match = RANGE.fullmatch(seen.get("range") or "")
        if not match or not match[1]:
            return blob_answer(digest_of(body), body, ranges=False)
        start = int(match[1])
        stop = min(len(body), (int(match[2]) + 1 + most) if match[2] else len(body))
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
        return Answer(body[start:stop], 206, headers)

    return answer


def other_start(body: bytes) -> Script:
    """Answer a range by one that begins a byte later."""

    def answer(seen: Seen) -> Answer:
        match = RANGE.fullmatch(seen.get("range") or "")
        if not match or not match[1]:
            return blob_answer(digest_of(body), body, ranges=False)
        start = int(match[1]) + 1
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return Answer(body[start:], 206, headers)

    return answer


def refused(answer: Callable[[bytes], Answer]) -> Callable[[bytes], Script]:
    """Answer every range so, and a request without one by the content."""

    def make(body: bytes) -> Script:
        return lambda seen: (
            answer(body) if seen.get("range") else blob_answer(digest_of(body), body, ranges=False)
        )

    return make


REFUSED_RANGES: dict[str, Callable[[bytes], Script]] = {
    **{
        str(status): refused(lambda body, status=status: Answer(b"", status))  # type: ignore[misc]
        for status in (204, 304, 400, 403, 404, 406, 416, 422, 500, 501, 502, 503)
    },
    "no HTTP": refused(lambda body: Answer(raw=b"garbage\r\n\r\n")),
    "no answer": refused(lambda body: Answer(cut_at=-1)),
    "a reset": refused(lambda body: Answer(cut_at=-1, cut=End.RST)),
}


@pytest.mark.parametrize("size", [3 * MIB, 24 * MIB])
@pytest.mark.parametrize("make", REFUSED_RANGES.values(), ids=REFUSED_RANGES)
def test_an_origin_that_has_no_ranges(
    make: Callable[[bytes], Script], size: int, kept: Proxy, origin: Origin
) -> None:
    """A client's range, and a body that has broken off: one plain answer brings the rest."""
    body, other = noise(size), noise(size)
    origin.on(blob_path(body), make(body))
    whole = make(other)
    assert callable(whole)
    broken = iter([blob_answer(digest_of(other), other, cut_at=size // 2 + 11, ranges=False)])
    origin.on(blob_path(other), lambda seen: next(broken, None) or whole(seen))
    with kept.client(origin.authority) as client:
        part = client.get(blob_path(body), [("Range", f"bytes={2 * MIB}-{2 * MIB + 99}")])
        assert (part.status, part.body) == (206, body[2 * MIB : 2 * MIB + 100])
        assert client.get(blob_path(other)).digest == digest_of(other)
    kept.wait_kept(digest_of(body), digest_of(other))


WRONG_RANGES: dict[str, Callable[[bytes], Script]] = {
    "1 MiB more": lambda body: larger(body, MIB),
    "all the rest": lambda body: larger(body, len(body)),
    "another start": other_start,
}


@pytest.mark.parametrize("size", [3 * MIB, 24 * MIB])
@pytest.mark.parametrize("make", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_a_range_that_is_not_as_it_was_asked_for(
    make: Callable[[bytes], Script], size: int, kept: Proxy, origin: Origin
) -> None:
    """The client's range comes first, the rest of the content behind it, whatever the origin makes of it."""
    body = noise(size)
    origin.on(blob_path(body), make(body))
    start = 2 * MIB
    with kept.client(origin.authority) as client:
        part = client.get(blob_path(body), [("Range", f"bytes={start}-{start + 99}")])
        assert (part.status, part.body) == (206, body[start : start + 100])
        assert client.get(blob_path(body)).digest == digest_of(body)
    kept.wait_kept(digest_of(body))


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=0- "])
def test_all_of_a_blob_of_unknown_length(wanted: str, kept: Proxy, origin: Origin) -> None:
    """The head and what is there come before the end does."""
    body, go = noise(300_000), threading.Event()
    answer = blob_answer(digest_of(body), body, framing="chunked", hold_at=200_000, hold=go, ranges=False)
    origin.on(blob_path(body), answer)
    with kept.client(origin.authority) as client:
        client.ask("GET", blob_path(body), [("Range", wanted)])
        begun = client.read(100_000)
        assert begun.startswith(b"HTTP/1.1 200 ")
        go.set()


SEVERAL = [
    ("bytes=0-9,20-29", [(0, 10), (20, 30)]),
    ("bytes=0-0, 999-999", [(0, 1), (999, 1000)]),
    ("bytes=-10,0-9", [(990, 1000), (0, 10)]),
    ("bytes=0-9,5000-", [(0, 10)]),
    ("bytes=0-9,,20-29", [(0, 10), (20, 30)]),
    ("BYTES=0-9,20-29", [(0, 10), (20, 30)]),
    ("bytes=5000-,6000-", None),
    ("bytes=0-,0-", []),
    ("bytes=0-9,x", []),
    ("bytes=" + ",".join(f"{n}-{n}" for n in range(17)), []),
    ("items=0-9,20-29", []),
]


@pytest.mark.parametrize("wanted, spans", SEVERAL, ids=[wanted[:24] for wanted, _ in SEVERAL])
def test_several_ranges(
    wanted: str, spans: list[tuple[int, int]] | None, kept: Proxy, origin: Origin, stack: ExitStack
) -> None:
    """RFC 9110 14.6: parts, one range, all of it, or none."""
    body = random.Random("several").randbytes(1000)
    origin.on(blob_path(body), blob_answer(digest_of(body), body))
    client = stack.enter_context(kept.client(origin.authority))
    client.get(blob_path(body))
    kept.wait_kept(digest_of(body))
    reply = client.get(blob_path(body), [("Range", wanted)])
    if spans is None:
        assert (reply.status, reply.get("Content-Range")) == (416, "bytes */1000")
    elif not spans:
        assert (reply.status, reply.body) == (200, body)
    elif len(spans) == 1:
        assert (reply.status, reply.body) == (206, body[slice(*spans[0])])
    else:
        assert reply.status == 206
        assert parts_of(reply) == [(f"bytes {a}-{b - 1}/1000", body[a:b]) for a, b in spans]
    assert "regproxy; hit" in (reply.get("Cache-Status") or "")
    assert client.get(blob_path(body)).body == body, "the connection goes on"


def parts_of(reply: Reply) -> list[tuple[str, bytes]]:
    head = f"Content-Type: {reply.get('Content-Type')}\r\n\r\n".encode()
    message = message_from_bytes(head + reply.body, policy=policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    found = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((str(part["content-range"]), content))
    return found


def test_several_ranges_of_a_large_blob(kept: Proxy, origin: Origin, stack: ExitStack) -> None:
    """They go out as they are read, to a client that takes its time, too; one that leaves costs nothing."""
    body = noise(20 * MIB)
    origin.on(blob_path(body), blob_answer(digest_of(body), body))
    with kept.client(origin.authority) as client:
        client.get(blob_path(body))
        kept.wait_kept(digest_of(body))
        wanted = f"bytes=0-{9 * MIB - 1},{10 * MIB}-{19 * MIB - 1}"
        reply = client.get(blob_path(body), [("Range", wanted)])
        whole = hashlib.sha256(reply.body).digest()
        assert reply.complete and body[: 9 * MIB] in reply.body and body[10 * MIB : 19 * MIB] in reply.body
    with kept.client(origin.authority) as leaves:
        leaves.ask("GET", blob_path(body), [("Range", wanted)])
        leaves.read(1000)
    with kept.client(origin.authority) as client:
        again = client.get(blob_path(body), [("Range", wanted)])
        assert again.complete and hashlib.sha256(again.body).digest() != whole  # another boundary


# --- tags ------------------------------------------------------------------------------------------------


def test_the_type_is_the_contents(kept: Proxy, origin: Origin, stack: ExitStack) -> None:
    """A HEAD that names another type than the GET did changes nothing."""
    body = json.dumps({"schemaVersion": 2, "config": {}, "layers": [], "n": next(NUMBERS)}).encode()
    path = f"/v2/app/manifests/typed{letters()}"

    def answer(seen: Seen) -> Answer:
        media_type = MANIFEST if seen.method == "GET" else DOCKER
        return Answer(body, headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(body)})

    origin.on(path, answer)
    client = stack.enter_context(kept.client(origin.authority))
    assert client.get(path, ACCEPT).get("Content-Type") == MANIFEST

    def confirmed() -> bool:
        reply = client.get(path, ACCEPT)
        assert reply.get("Content-Type") == MANIFEST
        return said(reply)[0] == "REVALIDATED"

    wait_until(confirmed, "it expires, and is confirmed")
    assert client.get(path, ACCEPT).get("Content-Type") == MANIFEST


LISTS = [
    *("sha256-" + "a" * 64 + end for end in ("", ".sig", ".att", ".sbom", "-sig", "_1.0")),
    *("sha256-" + "A" * 64, "sha384-" + "c" * 96, "sha512-" + "b" * 64, "sha512-" + "b" * 120),
]


@pytest.mark.parametrize("tag", LISTS, ids=lambda tag: tag[:8] + tag[-5:] + str(len(tag)))
def test_a_tag_that_is_named_after_a_digest(tag: str, kept: Proxy, origin: Origin, stack: ExitStack) -> None:
    """It is a list that grows, however much its name is like a version: asked for again soon, by HEAD."""
    path = f"/v2/app/manifests/{tag}"
    origin.on(path, manifest_answer(make_image(size=100, layers=1, seed=next(NUMBERS))))
    client = stack.enter_context(kept.client(origin.authority))
    client.get(path, ACCEPT)
    wait_until(lambda: said(client.get(path, ACCEPT))[0] == "REVALIDATED", "it expires")
    assert origin.requests[-1].method == "HEAD"
