"""Tags whose time is over: confirmed by HEAD, fetched where they have moved, served old in trouble."""

from __future__ import annotations

import itertools
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image, make_index
from tests.support.origin import Answer, Origin, Seen, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy, said
from tests.support.simulated_clock import MISSING, SimulatedClock
from tests.support.trust import Trust
from tests.support.two_workers import Pair

Through = Callable[..., Client]

NUMBERS = itertools.count()
HOSTS = 150  # names of the origin: what is wrong with one registry is no business of another's
HOUR, DAY = 3600.0, 86_400.0
BOTH = [("Accept", MANIFEST), ("Accept", INDEX)]
TIERS = {"ENABLE_MANIFEST_CACHE": "true"}
# Months pass: nothing is too old for the cache, and no certificate of an origin lasts so long.
PATIENT = {
    "PROXY_READ_TIMEOUT": "2s",
    "REGPROXY_RESUME_TIME": "0",
    "CACHE_INACTIVE": "0",
    "VERIFY_SSL": "false",
}
OFF = {"ENABLE_MANIFEST_CACHE": "false"}

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no simulated clock: {MISSING}")


class Tag(NamedTuple):
    """A tag of a repository of its own, and what it is at first."""

    origin: Origin
    path: str
    image: Image

    def by_digest(self, image: Image) -> str:
        return f"{self.path.rpartition('/')[0]}/{image.digest}"

    def methods(self) -> list[str]:
        """What the origin was asked for, of this repository: a method for the tag, "digest" for content."""
        place = self.path.rpartition("/")[0]
        asked = [seen for seen in self.origin.requests if seen.path.startswith(place + "/")]
        return [seen.method if seen.path == self.path else "digest" for seen in asked]

    def move(self, **faults: object) -> Image:
        """The tag is another image from now on."""
        image = make_image(size=1000, layers=1, seed=next(NUMBERS))
        self.origin.on(self.path, manifest_answer(image, **faults))
        self.origin.on(self.by_digest(image), manifest_answer(image))
        return image

    def say(self, *answers: Answer) -> None:
        self.origin.on(self.path, *answers)


def tagged(origin: Origin, tag: str = "latest") -> Tag:
    number = next(NUMBERS)
    image = make_image(size=1000, layers=1, seed=number)
    origin.publish(f"r{number}", image, tag)
    return Tag(origin, f"/v2/r{number}/manifests/{tag}", image)


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, *(f"reg{number}.test" for number in range(HOSTS))) as origin:
        yield origin


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> SimulatedClock:
    return SimulatedClock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def proxies(
    origin: Origin, clock: SimulatedClock, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxies]:
    """Before the origin by all of its names, and all with one clock."""
    env = {**TIERS, **PATIENT, **clock.env, "REGPROXY_CONNECT_PORTS": f"{origin.port}"}
    with Proxies(tmp_path_factory, trust, origin, registries=("*.test",), **env) as proxies:
        yield proxies


NAMES = (f"reg{number}.test" for number in range(HOSTS))


@pytest.fixture
def host(origin: Origin) -> str:
    """A registry of the test's own."""
    return f"{next(NAMES)}:{origin.port}"


@pytest.fixture
def through(proxies: Proxies, host: str, stack: ExitStack) -> Through:
    """A client of the proxy with these settings, that is through to `host`, or to another one."""

    def client(to: str = host, **env: str) -> Client:
        return stack.enter_context(proxies(**env).client(to, context=timeless()))

    return client


def timeless() -> ssl.SSLContext:
    """What takes a proxy's certificate whose time has not come yet by this process's clock."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def word(reply: Reply) -> str | None:
    return said(reply)[0]


class TestConfirmed:
    """One HEAD, and the copy is as good as new."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_by_its_digest(
        self, method: str, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(), tagged(origin)
        assert word(client.get(tag.path, BOTH)) == "MISS"
        for turn in range(1, 3):
            clock.advance(HOUR)
            reply = client.request(method, tag.path, BOTH)
            assert (reply.status, word(reply)) == (200, "REVALIDATED")
            assert reply.get("Cache-Status") == "regproxy; fwd=stale; detail=revalidated"
            assert (reply.get("Docker-Content-Digest"), reply.get("Content-Type")) == (
                tag.image.digest,
                MANIFEST,
            )
            assert reply.body == (tag.image.manifest if method == "GET" else b"")
            clock.advance(HOUR - 60)
            assert {word(client.request(other, tag.path, BOTH)) for other in ("GET", "HEAD")} == {"HIT"}
            assert tag.methods() == ["GET"] + ["HEAD"] * turn

    def test_where_tags_are_not_kept(self, through: Through, origin: Origin) -> None:
        client, tag = through(**OFF), tagged(origin)
        words = [word(client.request(method, tag.path, BOTH)) for method in ("GET", "GET", "HEAD", "GET")]
        assert words == ["MISS", "REVALIDATED", "REVALIDATED", "REVALIDATED"]
        assert tag.methods() == ["GET", "HEAD", "HEAD", "HEAD"]

    def test_conditions(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        for headers, status in (
            ({"If-None-Match": f'"{tag.image.digest}"'}, 304),
            ({"Range": "bytes=0-9"}, 206),
        ):
            clock.advance(HOUR)
            reply = client.get(tag.path, [*BOTH, *headers.items()])
            assert (reply.status, word(reply)) == (status, "REVALIDATED")

    def test_each_tier_has_its_time(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client = through()
        for name, seconds in (("stable", 600.0), ("latest", HOUR), ("v1.2.3", 60 * DAY)):
            tag = tagged(origin, name)
            client.get(tag.path, BOTH)
            clock.advance(seconds - 60)
            assert word(client.get(tag.path, BOTH)) == "HIT"
            clock.advance(60)
            assert word(client.get(tag.path, BOTH)) == "REVALIDATED"


class TestMoved:
    """One HEAD, and one GET of what it is now."""

    @pytest.mark.parametrize("env", [TIERS, OFF], ids=["kept", "not kept"])
    def test_get(self, env: dict[str, str], through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client, tag = through(**env), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        new = tag.move()
        reply = client.get(tag.path, BOTH)
        assert (reply.status, reply.digest, word(reply)) == (200, new.digest, "EXPIRED")
        assert (reply.get("Content-Type"), reply.get("Docker-Content-Digest")) == (MANIFEST, new.digest)
        assert tag.methods() == ["GET", "HEAD", "digest"]
        assert client.get(tag.path, BOTH).digest == new.digest
        assert word(client.get(tag.by_digest(new), BOTH)) == "HIT"
        assert tag.methods().count("digest") == 1

    def test_head(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        """Whoever asks by HEAD fetches by digest what it has not."""
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        new = tag.move()
        reply = client.request("HEAD", tag.path, BOTH)
        assert (reply.status, reply.get("Docker-Content-Digest"), word(reply)) == (200, new.digest, "EXPIRED")
        assert word(client.get(tag.by_digest(new), BOTH)) == "MISS"
        assert [word(client.request(method, tag.path, BOTH)) for method in ("HEAD", "GET")] == ["HIT", "HIT"]
        assert tag.methods() == ["GET", "HEAD", "digest"]

    def test_to_what_is_held(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        new = tag.move()
        assert word(client.get(tag.by_digest(new), BOTH)) == "MISS"
        clock.advance(HOUR)
        reply = client.get(tag.path, BOTH)
        assert (reply.digest, word(reply), reply.get("Content-Type")) == (new.digest, "REVALIDATED", MANIFEST)
        assert word(client.get(tag.path, BOTH)) == "HIT"
        assert tag.methods() == ["GET", "digest", "HEAD"]

    @pytest.mark.parametrize("hidden", ["the digest", "the HEAD", "the content"])
    def test_told_by_less(self, hidden: str, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        """A HEAD without a digest, one that is not known, content that is not given out by digest."""
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        new = tag.move()

        def answer(seen: Seen) -> Answer:
            if seen.method == "HEAD" and hidden == "the HEAD":
                return Answer(b"", 405)
            answer = manifest_answer(new)
            return replace(answer, headers={"Content-Type": MANIFEST}) if hidden == "the digest" else answer

        origin.on(tag.path, answer)
        if hidden == "the content":
            origin.on(tag.by_digest(new), Answer(b"", 404))
        reply = client.get(tag.path, BOTH)
        assert (reply.status, reply.digest, word(reply)) == (200, new.digest, "EXPIRED")
        asked = [method for method in tag.methods() if method != "digest"]
        assert asked == ["GET", "HEAD", "GET"]
        assert word(client.get(tag.path, BOTH)) == "HIT"

    def test_to_an_index(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        index = make_index(size=1000, seed=next(NUMBERS))
        for path in (tag.path, f"{tag.path.rpartition('/')[0]}/{index.digest}"):
            origin.on(path, manifest_answer(index))
        reply = client.get(tag.path, BOTH)
        assert (reply.digest, reply.get("Content-Type")) == (index.digest, INDEX)
        assert word(client.get(tag.path, BOTH)) == "HIT"


class TestByHead:
    """Clients that never GET a tag: HEAD, then the manifest by digest (dockerd, containerd)."""

    @pytest.mark.parametrize("accept", [BOTH, [("Accept", f"{MANIFEST}, {INDEX}, */*")]], ids=["both", "all"])
    def test_their_tags_are_known(
        self, accept: list[tuple[str, str]], through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(), tagged(origin)
        assert word(client.request("HEAD", tag.path, accept)) == "MISS"
        assert word(client.request("HEAD", tag.path, accept)) == "MISS"  # nothing of it is held yet
        assert word(client.get(tag.by_digest(tag.image), accept)) == "MISS"
        assert [word(client.request(m, tag.path, accept)) for m in ("HEAD", "GET")] == ["HIT", "HIT"]
        clock.advance(HOUR)
        assert word(client.request("HEAD", tag.path, accept)) == "REVALIDATED"
        assert word(client.get(tag.path, accept)) == "HIT"
        assert tag.methods() == ["HEAD", "HEAD", "digest", "HEAD"]

    def test_and_stand_in(self, through: Through, origin: Origin) -> None:
        client, tag = through(**OFF), tagged(origin)
        client.request("HEAD", tag.path, BOTH)
        client.get(tag.by_digest(tag.image), BOTH)
        tag.say(Answer(b"", 503))
        for method in ("HEAD", "GET"):
            reply = client.request(method, tag.path, BOTH)
            assert (reply.status, word(reply)) == (200, "STALE")
            assert reply.get("Docker-Content-Digest") == tag.image.digest

    def test_what_is_held_outlives_a_move(
        self, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        """What the tag is now nobody has fetched when the registry goes down."""
        client, tag = through(), tagged(origin)
        client.request("HEAD", tag.path, BOTH)
        client.get(tag.by_digest(tag.image), BOTH)
        clock.advance(HOUR)
        new = tag.move()
        assert client.request("HEAD", tag.path, BOTH).get("Docker-Content-Digest") == new.digest
        tag.say(Answer(b"", 503))
        for method in ("HEAD", "GET"):
            reply = client.request(method, tag.path, BOTH)
            assert (reply.status, word(reply)) == (200, "STALE")
            assert reply.get("Docker-Content-Digest") == tag.image.digest
        tag.say(manifest_answer(new))
        assert client.get(tag.path, BOTH).digest == new.digest
        assert (word(reply := client.get(tag.path, BOTH)), reply.digest) == ("HIT", new.digest)

    def test_without_a_digest(self, through: Through, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        tag.say(Answer(tag.image.manifest, headers={"Content-Type": MANIFEST}))
        for _ in range(2):
            reply = client.request("HEAD", tag.path, BOTH)
            assert (reply.status, word(reply), reply.get("Docker-Content-Digest")) == (200, "MISS", None)
        client.get(tag.by_digest(tag.image), BOTH)
        assert word(client.request("HEAD", tag.path, BOTH)) == "MISS"

    def test_a_manifest_for_who_takes_no_index(self, through: Through, origin: Origin) -> None:
        """A registry that was asked without index types may have more than it said."""
        client, tag = through(), tagged(origin)
        client.request("HEAD", tag.path, [("Accept", MANIFEST)])
        client.get(tag.by_digest(tag.image), [("Accept", MANIFEST)])
        assert word(client.get(tag.path, [("Accept", MANIFEST)])) == "HIT"
        assert word(client.request("HEAD", tag.path, BOTH)) == "MISS"


class TestTogether:
    """However many ask at a time."""

    def test_one_head(
        self, proxies: Proxies, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        go, tag = threading.Event(), tagged(origin)
        through().get(tag.path, BOTH)
        clock.advance(HOUR)
        tag.say(manifest_answer(tag.image, hold_at=-1, hold=go))
        clients = [through() for _ in range(20)]
        for number, client in enumerate(clients):
            # Tokens differ from client to client.
            headers = [*BOTH, ("Authorization", f"Bearer {number}")]
            client.ask("HEAD" if number % 2 else "GET", tag.path, headers)
        wait_until(lambda: proxies().metric("regproxy_fill_waiters") == 20, "all of them wait")
        go.set()
        assert {word(client.read_reply()) for client in clients} == {"REVALIDATED"}
        assert tag.methods() == ["GET", "HEAD"]

    def test_one_download(
        self, proxies: Proxies, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        go, tag = threading.Event(), tagged(origin)
        through().get(tag.path, BOTH)
        clock.advance(HOUR)
        new = tag.move(hold_at=-1, hold=go)
        clients = [through() for _ in range(10)]
        for number, client in enumerate(clients):
            client.ask("GET", tag.path, [*BOTH, ("Authorization", f"Bearer {number}")])
        wait_until(lambda: proxies().metric("regproxy_fill_waiters") == 10, "all of them wait")
        go.set()
        assert {client.read_reply().digest for client in clients} == {new.digest}
        assert tag.methods() == ["GET", "HEAD", "digest"]

    def test_a_refusal_is_nobody_elses(
        self, proxies: Proxies, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        go, tag = threading.Event(), tagged(origin)
        good = [*BOTH, ("Authorization", "Bearer good")]
        through().get(tag.path, good)
        clock.advance(HOUR)

        def answer(seen: Seen) -> Answer:
            if seen.get("authorization") == "Bearer good":
                return manifest_answer(tag.image)
            return Answer(b"no", 401, {"WWW-Authenticate": "Bearer x"}, hold_at=-1, hold=go)

        origin.on(tag.path, answer)
        one, two = through(), through()
        one.ask("GET", tag.path, BOTH)
        origin.wait_for(lambda _: tag.methods()[-1] == "HEAD")
        two.ask("GET", tag.path, good)
        wait_until(lambda: proxies().metric("regproxy_fill_waiters") == 2, "both wait")
        go.set()
        refused, served = one.read_reply(), two.read_reply()
        assert (refused.status, refused.body) in ((401, b"no"), (200, tag.image.manifest))
        assert (served.status, served.body) == (200, tag.image.manifest)

    @pytest.mark.parametrize("moves", [False, True], ids=["the same", "moved"])
    def test_over_two_workers(
        self,
        moves: bool,
        proxies: Proxies,
        clock: SimulatedClock,
        origin: Origin,
        host: str,
        stack: ExitStack,
    ) -> None:
        proxy = proxies(REGPROXY_WORKERS="2")
        pair, go, tag = Pair(proxy, host), threading.Event(), tagged(origin)
        clients = [
            stack.enter_context(pair.client(pid, context=timeless())) for pid in pair.pids() for _ in range(3)
        ]
        for client in clients:
            client.get(tag.path, BOTH)
        clock.advance(HOUR)
        image = tag.image
        if moves:
            image = tag.move(hold_at=-1, hold=go)
        else:
            tag.say(manifest_answer(image, hold_at=-1, hold=go))
        for client in clients:
            client.ask("GET", tag.path, BOTH)
        wait_until(lambda: proxy.metric("regproxy_fill_waiters") == 6, "all of them wait")
        go.set()
        assert {client.read_reply().digest for client in clients} == {image.digest}
        assert tag.methods() == ["GET", "HEAD"] + ["digest"] * moves
        assert {word(client.request("HEAD", tag.path, BOTH)) for client in clients} == {"HIT"}
        assert tag.methods() == ["GET", "HEAD"] + ["digest"] * moves


TROUBLE = {
    **{str(status): Answer(b"trouble", status) for status in (429, 500, 502, 503, 504)},
    **{f"no head, {end}": Answer(cut_at=-1, cut=end) for end in (End.FIN, End.RST)},
    "silence": Answer(hold_at=-1, hold=threading.Event()),
    "a loop": Answer(b"", 307, {"Location": "?again"}),
}


class TestTrouble:
    """Every trouble, with and without a copy, within REGPROXY_MAX_STALE and past it."""

    @pytest.mark.parametrize("trouble", TROUBLE)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_stale(
        self, method: str, trouble: str, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        # Three registries: one that is left alone for a while is asked nothing.
        tags = young, old, _ = [tagged(origin) for _ in range(3)]
        clients = [through(to=f"{next(NAMES)}:{origin.port}", REGPROXY_MAX_STALE="1d") for _ in range(3)]
        clients[1].get(old.path, BOTH)
        clock.advance(DAY + HOUR / 2)
        clients[0].get(young.path, BOTH)
        clock.advance(HOUR)
        for tag in tags:
            tag.say(TROUBLE[trouble])
        reply = clients[0].request(method, young.path, BOTH)
        assert (reply.status, word(reply)) == (200, "STALE")
        assert reply.get("Docker-Content-Digest") == young.image.digest
        assert reply.body == (young.image.manifest if method == "GET" else b"")
        want = {int(trouble)} if trouble.isdigit() else {502, 503, 504}
        for client, tag in zip(clients[1:], tags[1:], strict=True):
            reply = client.request(method, tag.path, BOTH)
            assert reply.status in want
            assert word(reply) != "STALE"
        # It has not cost what is held.
        old.say(manifest_answer(old.image))
        clock.advance(60)
        reply = wait_until(
            lambda: next((r for r in [clients[1].request(method, old.path, BOTH)] if r.status == 200), None),
            "the registry is asked again",
        )
        assert word(reply) == "REVALIDATED"

    def test_never(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        client, tag = through(REGPROXY_MAX_STALE="0"), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        tag.say(Answer(b"trouble", 503))
        assert {client.request(method, tag.path, BOTH).status for method in ("GET", "HEAD")} == {503}

    @pytest.mark.parametrize("env", [{}, OFF], ids=["kept", "not kept"])
    def test_for_a_year(
        self, env: dict[str, str], through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(**env), tagged(origin)
        client.get(tag.path, BOTH)
        tag.say(Answer(b"trouble", 503))
        clock.advance(364 * DAY)
        assert word(client.get(tag.path, BOTH)) == "STALE"
        clock.advance(DAY + HOUR)
        assert client.get(tag.path, BOTH).status == 503

    def test_in_the_middle(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        """Moved, and what it is now can't be had."""
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        new = tag.move()
        origin.on(tag.by_digest(new), Answer(b"trouble", 503))
        reply = client.get(tag.path, BOTH)
        assert (reply.digest, word(reply)) == (tag.image.digest, "STALE")


BROKEN: dict[str, dict[str, Any]] = {
    "a reset": {"cut_at": 100, "cut": End.RST},
    "an end": {"cut_at": 100},
    "an end in chunks": {"cut_at": 100, "framing": "chunked"},
    "no head": {"cut_at": -1, "cut": End.RST},
    "a stall": {"hold_at": 100, "hold": threading.Event()},
}


class TestBroken:
    """Nothing of a tag is given out before all of it is there: what breaks is asked for again."""

    @pytest.mark.parametrize("how", BROKEN)
    def test_comes_at_last(self, how: str, through: Through, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        broken = manifest_answer(tag.image, **BROKEN[how])
        tag.say(broken, broken, manifest_answer(tag.image))
        reply = client.get(tag.path, BOTH)
        assert (reply.status, reply.digest, word(reply)) == (200, tag.image.digest, "MISS")
        assert tag.methods() == ["GET"] * 3
        assert word(client.get(tag.path, BOTH)) == "HIT"

    @pytest.mark.parametrize("how", BROKEN)
    def test_or_not(self, how: str, proxies: Proxies, through: Through, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        tag.say(manifest_answer(tag.image, **BROKEN[how]))
        reply = client.get(tag.path, BOTH)
        assert reply.status == (504 if how == "a stall" else 502), reply.body
        assert tag.methods() == ["GET"] * 3
        assert [path for path in proxies().parts() if path.stat().st_size] == []

    @pytest.mark.parametrize("status", [404, 429, 500, 503])
    def test_an_answer_is_an_answer(self, status: int, through: Through, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        tag.say(Answer(b"no", status))
        assert client.get(tag.path, BOTH).status == status
        assert tag.methods() == ["GET"]

    def test_what_is_wrong_stays_wrong(self, through: Through, origin: Origin) -> None:
        client, tag = through(), tagged(origin)
        tag.say(replace(manifest_answer(tag.image), headers={"Docker-Content-Digest": digest_of(b"")}))
        assert client.get(tag.path, BOTH).status == 502
        assert tag.methods() == ["GET"]


class TestGone:
    """A registry that says 404 of a tag that is held."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("keep", ["true", "false"])
    def test_keep_on_404(
        self, keep: str, method: str, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(REGPROXY_KEEP_ON_404=keep), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        tag.say(Answer(b"gone", 404))
        reply = client.request(method, tag.path, BOTH)
        if keep == "true":
            assert (reply.status, word(reply)) == (200, "STALE")
            assert reply.get("Docker-Content-Digest") == tag.image.digest
        else:
            assert (reply.status, reply.body) == (404, b"gone" if method == "GET" else b"")
        # A registry that is down has said nothing: what it said before counts.
        tag.say(Answer(b"trouble", 503))
        assert client.request(method, tag.path, BOTH).status == (200 if keep == "true" else 503)

    def test_to_who_may_not_have_it(self, through: Through, clock: SimulatedClock, origin: Origin) -> None:
        """docker-registry says 404 where it has nothing of the types that Accept names."""
        client, tag = through(), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        tag.say(Answer(b"", 404))
        assert client.get(tag.path, [("Accept", "application/vnd.example")]).status == 404
        tag.say(Answer(b"", 503))
        assert word(client.get(tag.path, BOTH)) == "STALE"


SWR = {"REGPROXY_SWR_PRIMARY": "5m", "REGPROXY_SWR_DEFAULT": "1d"}


class TestWhileRevalidated:
    """stale-while-revalidate (RFC 5861): the old copy at once, and the new one behind it."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("moves", [False, True], ids=["the same", "moved"])
    def test_the_old_at_once(
        self, moves: bool, method: str, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(**SWR), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        go, image = threading.Event(), tag.image
        if moves:
            image = tag.move(hold_at=-1, hold=go)
        else:
            tag.say(manifest_answer(image, hold_at=-1, hold=go))
        for _ in range(5):
            reply = client.request(method, tag.path, BOTH)
            assert (word(reply), reply.get("Docker-Content-Digest")) == ("STALE", tag.image.digest)
        origin.wait_for(lambda _: "HEAD" in tag.methods())
        go.set()
        wait_until(lambda: word(client.get(tag.path, BOTH)) == "HIT", "it is fresh again")
        assert client.get(tag.path, BOTH).digest == image.digest
        # Between the HEAD and the fetch of what it names, a client's request may be the one that fetches it.
        asked = tag.methods()
        assert asked[:2] == ["GET", "HEAD"]
        assert asked[2:] in ([["digest"], ["GET"]] if moves else [[]])

    @pytest.mark.parametrize(
        "name, lifetime, window", [("stable", 600.0, 300.0), ("latest", HOUR, DAY), ("v1.2.3", 60 * DAY, 0.0)]
    )
    def test_each_tier_has_its_own(
        self,
        name: str,
        lifetime: float,
        window: float,
        through: Through,
        clock: SimulatedClock,
        origin: Origin,
    ) -> None:
        client, tag = through(**SWR), tagged(origin, name)
        client.get(tag.path, BOTH)
        clock.advance(lifetime + window)
        assert word(client.get(tag.path, BOTH)) == "REVALIDATED"
        if window:
            clock.advance(lifetime + window - 60)
            assert word(client.get(tag.path, BOTH)) == "STALE"

    def test_a_registry_in_trouble_is_left_alone(
        self, through: Through, clock: SimulatedClock, origin: Origin
    ) -> None:
        client, tag = through(**SWR), tagged(origin)
        client.get(tag.path, BOTH)
        clock.advance(HOUR)
        tag.say(Answer(b"trouble", 503))
        assert word(client.get(tag.path, BOTH)) == "STALE"
        origin.wait_for(lambda _: "HEAD" in tag.methods())
        for _ in range(20):
            assert word(client.get(tag.path, BOTH)) == "STALE"
        assert tag.methods().count("HEAD") <= 2  # one in five seconds


class TestRegistry:
    """docker-registry itself."""

    @pytest.mark.parametrize("style", ["GET", "HEAD"])
    def test_a_day_of_pulls(
        self,
        style: str,
        start_registry: Callable[..., Registry],
        start_proxy: Callable[..., Proxy],
        talk: Callable[..., Client],
        clock: SimulatedClock,
    ) -> None:
        """One counted GET for the tag, one for its move, and HEADs."""
        registry = start_registry("reg.test")
        images = [make_image(size=1000, layers=1, seed=next(NUMBERS)) for _ in range(2)]
        registry.push("app", "latest", images[0])
        before = len(registry.requests())
        client = talk(start_proxy(registry, **TIERS, **PATIENT, **clock.env), registry, context=timeless())
        for hour in range(24):
            if hour == 12:
                registry.push("app", "latest", images[1])
                before_move = len(registry.requests())
            reply = client.request(style, "/v2/app/manifests/latest", BOTH)
            digest = images[hour >= 12].digest
            assert (reply.status, reply.get("Docker-Content-Digest")) == (200, digest)
            if style == "HEAD":
                assert client.get(f"/v2/app/manifests/{digest}", BOTH).digest == digest
            clock.advance(HOUR)
        asked = [r for r in registry.requests()[before:] if r.agent == "" or "skopeo" not in r.agent]
        ours = [r for r in asked if "/manifests/" in r.path and "libpod" not in r.agent]
        assert before_move > before
        assert sum(r.method == "GET" for r in ours) == 2
        assert sum(r.method == "HEAD" for r in ours) == (23 if style == "GET" else 24)
