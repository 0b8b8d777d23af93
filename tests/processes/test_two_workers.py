"""One cache, two workers: what one of them fetches, changes or removes is the other's business at once."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image
from tests.support.origin import Answer, Origin, blob_answer, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust
from tests.support.two_workers import Pair

LARGE = 3_000_000
SMALL = 20_000
HOLD_BACK = 16_384
SEEDS = itertools.count()
BOTH = [("Accept", MANIFEST), ("Accept", INDEX)]


class Cold(NamedTuple):
    """Content that nobody has asked for yet."""

    path: str
    digest: str
    body: bytes


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def silent(trust: Trust) -> Iterator[Origin]:
    """An origin to which no connection is kept, that might have been closed meanwhile."""
    with Origin(trust, "silent.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(
    origin: Origin, silent: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        {"REGPROXY_WORKERS": "2", "ENABLE_MANIFEST_CACHE": "true", "ALLOW_PUSH": "true"},
        registries=(origin.authority, silent.authority),
        resolve=origin.resolve | silent.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy


@pytest.fixture
def pair(proxy: Proxy, origin: Origin) -> Pair:
    return Pair(proxy, origin.authority)


def cold(origin: Origin, size: int, *scripts: dict[str, object]) -> Cold:
    """New content; the origin answers as each of the scripts says, one after another."""
    body = random.Random(f"across-{next(SEEDS)}").randbytes(size)
    digest = digest_of(body)
    path = f"/v2/app/blobs/{digest}"
    origin.on(path, *(blob_answer(digest, body, **faults) for faults in (scripts or ({},))))
    return Cold(path, digest, body)


def whole(reply: Reply, blob: Cold) -> bool:
    return (reply.status, reply.complete, reply.digest) == (200, True, blob.digest)


def nothing_left(proxy: Proxy) -> None:
    wait_until(lambda: proxy.parts() == [], "no part is left behind")


class TestOneDownload:
    """Whichever worker is asked."""

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_of_a_blob(
        self, size: int, framing: str, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        go = threading.Event()
        blob = cold(origin, size, {"hold_at": size // 2, "hold": go, "framing": framing})
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids() for _ in range(5)]
        for client in clients:
            client.ask("GET", blob.path)
        wait_until(lambda: proxy.metric("regproxy_fill_waiters") == 10, "all wait")
        go.set()
        replies = [client.read_reply() for client in clients]
        assert all(whole(reply, blob) for reply in replies)
        assert origin.hits[blob.path] == 1
        assert sorted(said(reply)[0] or "" for reply in replies) == ["MISS"] + ["UPDATING"] * 9
        proxy.wait_kept(blob.digest)
        nothing_left(proxy)

    def test_the_bytes_come_as_they_do(self, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        """A follower has every byte that there is, but for the end, while the origin is still sending."""
        go, half = threading.Event(), LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": go})
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(half) == blob.body[:half]
        two.ask("GET", blob.path)
        assert two.read_head().status == 200
        assert two.read(half) == blob.body[:half]
        go.set()
        assert two.read(LARGE - half) == blob.body[half:]
        assert one.read(LARGE - half) == blob.body[half:]

    def test_of_a_manifest(self, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        go = threading.Event()
        image = make_image(size=1000, layers=1, seed=next(SEEDS))
        path = f"/v2/app/manifests/{image.digest}"
        origin.on(path, manifest_answer(image, hold_at=-1, hold=go))
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for client in clients:
            client.ask("GET", path, BOTH)
        wait_until(lambda: pair.proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        go.set()
        for client in clients:
            reply = client.read_reply()
            assert (reply.body, reply.get("Content-Type")) == (image.manifest, MANIFEST)
        assert origin.hits[path] == 1

    @pytest.mark.parametrize("status", [200, 404, 503])
    def test_of_a_tag(self, status: int, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        """Equal requests share the answer, whatever it is."""
        go = threading.Event()
        path, image = tagged("stable")
        answer = manifest_answer(image, hold_at=-1, hold=go)
        if status != 200:
            answer = Answer(b'{"errors":[]}', status, {"X-Why": "because"}, hold_at=-1, hold=go)
        origin.on(path, answer)
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids() for _ in range(3)]
        for client in clients:
            client.ask("GET", path, BOTH)
        wait_until(lambda: pair.proxy.metric("regproxy_fill_waiters") == 6, "all wait")
        go.set()
        replies = [client.read_reply() for client in clients]
        assert [reply.status for reply in replies] == [status] * 6
        assert {reply.body for reply in replies} == {answer.body}
        if status != 200:
            assert {reply.get("X-Why") for reply in replies} == {"because"}
        assert origin.hits[path] == (3 if status == 503 else 1)  # it may have been a stumble

    def test_requests_for_a_tag_that_differ_do_not_share(
        self, pair: Pair, origin: Origin, stack: ExitStack
    ) -> None:
        go = threading.Event()
        path, image = tagged("stable")
        origin.on(path, manifest_answer(image, hold_at=-1, hold=go))
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for number, client in enumerate(clients):
            client.ask("GET", path, [*BOTH, ("Authorization", f"Bearer {number}")])
        origin.wait_for(lambda origin: origin.hits[path] == 2)
        go.set()
        assert [client.read_reply().status for client in clients] == [200, 200]

    def test_a_refusal_is_nobody_elses(self, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        go = threading.Event()
        blob = cold(origin, LARGE)
        origin.on(
            blob.path,
            lambda seen: (
                blob_answer(blob.digest, blob.body)
                if seen.get("authorization") == "Bearer good"
                else Answer(b"{}", 401, hold_at=-1, hold=go)
            ),
        )
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
        one.ask("GET", blob.path, [("Authorization", "Bearer bad")])
        origin.wait_for(lambda origin: origin.hits[blob.path] == 1)
        two.ask("GET", blob.path, [("Authorization", "Bearer good")])
        wait_until(lambda: pair.proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        go.set()
        assert one.read_reply().status == 401
        assert whole(two.read_reply(), blob)


def tagged(tag: str) -> tuple[str, Image]:
    number = next(SEEDS)
    return f"/v2/app{number}/manifests/{tag}", make_image(size=1000, layers=1, seed=number)


class TestDeath:
    """A worker that is killed takes its own connections with it, and not a byte of what it has fetched."""

    def test_of_the_filler(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        half = LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": threading.Event()}, {})
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(half) == blob.body[:half]
        two.ask("GET", blob.path)
        assert two.read_head().status == 200
        assert two.read(1000) == blob.body[:1000]
        assert pair.filler(blob.digest) == filling
        pair.kill(filling)
        assert two.read(LARGE - 1000) == blob.body[1000:]
        first, second = (seen for seen in origin.requests if seen.path == blob.path)
        assert (first.get("range"), second.get("range")) == (None, f"bytes={half}-")
        proxy.wait_kept(blob.digest)
        nothing_left(proxy)
        assert one.read_end()[1] is not End.CLOSE_NOTIFY

    def test_of_the_filler_of_a_small_one(
        self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        """Nothing has been sent to anybody, and nobody is told of it."""
        blob = cold(origin, SMALL, {"hold_at": 10_000, "hold": threading.Event()}, {})
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        origin.wait_for(lambda origin: any(s.path == blob.path and s.sent == 10_000 for s in origin.requests))
        two.ask("GET", blob.path)
        wait_until(lambda: proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        pair.kill(filling)
        assert whole(two.read_reply(), blob)
        nothing_left(proxy)

    def test_before_a_byte_came(self, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        blob = cold(origin, LARGE, {"hold_at": -1, "hold": threading.Event()}, {})
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        origin.wait_for(lambda origin: origin.hits[blob.path] == 1)
        two.ask("GET", blob.path)
        wait_until(lambda: pair.proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        pair.kill(filling)
        assert whole(two.read_reply(), blob)

    def test_where_the_origin_knows_no_ranges(
        self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        half = LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": threading.Event()}, {"ranges": False})
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        two.ask("GET", blob.path)
        assert two.read_head().status == 200
        assert two.read(half) == blob.body[:half]
        pair.kill(filling)
        assert two.read(LARGE - half) == blob.body[half:]
        proxy.wait_kept(blob.digest)

    def test_with_an_origin_that_has_changed_its_mind(
        self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        """Another length is another content: nobody is given a mixture."""
        half = LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": threading.Event()})
        origin.on(
            blob.path,
            blob_answer(blob.digest, blob.body, hold_at=half, hold=threading.Event()),
            blob_answer(blob.digest, blob.body + b"more"),
        )
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        two.ask("GET", blob.path)
        assert two.read_head().status == 200
        assert two.read(half) == blob.body[:half]
        pair.kill(filling)
        rest, end = two.read_end()
        assert (len(rest) < LARGE - half, end) == (True, End.RST)
        assert blob.digest not in proxy.blobs()

    def test_of_a_follower(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        go, half = threading.Event(), LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": go})
        filling, following = pair.pids()
        one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        two.ask("GET", blob.path)
        assert two.read_head().status == 200
        pair.kill(following)
        go.set()
        assert one.read(LARGE) == blob.body
        assert origin.hits[blob.path] == 1
        proxy.wait_kept(blob.digest)

    def test_of_all_workers(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        """What was fetched is on disk, and the next client's fill goes on behind it."""
        half = LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": threading.Event()}, {})
        one = stack.enter_context(pair.client(pair.pids()[0]))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(half) == blob.body[:half]
        pair.kill(*pair.pids())
        with proxy.client(origin.authority) as again:
            assert whole(again.get(blob.path), blob)
        assert origin.requests[-1].get("range") == f"bytes={half}-"
        proxy.wait_kept(blob.digest)
        nothing_left(proxy)

    def test_behind_the_last_byte(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        """All of it is there, unverified: nothing needs to be fetched but the certainty."""
        blob = cold(origin, LARGE, {"hold_at": LARGE - 1, "hold": threading.Event()}, {})
        one = stack.enter_context(pair.client(pair.pids()[0]))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(LARGE - HOLD_BACK) == blob.body[:-HOLD_BACK]
        pair.kill(*pair.pids())
        part = proxy.cache_dir / "parts" / f"{blob.digest[7:]}.part"
        part.write_bytes(blob.body)
        hits = origin.hits[blob.path]
        with proxy.client(origin.authority) as again:
            assert whole(again.get(blob.path), blob)
        assert origin.hits[blob.path] == hits

    @pytest.mark.parametrize("damage", [b"", b"x" * 1000], ids=["cut", "garbage"])
    def test_with_a_part_that_is_damaged(
        self, damage: bytes, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        """What is there is not trusted: it costs at most one pull, and nothing wrong is kept."""
        half = LARGE // 2
        blob = cold(origin, LARGE, {"hold_at": half, "hold": threading.Event()}, {})
        one = stack.enter_context(pair.client(pair.pids()[0]))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(half) == blob.body[:half]
        pair.kill(*pair.pids())
        (proxy.cache_dir / "parts" / f"{blob.digest[7:]}.part").write_bytes(damage)
        with proxy.client(origin.authority) as again:
            first = again.get(blob.path)
        assert whole(first, blob) or not first.complete
        with proxy.client(origin.authority) as again:
            assert whole(again.get(blob.path), blob)
        nothing_left(proxy)


class TestFailure:
    """What fails in one worker fails in the other, where they have shared it."""

    def test_a_wrong_digest(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        go = threading.Event()
        blob = cold(origin, LARGE, {"hold_at": 1000, "hold": go, "wrong_at": LARGE - 1}, {})
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for client in clients:
            client.ask("GET", blob.path)
            assert client.read_head().status == 200
        go.set()
        for client in clients:
            body, end = client.read_end()
            assert (len(body) <= LARGE - HOLD_BACK, end) == (True, End.RST)
        nothing_left(proxy)
        assert blob.digest not in proxy.blobs()
        with proxy.client(origin.authority) as again:
            assert whole(again.get(blob.path), blob)

    def test_a_cut_body(self, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        """Nobody sees it: the rest is asked for."""
        go = threading.Event()
        blob = cold(origin, LARGE, {"hold_at": 1000, "hold": go, "cut_at": LARGE // 2}, {})
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for client in clients:
            client.ask("GET", blob.path)
            assert client.read_head().status == 200
        go.set()
        for client in clients:
            assert client.read(LARGE) == blob.body
        nothing_left(proxy)
        ranges = [seen.get("Range") for seen in origin.requests if seen.path == blob.path]
        assert ranges == [None, f"bytes={LARGE // 2}-"]

    def test_an_origin_that_does_not_answer(self, proxy: Proxy, silent: Origin, stack: ExitStack) -> None:
        """One worker has tried, and the others do not queue up behind it to try again."""
        go = threading.Event()
        pair, origin = Pair(proxy, silent.authority), silent
        blob = cold(origin, LARGE, {"hold_at": -1, "hold": go, "cut_at": -1})
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for client in clients:
            client.ask("GET", blob.path)
        wait_until(lambda: pair.proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        go.set()
        assert [client.read_reply().status for client in clients] == [502, 502]
        assert origin.hits[blob.path] == 3  # with two more chances


class TestTags:
    """What a tag is, all workers know at the same time."""

    def test_a_fresh_tag_is_fetched_once(self, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        path, image = tagged("v1.2.3")
        origin.on(path, manifest_answer(image))
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        first, *others = [said(client.get(path, BOTH))[0] for client in clients * 2]
        assert (first, set(others) <= {"HIT", "UPDATING"}) == ("MISS", True)
        assert origin.hits[path] == 1

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_a_change_is_everybodys(self, method: str, pair: Pair, origin: Origin, stack: ExitStack) -> None:
        path, old = tagged("v1.2.3")
        new = make_image(size=1000, layers=1, seed=next(SEEDS))
        now = [old]
        origin.on(
            path,
            lambda seen: Answer(b"", 201) if seen.method == method else manifest_answer(now[0]),
        )
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
        for client in (one, two):
            assert client.get(path, BOTH).body == old.manifest
        for pushing, pulling in ((one, two), (two, one)):
            now[0] = new if now[0] is old else old
            body = now[0].manifest if method == "PUT" else None
            assert pushing.request(method, path, [("Content-Type", MANIFEST)], body).status == 201
            assert pulling.get(path, BOTH).body == now[0].manifest
            assert pushing.get(path, BOTH).body == now[0].manifest

    def test_who_asks_behind_a_push_does_not_get_what_was_before(
        self, pair: Pair, origin: Origin, stack: ExitStack
    ) -> None:
        """A fetch that was under way while somebody pushed says nothing of the tag any more."""
        go = threading.Event()
        path, old = tagged("latest")
        new = make_image(size=1000, layers=1, seed=next(SEEDS))
        now = [manifest_answer(old, hold_at=100, hold=go)]
        origin.on(path, lambda seen: Answer(b"", 201) if seen.method == "PUT" else now[0])
        one, two, three = (stack.enter_context(pair.client(pid)) for pid in (*pair.pids(), pair.pids()[0]))
        one.ask("GET", path, BOTH)
        origin.wait_for(lambda origin: any(s.path == path and s.sent >= 100 for s in origin.requests))
        now[0] = manifest_answer(new)
        assert two.request("PUT", path, [("Content-Type", MANIFEST)], new.manifest).status == 201
        three.ask("GET", path, BOTH)
        go.set()
        assert one.read_reply().body == old.manifest
        assert three.read_reply().body == new.manifest
        for client in (one, two, three):
            assert client.get(path, BOTH).body == new.manifest


class TestRemoval:
    """What was removed is served by nobody any more, small things in memory included."""

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_verify_takes_out_what_is_damaged(
        self, size: int, pair: Pair, origin: Origin, proxy: Proxy, stack: ExitStack
    ) -> None:
        blob = cold(origin, size)
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        for client in clients:
            assert whole(client.get(blob.path), blob)
        proxy.wait_kept(blob.digest)
        place = proxy.cache_dir / "blobs" / "sha256" / blob.digest[7:9] / blob.digest[7:]
        data = bytearray(place.read_bytes())
        data[size // 2] ^= 1
        place.write_bytes(data)
        done = proxy.command("cache", "verify")
        assert done.returncode == 1, done
        wait_until(lambda: blob.digest not in proxy.blobs(), "it is out of the way")

        def again(client: Client) -> bool:
            return whole(client.get(blob.path), blob) and origin.hits[blob.path] == 2

        for client in clients:
            wait_until(partial(again, client), "it was fetched anew, once, and is whole")
