"""What registries in the field do: redirects to plain HTTP and to other registries, refusals, busy CDNs."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import pytest

from tests.support.client import Client, Reply
from tests.support.images import MANIFEST, Image, digest_of, make_image
from tests.support.origin import Answer, Origin, Script, Seen, blob_answer, manifest_answer, redirect
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

NUMBERS = itertools.count()
HOSTS = 560  # names of the registries: what is learned of one is no business of another's
ACCEPT = {"Accept": MANIFEST}
OWN = "Bearer the-clients-own"
WORDS = ("reg", "auth", "login")
CODES = (301, 302, 303, 307, 308)
# Tags are asked for each time, so that a copy that is held is confirmed with each request.
SETTINGS = {"PROXY_READ_TIMEOUT": "5s", "REGPROXY_RESUME_TIME": "5s"}


class Field(NamedTuple):
    """The origins that all tests share: registries, what they redirect to, and a plain one."""

    registries: Origin
    others: Origin
    plain: Origin

    def asked(self, at: Origin, path: str) -> list[Seen]:
        return [seen for seen in list(at.requests) if seen.path == path]


class Item(NamedTuple):
    """Content of a repository of its own, and the answer that has it."""

    path: str
    answer: Answer
    body: bytes


@pytest.fixture(scope="module")
def field(trust: Trust) -> Iterator[Field]:
    with (
        Origin(trust, *(f"reg{number}.test" for number in range(HOSTS))) as registries,
        Origin(trust, *(f"{word}.other{n}.test" for n in range(HOSTS) for word in WORDS)) as others,
        Origin(None, "plain.test") as plain,
    ):
        yield Field(registries, others, plain)


class Proxies:
    """Proxies before these origins, by what is set, started when they are first wanted."""

    def __init__(self, field: Field, trust: Trust, place: Callable[[], Path]) -> None:
        self._field, self._trust, self._place = field, trust, place
        self._stack = ExitStack()
        self._proxies: dict[tuple[tuple[str, str], ...], Proxy] = {}

    def __call__(self, **env: str) -> Proxy:
        key = tuple(sorted(env.items()))
        if key not in self._proxies:
            resolve: dict[str, str] = {}
            for origin in self._field:
                resolve |= origin.resolve
            ports = f"{self._field.registries.port},{self._field.others.port}"
            proxy = Proxy(
                self._place(),
                {**SETTINGS, "REGPROXY_CONNECT_PORTS": ports, **env},
                registries=("*.test",),
                resolve=resolve,
                ca=self._trust.path,
            )
            self._proxies[key] = self._stack.enter_context(proxy)
        return self._proxies[key]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def proxies(field: Field, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Each of them fails at the end where anything was left open."""
    found = Proxies(field, trust, lambda: tmp_path_factory.mktemp("proxy"))
    yield found
    found.close()


NAMES = (f"reg{number}.test" for number in range(HOSTS - 120))


@pytest.fixture
def host(field: Field) -> str:
    """A registry of the test's own."""
    return f"{next(NAMES)}:{field.registries.port}"


Through = Callable[..., Client]


@pytest.fixture
def through(proxies: Proxies, host: str, stack: ExitStack) -> Through:
    """A client of the proxy with these settings, that is through to `host`, or to another one."""

    def client(to: str = host, **env: str) -> Client:
        return stack.enter_context(proxies(**env).client(to))

    return client


def image() -> Image:
    return make_image(size=1000, layers=1, seed=next(NUMBERS))


def blob(size: int = 5000) -> Item:
    number = next(NUMBERS)
    body = random.Random(number).randbytes(size)
    return Item(f"/v2/r{number}/blobs/{digest_of(body)}", blob_answer(digest_of(body), body), body)


def manifest() -> Item:
    made = image()
    return Item(f"/v2/r{next(NUMBERS)}/manifests/{made.digest}", manifest_answer(made), made.manifest)


def tag() -> Item:
    made = image()
    return Item(f"/v2/r{next(NUMBERS)}/manifests/latest", manifest_answer(made), made.manifest)


BY_DIGEST = [blob, manifest]
MAKERS = [blob, manifest, tag]


def name(value: object) -> str | None:
    return getattr(value, "__name__", None)


def error_of(reply: Reply) -> str:
    (error,) = reply.json()["errors"]
    return str(error["message"])


# --- redirects to plain HTTP ------------------------------------------------------------------------------

SECRETS = ("authorization", "cookie", "proxy-authorization", "x-registry-auth")
LISTED = {"REGPROXY_ALLOW_HTTP_REDIRECTS": "*.test"}
NEVER = {"REGPROXY_ALLOW_HTTP_REDIRECTS": "off"}
OTHERS = {"REGPROXY_ALLOW_HTTP_REDIRECTS": "reg.elsewhere.example, *.elsewhere.example"}


def moved_to_plain(field: Field, item: Item, code: int = 307) -> None:
    field.registries.on(item.path, redirect(field.plain.url + item.path, code))
    field.plain.on(item.path, item.answer)


def bare(seen: Seen) -> bool:
    return not any(seen.get(secret) for secret in SECRETS)


class TestPlainRedirects:
    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("make", BY_DIGEST, ids=name)
    @pytest.mark.parametrize("env", [{}, OTHERS, LISTED], ids=["default", "others", "listed"])
    def test_content_by_digest(
        self, env: dict[str, str], make: Callable[[], Item], code: int, through: Through, field: Field
    ) -> None:
        item, client = make(), through(**env)
        moved_to_plain(field, item, code)
        sent = {**ACCEPT, "Authorization": OWN, "Cookie": "a=b"}
        reply = client.request("HEAD", item.path, sent)
        assert (reply.status, reply.get("Content-Length")) == (200, str(len(item.body)))
        for word in ("MISS", "HIT"):
            reply = client.get(item.path, sent)
            assert (reply.status, reply.body, said(reply)[0]) == (200, item.body, word)
        seen = field.asked(field.plain, item.path)
        assert [each.method for each in seen] == ["HEAD", "GET"]
        assert all(map(bare, seen))
        assert [each.get("authorization") for each in field.asked(field.registries, item.path)] == [OWN] * 2

    def test_wrong_bytes_are_not_taken(self, through: Through, field: Field) -> None:
        item, client = blob(), through()
        moved_to_plain(field, item)
        field.plain.on(item.path, Answer(item.body[:-1] + bytes([item.body[-1] ^ 1])))
        assert client.get(item.path).status == 502
        field.plain.on(item.path, item.answer)
        assert client.get(item.path).body == item.body

    def test_a_range(self, through: Through, field: Field) -> None:
        item = blob(200_000)
        moved_to_plain(field, item)
        reply = through().get(item.path, {"Range": "bytes=1000-1999"})
        assert (reply.status, reply.body) == (206, item.body[1000:2000])

    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("env", [{}, OTHERS, NEVER], ids=["default", "others", "never"])
    def test_a_tag_is_refused(
        self, env: dict[str, str], method: str, code: int, through: Through, field: Field
    ) -> None:
        item = tag()
        moved_to_plain(field, item, code)
        reply = through(**env).request(method, item.path, ACCEPT)
        assert reply.status == 502
        if method == "GET":
            assert "REGPROXY_ALLOW_HTTP_REDIRECTS" in error_of(reply)
            assert "plain.test" in error_of(reply)
        assert field.asked(field.plain, item.path) == []

    @pytest.mark.parametrize("make", BY_DIGEST, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_off(self, method: str, make: Callable[[], Item], through: Through, field: Field) -> None:
        item = make()
        moved_to_plain(field, item)
        assert through(**NEVER).request(method, item.path, ACCEPT).status == 502
        assert field.asked(field.plain, item.path) == []

    def test_a_tag_that_is_held_is_served(self, through: Through, field: Field) -> None:
        item, client = tag(), through()
        field.registries.on(item.path, item.answer)
        assert client.get(item.path, ACCEPT).body == item.body
        moved_to_plain(field, item)
        for method in ("GET", "HEAD"):
            reply = client.request(method, item.path, ACCEPT)
            assert (reply.status, said(reply)[0]) == (200, "STALE")
        assert field.asked(field.plain, item.path) == []

    @pytest.mark.parametrize("code", CODES)
    def test_a_tag_of_a_listed_registry(self, code: int, through: Through, field: Field) -> None:
        item, client = tag(), through(**LISTED)
        moved_to_plain(field, item, code)
        sent = {**ACCEPT, "Authorization": OWN, "Cookie": "a=b"}
        assert client.request("HEAD", item.path, sent).status == 200
        for word in ("MISS", "REVALIDATED"):
            reply = client.get(item.path, sent)
            assert (reply.status, reply.body, said(reply)[0]) == (200, item.body, word)
        assert all(map(bare, field.asked(field.plain, item.path)))

    def test_what_is_redirected_back(self, through: Through, field: Field, host: str) -> None:
        """Once it has gone by plain HTTP, nothing of the registry's is shown to anybody, itself included."""
        item, back = blob(), f"/kept/r{next(NUMBERS)}"
        field.registries.on(item.path, redirect(field.plain.url + item.path))
        field.plain.on(item.path, redirect(f"https://{host}{back}"))
        field.registries.on(back, item.answer)
        assert through().get(item.path, {"Authorization": OWN}).body == item.body
        (seen,) = field.asked(field.registries, back)
        assert bare(seen)

    def test_what_is_redirected_back_and_refused(self, through: Through, field: Field) -> None:
        """Nor where the registry asks for it: who is in between has chosen what it would be used for."""
        item, host = blob(), f"reg298.test:{field.registries.port}"
        back = blob()
        field.registries.on(item.path, redirect(field.plain.url + item.path))
        field.plain.on(item.path, redirect(f"https://{host}{back.path}"))
        field.registries.on(back.path, Answer(b"", 401, {"WWW-Authenticate": 'Basic realm="r"'}))
        client = through(host, AUTH_REGISTRIES="reg298.test:u:p")
        assert client.get(item.path).status == 401
        assert all(map(bare, field.asked(field.registries, back.path)))

    def test_no_configured_login(self, through: Through, field: Field) -> None:
        """Neither the registry's own nor that of the host that it leads to."""
        item, env = blob(), {"AUTH_REGISTRIES": "plain.test:x:y reg299.test:u:p"}
        moved_to_plain(field, item)
        field.plain.on(item.path, Answer(b"", 401, {"WWW-Authenticate": 'Basic realm="r"'}))
        client = through(f"reg299.test:{field.registries.port}", **env)
        assert client.get(item.path).status == 401
        assert all(map(bare, field.asked(field.plain, item.path)))
        (seen,) = field.asked(field.registries, item.path)
        assert seen.get("authorization") == "Basic dTpw"


# --- redirects as clients follow them ---------------------------------------------------------------------

# What is written behind the path, and what is asked for.
WRITTEN = {
    "a blank": (" x?a=b c", "%20x?a=b%20c"),
    "not ascii": ("/\xe4?b=\xfc", "/%E4?b=%FC"),
    "punctuation": ('?a="<b>"|^`{}[]\\', '?a="<b>"|^`{}[]\\'),
    "a fragment": ("?a=b#c", "?a=b"),
}


class TestRedirects:
    @pytest.mark.parametrize("way", WRITTEN)
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_how_they_are_written(
        self, method: str, make: Callable[[], Item], way: str, through: Through, field: Field, host: str
    ) -> None:
        item, (written, asked) = make(), WRITTEN[way]
        to = f"/kept/r{next(NUMBERS)}"
        field.registries.on(item.path, redirect(f"https://{elsewhere(field, host)}{to}{written}"))
        field.others.on(f"{to}*", item.answer)
        reply = through().request(method, item.path, ACCEPT)
        assert (reply.status, reply.body) == (200, item.body if method == "GET" else b"")
        assert [seen.target for seen in field.others.requests if to in seen.path] == [to + asked]

    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_long_chain(
        self, method: str, make: Callable[[], Item], through: Through, field: Field, host: str
    ) -> None:
        """To and fro, as many as clients follow; nothing is shown once it has left the registry."""
        item, place = make(), f"/kept/r{next(NUMBERS)}"
        turns = [(field.others, elsewhere(field, host)), (field.registries, host)] * 5
        at, path = field.registries, item.path
        for number, (to, authority) in enumerate(turns):
            at.on(path, redirect(f"https://{authority}{place}/{number}"))
            at, path = to, f"{place}/{number}"
        at.on(path, item.answer)
        reply = through().request(method, item.path, {**ACCEPT, "Authorization": OWN})
        assert (reply.status, reply.body) == (200, item.body if method == "GET" else b"")
        seen = [seen for to in (field.registries, field.others) for seen in to.requests if place in seen.path]
        assert len(seen) == 10
        assert all(map(bare, seen))

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_one_without_an_end(self, method: str, through: Through, field: Field, host: str) -> None:
        item = tag()
        moved(field, item, elsewhere(field, host), redirect(f"https://{host}{item.path}"))
        assert through().request(method, item.path, ACCEPT).status == 502
        assert field.registries.hits[item.path] + field.others.hits[item.path] == 11


# --- hosts that are redirected to, and are busy ------------------------------------------------------------


def busy(status: int, **headers: str) -> Answer:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(b"slow down", status, {"Content-Type": "text/plain", **fields})


def elsewhere(field: Field, host: str) -> str:
    """Return a host of the test's own, that its registry redirects to."""
    number = host.removeprefix("reg").partition(".")[0]
    return f"reg.other{number}.test:{field.others.port}"


def moved(field: Field, item: Item, to: str, *scripts: Script, code: int = 307) -> None:
    field.registries.on(item.path, redirect(f"https://{to}{item.path}", code))
    field.others.on(item.path, *(scripts or (item.answer,)))


class TestBusyCdns:
    @pytest.mark.parametrize("status, headers", [(429, {}), (503, {}), (429, {"Retry_After": "1"})])
    @pytest.mark.parametrize("make", BY_DIGEST, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_what_is_refused_is_asked_for_again(
        self,
        method: str,
        make: Callable[[], Item],
        status: int,
        headers: dict[str, str],
        through: Through,
        field: Field,
        host: str,
    ) -> None:
        item, refusal = make(), busy(status, **headers)
        moved(field, item, elsewhere(field, host), refusal, refusal, item.answer)
        reply = through().request(method, item.path, ACCEPT)
        assert (reply.status, reply.body) == (200, item.body if method == "GET" else b"")
        # The registry had no part in it.
        assert field.registries.hits[item.path] == 1
        assert field.others.hits[item.path] == 3

    @pytest.mark.parametrize("status, headers", [(429, {}), (503, {}), (429, {"Retry_After": "3600"})])
    def test_others_go_on(
        self, status: int, headers: dict[str, str], through: Through, field: Field, host: str
    ) -> None:
        """Nor is a tag's copy any staler for it, whose registry has said nothing of the kind."""
        refused, others = blob(), [make() for make in MAKERS for _ in range(3)]
        moved(field, refused, elsewhere(field, host), busy(status, **headers))
        client = through()
        client.ask("GET", refused.path)
        field.others.wait_for(lambda origin: origin.hits[refused.path] > 0)
        other = through()
        for item in others:
            moved(field, item, elsewhere(field, host))
            reply = other.get(item.path, ACCEPT)
            assert (reply.status, reply.body) == (200, item.body)
        assert client.read_reply("GET").status == status
        assert field.others.hits[refused.path] == (1 if headers else 5)

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_tag_keeps_nobody_waiting(self, status: int, through: Through, field: Field, host: str) -> None:
        item, client = tag(), through()
        moved(field, item, elsewhere(field, host))
        assert client.get(item.path, ACCEPT).status == 200
        before = field.others.hits[item.path]
        moved(field, item, elsewhere(field, host), busy(status))
        for turn in range(1, 4):
            reply = client.get(item.path, ACCEPT)
            assert (reply.status, said(reply)[0]) == (200, "STALE")
            assert field.others.hits[item.path] == before + turn

    def test_few_at_a_time(self, proxies: Proxies, stack: ExitStack, field: Field, host: str) -> None:
        """While it is busy."""
        first, items, go = blob(), [blob() for _ in range(12)], threading.Event()
        to = elsewhere(field, host)
        moved(field, first, to, busy(429), first.answer)
        clients = [stack.enter_context(proxies().client(host)) for _ in items]
        assert clients[0].get(first.path).status == 200
        for item in items:
            moved(field, item, to, replace(item.answer, hold_at=-1, hold=go))
        try:
            for client, item in zip(clients, items, strict=True):
                client.ask("GET", item.path)
            field.registries.wait_for(lambda origin: all(origin.hits[item.path] for item in items))
            field.others.wait_for(lambda origin: sum(origin.hits[item.path] for item in items) >= 4)
            assert sum(field.others.hits[item.path] for item in items) == 4
        finally:
            go.set()
        assert [client.read_reply("GET").body for client in clients] == [item.body for item in items]

    @pytest.mark.parametrize("make", [blob, manifest], ids=name)
    def test_a_429_of_the_registry_is_its_quota(
        self, make: Callable[[], Item], through: Through, field: Field
    ) -> None:
        item, client = make(), through()
        field.registries.on(item.path, busy(429, Retry_After="3600"))
        assert [client.get(item.path, ACCEPT).status for _ in range(2)] == [429, 429]
        assert field.registries.hits[item.path] == 1


# --- a second registry ------------------------------------------------------------------------------------

FIRST, SECOND = "Basic Zmlyc3Q6cHcx", "Basic c2Vjb25kOnB3Mg=="  # first:pw1, second:pw2
WITH_LOGINS = range(HOSTS - 120, HOSTS)
LOGINS = {
    "AUTH_REGISTRIES": " ".join(
        f"reg{number}.test:first:pw1 reg.other{number}.test:second:pw2" for number in WITH_LOGINS
    )
}
NAMES_WITH_LOGINS = (f"reg{number}.test" for number in WITH_LOGINS[:40])


@pytest.fixture
def known_host(field: Field) -> str:
    """A registry of the test's own that has a login, as the second one has."""
    return f"{next(NAMES_WITH_LOGINS)}:{field.registries.port}"


def challenge(realm: str) -> Answer:
    return Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def issue(seen: Seen) -> Answer:
    """A token that tells for what and for whom it is."""
    scope = parse_qs(seen.target.partition("?")[2]).get("scope", [""])[0]
    whose = {None: "anonymous", SECOND: "second"}.get(seen.get("authorization"), "another")
    return Answer(json.dumps({"token": f"{whose}/{scope}"}).encode())


def guarded(answer: Answer, refusal: Answer, *right: str) -> Script:
    return lambda seen: answer if (seen.get("authorization") or "") in right else refusal


class Second(NamedTuple):
    """A second registry, where the first one redirects everything, and the realm of its tokens."""

    host: str
    realm: str
    name: str

    def token(self, whose: str) -> str:
        return f"Bearer {whose}/repository:second/{self.name}:pull"


def second(field: Field, host: str, item: Item, whose: str, code: int = 307) -> tuple[Second, str]:
    """Return it, and the path there of what the first one redirects."""
    name, rest = item.path.removeprefix("/v2/").split("/", 1)
    to = elsewhere(field, host)
    it = Second(to, f"https://{to.replace('reg.', 'auth.', 1)}/token/{name}", name)
    path = f"/v2/second/{name}/{rest}"
    field.registries.on(item.path, redirect(f"https://{to}{path}", code))
    field.others.on(path, guarded(item.answer, challenge(it.realm), it.token(whose)))
    field.others.on(f"/token/{name}", issue)
    return it, path


class TestSecondRegistry:
    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("own", [None, OWN], ids=["nobody", "somebody"])
    def test_an_anonymous_token(
        self,
        own: str | None,
        make: Callable[[], Item],
        method: str,
        code: int,
        through: Through,
        field: Field,
        host: str,
    ) -> None:
        item = make()
        it, path = second(field, host, item, "anonymous", code)
        sent = {**ACCEPT, "Cookie": "a=b"} | ({"Authorization": own} if own else {})
        reply = through().request(method, item.path, sent)
        assert (reply.status, reply.body) == (200, item.body if method == "GET" else b"")
        assert [seen.get("authorization") for seen in field.asked(field.registries, item.path)] == [own]
        shown = [seen.get("authorization") for seen in field.asked(field.others, path)]
        assert shown == [None, it.token("anonymous")]
        assert {seen.get("cookie") for seen in field.asked(field.others, path)} == {None}
        at_realm = [seen.get("authorization") for seen in field.asked(field.others, f"/token/{it.name}")]
        assert at_realm == [None]

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("way", ["tokens", "basic"])
    def test_its_own_login(
        self,
        way: str,
        make: Callable[[], Item],
        method: str,
        through: Through,
        field: Field,
        known_host: str,
    ) -> None:
        item, client = make(), through(known_host, **LOGINS)
        it, path = second(field, known_host, item, "second")
        if way == "basic":
            refusal = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
            field.others.on(path, guarded(item.answer, refusal, SECOND))
        assert client.request(method, item.path, ACCEPT).status == 200
        assert {seen.get("authorization") for seen in field.asked(field.registries, item.path)} == {FIRST}
        right = SECOND if way == "basic" else it.token("second")
        assert [seen.get("authorization") for seen in field.asked(field.others, path)] == [None, right]
        at_realm = {seen.get("authorization") for seen in field.asked(field.others, f"/token/{it.name}")}
        assert at_realm == (set() if way == "basic" else {SECOND})

    @pytest.mark.parametrize("make", [tag], ids=name)
    def test_a_tag_that_is_held(
        self, make: Callable[[], Item], through: Through, field: Field, host: str
    ) -> None:
        item, client = make(), through()
        it, path = second(field, host, item, "anonymous")
        words = [said(client.get(item.path, ACCEPT))[0] for _ in range(3)]
        assert words == ["MISS", "REVALIDATED", "REVALIDATED"]
        field.others.on(f"/token/{it.name}", busy(503))
        field.others.on(path, guarded(item.answer, challenge(it.realm + "2")))
        field.others.on(f"/token/{it.name}2", busy(503))
        reply = client.get(item.path, ACCEPT)
        assert (reply.status, said(reply)[0], reply.body) == (200, "STALE", item.body)

    @pytest.mark.parametrize(
        "target", ["/api/v2.0/users", "/v2/_catalog", "/v2/a/../b/manifests/1", "/v2/a/manifests/1?key=x"]
    )
    @pytest.mark.parametrize("way", ["tokens", "basic"])
    def test_what_no_pull_asks_for(
        self, way: str, target: str, through: Through, field: Field, known_host: str
    ) -> None:
        """A registry may redirect to anything: logins are for pulls."""
        item = tag()
        it, _ = second(field, known_host, item, "second")
        target = f"/{it.name}{target}" if "api" in target else target.replace("a/", f"{it.name}/")
        field.registries.on(item.path, redirect(f"https://{it.host}{target}"))
        refusal = challenge(it.realm)
        if way == "basic":
            refusal = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
        field.others.on(target.partition("?")[0], refusal)
        before = len(field.others.requests)
        assert through(known_host, **LOGINS).get(item.path, ACCEPT).status in (401, 502)
        assert {seen.get("authorization") for seen in field.others.requests[before:]} <= {None}

    @pytest.mark.parametrize("way", ["tokens", "basic"])
    def test_a_registry_that_a_mask_matches_and_a_host_that_nobody_may_ask(
        self, way: str, through: Through, field: Field, known_host: str
    ) -> None:
        """What a client could not have by itself, it does not get by way of a registry of its own."""
        item = tag()
        it, path = second(field, known_host, item, "second")
        if way == "basic":
            refusal = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
            field.others.on(path, guarded(item.answer, refusal, SECOND))
        client = through(known_host, **LOGINS, REGISTRIES=f"*.test:{field.registries.port}")
        assert client.get(item.path, ACCEPT).status == 401
        at_realm = {seen.get("authorization") for seen in field.asked(field.others, f"/token/{it.name}")}
        assert at_realm <= {None}
        assert SECOND not in {seen.get("authorization") for seen in field.asked(field.others, path)}

    def test_a_third_gets_nothing_of_the_second(
        self, through: Through, field: Field, known_host: str
    ) -> None:
        item, client = blob(), through(known_host, **LOGINS)
        it, path = second(field, known_host, item, "second")
        away = redirect(f"{field.plain.url}{item.path}")
        field.others.on(path, guarded(away, challenge(it.realm), it.token("second")))
        field.plain.on(item.path, item.answer)
        assert client.get(item.path).body == item.body
        assert all(map(bare, field.asked(field.plain, item.path)))


# --- realms that redirect ---------------------------------------------------------------------------------

FORM = "application/x-www-form-urlencoded"


class Realm(NamedTuple):
    """A registry that wants tokens of `auth.otherN.test`, for those who have its login."""

    registry: str
    host: str
    item: Item
    name: str

    @property
    def path(self) -> str:
        return f"/token/{self.name}"


def realm(field: Field, number: int) -> Realm:
    item, port = blob(), field.others.port
    it = Realm(f"reg.other{number}.test:{port}", f"auth.other{number}.test:{port}", item, f"r{next(NUMBERS)}")
    repository = item.path.removeprefix("/v2/").partition("/")[0]
    right = (f"Bearer {whose}/repository:{repository}:pull" for whose in ("second", "anonymous"))
    field.others.on(item.path, guarded(item.answer, challenge(f"https://{it.host}{it.path}"), *right))
    return it


def shown_at(field: Field, path: str) -> list[str | None]:
    return [seen.get("authorization") for seen in field.asked(field.others, path)]


def along(to: str, code: int = 307) -> Script:
    """A redirect that keeps the query, as servers do."""
    return lambda seen: redirect(f"{to}?{seen.target.partition('?')[2]}", code)


OF_SERVERS = {"AUTH_REGISTRIES": " ".join(f"auth.other{number}.test:second:pw2" for number in WITH_LOGINS)}
KNOWN = iter(WITH_LOGINS[40:])
WHOSE = pytest.mark.parametrize("env", [LOGINS, OF_SERVERS], ids=["the registry's", "the server's"])


class TestRealmsThatRedirect:
    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("where", ["same host", "relative", "same site"])
    @WHOSE
    def test_on_its_site(
        self, env: dict[str, str], where: str, code: int, through: Through, field: Field
    ) -> None:
        number = next(KNOWN)
        it = realm(field, number)
        site = {"same host": it.host, "same site": f"reg.other{number}.test:{field.others.port}"}
        if where == "same site" and env is OF_SERVERS:
            # Not the registry itself, which has named it.
            site["same site"] = f"login.other{number}.test:{field.others.port}"
        to = f"/moved{it.path}" if where == "relative" else f"https://{site[where]}/moved{it.path}"
        field.others.on(it.path, along(to, code))
        field.others.on(f"/moved{it.path}", issue)
        reply = through(it.registry, **env).get(it.item.path)
        assert (reply.status, reply.body) == (200, it.item.body)
        assert shown_at(field, it.path) == shown_at(field, f"/moved{it.path}") == [SECOND]

    @pytest.mark.parametrize("code", CODES)
    @WHOSE
    def test_to_another_site(self, env: dict[str, str], code: int, through: Through, field: Field) -> None:
        """The login stays, and an anonymous token may do."""
        it = realm(field, next(KNOWN))
        field.others.on(it.path, along(f"https://auth.other0.test:{field.others.port}/moved{it.path}", code))
        field.others.on(f"/moved{it.path}", issue)
        reply = through(it.registry, **env).get(it.item.path)
        assert (reply.status, reply.body) == (200, it.item.body)
        assert shown_at(field, it.path) == [SECOND, None]
        assert shown_at(field, f"/moved{it.path}") == [None]

    @WHOSE
    def test_to_plain_http(self, env: dict[str, str], through: Through, field: Field) -> None:
        it = realm(field, next(KNOWN))
        field.others.on(it.path, along(f"{field.plain.url}{it.path}"))
        assert through(it.registry, **env).get(it.item.path).status == 401
        assert field.asked(field.plain, it.path) == []

    @pytest.mark.parametrize("word", ["service", "path", "query"])
    def test_where_the_registry_has_chosen_the_host(self, word: str, through: Through, field: Field) -> None:
        """By a page of the token server that redirects to what it is told: its login stays with it."""
        number = next(KNOWN)
        it = realm(field, number)
        evil = f"https://login.other{number}.test:{field.others.port}/evil{it.path}"
        page, service = it.path, "s"
        if word == "service":
            service = evil
        else:
            page += "/" if word == "path" else "?to="
            page += evil.replace("/", "%2F")
        asks = f'Bearer realm="https://{it.host}{page}",service="{service}"'
        field.others.on(it.item.path, Answer(b"{}", 401, {"WWW-Authenticate": asks}))
        field.others.on(f"{it.path}*", redirect(evil))
        field.others.on(it.path, redirect(evil))
        field.others.on(f"/evil{it.path}", issue)
        assert through(it.registry, **OF_SERVERS).get(it.item.path).status == 401
        assert SECOND not in shown_at(field, f"/evil{it.path}")

    def test_the_registry_itself_does_not_get_the_servers(self, through: Through, field: Field) -> None:
        it = realm(field, next(KNOWN))
        field.others.on(it.path, along(f"https://{it.registry}/evil{it.path}"))
        field.others.on(f"/evil{it.path}", issue)
        through(it.registry, **OF_SERVERS).get(it.item.path)
        assert SECOND not in shown_at(field, f"/evil{it.path}")

    @WHOSE
    def test_without_an_end(self, env: dict[str, str], through: Through, field: Field) -> None:
        it = realm(field, next(KNOWN))
        field.others.on(it.path, along(f"https://{it.host}{it.path}"))
        assert through(it.registry, **env).get(it.item.path).status == 401
        assert 2 <= field.others.hits[it.path] <= 30

    @pytest.mark.parametrize("code", CODES)
    def test_a_form(self, code: int, through: Through, field: Field) -> None:
        """By 307 and 308 alone: others make a GET of it, without what it says (RFC 9110 15.4)."""
        it = realm(field, next(KNOWN))
        moved_to = f"/moved{it.path}"

        def first(seen: Seen) -> Answer:
            if seen.method == "GET":
                return Answer(b"", 405)
            return redirect(f"https://{it.host}{moved_to}", code)

        def second(seen: Seen) -> Answer:
            form = parse_qs(seen.body.decode())
            right = form.get("username") == ["second"] and form.get("password") == ["pw2"]
            return Answer(json.dumps({"token": f"second/{form['scope'][0]}"}).encode(), 200 if right else 401)

        field.others.on(it.path, first)
        field.others.on(moved_to, second)
        reply = through(it.registry, **LOGINS).get(it.item.path)
        assert reply.status == (200 if code in (307, 308) else 401)
        methods = [seen.method for seen in field.asked(field.others, moved_to)]
        assert methods == (["POST"] if code in (307, 308) else [])


# --- registries that hide what they have ------------------------------------------------------------------

HIDERS = (f"reg{number}.test" for number in WITH_LOGINS)


@pytest.fixture(scope="module")
def hiding(field: Field, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Settings by the way in which the login of all hosts is configured; none of them is sent at once."""
    place = tmp_path_factory.mktemp("logins")
    (password := place / "password").write_text("pw1\n")
    hosts = [f"reg{number}.test" for number in WITH_LOGINS]
    table = '[origin."{}".credentials]\nusername = "first"\npassword_file = "{}"\n'
    (toml := place / "regproxy.toml").write_text("".join(table.format(host, password) for host in hosts))
    pair = {"auth": FIRST.removeprefix("Basic ")}
    auths = {f"{host}:{field.registries.port}": pair for host in hosts}
    (config := place / "config.json").write_text(json.dumps({"auths": auths}))
    return {"file": {"REGPROXY_CONFIG": str(toml)}, "config": {"REGPROXY_DOCKER_CONFIG": str(config)}}


@pytest.fixture
def hider(hiding: dict[str, dict[str, str]], field: Field, through: Through) -> Callable[[str], Client]:
    """A client of a registry of the test's own, whose login is configured in this way."""
    return lambda way: through(f"{next(HIDERS)}:{field.registries.port}", **hiding[way])


def shown_to(field: Field, item: Item) -> list[tuple[str, str | None]]:
    return [(seen.method, seen.get("authorization")) for seen in field.asked(field.registries, item.path)]


class TestHidden:
    @pytest.mark.parametrize("status", [401, 403, 404])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("way", ["file", "config"])
    def test_the_login_is_tried(
        self,
        way: str,
        method: str,
        make: Callable[[], Item],
        status: int,
        hider: Callable[[str], Client],
        field: Field,
    ) -> None:
        item, next_item, client = make(), blob(), hider(way)
        for each in (item, next_item):
            field.registries.on(each.path, guarded(each.answer, Answer(b"{}", status), FIRST))
        reply = client.request(method, item.path, ACCEPT)
        assert (reply.status, reply.body) == (200, item.body if method == "GET" else b"")
        assert shown_to(field, item) == [(method, None), (method, FIRST)]
        # As it was of use, it is sent at once.
        assert client.get(next_item.path).body == next_item.body
        assert shown_to(field, next_item) == [("GET", FIRST)]

    @pytest.mark.parametrize("status", [403, 404])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    def test_once(
        self, make: Callable[[], Item], status: int, hider: Callable[[str], Client], field: Field
    ) -> None:
        """What is not there for the login either is not there."""
        item = make()
        field.registries.on(item.path, Answer(b"{}", status))
        assert hider("file").get(item.path, ACCEPT).status == status
        assert shown_to(field, item) == [("GET", None), ("GET", FIRST)]

    @pytest.mark.parametrize("status, then", [(404, 401), (404, 403), (403, 401), (403, 404), (401, 404)])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_what_is_refused_otherwise(
        self,
        method: str,
        make: Callable[[], Item],
        status: int,
        then: int,
        hider: Callable[[str], Client],
        field: Field,
    ) -> None:
        """Clients hear what they hear without the proxy: they look for signatures, say, where none may be."""
        item, client = make(), hider("file")
        refusal = Answer(b"{}", then, {"WWW-Authenticate": 'Basic realm="r"'} if then == 401 else {})
        field.registries.on(
            item.path, lambda seen: refusal if seen.get("authorization") else Answer(b"hidden", status)
        )
        for _ in range(2):
            reply = client.request(method, item.path, ACCEPT)
            assert (reply.status, reply.body) == (status, b"hidden" if method == "GET" else b"")
        # It was of no use: nothing is sent at once.
        other = blob()
        field.registries.on(other.path, other.answer)
        assert client.get(other.path).body == other.body
        assert shown_to(field, other) == [("GET", None)]

    def test_a_registry_that_wants_tokens(self, hider: Callable[[str], Client], field: Field) -> None:
        """It says so to who shows it a login."""
        item, page = blob(), f"/token/r{next(NUMBERS)}"
        client = hider("file")

        def answer(seen: Seen) -> Answer:
            shown = seen.get("authorization")
            if shown is None:
                return Answer(b"{}", 404)
            host = seen.get("host")
            return item.answer if shown == "Bearer T" else challenge(f"https://{host}{page}")

        field.registries.on(item.path, answer)
        field.registries.on(page, guarded(Answer(b'{"token":"T"}'), Answer(b"{}", 401), FIRST))
        assert client.get(item.path).body == item.body

    @pytest.mark.parametrize("status", [401, 403, 404])
    @pytest.mark.parametrize("make", MAKERS, ids=name)
    def test_not_for_a_client_that_shows_its_own(
        self, make: Callable[[], Item], status: int, hider: Callable[[str], Client], field: Field
    ) -> None:
        """403 and 404 are what this account may not have; a bare 401 asks for another, as ever."""
        item = make()
        field.registries.on(item.path, guarded(item.answer, Answer(b"{}", status), FIRST))
        assert hider("file").get(item.path, {**ACCEPT, "Authorization": OWN}).status == status
        assert shown_to(field, item) == [("GET", OWN)]

    @pytest.mark.parametrize("status", [403, 404])
    def test_not_to_where_it_redirects(
        self, status: int, hider: Callable[[str], Client], field: Field, host: str
    ) -> None:
        item, client = blob(), hider("file")
        moved(field, item, elsewhere(field, host), Answer(b"{}", status))
        assert client.get(item.path).status == status
        assert shown_at(field, item.path) == [None]

    @pytest.mark.parametrize("status", [403, 404])
    def test_a_tag_that_is_held(self, status: int, hider: Callable[[str], Client], field: Field) -> None:
        item, client = tag(), hider("file")
        field.registries.on(item.path, item.answer)
        assert client.get(item.path, ACCEPT).status == 200
        field.registries.on(item.path, guarded(item.answer, Answer(b"{}", status), FIRST))
        reply = client.get(item.path, ACCEPT)
        assert (reply.status, said(reply)[0]) == (200, "REVALIDATED")
