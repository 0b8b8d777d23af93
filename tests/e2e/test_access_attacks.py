"""Who tries to get what is private by lies, detours and races; and pulls that must work for all that."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.images import MANIFEST, digest_of
from tests.support.origin import Answer, Origin, Seen, redirect
from tests.support.proxies import Proxies
from tests.support.proxy import STATUS, Proxy
from tests.support.token_server import TokenServer
from tests.support.trust import Trust
from tests.support.two_workers import Pair
from tests.support.virtual_hosts import VirtualHosts

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]
StartTokens = Callable[..., TokenServer]
Talk = Callable[..., Client]

BODY = random.Random(41).randbytes(200_000)
DIGEST = digest_of(BODY)
PATH = f"/v2/team/a/blobs/{DIGEST}"
REFUSED = {401, 403, 404}
OWNER = {"Authorization": "Bearer owner"}
WANTED = {"WWW-Authenticate": 'Basic realm="r"'}
ALICE = "Basic YWxpY2U6YQ=="
LOGIN = 'credentials = {{username = "alice", password = "a"{more}}}'


def owners_alone(seen: Seen, body: bytes = BODY) -> Answer:
    """What is in team/a is for the bearer of `owner` and for Alice; team/b has it too, for everybody."""
    private = "/team/a/" in seen.path or seen.path == "/v2/"
    if private and seen.get("authorization") not in ("Bearer owner", ALICE):
        return Answer(b"{}", 401, WANTED)
    if seen.path == "/v2/":
        return Answer(b"{}")
    digest = digest_of(body)
    if digest not in seen.path:
        return Answer(b"{}", 404)
    return Answer(body, headers={"Docker-Content-Digest": digest})


def configured(place: Path, **tables: str) -> str:
    """The path of a configuration with these tables, by the authority of their origins."""
    text = "\n".join(f'[origin."{name}"]\n{table}\n' for name, table in tables.items())
    (place / "config.toml").write_text(text)
    return str(place / "config.toml")


def tables(place: Path, *each: tuple[Origin, str]) -> str:
    return configured(place, **{origin.authority: table for origin, table in each})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_mirrors_word_lets_nobody_in(
    method: str, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """A mirror answers the proxy whatever client asks: only the registry says who is let in."""
    registry, mirror = start_origin("reg.test"), start_origin("mirror.test")
    registry.on("/v2/*", owners_alone)
    mirror.on("/v2/*", Answer(BODY, headers={"Docker-Content-Digest": DIGEST}))
    config = tables(tmp_path, (registry, f'access = "verified"\nmirrors = ["{mirror.url}"]'))
    proxy = start_proxy(registry, mirror, registries=(registry.authority,), REGPROXY_CONFIG=config)
    client = talk(proxy, registry)
    assert client.request(method, PATH).status == 401
    assert client.get(PATH, OWNER).digest == DIGEST
    assert client.request(method, PATH).status == 401
    assert mirror.count("GET") == 1


def test_a_mirrors_word_is_enough_of_what_is_for_everybody(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """A shared registry that is down, and has a mirror, is pulled from beside one whose content is kept."""
    registry, mirror, other = (start_origin(f"{name}.test") for name in ("reg", "mirror", "other"))
    registry.on("/v2/*", Answer(b"", 503))
    mirror.on("/v2/*", Answer(BODY, headers={"Docker-Content-Digest": DIGEST}))
    shared = (registry, f'access = "shared"\nmirrors = ["{mirror.url}"]')
    config = tables(tmp_path, shared, (other, 'access = "denied"'))
    proxy = start_proxy(registry, mirror, registries=(registry.authority,), REGPROXY_CONFIG=config)
    client = talk(proxy, registry)
    for repository in ("team/a", "team/b", "team/b"):
        assert client.get(PATH.replace("team/a", repository)).digest == DIGEST, repository
        proxy.wait_kept(DIGEST)
    assert mirror.count("GET") == 1


# (settings of the private registry's table, whether everybody may have what the login brings)
BEHIND = [
    ('access = "shared"\n' + LOGIN.format(more=""), True),
    ('access = "verified"\n' + LOGIN.format(more=""), False),
    ('access = "denied"\n' + LOGIN.format(more=""), False),
    (LOGIN.format(more=', principals = ["ci"]'), False),
    (LOGIN.format(more=', principals = ["*"]'), True),
    (LOGIN.format(more=', repositories = ["other/*"]'), False),
]


@dataclass(frozen=True)
class Led:
    """For each row of BEHIND a registry with that table, and one that leads to whatever is in the first.

    `proxies`: by whether everybody may have what is behind them.
    """

    proxies: dict[bool, Proxy]
    registries: list[Origin]
    liars: list[Origin]


@pytest.fixture(scope="module")
def led(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Led]:
    count = len(BEHIND)
    with VirtualHosts(trust, "private", count) as private, VirtualHosts(trust, "liar", count) as lying:
        registries, liars = [private.new() for _ in BEHIND], [lying.new() for _ in BEHIND]
        configs = {}
        for lent in (True, False):  # apart: what is for everybody is not judged beside what is not
            each = zip(registries, BEHIND, strict=True)
            rows = [(registry, table) for registry, (table, is_lent) in each if is_lent is lent]
            configs[lent] = tables(tmp_path_factory.mktemp("led"), *rows)
        with Proxies(tmp_path_factory, trust, private, lying) as proxies:
            each_proxy = {lent: proxies(REGPROXY_CONFIG=config) for lent, config in configs.items()}
            yield Led(each_proxy, registries, liars)


@pytest.mark.parametrize("number", range(len(BEHIND)))
def test_a_redirect_does_not_borrow_a_login(number: int, led: Led, talk: Talk) -> None:
    """A registry that leads to a private one gets no more than its client would there."""
    registry, liar, lent = led.registries[number], led.liars[number], BEHIND[number][1]
    body = random.Random(f"led {number}").randbytes(200_000)
    digest = digest_of(body)
    registry.on("/v2/*", lambda seen: owners_alone(seen, body))
    liar.on("/v2/*", lambda seen: redirect(f"{registry.url}/v2/team/a/blobs/{digest}"))
    client = talk(led.proxies[lent], liar)
    for method in ("HEAD", "GET"):
        reply = client.request(method, f"/v2/my/app/blobs/{digest}")
        assert (reply.status == 200) is lent, (method, reply)


@pytest.mark.parametrize("sort", ["application/json", "application/octet-stream", ""])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_success_without_a_digest_joins_nothing(
    workers: str,
    sort: str,
    hosts: VirtualHosts,
    proxies: Proxies,
    hold: threading.Event,
    stack: ExitStack,
) -> None:
    """Who is answered with some other 200 gets that, not what is just being fetched for another client."""
    origin, page = hosts.new(), b'{"log in": "here"}'
    body = random.Random(f"{workers} {sort}").randbytes(200_000)
    digest = digest_of(body)
    path = f"/v2/team/a/blobs/{digest}"

    def answer(seen: Seen) -> Answer:
        if seen.get("authorization") == "Bearer owner":
            return Answer(body, hold_at=150_000, hold=hold)
        return Answer(page, headers={"Content-Type": sort} if sort else {})

    origin.on("/v2/*", answer)
    proxy = proxies(REGPROXY_ACCESS="verified", REGPROXY_WORKERS=workers)
    pair = Pair(proxy, origin.authority) if workers == "2" else None
    places = itertools.cycle(pair.pids() if pair else (0,))

    def connect() -> Client:
        client = pair.client(next(places)) if pair else proxy.client(origin.authority)
        return stack.enter_context(client)

    owner = connect()
    owner.ask("GET", path, list(OWNER.items()))
    assert owner.read_head().status == 200
    assert owner.read(100_000) == body[:100_000]
    for _ in range(2):
        for method, more in [("GET", []), ("HEAD", []), ("GET", [("Range", "bytes=0-9")])]:
            reply = connect().request(method, path, more)
            assert reply.get("Content-Length") in ("18", "10"), (method, more, reply)
            assert method == "HEAD" or reply.body in (page, page[:10]), (method, more, reply)
    hold.set()
    assert owner.read(100_000) == body[100_000:]
    proxy.wait_kept(digest)
    assert connect().request("GET", path, []).body != body


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_page_fails_nobody_elses_pull(
    workers: str, start_origin: StartOrigin, start_proxy: StartProxy, hold: threading.Event, stack: ExitStack
) -> None:
    """Who is let in gets the content, also where a page has just been fetched in its place."""
    origin, page = start_origin("reg.test"), b"{}"

    def answer(seen: Seen) -> Answer:
        if seen.get("authorization") == "Bearer owner":
            return Answer(BODY, headers={"Docker-Content-Digest": DIGEST})
        return Answer(page, hold_at=-1 if seen.method == "GET" else None, hold=hold)

    origin.on("/v2/*", answer)
    proxy = start_proxy(origin, REGPROXY_ACCESS="verified", REGPROXY_WORKERS=workers)
    pair = Pair(proxy, origin.authority) if workers == "2" else None
    places = itertools.cycle(pair.pids() if pair else (0,))

    def connect() -> Client:
        client = pair.client(next(places)) if pair else proxy.client(origin.authority)
        return stack.enter_context(client)

    other, owner = connect(), connect()
    other.ask("GET", PATH)
    origin.wait_for(lambda origin: origin.count("GET") == 1, "the page is asked for")
    heads = origin.count("HEAD")
    owner.ask("GET", PATH, list(OWNER.items()))
    origin.wait_for(lambda origin: origin.count("HEAD") > heads, "the owner is let in")
    hold.set()
    reply = owner.read_reply()
    assert reply.digest == DIGEST, (reply, proxy.log())
    assert other.read_reply().body != BODY


def test_what_is_held_can_not_be_told_by_another_registry(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """A liar's answers to HEAD don't find out whether a private registry's content is held, and its size."""
    registry, liar = start_origin("reg.test"), start_origin("liar.test")
    registry.on("/v2/*", owners_alone)
    size = 0

    def lie(seen: Seen) -> Answer:
        return Answer(b"x" * size) if seen.method == "HEAD" else Answer(b"{}", 404)

    liar.on("/v2/*", lie)
    proxy = start_proxy(registry, liar, REGPROXY_ACCESS="verified")
    assert talk(proxy, registry).get(PATH, OWNER).digest == DIGEST
    client = talk(proxy, liar)
    told: list[tuple[object, ...]] = []
    for digest, size in itertools.product((DIGEST, digest_of(b"never seen")), (len(BODY), 7)):
        for method in ("GET", "HEAD"):
            reply = client.request(method, f"/v2/my/app{len(told)}/blobs/{digest}")
            told.append((method, size, reply.status, reply.get(STATUS), reply.get("Content-Length")))
    assert told[:4] == told[4:]


@pytest.mark.parametrize("mode", ["verified", "shared"])
def test_a_registry_that_says_little_by_head(
    mode: str, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """What is held of one repository can be had from another, where HEAD does not say that it is there."""
    registry, other = start_origin("reg.test"), start_origin("other.test")
    manifest = Answer(b"{}", headers={"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(b"{}")})

    def answer(seen: Seen) -> Answer:
        if "/manifests/" in seen.path:
            return manifest
        return Answer(BODY, framing="chunked" if seen.method == "HEAD" else "length")

    registry.on("/v2/*", answer)
    config = tables(tmp_path, (registry, f'access = "{mode}"'), (other, 'access = "denied"'))
    client = talk(start_proxy(registry, other, REGPROXY_CONFIG=config), registry)
    for repository in ("team/a", "team/b", "team/b"):
        client.request("HEAD", f"/v2/{repository}/manifests/1", [("Accept", MANIFEST)])
        reply = client.get(f"/v2/{repository}/blobs/{DIGEST}")
        assert (reply.status, reply.digest) == (200, DIGEST), (repository, reply)


@pytest.mark.parametrize("more", ["", ', principals = ["*"]'])
def test_denied_keeps_listings_too(
    more: str, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """No login goes with requests for what is not public."""
    registry = start_origin("reg.test")
    registry.on("/v2/*", owners_alone)
    config = tables(tmp_path, (registry, 'access = "denied"\n' + LOGIN.format(more=more)))
    client = talk(start_proxy(registry, REGPROXY_CONFIG=config), registry)
    for path in (PATH, "/v2/team/a/tags/list", f"/v2/team/a/referrers/{DIGEST}", PATH):
        assert client.get(path).status in REFUSED, path
    assert not any(seen.get("authorization") == ALICE and "/a/" in seen.path for seen in registry.requests)


def test_a_mount_from_elsewhere_gets_no_login(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """A login for some repositories does not bring others' content into them."""
    registry = start_origin("reg.test")

    def answer(seen: Seen) -> Answer:
        if seen.get("authorization") != ALICE:
            return Answer(b"{}", 401, WANTED)
        return Answer(b"", 201 if seen.method == "POST" else 200, {"Location": "/v2/x"})

    registry.on("/v2/*", answer)
    table = LOGIN.format(more=', repositories = ["team/a", "team/c"]')
    proxy = start_proxy(registry, ALLOW_PUSH="true", REGPROXY_CONFIG=tables(tmp_path, (registry, table)))
    client = talk(proxy, registry)
    begin = f"/v2/team/a/blobs/uploads/?mount={DIGEST}"
    for query, status in [
        ("&from=team/c", 201),
        ("&from=team/b", 401),
        ("&from=team%2Fb", 401),
        ("&from=team/c&from=team/b", 401),
        ("&From=team/b", 401),
        ("&%66rom=team/b", 401),
        (";from=team/b", 401),
    ]:
        reply = client.request("POST", begin + query, [("Content-Length", "0")])
        assert reply.status == status, (query, reply)


def test_a_realm_named_by_another_registry_borrows_no_login(
    start_origin: StartOrigin,
    start_proxy: StartProxy,
    start_tokens: StartTokens,
    talk: Talk,
    tmp_path: Path,
) -> None:
    """A registry of the same domain that names the private one's token server is no way around its list."""
    tokens = start_tokens(name="auth.corp.test", users={"alice": "a"}, owners={"team/a": ("alice",)})
    registry, liar = start_origin("reg.corp.test"), start_origin("liar.corp.test")
    challenge = f'Bearer realm="{tokens.realm}",service="reg"'
    for origin in (registry, liar):
        origin.on("/v2/*", Answer(b"{}", 401, {"WWW-Authenticate": challenge}))
    login = LOGIN.format(more=', principals = ["ci"]')
    config = tables(tmp_path, (registry, login), (tokens.origin, login))
    proxy = start_proxy(registry, liar, tokens.origin, REGPROXY_CONFIG=config)
    for origin in (registry, liar):
        assert talk(proxy, origin).get("/v2/").status == 401
    talk(proxy, tokens.origin).get("/token?service=reg&scope=repository:team/a:pull")
    talk(proxy, liar).get("/v2/team/a/manifests/1", [("Accept", MANIFEST)])
    asked = [seen.get("authorization") for seen in tokens.requests if seen.path == "/token"]
    assert ALICE not in asked


@pytest.mark.parametrize("status", [403, 404])
def test_a_registry_that_hides_what_is_private(
    status: int, start_origin: StartOrigin, start_proxy: StartProxy, start_tokens: StartTokens, talk: Talk
) -> None:
    """A client that waits to be asked for its credentials is asked, whatever an anonymous token would get."""
    tokens, registry = start_tokens(), start_origin("reg.test")
    challenge = f'Bearer realm="{tokens.realm}",service="reg"'

    def answer(seen: Seen) -> Answer:
        said = seen.get("authorization")
        if said is None:
            return Answer(b"{}", 401, {"WWW-Authenticate": challenge})
        if said != "Bearer owner":
            return Answer(b"{}", status)
        return Answer(BODY, headers={"Docker-Content-Digest": DIGEST})

    registry.on("/v2/*", answer)
    client = talk(start_proxy(registry, tokens.origin, REGPROXY_ACCESS="verified"), registry)
    for method in ("HEAD", "GET", "HEAD", "GET"):
        reply = client.request(method, PATH)
        assert (reply.status, reply.get("WWW-Authenticate")) == (401, challenge), (method, reply)
        assert client.request(method, PATH, list(OWNER.items())).status == 200


@pytest.mark.parametrize("outage", ["deny", "same-repository"])
@pytest.mark.parametrize("status", [500, 503])
def test_a_registry_in_trouble_with_head_alone(
    status: int, outage: str, hosts: VirtualHosts, proxies: Proxies, talk: Talk
) -> None:
    """It may judge the request itself."""
    registry, body = hosts.new(), random.Random(f"{status} {outage}").randbytes(200_000)
    path = f"/v2/team/a/blobs/{digest_of(body)}"

    def answer(seen: Seen) -> Answer:
        return Answer(b"", status) if seen.method == "HEAD" else owners_alone(seen, body)

    registry.on("/v2/*", answer)
    proxy = proxies(REGPROXY_ACCESS="verified", REGPROXY_ACCESS_OUTAGE=outage)
    client = talk(proxy, registry)
    for _ in range(2):
        assert client.get(path, OWNER).body == body
        assert client.get(path).status == 401
