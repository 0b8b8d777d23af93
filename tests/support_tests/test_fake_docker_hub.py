"""The imitated Docker Hub behaves as Docker Hub does, without any proxy: tokens, signed URLs, limits."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.client import Client, Reply
from tests.support.fake_docker_hub import ANONYMOUS, WINDOW, Hub
from tests.support.fake_docker_hub_accounts import LOCKED, LOGINS, SERVICE
from tests.support.images import INDEX, MANIFEST, Image, make_image, make_index
from tests.support.origin import Origin
from tests.support.trust import Trust

REPOSITORY = "library/alpine"
PLACE = f"/v2/{REPOSITORY}"
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class By:
    """A client that does by hand what others do by themselves."""

    def __init__(self, hub: Hub, trust: Trust, stack: ExitStack) -> None:
        self.hub = hub
        self._trust = trust
        self._stack = stack

    def ask(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        with Client.connect(origin.address, authority=origin.authority) as client:
            client.start_tls(origin.name, self._trust.pem)
            return client.request(method, target, headers or {}, body if method == "POST" else None)

    def registry(self, method: str, target: str, token: str = "", accept: str = MANIFEST) -> Reply:
        headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.ask(self.hub.registry, method, target, headers)

    def login(self, pair: str = "", scope: str = f"repository:{REPOSITORY}:pull", more: str = "") -> Reply:
        """GET /token, as `pair` ("user:password") or as nobody."""
        headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"} if pair else {}
        query = urllib.parse.urlencode({"service": SERVICE, "scope": scope}) + more
        return self.ask(self.hub.accounts.origin, "GET", f"/token?{query}", headers)

    def token(self, pair: str = "", **options: str) -> str:
        reply = self.login(pair, **options)
        assert reply.status == 200, reply
        return str(reply.json()["token"])

    def follow(self, reply: Reply, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
        """Ask for what a redirect names."""
        location = urllib.parse.urlsplit(reply.get("location") or "")
        assert location.netloc == self.hub.cdn.origin.authority
        return self.ask(self.hub.cdn.origin, method, f"{location.path}?{location.query}", headers)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(trust: Trust, clock: Clock, image: Image) -> Iterator[Callable[..., By]]:
    """Start a Hub with one image as latest, and return a client of it."""
    with ExitStack() as stack:

        def start(**options: Any) -> By:
            hub = stack.enter_context(Hub(trust, clock=clock, **options))
            hub.put(REPOSITORY, image, "latest")
            return By(hub, trust, stack)

        yield start


def challenge(reply: Reply) -> dict[str, str]:
    assert reply.status == 401
    value = reply.get("www-authenticate") or ""
    assert value.startswith("Bearer ")
    return dict(CHALLENGE.findall(value))


# --- tokens ----------------------------------------------------------------------------------------------


def test_who_has_no_token_is_told_where_to_get_one(start: Callable[..., By]) -> None:
    by = start()
    realm = {"realm": by.hub.accounts.realm, "service": SERVICE}
    assert challenge(by.registry("GET", "/v2/")) == realm
    refused = by.registry("GET", f"{PLACE}/manifests/latest")
    assert challenge(refused) == realm | {"scope": f"repository:{REPOSITORY}:pull"}
    assert refused.json()["errors"][0]["code"] == "UNAUTHORIZED"
    head = by.registry("HEAD", f"{PLACE}/manifests/latest")
    assert (head.status, head.body) == (401, b"")


def test_a_pull_by_hand(start: Callable[..., By], image: Image) -> None:
    by = start()
    given = by.login().json()
    assert given["expires_in"] == 300 and given["token"] == given["access_token"] and given["issued_at"]
    token = given["token"]
    assert 2000 < len(token) < 4096
    assert by.registry("GET", "/v2/", token).status == 200
    manifest = by.registry("GET", f"{PLACE}/manifests/latest", token)
    assert (manifest.status, manifest.digest) == (200, image.digest)
    assert manifest.get("docker-content-digest") == image.digest
    for digest in image.blobs:
        moved = by.registry("GET", f"{PLACE}/blobs/{digest}", token)
        assert moved.status == 307
        blob = by.follow(moved)
        assert (blob.status, blob.digest) == (200, digest)
        assert blob.get("docker-content-digest") is None


def test_a_token_ends_after_five_minutes(start: Callable[..., By], clock: Clock) -> None:
    by = start()
    token = by.token()
    clock.now += 299
    assert by.registry("GET", f"{PLACE}/manifests/latest", token).status == 200
    clock.now += 1
    over = by.registry("GET", f"{PLACE}/manifests/latest", token)
    assert challenge(over)["error"] == "invalid_token"


@pytest.mark.parametrize("scope", ["repository:library/other:pull", "", f"repository:{REPOSITORY}:push"])
def test_a_token_is_for_what_it_was_asked_for(start: Callable[..., By], scope: str) -> None:
    by = start()
    other = by.registry("GET", f"{PLACE}/manifests/latest", by.token(scope=scope))
    assert challenge(other)["error"] == "insufficient_scope"


def test_what_is_private_looks_like_what_is_not_there(start: Callable[..., By], image: Image) -> None:
    by = start(users={"ada": "secret"}, private=("ada/app",))
    by.hub.put("ada/app", image, "1")
    for name in ("ada/app", "ada/none"):
        anybody = by.token(scope=f"repository:{name}:pull")
        refused = by.registry("GET", f"/v2/{name}/manifests/1", anybody)
        assert challenge(refused)["error"] == "insufficient_scope"
    ada = by.token("ada:secret", scope="repository:ada/app:pull")
    assert by.registry("GET", "/v2/ada/app/manifests/1", ada).status == 200


def test_oauth(start: Callable[..., By]) -> None:
    by = start(users={"ada": "secret"})

    def post(**form: str) -> Reply:
        form = {"service": SERVICE, "scope": f"repository:{REPOSITORY}:pull", "client_id": "test", **form}
        return by.ask(by.hub.accounts.origin, "POST", "/token", {}, urllib.parse.urlencode(form).encode())

    given = post(grant_type="password", username="ada", password="secret", access_type="offline").json()
    assert by.registry("GET", f"{PLACE}/manifests/latest", given["access_token"]).status == 200
    assert "token" not in given
    again = post(grant_type="refresh_token", refresh_token=given["refresh_token"]).json()
    assert by.registry("GET", f"{PLACE}/manifests/latest", again["access_token"]).status == 200
    assert by.hub.counted == {"ada": 2}
    assert post(grant_type="refresh_token", refresh_token="another").status == 401
    assert post(grant_type="password", username="ada", password="wrong").status == 401


def test_too_many_failed_logins_lock_the_account(start: Callable[..., By], clock: Clock) -> None:
    by = start(users={"ada": "secret", "bob": "secret"})
    assert [by.login("ada:wrong").status for _ in range(LOGINS)] == [401] * LOGINS
    assert by.login("ada:secret").status == 429
    assert by.login("bob:secret").status == 200
    clock.now += LOCKED
    assert by.login("ada:secret").status == 200


# --- signed URLs -----------------------------------------------------------------------------------------


def test_a_signed_url_ends(start: Callable[..., By], image: Image, clock: Clock) -> None:
    by = start()
    layer = image.layers[0]
    moved = by.registry("GET", f"{PLACE}/blobs/{layer}", by.token())
    clock.now += 1200
    some = by.follow(moved, headers={"Range": "bytes=100-199"})
    assert (some.status, some.body) == (206, image.blobs[layer][100:200])
    clock.now += 2
    late = by.follow(moved)
    assert late.status == 403 and b"<Message>Request has expired</Message>" in late.body
    assert late.get("content-type") == "application/xml"
    assert by.hub.cdn.expired == 1
    assert by.follow(by.registry("GET", f"{PLACE}/blobs/{layer}", by.token())).digest == layer


def test_a_signed_url_is_for_one_method_and_content_and_needs_no_token(
    start: Callable[..., By], image: Image
) -> None:
    by = start()
    layer, other = image.layers
    moved = by.registry("GET", f"{PLACE}/blobs/{layer}", by.token())
    assert by.follow(moved, "HEAD").status == 403
    assert by.follow(by.registry("HEAD", f"{PLACE}/blobs/{layer}", by.token()), "HEAD").status == 200
    both = by.follow(moved, headers={"Authorization": "Bearer x"})
    assert both.status == 400 and b"<Code>InvalidArgument</Code>" in both.body
    right, wrong = (f"/{each[7:9]}/{each[7:]}/" for each in (layer, other))
    place = (moved.get("location") or "").replace(right, wrong)
    assert wrong in place
    forged = by.follow(Reply(307, headers=(("Location", place),)))
    assert forged.status == 403 and b"SignatureDoesNotMatch" in forged.body


# --- limits ----------------------------------------------------------------------------------------------


def limits(reply: Reply) -> tuple[str | None, str | None]:
    return reply.get("ratelimit-limit"), reply.get("ratelimit-remaining")


def test_gets_of_manifests_are_counted_and_nothing_else(start: Callable[..., By], image: Image) -> None:
    by = start(limit=3)
    token = by.token()
    head = by.registry("HEAD", f"{PLACE}/manifests/latest", token)
    assert limits(head) == (f"3;w={WINDOW}", f"3;w={WINDOW}")
    assert head.get("docker-ratelimit-source") == ANONYMOUS
    assert limits(by.registry("GET", f"{PLACE}/manifests/latest", token))[1] == f"2;w={WINDOW}"
    assert limits(by.registry("GET", f"{PLACE}/manifests/{image.digest}", token))[1] == f"1;w={WINDOW}"
    assert by.registry("GET", f"{PLACE}/manifests/none", token).status == 404
    assert limits(by.registry("GET", f"{PLACE}/blobs/{image.layers[0]}", token)) == (None, None)
    assert by.hub.remaining() == 1
    assert (by.hub.counted, by.hub.heads) == ({ANONYMOUS: 2}, {ANONYMOUS: 1})


def test_beyond_the_limit_is_429_until_the_window_has_passed(start: Callable[..., By], clock: Clock) -> None:
    by = start(limit=2)
    for _ in range(2):
        assert by.registry("GET", f"{PLACE}/manifests/latest", by.token()).status == 200
        clock.now += 3600
    refused = by.registry("GET", f"{PLACE}/manifests/latest", by.token())
    assert refused.status == 429
    assert limits(refused) == (f"2;w={WINDOW}", f"0;w={WINDOW}")
    assert refused.get("retry-after") is None
    (error,) = refused.json()["errors"]
    assert error["code"] == "TOOMANYREQUESTS" and "pull rate limit" in error["message"]
    assert by.registry("HEAD", f"{PLACE}/manifests/latest", by.token()).status == 200
    clock.now += WINDOW - 7200
    assert by.registry("GET", f"{PLACE}/manifests/latest", by.token()).status == 200
    assert by.hub.limited == {ANONYMOUS: 1}


def test_each_account_has_a_limit_of_its_own(start: Callable[..., By]) -> None:
    by = start(users={"ada": "secret"}, limit=1, user_limit=2, retry_after=60)
    for pair, name, limit in (("", ANONYMOUS, 1), ("ada:secret", "ada", 2)):
        token = by.token(pair)
        said = [by.registry("GET", f"{PLACE}/manifests/latest", token) for _ in range(limit + 1)]
        assert [reply.status for reply in said] == [200] * limit + [429]
        assert said[-1].get("retry-after") == "60"
        assert by.hub.counted[name] == limit
    assert "ada" not in (said[0].get("docker-ratelimit-source") or "")


def test_heads_may_be_limited_too(start: Callable[..., By]) -> None:
    by = start(limit=0)
    by.hub.limit_heads = True
    assert by.registry("HEAD", f"{PLACE}/manifests/latest", by.token()).status == 429


# --- images ----------------------------------------------------------------------------------------------


def test_tags_move(start: Callable[..., By], image: Image, clock: Clock) -> None:
    by = start()
    other = make_image(seed=8)
    moved_at = clock.now = clock.now + 100
    by.hub.put(REPOSITORY, other, "latest")
    token = by.token()
    assert by.registry("GET", f"{PLACE}/manifests/latest", token).digest == other.digest
    assert by.registry("GET", f"{PLACE}/manifests/{image.digest}", token).digest == image.digest
    assert by.hub.digests(REPOSITORY, "latest", moved_at) == {image.digest, other.digest}
    assert by.hub.digests(REPOSITORY, "latest", moved_at + 1) == {other.digest}


def test_who_accepts_no_index_gets_a_manifest(start: Callable[..., By]) -> None:
    by = start()
    index = make_index(size=1000)
    by.hub.put(REPOSITORY, index, "multi")
    token = by.token()
    old, new = (by.registry("GET", f"{PLACE}/manifests/multi", token, accept) for accept in (MANIFEST, INDEX))
    assert (old.digest, new.digest) == (index.images[0].digest, index.digest)
    assert by.registry("GET", f"{PLACE}/manifests/{index.digest}", token).digest == index.digest
