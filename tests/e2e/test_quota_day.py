"""A day before Docker Hub: what a thousand pulls of twenty tags cost there, and how old what they got was.

The day is simulated (tests/support/simulated_clock.py) and so is Docker Hub
(tests/support/fake_docker_hub.py); the proxy is itself.
"""

from __future__ import annotations

import random
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.client import Client, Reply
from tests.support.fake_docker_hub import ANONYMOUS, Hub
from tests.support.images import INDEX, MANIFEST, Image, make_image
from tests.support.proxy import Proxy
from tests.support.simulated_clock import MISSING, SimulatedClock
from tests.support.trust import Trust

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
# Of each kind of tag how long it is fresh: by the defaults of the tiers.
LIFETIMES = {"latest": HOUR, "stable": 10 * MINUTE, "nightly": 10 * MINUTE, "1.27.3": 60 * DAY}
REPOSITORIES = tuple(f"library/{name}" for name in ("alpine", "busybox", "nginx", "postgres", "redis"))
TAGS = tuple((repository, tag) for repository in REPOSITORIES for tag in LIFETIMES)
PULLS, MOVES = 1000, 15
FIELD = re.compile(r'(\w+)="([^"]*)"')
ACCEPT = ", ".join((MANIFEST, INDEX))
SLACK = 5.0  # seconds: a pull takes time itself, and what was fetched at its beginning is no younger

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no simulated clock: {MISSING}")


@pytest.fixture
def clock(tmp_path: Path) -> SimulatedClock:
    return SimulatedClock(tmp_path / "clock")


@pytest.fixture
def hub(trust: Trust, clock: SimulatedClock) -> Iterator[Hub]:
    with Hub(trust, clock=clock.time) as hub:
        yield hub


class Puller:
    """One pull, with connections and a token of its own, as a client without an account makes it."""

    def __init__(self, proxy: Proxy, hub: Hub) -> None:
        self._proxy, self._hub = proxy, hub
        self._token = ""

    def pull(self, style: str, repository: str, tag: str) -> str:
        """Return the digest that the tag had for this client; everything is checked against its digest."""
        with self._proxy.client(self._hub.authority) as client:
            return STYLES[style](self, client, f"/v2/{repository}", tag)

    def skopeo(self, client: Client, place: str, tag: str) -> str:
        """A ping, a token, then the tag's manifest itself."""
        self._ping(client, place)
        manifest = self._ask(client, "GET", f"{place}/manifests/{tag}")
        self._blobs(client, place, manifest)
        return manifest.digest

    def dockerd(self, client: Client, place: str, tag: str) -> str:
        """A ping, a token, HEAD of the tag, then the manifest by digest."""
        self._ping(client, place)
        return self.containerd(client, place, tag)

    def containerd(self, client: Client, place: str, tag: str) -> str:
        """HEAD of the tag, with a token when that is refused, then the manifest by digest."""
        head = self._ask(client, "HEAD", f"{place}/manifests/{tag}")
        digest = head.get("docker-content-digest")
        assert digest is not None, head
        manifest = self._ask(client, "GET", f"{place}/manifests/{digest}")
        assert (manifest.digest, len(manifest.body)) == (digest, int(head.get("content-length") or 0))
        assert manifest.get("content-type") == head.get("content-type")
        self._blobs(client, place, manifest)
        return digest

    def _ping(self, client: Client, place: str) -> None:
        reply = client.get("/v2/")
        if reply.status == 401:
            self._authorize(reply, place)
        else:
            assert reply.status == 200, reply

    def _ask(self, client: Client, method: str, path: str) -> Reply:
        reply = client.request(method, path, self._headers())
        if reply.status == 401:
            self._authorize(reply, path.rpartition("/")[0].rpartition("/")[0])
            reply = client.request(method, path, self._headers())
        assert (reply.status, reply.complete) == (200, True), (method, path, reply)
        return reply

    def _headers(self) -> Mapping[str, str]:
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {"Accept": ACCEPT, **token}

    def _authorize(self, refused: Reply, place: str) -> None:
        """Get a token where the challenge says."""
        said = dict(FIELD.findall(refused.get("www-authenticate") or ""))
        realm = urllib.parse.urlsplit(said["realm"])
        scope = said.get("scope", f"repository:{place.removeprefix('/v2/')}:pull")
        query = urllib.parse.urlencode({"service": said["service"], "scope": scope})
        with self._proxy.client(realm.netloc) as client:
            reply = client.get(f"{realm.path}?{query}")
        assert reply.status == 200, reply
        self._token = reply.json()["token"]

    def _blobs(self, client: Client, place: str, manifest: Reply) -> None:
        said = manifest.json()
        for entry in (said["config"], *said["layers"]):
            assert self._ask(client, "GET", f"{place}/blobs/{entry['digest']}").digest == entry["digest"]


STYLES: Mapping[str, Callable[[Puller, Client, str, str], str]] = {
    "skopeo": Puller.skopeo,
    "dockerd": Puller.dockerd,
    "containerd": Puller.containerd,
}


@dataclass
class Day:
    """What happened: digests by tag in the order in which pulls got them, and what was too old."""

    pulled: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)

    def note(self, name: tuple[str, str], digest: str) -> None:
        self.pulled.setdefault(name, []).append(digest)

    @property
    def moves_seen(self) -> int:
        """How many times a tag was another one than for the pull before."""
        return sum(before != after for digests in self.pulled.values() for before, after in pairwise(digests))


def plan(chance: random.Random) -> list[tuple[float, str]]:
    """Return what happens when, in seconds since the day began: pulls and moves."""
    pulls = [(chance.uniform(0, DAY), "pull") for _ in range(PULLS)]
    moves = [(chance.uniform(0, DAY), "move") for _ in range(MOVES)]
    return sorted(pulls + moves)


def small(seed: int) -> Image:
    return make_image(size=2000, layers=1, seed=seed)


def live(day: Day, clock: SimulatedClock, hub: Hub, puller: Callable[[], Puller], seed: int) -> None:
    """Let a day pass."""
    chance = random.Random(seed)
    began, images = clock.time(), iter(range(1000, 2000))
    movable = [name for name in TAGS if LIFETIMES[name[1]] < DAY]
    names = [*TAGS, *(chance.choice(TAGS) for _ in range(PULLS - len(TAGS)))]  # each of them once at least
    chance.shuffle(names)
    for at, what in plan(chance):
        clock.advance(max(0.0, began + at - clock.time()))
        if what == "move":
            repository, tag = chance.choice(movable)
            hub.put(repository, small(next(images)), tag)
            continue
        repository, tag = names.pop()
        style = chance.choice(list(STYLES))
        asked = clock.time()
        digest = puller().pull(style, repository, tag)
        day.note((repository, tag), digest)
        if digest not in hub.digests(repository, tag, asked - LIFETIMES[tag] - SLACK):
            day.late.append(f"{style} got {digest} for {repository}:{tag} after {at / HOUR:.2f} h")


def test_a_day_of_pulls_costs_one_get_for_each_content_of_each_tag(
    clock: SimulatedClock, hub: Hub, start_proxy: Callable[..., Proxy]
) -> None:
    for seed, (repository, tag) in enumerate(TAGS):
        hub.put(repository, small(seed), tag)
    env = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_WORKERS": "2", **clock.env}
    proxy = start_proxy(hub, registries=hub.authorities[:2], **env)
    day = Day()
    live(day, clock, hub, lambda: Puller(proxy, hub), seed=20)
    assert sum(len(digests) for digests in day.pulled.values()) == PULLS
    assert day.pulled.keys() == set(TAGS)
    assert day.late == []
    assert day.moves_seen > 0
    assert hub.limited == {}
    assert hub.counted.keys() == {ANONYMOUS}
    assert hub.counted[ANONYMOUS] <= len(TAGS) + day.moves_seen
