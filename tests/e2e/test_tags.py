"""Manifests by tag: the tiers, what is served when the registry is in trouble, and what a variant is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.images import INDEX, MANIFEST, Image, Index, digest_of, make_image, make_index
from tests.support.origin import Answer, Origin, Seen, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

NUMBERS = itertools.count()
# The origin's, each for one test: a registry that has failed is left alone for a while.
NAMES = [f"reg{number}.test" for number in range(200)]
FRESH_NAMES = iter(NAMES)
BOTH = [("Accept", MANIFEST), ("Accept", INDEX)]
TIERS = {
    "ENABLE_MANIFEST_CACHE": "true",
    "MANIFEST_CACHE_PRIMARY_TIME": "1s",
    "MANIFEST_CACHE_DEFAULT_TIME": "0s",  # what is in the default tier is never fresh
    "REGPROXY_DEBUG": "1",
}
FRESH, BRIEF, EXPIRED = "v1.2.3", "stable", "edge"  # one tag of each tier: 60 days, a second, nothing


class Tagged(NamedTuple):
    """A manifest under a tag of a repository of its own."""

    path: str
    image: Image

    @property
    def by_digest(self) -> str:
        return f"{self.path.rpartition('/')[0]}/{self.image.digest}"


def tagged(origin: Origin, tag: str) -> Tagged:
    """Something new under this tag."""
    number = next(NUMBERS)
    image = make_image(size=1000, layers=1, seed=number)
    origin.publish(f"app{number}", image, tag)
    return Tagged(f"/v2/app{number}/manifests/{tag}", image)


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test", *NAMES) as origin:
        yield origin


@pytest.fixture(scope="module")
def other(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "other.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxies(
    origin: Origin, other: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proxy]]:
    """By ENABLE_MANIFEST_CACHE; each fails at the end where anything was left open."""
    with ExitStack() as entered:
        yield {
            cached: entered.enter_context(
                Proxy(
                    tmp_path_factory.mktemp("proxy"),
                    TIERS | {"ENABLE_MANIFEST_CACHE": cached},
                    registries=(*(f"{name}:{origin.port}" for name in origin.names), other.authority),
                    resolve=origin.resolve | other.resolve,
                    ca=trust.path,
                )
            )
            for cached in ("true", "false")
        }


@pytest.fixture
def client(proxies: dict[str, Proxy], origin: Origin, stack: ExitStack) -> Client:
    """Through the proxy that keeps tags."""
    return stack.enter_context(proxies["true"].client(f"{next(FRESH_NAMES)}:{origin.port}"))


@pytest.fixture(params=["true", "false"], ids=["kept", "not kept"])
def either(
    request: pytest.FixtureRequest, proxies: dict[str, Proxy], origin: Origin, stack: ExitStack
) -> Client:
    """Through either proxy: with ENABLE_MANIFEST_CACHE and without."""
    return stack.enter_context(proxies[request.param].client(f"{next(FRESH_NAMES)}:{origin.port}"))


class TestFreshness:
    """How long the answer for a tag stands."""

    @pytest.mark.parametrize(
        "tag, kind",
        [(FRESH, "manifest-secondary"), ("stable-slim", "manifest-primary"), ("testing", "manifest-primary")],
    )
    def test_fresh(self, tag: str, kind: str, client: Client, origin: Origin) -> None:
        item = tagged(origin, tag)
        replies = [client.request(method, item.path) for method in ("GET", "GET", "HEAD")]
        assert [said(reply) for reply in replies] == [("MISS", kind), ("HIT", kind), ("HIT", kind)]
        assert [reply.body for reply in replies] == [item.image.manifest, item.image.manifest, b""]
        assert said(client.get(item.by_digest)) == ("HIT", "manifest-by-digest")
        assert origin.hits[item.path] == 1

    def test_fresh_for_a_second(self, client: Client, origin: Origin) -> None:
        item = tagged(origin, BRIEF)
        assert said(client.get(item.path))[0] == "MISS"
        assert said(client.get(item.path))[0] == "HIT"
        moved = make_image(size=1000, layers=1, seed=next(NUMBERS))
        origin.on(item.path, manifest_answer(moved))
        reply = wait_until(
            lambda: next((r for r in [client.get(item.path)] if said(r)[0] != "HIT"), None), "it expires"
        )
        assert (reply.status, reply.digest) == (200, moved.digest)
        assert (said(client.get(item.path))[0], client.get(item.path).digest) == ("HIT", moved.digest)

    def test_never_fresh(self, client: Client, origin: Origin) -> None:
        item = tagged(origin, EXPIRED)
        for asked in range(1, 4):
            reply = client.get(item.path)
            assert (reply.digest, said(reply)[1]) == (item.image.digest, "manifest-default")
            assert origin.hits[item.path] == asked
        moved = make_image(size=1000, layers=1, seed=next(NUMBERS))
        origin.on(item.path, manifest_answer(moved))
        assert client.get(item.path).digest == moved.digest

    def test_not_kept(self, proxies: dict[str, Proxy], origin: Origin, stack: ExitStack) -> None:
        client = stack.enter_context(proxies["false"].client(origin.authority))
        for tag in (FRESH, BRIEF, EXPIRED):
            item = tagged(origin, tag)
            for asked in range(1, 4):
                reply = client.get(item.path)
                assert (reply.digest, said(reply)[1]) == (item.image.digest, "manifest-default-disabled")
                assert said(reply)[0] != "HIT"
                assert origin.hits[item.path] == asked

    def test_outlives_the_proxy(self, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk) -> None:
        origin = start_origin("reg.test")
        item = tagged(origin, FRESH)
        proxy = start_proxy(origin, **TIERS)
        assert talk(proxy, origin).get(item.path).digest == item.image.digest
        assert proxy.stop() == 0, proxy.log()
        proxy = start_proxy(origin, at=proxy.directory, **TIERS)
        client = talk(proxy, origin)
        for path in (item.path, item.by_digest):
            reply = client.get(path)
            assert (reply.digest, said(reply)[0]) == (item.image.digest, "HIT")
            assert reply.get("Content-Type") == MANIFEST
        assert len(origin.requests) == 1
        assert proxy.stop() == 0, proxy.log()
        (proxy.cache_dir / "index.sqlite3").unlink()
        client = talk(start_proxy(origin, at=proxy.directory, **TIERS), origin)
        assert client.get(item.by_digest).digest == item.image.digest
        assert len(origin.requests) == 1
        assert client.get(item.path).digest == item.image.digest
        assert origin.hits[item.path] == 2


class TestHead:
    """HEAD stays HEAD: registries do not count it as a pull."""

    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_of_what_nobody_has(self, by: str, either: Client, origin: Origin) -> None:
        item = tagged(origin, FRESH)
        path = item.path if by == "tag" else item.by_digest
        for _ in range(2):
            reply = either.request("HEAD", path)
            assert (reply.status, reply.body) == (200, b"")
            assert reply.get("Docker-Content-Digest") == item.image.digest
            assert reply.get("Content-Length") == str(len(item.image.manifest))
            assert reply.get("Content-Type") == MANIFEST
        assert [seen.method for seen in origin.requests if seen.path == path] == ["HEAD", "HEAD"]

    def test_of_what_expired(self, either: Client, origin: Origin) -> None:
        item = tagged(origin, EXPIRED)
        assert either.get(item.path).digest == item.image.digest
        moved = make_image(size=1000, layers=1, seed=next(NUMBERS))
        origin.on(item.path, manifest_answer(moved))
        assert either.request("HEAD", item.path).get("Docker-Content-Digest") == moved.digest
        assert [seen.method for seen in origin.requests if seen.path == item.path] == ["GET", "HEAD"]

    @pytest.mark.parametrize("status", [401, 404, 429, 503])
    def test_of_trouble(self, status: int, either: Client, origin: Origin) -> None:
        item = tagged(origin, FRESH)
        origin.on(item.path, Answer(b"no", status, {"WWW-Authenticate": "Bearer x", "Retry-After": "9"}))
        reply = either.request("HEAD", item.path)
        assert (reply.status, reply.get("WWW-Authenticate")) == (status, "Bearer x")
        assert reply.get("Retry-After") == "9"
        assert either.request("HEAD", item.path).status == status


STATUSES = {
    str(status): Answer(b"trouble", status, {"Retry-After": "1"}) for status in (429, 500, 502, 503, 504)
}
CUTS = {f"no head, {end}": Answer(cut_at=-1, cut=end) for end in (End.FIN, End.RST)}
LIES = {
    "HTML": Answer(b"<html>", headers={"Content-Type": "text/html"}),
    "another digest": Answer(b'{"schemaVersion":2}', headers={"Docker-Content-Digest": digest_of(b"")}),
    "not JSON": Answer(b"{", headers={"Content-Type": MANIFEST}),
    "cut": Answer(b"{}", headers={"Content-Type": MANIFEST}, cut_at=1),
    "a loop": Answer(b"", 307, {"Location": "?again"}),
}


class TestStale:
    """What is held is better than a registry's trouble, and never better than its word."""

    @pytest.mark.parametrize("trouble", STATUSES | CUTS | LIES)
    def test_get(self, trouble: str, either: Client, origin: Origin) -> None:
        item = tagged(origin, EXPIRED)
        assert either.get(item.path).digest == item.image.digest
        origin.on(item.path, (STATUSES | CUTS | LIES)[trouble])
        for _ in range(2):
            reply = either.get(item.path)
            assert (reply.status, reply.digest, said(reply)[0]) == (200, item.image.digest, "STALE")
            assert reply.get("Content-Type") == MANIFEST
        origin.on(item.path, manifest_answer(item.image))
        wait_until(lambda: said(either.get(item.path))[0] != "STALE", "the registry is asked again")

    @pytest.mark.parametrize("trouble", STATUSES | CUTS)
    def test_head(self, trouble: str, either: Client, origin: Origin) -> None:
        item = tagged(origin, EXPIRED)
        assert either.get(item.path).digest == item.image.digest
        origin.on(item.path, (STATUSES | CUTS)[trouble])
        reply = either.request("HEAD", item.path)
        assert (reply.status, said(reply)[0]) == (200, "STALE")
        assert reply.get("Docker-Content-Digest") == item.image.digest
        assert reply.get("Content-Length") == str(len(item.image.manifest))

    @pytest.mark.parametrize("cached", ["true", "false"])
    def test_nobody_there(
        self, cached: str, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        """An origin that takes the connection and says nothing, then one that is gone."""
        origin = start_origin("reg.test")
        item = tagged(origin, EXPIRED)
        env = TIERS | {"ENABLE_MANIFEST_CACHE": cached, "PROXY_READ_TIMEOUT": "1s"}
        client = talk(start_proxy(origin, **env), origin)
        assert client.get(item.path).digest == item.image.digest
        origin.on(item.path, Answer(hold_at=-1, hold=threading.Event()))
        for close in (False, True):
            if close:
                origin.close()
            for method in ("GET", "HEAD"):
                reply = client.request(method, item.path)
                assert (reply.status, said(reply)[0]) == (200, "STALE")
                assert reply.get("Docker-Content-Digest") == item.image.digest
        assert client.get(item.path.replace(EXPIRED, "never-seen")).status in (502, 503)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_an_answer_is_no_trouble(self, status: int, method: str, either: Client, origin: Origin) -> None:
        item = tagged(origin, EXPIRED)
        assert either.get(item.path).digest == item.image.digest
        origin.on(item.path, Answer(b"the origin's word", status))
        reply = either.request(method, item.path)
        assert reply.status == status
        assert reply.body == (b"the origin's word" if method == "GET" else b"")

    def test_another_variant_is_not_better(self, client: Client, origin: Origin) -> None:
        """Held for those who take an index or a manifest alone; asked for by the others."""
        index = make_index(size=1000)
        for held, accept in ((index, [("Accept", MANIFEST)]), (index.images[0], BOTH)):
            item = tagged(origin, EXPIRED)
            origin.on(item.path, manifest_answer(held))
            own = [("Accept", held.media_type)]
            assert client.get(item.path, own).digest == held.digest
            origin.on(item.path, Answer(b"trouble", 503))
            assert client.get(item.path, own).digest == held.digest
            assert client.get(item.path, accept).status == 503


class TestVariants:
    """A registry may answer one tag with an index or with a manifest, by Accept."""

    @staticmethod
    def publish(origin: Origin, tag: str, **faults: object) -> tuple[str, Index]:
        item, index = tagged(origin, tag), make_index(size=1000, seed=next(NUMBERS))

        def answer(seen: Seen) -> Answer:
            takes_index = any("index" in value for name, value in seen.headers if name.lower() == "accept")
            return manifest_answer(index if takes_index else index.images[0], **faults)

        origin.on(item.path, answer)
        return item.path, index

    @pytest.mark.parametrize("tag", [FRESH, EXPIRED])
    def test_each_has_its_own(self, tag: str, either: Client, origin: Origin) -> None:
        path, index = self.publish(origin, tag)
        one = index.images[0]
        for _ in range(2):
            assert either.get(path, {"Accept": MANIFEST}).digest == one.digest
            for accept in (BOTH, BOTH[::-1], {"Accept": f"{MANIFEST}, {INDEX};q=0.5"}):
                assert either.get(path, accept).digest == index.digest

    def test_fresh_ones_are_asked_for_once(self, client: Client, origin: Origin) -> None:
        path, index = self.publish(origin, FRESH)
        for _ in range(2):
            assert client.get(path, {"Accept": MANIFEST}).digest == index.images[0].digest
            assert client.get(path, BOTH).digest == index.digest
            assert client.get(path, BOTH[::-1]).digest == index.digest
        assert origin.hits[path] == 2

    def test_at_once(self, proxies: dict[str, Proxy], origin: Origin, stack: ExitStack) -> None:
        go = threading.Event()
        path, index = self.publish(origin, FRESH, hold_at=-1, hold=go)
        clients = [stack.enter_context(proxies["true"].client(origin.authority)) for _ in range(20)]
        for number, client in enumerate(clients):
            client.ask("GET", path, BOTH if number % 2 else [("Accept", MANIFEST)])
        wait_until(lambda: proxies["true"].metric("regproxy_fill_waiters") == 20, "all of them wait")
        go.set()
        replies = [client.read_reply() for client in clients]
        assert {reply.digest for reply in replies[1::2]} == {index.digest}
        assert {reply.digest for reply in replies[::2]} == {index.images[0].digest}
        assert origin.hits[path] == 2


class TestKeys:
    """A tag is of a host, a port and a repository."""

    def test_two_registries(
        self, proxies: dict[str, Proxy], origin: Origin, other: Origin, stack: ExitStack
    ) -> None:
        one = tagged(origin, FRESH)
        two = make_image(size=1000, layers=1, seed=next(NUMBERS))
        other.on(one.path, manifest_answer(two))
        client = stack.enter_context(proxies["true"].client(origin.authority))
        stranger = stack.enter_context(proxies["true"].client(other.authority))
        for _ in range(2):
            assert client.get(one.path).digest == one.image.digest
            assert stranger.get(one.path).digest == two.digest
        assert origin.hits[one.path] == other.hits[one.path] == 1

    def test_stale_ones_too(
        self, proxies: dict[str, Proxy], origin: Origin, other: Origin, stack: ExitStack
    ) -> None:
        one = tagged(origin, EXPIRED)
        other.on(one.path, Answer(b"trouble", 503))
        for proxy in proxies.values():
            assert stack.enter_context(proxy.client(origin.authority)).get(one.path).status == 200
            assert stack.enter_context(proxy.client(other.authority)).get(one.path).status == 503

    def test_one_request_for_those_who_are_alike(
        self, proxies: dict[str, Proxy], origin: Origin, stack: ExitStack
    ) -> None:
        go, item = threading.Event(), tagged(origin, FRESH)
        origin.on(item.path, manifest_answer(item.image, hold_at=-1, hold=go))
        clients = [stack.enter_context(proxies["true"].client(origin.authority)) for _ in range(50)]
        for client in clients:
            client.ask("GET", item.path, BOTH)
        wait_until(lambda: proxies["true"].metric("regproxy_fill_waiters") == 50, "all of them wait")
        go.set()
        assert {client.read_reply().digest for client in clients} == {item.image.digest}
        assert origin.hits[item.path] == 1

    def test_no_digest_from_the_registry(self, client: Client, origin: Origin) -> None:
        for digest in ({}, {"Docker-Content-Digest": "sha512:" + "0" * 128}):
            item = tagged(origin, FRESH)
            origin.on(item.path, Answer(item.image.manifest, headers={"Content-Type": MANIFEST, **digest}))
            for _ in range(2):
                assert client.get(item.path).get("Docker-Content-Digest") == item.image.digest
            assert said(client.get(item.by_digest))[0] == "HIT"


class TestConditions:
    """Hits by tag are ordinary HTTP (RFC 9110 13 and 14)."""

    @pytest.mark.parametrize("method, warm", [("GET", True), ("HEAD", True), ("GET", False)])
    @pytest.mark.parametrize(
        "condition, matches",
        [('"{0}"', True), ('W/"{0}"', True), ('"x", "{0}"', True), ("*", True), ('"x"', False)],
    )
    def test_if_none_match(
        self, condition: str, matches: bool, method: str, warm: bool, client: Client, origin: Origin
    ) -> None:
        item = tagged(origin, FRESH)
        if warm:
            assert client.get(item.path).status == 200
        reply = client.request(method, item.path, {"If-None-Match": condition.format(item.image.digest)})
        assert reply.status == (304 if matches else 200)
        assert reply.get("ETag") == f'"{item.image.digest}"'
        assert reply.body == (item.image.manifest if not matches and method == "GET" else b"")
        assert client.get(item.path).digest == item.image.digest

    def test_ranges(self, client: Client, origin: Origin) -> None:
        item = tagged(origin, FRESH)
        size = len(item.image.manifest)
        for asked, span in (("0-9", slice(0, 10)), ("5-", slice(5, None)), ("-5", slice(size - 5, None))):
            reply = client.get(item.path, {"Range": f"bytes={asked}"})
            assert (reply.status, reply.body) == (206, item.image.manifest[span])
            start, stop, _ = span.indices(size)
            assert reply.get("Content-Range") == f"bytes {start}-{stop - 1}/{size}"
        reply = client.get(item.path, {"Range": f"bytes={size}-"})
        assert (reply.status, reply.get("Content-Range")) == (416, f"bytes */{size}")
        head = client.request("HEAD", item.path, {"Range": "bytes=0-9"})
        assert (head.status, head.get("Content-Length")) == (200, str(size))
        assert origin.hits[item.path] == 1
