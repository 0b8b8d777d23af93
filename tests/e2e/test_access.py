"""Who gets what the cache holds: by access mode, who asks, how it is asked for, registry up and down."""

from __future__ import annotations

import itertools
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from regproxy.telemetry.usage.usage_file import UsageFile
from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import MANIFEST, digest_of, make_image
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import wait_until
from tests.support.proxy import STATUS, Proxy
from tests.support.token_server import TokenServer
from tests.support.trust import Trust
from tests.support.two_workers import Pair

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]
Talk = Callable[..., Client]
Fields = list[tuple[str, str]]
StartScene = Callable[..., "Scene"]

PRIVATE, OTHERS, PUBLIC = "team/a", "team/b", "pub/app"
SECRET, OWN, OPEN = make_image(seed=901), make_image(seed=902), make_image(seed=903)
LAYER = SECRET.layers[0]
ACCEPT = [("Accept", MANIFEST)]
TAG, BLOB = f"/v2/{PRIVATE}/manifests/1", f"/v2/{PRIVATE}/blobs/{LAYER}"
VERDICTS = "regproxy_access_verdicts_total"
MODES = ["shared", "verified", "denied"]
REFUSED = {401, 403}


@pytest.fixture(scope="module")
def tokens(trust: Trust) -> Iterator[TokenServer]:
    users = {"alice": "a", "bob": "b"}
    owners = {PRIVATE: ("alice",), OTHERS: ("bob",), "team/new": ("alice",)}
    with TokenServer(trust, users=users, owners=owners) as server:
        yield server


@pytest.fixture(scope="module")
def registry(
    tokens: TokenServer, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), trust, tokens=tokens) as registry:
        registry.push(PRIVATE, "1", SECRET, creds="alice:a")
        registry.push(OTHERS, "1", OWN, creds="bob:b")
        registry.push(PUBLIC, "1", OPEN, creds="bob:b")
        yield registry


def bearer(tokens: TokenServer, registry: Registry, user: str | None, repository: str) -> Fields:
    """Authorization as a user's client gets it for a repository, without a scope where it may have none."""
    token = tokens.token(registry.name, [f"repository:{repository}:pull,push"], user)
    return [("Authorization", f"Bearer {token}")]


class Scene:
    """A proxy in one mode, before the registry. Alice has pulled her private image through it."""

    def __init__(self, proxy: Proxy, registry: Registry, tokens: TokenServer) -> None:
        self.proxy, self.registry, self.tokens = proxy, registry, tokens
        self.alice = bearer(tokens, registry, "alice", PRIVATE)
        self.bob = bearer(tokens, registry, "bob", PRIVATE)
        self.who = {"owner": self.alice, "other": self.bob, "nobody": []}

    def ask(self, path: str, headers: Fields, method: str = "GET", client: Client | None = None) -> Reply:
        with client or self.proxy.client(self.registry.authority) as connection:
            return connection.request(method, path, [*ACCEPT, *headers])

    def pull(self) -> None:
        """Have the owner pull the private image."""
        blobs = (f"/v2/{PRIVATE}/blobs/{digest}" for digest in SECRET.blobs)
        for path in (TAG, *blobs):
            assert self.ask(path, self.alice).status == 200, path
        self.proxy.wait_kept(SECRET.digest, *SECRET.blobs)


@pytest.fixture
def start_scene(registry: Registry, tokens: TokenServer, start_proxy: StartProxy) -> Callable[..., Scene]:
    def start(mode: str, **env: Any) -> Scene:
        proxy = start_proxy(registry, REGPROXY_ACCESS=mode, ENABLE_MANIFEST_CACHE="true", **env)
        return Scene(proxy, registry, tokens)

    return start


@contextmanager
def down(registry: Registry) -> Iterator[None]:
    registry.stop()
    try:
        yield
    finally:
        registry.start()


# (method, path, more headers)
WAYS: list[tuple[str, str, Fields]] = [
    ("GET", BLOB, []),
    ("GET", BLOB, [("Range", "bytes=5-99")]),
    ("GET", BLOB, [("Range", "bytes=5-9,20-29")]),
    ("HEAD", BLOB, []),
    ("GET", BLOB, [("If-None-Match", f'"{LAYER}"')]),
    ("GET", TAG, []),
    ("HEAD", TAG, []),
    ("GET", TAG, [("If-None-Match", f'"{SECRET.digest}"')]),
    ("GET", f"/v2/{PRIVATE}/manifests/{SECRET.digest}", []),
    ("HEAD", f"/v2/{PRIVATE}/manifests/{SECRET.digest}", []),
]


def gives_content(reply: Reply) -> bool:
    """Whether an answer tells a client that it may have this, or has what it holds confirmed."""
    return reply.status in (200, 206, 304)


def check_everybody(scene: Scene, mode: str, *, up: bool) -> None:
    """Ask in every way, as everybody: only those get something who may have it."""
    for (method, path, more), (who, headers) in itertools.product(WAYS, scene.who.items()):
        reply = scene.ask(path, [*headers, *more], method)
        may = mode == "shared" or (mode == "verified" and who == "owner")
        assert gives_content(reply) is may, (method, path, more, who, reply)
        if not may and mode == "verified" and up:
            # The registry's own answer says how to get in.
            assert reply.status in REFUSED
            assert "Bearer" in (reply.get("WWW-Authenticate") or "")


@pytest.mark.parametrize("mode", MODES)
def test_held_content(mode: str, start_scene: StartScene) -> None:
    scene = start_scene(mode)
    if mode == "denied":
        assert scene.ask(TAG, scene.alice).status == 403
    else:
        scene.pull()
    check_everybody(scene, mode, up=True)
    with down(scene.registry):
        check_everybody(scene, mode, up=False)
    assert (scene.proxy.metric(VERDICTS, verdict="refused") > 0) is (mode != "shared")
    assert scene.proxy.stop() == 0
    noted = UsageFile(scene.proxy.cache_dir / "state" / "usage.sqlite3").refusals()
    assert {(refusal.kind, refusal.repository) for refusal in noted} == (
        {("access", PRIVATE)} if mode != "shared" else set()
    )


@pytest.mark.parametrize("mode", ["shared", "verified"])
def test_stale_tags(mode: str, start_scene: StartScene) -> None:
    """A copy that is served because its registry is down goes to those alone who were let in."""
    scene = start_scene(mode, MANIFEST_CACHE_DEFAULT_TIME="0", MANIFEST_CACHE_SECONDARY_TIME="0")
    scene.pull()
    with down(scene.registry):
        owner = scene.ask(TAG, scene.alice)
        assert (owner.status, owner.get(STATUS)) == (200, "STALE")
        check_everybody(scene, mode, up=False)


@pytest.mark.parametrize("mode", MODES)
def test_offline(mode: str, start_scene: StartScene, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    scene = start_scene(mode, at=place)
    if mode != "denied":
        scene.pull()
    assert scene.proxy.stop() == 0
    scene.proxy = start_scene(mode, at=place, REGPROXY_OFFLINE="true").proxy
    check_everybody(scene, mode, up=False)


@pytest.mark.parametrize("outage", ["deny", "same-repository", "serve"])
def test_denied_is_denied_in_an_outage(outage: str, start_scene: StartScene, tmp_path: Path) -> None:
    """Also what was held before, whoever was let in then."""
    place = tmp_path / "kept"
    scene = start_scene("verified", at=place)
    scene.pull()
    assert scene.proxy.stop() == 0
    scene.proxy = start_scene("denied", at=place, REGPROXY_ACCESS_OUTAGE=outage).proxy
    with down(scene.registry):
        check_everybody(scene, "denied", up=False)


@pytest.mark.parametrize("mode", MODES)
def test_a_public_repository_is_everybodys(mode: str, start_scene: StartScene) -> None:
    """One request without credentials finds that out, for an hour."""
    scene = start_scene(mode)
    path, tag = f"/v2/{PUBLIC}/blobs/{OPEN.layers[0]}", f"/v2/{PUBLIC}/manifests/1"
    own = bearer(scene.tokens, scene.registry, None, PUBLIC)
    before = scene.registry.counted("HEAD", PUBLIC)
    for headers in (own, scene.bob, []):
        # In shared mode a client without a token is sent to get one while nothing is held.
        assert scene.ask(tag, headers).digest == OPEN.digest
        assert scene.ask(path, headers).digest == OPEN.layers[0]
    if mode != "shared":
        heads = scene.registry.counted("HEAD", PUBLIC) - before
        assert heads == 2  # the first hears what the registry wants
    with down(scene.registry):
        assert scene.ask(path, []).digest == OPEN.layers[0]


def test_one_question_for_each_credential_and_repository(start_scene: StartScene) -> None:
    scene = start_scene("verified")
    before = scene.registry.counted("HEAD", PRIVATE)
    scene.pull()
    scene.pull()
    # Without credentials twice (the first time it is not known what the registry wants), then Alice's.
    assert scene.registry.counted("HEAD", PRIVATE) - before == 3
    again = bearer(scene.tokens, scene.registry, "alice", PRIVATE)
    assert scene.ask(BLOB, again).status == 200
    assert scene.registry.counted("HEAD", PRIVATE) - before == 4


def let_in(proxy: Proxy) -> int:
    """How many rows of the index say that somebody was let in."""
    with closing(sqlite3.connect(proxy.cache_dir / "index.sqlite3")) as index:
        ((count,),) = index.execute("SELECT count(*) FROM tags WHERE variant = 'access'")
    return int(count)


def test_what_is_remembered_is_shared_by_workers(start_scene: StartScene) -> None:
    scene = start_scene("verified", REGPROXY_WORKERS="2")
    pair = Pair(scene.proxy, scene.registry.authority)
    one, two = pair.pids()
    assert scene.ask(BLOB, scene.alice, client=pair.client(one)).status == 200
    scene.proxy.wait_kept(LAYER)
    wait_until(lambda: let_in(scene.proxy) == 1, "it is written that Alice was let in")
    asked = scene.registry.counted("HEAD", PRIVATE)

    def other() -> bool:
        return scene.ask(BLOB, scene.alice, client=pair.client(two)).status == 200

    assert other()
    assert scene.registry.counted("HEAD", PRIVATE) == asked
    assert scene.ask(BLOB, scene.bob, client=pair.client(two)).status in REFUSED


def test_the_registry_is_asked_again(start_scene: StartScene) -> None:
    """A user who is no longer let in gets nothing once REGPROXY_ACCESS_TTL is over."""
    scene = start_scene("verified", REGPROXY_ACCESS_TTL="50ms")
    scene.pull()
    token = scene.tokens.token(scene.registry.name, [], "alice")  # as it is issued after she has left
    assert scene.ask(BLOB, [("Authorization", f"Bearer {token}")]).status in REFUSED
    before = scene.registry.counted("HEAD", PRIVATE)

    def asked_again() -> bool:
        assert scene.ask(BLOB, scene.alice).status == 200
        return scene.registry.counted("HEAD", PRIVATE) > before

    wait_until(asked_again, "the registry was asked again")


@pytest.mark.parametrize(
    ("outage", "grace", "owner", "others"),
    [
        ("deny", "1d", False, False),
        ("same-repository", "1d", True, False),
        ("same-repository", "1ms", False, False),
        ("serve", "1d", True, True),
    ],
)
def test_an_outage(outage: str, grace: str, owner: bool, others: bool, start_scene: StartScene) -> None:
    """What was remembered is over: the settings decide."""
    scene = start_scene(
        "verified", REGPROXY_ACCESS_TTL="1ms", REGPROXY_ACCESS_OUTAGE=outage, REGPROXY_ACCESS_GRACE=grace
    )
    scene.pull()
    path = f"/v2/{PRIVATE}/manifests/{SECRET.digest}"  # which nobody has asked for
    with down(scene.registry):
        told = {who: gives_content(scene.ask(path, headers)) for who, headers in scene.who.items()}
    assert told == {"owner": owner, "other": others, "nobody": others}
    verdicts = {word: scene.proxy.metric(VERDICTS, verdict=word) for word in ("allowed", "allowed_in_outage")}
    assert verdicts["allowed"] > 0  # to begin with
    assert (verdicts["allowed_in_outage"] > 0) is (owner or others)


@pytest.mark.parametrize("mode", MODES)
def test_as_a_mirror(mode: str, start_scene: StartScene, stack: ExitStack) -> None:
    """The proxy asks with nothing of the client's: content that is not public is for no client there."""
    scene = start_scene(mode)
    if mode != "denied":
        scene.pull()
    registry = scene.registry.authority
    client = stack.enter_context(Client.connect(scene.proxy.address))
    for (method, path, more), headers in itertools.product(WAYS, (scene.alice, [])):
        where = path.replace("/v2/", f"/v2/{registry}/")
        by_ns = f"{path}?ns={registry.replace(':', '%3A')}"
        for target in (where, by_ns):
            reply = client.request(method, target, [*ACCEPT, *headers, *more])
            assert gives_content(reply) is (mode == "shared"), (method, target, reply)
            assert mode == "shared" or reply.status == 403
    public = client.request("GET", f"/v2/{registry}/{PUBLIC}/blobs/{OPEN.layers[0]}")
    assert public.digest == OPEN.layers[0]


# --- two tenants -------------------------------------------------------------------------------------------


def test_knowing_a_digest_is_no_right_to_it(start_scene: StartScene) -> None:
    """Bob may pull from his own repository, but what is not in there he can't have from it."""
    scene = start_scene("verified")
    scene.pull()
    bob = bearer(scene.tokens, scene.registry, "bob", OTHERS)
    assert scene.ask(f"/v2/{OTHERS}/manifests/1", bob).digest == OWN.digest
    for headers in (bob, [*bob, ("Range", "bytes=0-9")]):
        assert scene.ask(f"/v2/{OTHERS}/blobs/{LAYER}", headers).status == 404
    assert scene.ask(f"/v2/{OTHERS}/manifests/{SECRET.digest}", bob).status == 404
    nobody: Fields = []
    asked = scene.ask(f"/v2/{PUBLIC}/blobs/{LAYER}", nobody)
    assert (asked.status, asked.get("WWW-Authenticate") is None) == (401, False)  # as without the proxy
    anybody = bearer(scene.tokens, scene.registry, None, PUBLIC)
    assert scene.ask(f"/v2/{PUBLIC}/blobs/{LAYER}", anybody).status == 404


def test_the_same_content_in_two_repositories(start_scene: StartScene) -> None:
    """Once Bob's repository has it too, it is Bob's from the cache; one HEAD tells."""
    scene = start_scene("verified")
    scene.pull()
    scene.registry.push(OTHERS, "copy", SECRET, creds="bob:b")
    bob = bearer(scene.tokens, scene.registry, "bob", OTHERS)
    fetched = scene.registry.counted("GET", LAYER)
    for _ in range(2):
        reply = scene.ask(f"/v2/{OTHERS}/blobs/{LAYER}", bob)
        assert (reply.digest, reply.get(STATUS)) == (LAYER, "HIT")
    assert scene.registry.counted("GET", LAYER) == fetched
    assert scene.ask(BLOB, bob).status in REFUSED


def test_pushed_content_is_private_too(start_scene: StartScene) -> None:
    scene = start_scene("verified", ALLOW_PUSH="true", REGPROXY_CACHE_PUSHES="true")
    body = random.Random(77).randbytes(200_000)
    digest, repository = digest_of(body), "team/new"
    alice = bearer(scene.tokens, scene.registry, "alice", repository)
    with scene.proxy.client(scene.registry.authority) as client:
        begun = client.request("POST", f"/v2/{repository}/blobs/uploads/", [*alice, ("Content-Length", "0")])
        assert begun.status == 202
        url = (begun.get("Location") or "").partition(scene.registry.authority)[2]
        mark = "&" if "?" in url else "?"
        client.ask("PUT", f"{url}{mark}digest={digest}", [*alice, ("Content-Length", str(len(body)))])
        client.send(body)
        assert client.read_reply().status == 201
    scene.proxy.wait_kept(digest)
    path = f"/v2/{repository}/blobs/{digest}"
    reply = scene.ask(path, alice)
    assert (reply.digest, reply.get(STATUS)) == (digest, "HIT")
    for headers in (bearer(scene.tokens, scene.registry, "bob", repository), []):
        assert scene.ask(path, headers).status in REFUSED
        assert scene.ask(path.replace(repository, OTHERS), headers).status in {*REFUSED, 404}


# --- what is under way -------------------------------------------------------------------------------------


class Tenants:
    """An origin with two repositories, each for a bearer of its own. Blobs wait for `go`."""

    def __init__(self, origin: Origin, go: threading.Event) -> None:
        self.origin, self.go = origin, go
        self.body = random.Random(5).randbytes(1 << 20)
        self.digest = digest_of(self.body)
        origin.on("/v2/*", self.answer)

    def path(self, repository: str) -> str:
        return f"/v2/{repository}/blobs/{self.digest}"

    def answer(self, seen: Seen) -> Answer:
        repository = seen.path.removeprefix("/v2/").partition("/blobs/")[0]
        if seen.get("authorization") != f"Bearer {repository}":
            return Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
        if repository == "empty":
            return Answer(b"{}", 404)
        return Answer(self.body, hold_at=600_000, hold=self.go)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_coming_is_for_those_alone_who_are_let_in(
    workers: str, start_origin: StartOrigin, start_proxy: StartProxy, hold: threading.Event, stack: ExitStack
) -> None:
    tenants = Tenants(start_origin("reg.test"), hold)
    proxy = start_proxy(tenants.origin, REGPROXY_ACCESS="verified", REGPROXY_WORKERS=workers)
    pair = Pair(proxy, tenants.origin.authority) if workers == "2" else None
    places = itertools.cycle(pair.pids() if pair else (0,))

    def connect() -> Client:
        client = pair.client(next(places)) if pair else proxy.client(tenants.origin.authority)
        return stack.enter_context(client)

    first, second = connect(), connect()
    first.ask("GET", tenants.path("one"), [("Authorization", "Bearer one")])
    assert first.read_head().status == 200
    assert first.read(100_000) == tenants.body[:100_000]
    for repository, credential in [("one", "two"), ("one", ""), ("empty", "empty"), ("two", "one")]:
        for method, more in [("GET", []), ("HEAD", []), ("GET", [("Range", "bytes=0-99")])]:
            headers = [("Authorization", f"Bearer {credential}")] if credential else []
            reply = connect().request(method, tenants.path(repository), [*headers, *more])
            assert reply.status in {401, 404}, (repository, credential, reply)
    second.ask("GET", tenants.path("one"), [("Authorization", "Bearer one")])
    assert second.read_head().status == 200
    hold.set()
    assert first.read(len(tenants.body) - 100_000) == tenants.body[100_000:]
    assert second.read(len(tenants.body)) == tenants.body
    got = [
        seen for seen in tenants.origin.requests if seen.method == "GET" and "Bearer one" in str(seen.headers)
    ]
    assert len([seen for seen in got if seen.path == tenants.path("one")]) == 1


# --- other registries --------------------------------------------------------------------------------------


class Liar:
    """A registry that says that it has whatever it is asked for, and has nothing."""

    def __init__(self, origin: Origin, digest: str, size: int) -> None:
        self.origin, self.digest, self.size = origin, digest, size
        origin.on("/v2/*", self.answer)

    def answer(self, seen: Seen) -> Answer:
        if seen.method == "HEAD":
            headers = {"Docker-Content-Digest": self.digest, "Content-Type": MANIFEST}
            return Answer(b"x" * self.size, headers=headers)
        return Answer(b"{}", 404)


@pytest.mark.parametrize("of", ["blob", "manifest"])
@pytest.mark.parametrize("liars", ["shared", "verified"])
def test_a_registry_can_not_claim_what_it_does_not_have(
    of: str,
    liars: str,
    start_origin: StartOrigin,
    start_proxy: StartProxy,
    registry: Registry,
    tokens: TokenServer,
    tmp_path: Path,
) -> None:
    """A client that names another registry, which may be its own, gets nothing of what is private in one."""
    digest = LAYER if of == "blob" else SECRET.digest
    size = len(SECRET.blobs[LAYER] if of == "blob" else SECRET.manifest)
    liar = Liar(start_origin("liar.test"), digest, size)
    (tmp_path / "config.toml").write_text(f'[origin."{liar.origin.authority}"]\naccess = "{liars}"\n')
    proxy = start_proxy(
        *(registry, liar.origin),
        REGPROXY_ACCESS="verified",
        ENABLE_MANIFEST_CACHE="true",
        REGPROXY_CONFIG=str(tmp_path / "config.toml"),
    )
    scene = Scene(proxy, registry, tokens)
    scene.pull()
    section = "blobs" if of == "blob" else "manifests"
    with proxy.client(liar.origin.authority) as client:
        for _ in range(2):
            for method, reference in itertools.product(("HEAD", "GET", "HEAD", "GET"), (digest, "latest")):
                path = f"/v2/my/app/{'manifests' if reference == 'latest' else section}/{reference}"
                reply = client.request(method, path, ACCEPT)
                assert reply.digest != digest, (method, reference)
                if method == "GET":
                    assert reply.status >= 400, (reference, reply)


@pytest.mark.parametrize("held", [False, True])
def test_a_page_to_log_in_at_is_no_yes(
    held: bool, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """What stands before a registry answers 200 to whoever is not logged in; pulls go on all the same."""
    body, origin = random.Random(8).randbytes(50_000), start_origin("reg.test")
    digest = digest_of(body)
    path = f"/v2/app/blobs/{digest}"

    def answer(seen: Seen) -> Answer:
        if seen.get("authorization") != "Bearer right":
            return Answer(b"<html>log in</html>", headers={"Content-Type": "text/html"})
        return Answer(body, headers={"Docker-Content-Digest": digest})

    origin.on("/v2/*", answer)
    client = talk(start_proxy(origin, REGPROXY_ACCESS="verified"), origin)
    if held:
        assert client.get(path, {"Authorization": "Bearer right"}).digest == digest
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.get(path, headers).body == b"<html>log in</html>"
        assert client.request("HEAD", path, list(headers.items())).get("Content-Length") == "19"
    assert client.get(path, {"Authorization": "Bearer right"}).digest == digest


def test_what_one_client_adds_decides_for_nobody_else(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """A refusal is remembered for equal requests alone."""
    origin = start_origin("reg.test")

    def answer(seen: Seen) -> Answer:
        good = "manifest" in (seen.get("accept") or "") and seen.get("user-agent") != "bad"
        return Answer(OPEN.manifest, headers={"Content-Type": MANIFEST}) if good else Answer(b"{}", 404)

    origin.on("/v2/*", answer)
    client = talk(start_proxy(origin, REGPROXY_ACCESS="verified"), origin)
    path = "/v2/app/manifests/1"
    assert client.get(path, [("Accept", "text/plain")]).status == 404
    assert client.get(path, [*ACCEPT, ("User-Agent", "bad")]).status == 404
    assert client.get(path, ACCEPT).digest == OPEN.digest


# --- the configured login ----------------------------------------------------------------------------------


LOGIN = 'credentials = {{username = "alice", password = "a"{more}}}'
# (settings of the table, whether who has no credentials gets Alice's private content)
LOGINS = [
    ('access = "shared"\n' + LOGIN.format(more=""), True),
    ('access = "verified"\n' + LOGIN.format(more=""), False),
    ('access = "denied"\n' + LOGIN.format(more=""), False),
    (LOGIN.format(more=""), True),
    (LOGIN.format(more=', principals = ["*"]'), True),
    (LOGIN.format(more=', principals = ["ci"]'), False),
    (LOGIN.format(more=', repositories = ["team/*"]'), True),
    (LOGIN.format(more=', repositories = ["other/*", "team"]'), False),
    (LOGIN.format(more=', principals = ["ci"], repositories = ["team/*"]'), False),
    ('access = "denied"\n' + LOGIN.format(more=', principals = ["*"]'), False),
]


@pytest.mark.parametrize(("table", "lent"), LOGINS)
def test_who_may_use_the_configured_login(
    table: str, lent: bool, registry: Registry, tokens: TokenServer, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Private content, listings, and tokens of the token server: by the login's list alone."""
    config = tmp_path / "config.toml"
    server = f'token_server = "{tokens.origin.authority}", username'
    config.write_text(f'[origin."{registry.authority}"]\n{table}\n'.replace("username", server))
    proxy = start_proxy(registry, tokens.origin, REGPROXY_CONFIG=str(config))
    scene = Scene(proxy, registry, tokens)
    for path in (TAG, BLOB, TAG, BLOB):
        assert gives_content(scene.ask(path, [])) is lent, path
    # Listings are for who has a token of the client's own, with token servers.
    assert not gives_content(scene.ask(f"/v2/{PRIVATE}/tags/list", []))
    with proxy.client(tokens.origin.authority) as client:
        query = f"service={registry.name}&scope=repository:{PRIVATE}:pull"
        token = client.get(f"/token?{query}").json()["token"]
    # What the token server gives to nobody is of no use, whatever cache there is.
    asked = scene.ask(BLOB, [("Authorization", f"Bearer {token}")])
    assert gives_content(asked) is lent
    own = bearer(tokens, registry, None, PUBLIC)
    assert scene.ask(f"/v2/{PUBLIC}/manifests/1", own).digest == OPEN.digest


def test_the_configured_login_beside_a_clients_own(
    registry: Registry, tokens: TokenServer, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """A client whose own credentials are refused may use the login where it is meant for it, only there."""
    config = tmp_path / "config.toml"
    more = f', token_server = "{tokens.origin.authority}", principals = ["*"], repositories = ["team/a"]'
    login = LOGIN.format(more=more)
    config.write_text(f'[origin."{registry.authority}"]\n{login}\n')
    scene = Scene(start_proxy(registry, REGPROXY_CONFIG=str(config)), registry, tokens)
    assert scene.ask(TAG, scene.bob).digest == SECRET.digest
    bob = bearer(tokens, registry, "bob", OTHERS)
    assert scene.ask(f"/v2/{OTHERS}/manifests/1", bob).digest == OWN.digest
    assert scene.ask(f"/v2/{OTHERS}/manifests/1", scene.alice).status in REFUSED
