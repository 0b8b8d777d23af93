"""Blobs of Docker Hub that are cut on their way: the rest is asked for, where and as whom that has to be.

The client asks once, with a token of its own. What has ended since then, the URL or the token, is the proxy's
to get anew.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.support.client import Reply
from tests.support.fake_docker_hub import Hub
from tests.support.fake_docker_hub_accounts import SERVICE
from tests.support.images import Image, make_image
from tests.support.origin import Answer
from tests.support.proxy import Proxy
from tests.support.trust import Trust

REPOSITORY = "library/alpine"
CUT_AT = 400_000
URL, TOKEN = 20 * 60.0, 300.0  # seconds that they last
StartProxy = Callable[..., Proxy]


class Clock:
    """The Hub's time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def big() -> Image:
    return make_image(size=1_000_000, layers=1, seed=41)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(trust: Trust, clock: Clock, big: Image) -> Iterator[Hub]:
    with Hub(trust, clock=clock, url_lifetime=int(URL)) as hub:
        hub.put(REPOSITORY, big, "latest")
        yield hub


def token(hub: Hub, proxy: Proxy) -> str:
    query = urllib.parse.urlencode({"service": SERVICE, "scope": f"repository:{REPOSITORY}:pull"})
    with proxy.client(hub.accounts.origin.authority) as client:
        return str(client.get(f"/token?{query}").json()["token"])


def pull(hub: Hub, proxy: Proxy, digest: str) -> Reply:
    """Ask for a blob as a client does that has a token, once."""
    headers = {"Authorization": f"Bearer {token(hub, proxy)}"}
    with proxy.client(hub.authority) as client:
        return client.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers)


def cut(clock: Clock, passes: float) -> Callable[[Answer], Answer]:
    """An answer that ends early; when it has ended, so much time has passed."""

    def fault(answer: Answer) -> Answer:
        clock.now += passes
        return replace(answer, cut_at=CUT_AT)

    return fault


# How much time has passed when a blob is cut, and how long URLs last.
CASES = {
    "nothing has ended": (10.0, URL),
    "the URL has ended": (120.0, 60.0),
    "the token has ended": (TOKEN + 10, URL),
    "the URL and the token have ended": (URL + TOKEN, URL),
}


@pytest.mark.parametrize("passes, lasts", CASES.values(), ids=CASES)
def test_a_blob_that_was_cut_is_whole(
    hub: Hub, clock: Clock, big: Image, start_proxy: StartProxy, passes: float, lasts: float
) -> None:
    hub.cdn.lifetime = int(lasts)
    proxy = start_proxy(hub, registries=hub.authorities[:2])
    hub.cdn.faults.append(cut(clock, passes))
    (digest,) = big.layers
    reply = pull(hub, proxy, digest)
    assert (reply.status, reply.complete, reply.digest) == (200, True, digest)
    first, *_, last = list(hub.cdn.origin.requests)
    assert first.get("range") is None
    assert last.get("range") == f"bytes={CUT_AT}-"
    assert all(seen.get("authorization") is None for seen in hub.cdn.origin.requests)
    assert hub.cdn.expired <= 1  # it may be tried again, once
    assert hub.accounts.tokens[""] <= 2
    proxy.wait_kept(digest)


def test_cut_again_and_again(hub: Hub, big: Image, start_proxy: StartProxy) -> None:
    proxy = start_proxy(hub, registries=hub.authorities[:2])
    hub.cdn.faults += [lambda answer: replace(answer, cut_at=100_000)] * 5
    (digest,) = big.layers
    reply = pull(hub, proxy, digest)
    assert (reply.status, reply.complete, reply.digest) == (200, True, digest)
    starts = [seen.get("range") for seen in hub.cdn.origin.requests]
    assert starts == [None, *(f"bytes={count * 100_000}-" for count in range(1, 6))]
