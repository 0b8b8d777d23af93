"""Which Authorization goes to whom: the client's, a configured login, a token; and what never does."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs

import pytest

from regproxy.auth.authorizer import YOUNG, Authorizer
from regproxy.auth.grants import Grant
from regproxy.auth.token_cache import PAUSE_SECONDS, REFUSED_SECONDS
from regproxy.config.sources.assembly import load
from regproxy.core.errors import BadResponse, ConnectFailed, RateLimited, Refused, UpstreamError
from regproxy.http.messages import EOF, Headers, Request, Response, parse_request
from regproxy.http.origin import Origin
from regproxy.policy.sites import registrable, same_site
from regproxy.registry.targets import Target, parse_target
from regproxy.registry.token_protocol import parse_answer, parse_realm
from tests.support.login_helpers import Clock

SECRET = "s3cr3t"
REG = Origin("https", "reg.example.com", 443)
AUTH = Origin("https", "auth.example.com", 443)
WALL = 1_700_000_000.0


def basic(username: str, password: str = SECRET) -> bytes:
    return b"Basic " + base64.b64encode(f"{username}:{password}".encode())


def request(authorization: str = "", path: str = "/v2/a/b/manifests/1") -> Request:
    line = f"Authorization: {authorization}\r\n" if authorization else ""
    return parse_request(f"GET {path} HTTP/1.1\r\nHost: reg.example.com\r\n{line}\r\n".encode())


TARGET = parse_target("/v2/a/b/manifests/1")
NOBODY = request()
CLIENT = request("Bearer client")


def challenge(
    realm: str = "https://auth.example.com/token", scope: str = "repository:a/b:pull", more: str = ""
) -> Response:
    return answer(401, www_authenticate=f'Bearer realm="{realm}",service="svc",scope="{scope}"{more}')


def answer(status: int, **fields: str) -> Response:
    headers = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in fields.items())
    return Response(status, b"", 1, headers, EOF, True)


BASIC_ASKED = answer(401, www_authenticate='Basic realm="r"')


@dataclass
class Server:
    """Answers as token servers do: who has no right password gets 401. Counts what it is asked."""

    users: dict[str, str] = field(default_factory=dict)
    refresh: set[str] = field(default_factory=set)
    anonymous: bool = True
    lifetime: float | None = 300
    get: bool = True
    post: bool = True
    status: int = 200
    fields: dict[str, str] = field(default_factory=dict)
    failure: Exception | None = None
    gate: asyncio.Event | None = None
    ping: int = 0  # the status of GET /v2/, where that is another matter
    asked: list[tuple[Origin, str, str, dict[bytes, bytes], bytes]] = field(default_factory=list)

    async def exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        registry: Origin | None = None,
    ) -> tuple[int, Response, bytes]:
        if self.ping and target == "/v2/":
            return self.ping, answer(self.ping), b""
        self.asked.append((origin, method, target, dict(headers), body))
        number = len(self.asked)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        status = self.status if self.status != 200 else self._status(method, dict(headers), body)
        document: dict[str, Any] = {"token": f"t{number}"} if status == 200 else {"errors": []}
        if self.lifetime is not None:
            document["expires_in"] = self.lifetime
        return status, answer(status, **self.fields), json.dumps(document).encode()

    def _status(self, method: str, headers: dict[bytes, bytes], body: bytes) -> int:
        if not (self.get if method == "GET" else self.post):
            return 405
        if method == "POST":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            if form["grant_type"] == "refresh_token":
                return 200 if form["refresh_token"] in self.refresh else 401
            return 200 if self.users.get(form["username"]) == form["password"] else 401
        given = headers.get(b"authorization")
        if given is None:
            return 200 if self.anonymous else 401
        return 200 if given in {basic(*pair) for pair in self.users.items()} else 401

    @property
    def identities(self) -> list[str]:
        """Return who asked, in order."""
        found = []
        for _, method, _, headers, body in self.asked:
            value = headers.get(b"authorization")
            if method == "POST":
                found.append("POST " + parse_qs(body.decode())["grant_type"][0])
            else:
                found.append(base64.b64decode(value[6:]).decode().partition(":")[0] if value else "-")
        return found


class Counts:
    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def token_fetch(self, registry: str, credential: str, outcome: str) -> None:
        self.seen[registry, credential, outcome] += 1

    def login_withheld(self, registry: str) -> None:
        self.seen[registry, "", "withheld"] += 1


def table(host: str, text: str, more: str = "") -> str:
    return f'[origin."{host}"]\n{more}\n[origin."{host}".credentials]\n{text}\n'


PAIR = f'username = "u"\npassword = "{SECRET}"'
OURS = table("reg.example.com", PAIR)


@dataclass
class Bench:
    """An Authorizer, what it asks, and its clock."""

    server: Server
    authorizer: Authorizer
    clock: Clock
    counts: Counts

    async def ask(
        self,
        request: Request = NOBODY,
        response: Response | None = None,
        *,
        own: bool = False,
        origin: Origin = REG,
        target: Target = TARGET,
    ) -> list[tuple[str, str] | None]:
        """Return what is sent at first and, where that gets the 401 `response`, what then."""
        sent = [await self.authorizer.authorization(origin, target, request, own_account=own)]
        if response is not None:
            sent.append(
                await self.authorizer.refused(origin, target, request, response, sent[0], own_account=own)
            )
        return [None if grant is None else (grant.value.decode(), grant.credential) for grant in sent]


def bench(toml: str = "", env: dict[str, str] | None = None, **server: Any) -> Bench:
    server_ = Server(**({"users": {"u": SECRET}} | server))
    clock, counts = Clock(), Counts()
    config = load({"AUTH_REGISTRIES_DELIMITER": ";"} | (env or {}), toml)
    authorizer = Authorizer(config, server_, clock, counter=counts, wall=lambda: WALL)
    return Bench(server_, authorizer, clock, counts)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


FIRST = ("Bearer t1", "u")
THE_CLIENTS = ("Bearer client", "client")


# --- whose turn it is -------------------------------------------------------------------------------------


def test_nobody_configured_and_the_client_runs_its_own_flow() -> None:
    async def test() -> None:
        it = bench()
        assert await it.ask(NOBODY, challenge()) == [None, None]
        assert await it.ask(CLIENT, challenge()) == [THE_CLIENTS, None]
        assert it.server.asked == []

    run(test)


def test_our_own_requests_get_anonymous_tokens() -> None:
    async def test() -> None:
        it = bench()
        assert await it.ask(NOBODY, challenge(), own=True) == [None, ("Bearer t1", "anonymous")]
        # Known now, so ahead, and for what the path says.
        assert await it.ask(NOBODY, own=True) == [("Bearer t1", "anonymous")]
        other = parse_target("/v2/c/blobs/sha256:" + "0" * 64)
        assert await it.ask(NOBODY, own=True, target=other) == [("Bearer t2", "anonymous")]
        # Where a client's token has expired meanwhile.
        assert await it.ask(CLIENT, challenge(), own=True) == [THE_CLIENTS, ("Bearer t1", "anonymous")]
        targets = [target for _, _, target, _, _ in it.server.asked]
        assert targets == [
            "/token?service=svc&scope=repository%3Aa%2Fb%3Apull",
            "/token?service=svc&scope=repository%3Ac%3Apull",
        ]
        assert it.counts.seen == {("reg.example.com", "anonymous", "issued"): 2}

    run(test)


def test_ours_goes_where_the_clients_was_refused() -> None:
    async def test() -> None:
        it = bench(OURS)
        assert await it.ask(CLIENT, challenge()) == [THE_CLIENTS, FIRST]
        # It was refused just now, and is not shown again so soon; elsewhere it is.
        assert await it.ask(CLIENT) == [FIRST]
        other = parse_target("/v2/c/blobs/sha256:" + "0" * 64)
        assert await it.ask(CLIENT, target=other) == [THE_CLIENTS]
        it.clock.now += 61
        assert await it.ask(CLIENT) == [THE_CLIENTS]
        assert await it.ask(NOBODY) == [FIRST]
        assert it.server.identities == ["u"]
        assert it.counts.seen == {("reg.example.com", "u", "issued"): 1}

    run(test)


def test_ours_first_and_then_the_clients() -> None:
    async def test() -> None:
        it = bench(table("reg.example.com", PAIR, 'credentials_first = "proxy"'))
        # The pair goes out unasked; then a token.
        assert await it.ask(CLIENT, challenge()) == [(basic("u").decode(), "u"), FIRST]
        assert await it.ask(CLIENT, challenge()) == [FIRST, THE_CLIENTS]

    run(test)


def test_auth_registries_pair_goes_out_at_once() -> None:
    async def test() -> None:
        it = bench(env={"AUTH_REGISTRIES": f"reg.example.com:u:{SECRET}"})
        assert await it.ask() == [(basic("u").decode(), "u")]
        assert await it.ask(origin=AUTH) == [None]
        assert await it.ask(CLIENT) == [THE_CLIENTS]
        # Once it has asked for tokens, it gets tokens.
        assert await it.ask(NOBODY, challenge()) == [(basic("u").decode(), "u"), FIRST]
        assert await it.ask() == [FIRST]

    run(test)


def test_hubs_pair_is_its_token_servers() -> None:
    async def test() -> None:
        hub = Origin("https", "registry-1.docker.io", 443)
        asks = challenge("https://auth.docker.io/token", "repository:library/a:pull")
        it = bench(env={"AUTH_REGISTRIES": f"auth.docker.io:u:{SECRET}"})
        assert await it.ask(NOBODY, asks, origin=hub) == [None, FIRST]
        assert await it.ask(NOBODY, origin=hub) == [FIRST]

    run(test)


def test_a_file_or_helper_is_not_shown_unasked(tmp_path: Any) -> None:
    (tmp_path / "p").write_text(SECRET)
    text = table("reg.example.com", f'username = "u"\npassword_file = "{tmp_path}/p"')

    async def test() -> None:
        it = bench(text)
        assert await it.ask(NOBODY, BASIC_ASKED) == [None, (basic("u").decode(), "u")]
        assert await it.ask() == [(basic("u").decode(), "u")]
        assert await bench(text).ask(NOBODY, challenge()) == [None, FIRST]

    run(test)


def test_a_configured_token_goes_to_the_registry_itself(tmp_path: Any) -> None:
    (tmp_path / "t").write_text("mine\n")

    async def test() -> None:
        it = bench(table("reg.example.com", f'token_file = "{tmp_path}/t"'))
        assert await it.ask(NOBODY, challenge()) == [None, ("Bearer mine", "token")]
        assert it.server.asked == []
        assert await it.ask(NOBODY, challenge()) == [("Bearer mine", "token"), ("Bearer t1", "anonymous")]
        assert "refused by reg.example.com (status 401)" in it.authorizer.reason(REG)

    run(test)


# --- OAuth2 -----------------------------------------------------------------------------------------------


def test_identity_tokens_are_posted(tmp_path: Any) -> None:
    (tmp_path / "t").write_text(SECRET)

    async def test() -> None:
        it = bench(table("reg.example.com", f'identity_token_file = "{tmp_path}/t"'), refresh={SECRET})
        assert await it.ask(NOBODY, challenge()) == [None, ("Bearer t1", "token")]
        ((origin, method, target, headers, body),) = it.server.asked
        assert (origin, method, target) == (AUTH, "POST", "/token")
        assert headers[b"content-type"] == b"application/x-www-form-urlencoded"
        assert parse_qs(body.decode()) == {
            "service": ["svc"],
            "client_id": ["regproxy"],
            "scope": ["repository:a/b:pull"],
            "grant_type": ["refresh_token"],
            "refresh_token": [SECRET],
        }

    run(test)


def test_servers_that_take_posts_alone() -> None:
    async def test() -> None:
        it = bench(OURS, get=False)
        assert await it.ask(CLIENT, challenge()) == [THE_CLIENTS, ("Bearer t2", "u")]
        assert it.server.identities == ["u", "POST password"]

    run(test)


# --- time -------------------------------------------------------------------------------------------------


def test_one_fetch_for_all_who_ask() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        it = bench(OURS, gate=gate)
        askers = [asyncio.create_task(it.ask(CLIENT, challenge())) for _ in range(50)]
        gone = askers.pop()
        while not it.server.asked:
            await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        shown = await asyncio.gather(*askers)
        # Those who come later need not find out that theirs is refused.
        assert shown == [[THE_CLIENTS, FIRST], *[[FIRST, None]] * 48]
        assert len(it.server.asked) == 1

    run(test)


def test_a_token_is_renewed_ahead_of_its_end() -> None:
    async def test() -> None:
        it = bench(OURS, lifetime=300)
        await it.ask(CLIENT, challenge())
        it.clock.now += 239
        assert await it.ask() == [FIRST]
        assert len(it.server.asked) == 1
        it.clock.now += 2
        # In the background: who asks has the old one.
        assert await it.ask() == [FIRST]
        while len(it.server.asked) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await it.ask() == [("Bearer t2", "u")]
        it.clock.now += 301
        assert await it.ask() == [("Bearer t3", "u")]

    run(test)


def test_a_renewal_that_fails_is_nobodys_trouble() -> None:
    async def test() -> None:
        it = bench(OURS, lifetime=300)
        await it.ask(CLIENT, challenge())
        it.server.failure = ConnectFailed("down")
        it.clock.now += 250
        for _ in range(5):
            assert await it.ask() == [FIRST]
            await asyncio.sleep(0)
        assert len(it.server.asked) == 2
        it.clock.now += 60
        with pytest.raises(ConnectFailed):
            await it.ask()
        # Who has its own goes on with that.
        it2 = bench(table("reg.example.com", PAIR, 'credentials_first = "proxy"'))
        await it2.ask(NOBODY, challenge())
        it2.server.failure = ConnectFailed("down")
        it2.clock.now += 400
        assert await it2.ask(CLIENT) == [THE_CLIENTS]

    run(test)


def test_60_seconds_where_none_are_given() -> None:
    async def test() -> None:
        it = bench(OURS, lifetime=None)
        await it.ask(CLIENT, challenge())
        it.clock.now += 47
        await it.ask()
        assert len(it.server.asked) == 1
        it.clock.now += 14
        assert await it.ask() == [("Bearer t2", "u")]

    run(test)


NOW = 1_700_000_000.0
DATE = formatdate(NOW + 9_999, usegmt=True).encode()
ANSWERS = [
    ({"token": "t"}, None, 60.0),
    ({"access_token": "t"}, None, 60.0),
    ({"token": "", "access_token": "t", "expires_in": 300}, None, 300.0),
    ({"token": "t", "expires_in": "300"}, None, 300.0),
    ({"token": "t", "expires_in": -1}, None, 60.0),
    ({"token": "t", "expires_in": True}, None, 60.0),
    ({"token": "t", "expires_in": [1]}, None, 60.0),
    ({"token": "t", "expires_in": 1e300}, None, 86_400.0),
    ({"token": "t", "expires_in": 10**400}, None, 60.0),
    ({"token": "t", "expires_in": 300, "issued_at": "2023-11-14T22:12:20Z"}, None, 240.0),
    ({"token": "t", "expires_in": 300, "issued_at": "2023-11-14T22:12:20.123456789Z"}, None, None),
    # Its own clock counts, where it tells it.
    ({"token": "t", "expires_in": 300, "issued_at": "2023-11-15T00:58:59Z"}, DATE, 240.0),
    # Clocks that can't be: it is good for a moment.
    ({"token": "t", "expires_in": 300, "issued_at": "2001-01-01T00:00:00Z"}, None, 5.0),
    ({"token": "t", "expires_in": 300, "issued_at": "2101-01-01T00:00:00Z"}, None, 300.0),
    ({"token": "t", "expires_in": 300, "issued_at": "yesterday"}, None, 300.0),
]


@pytest.mark.parametrize("document, date, want", ANSWERS)
def test_lifetimes(document: dict[str, object], date: bytes | None, want: float | None) -> None:
    issued = parse_answer(json.dumps(document).encode(), date, NOW)
    assert issued.value == "t"
    assert want is None or issued.lifetime == pytest.approx(want, abs=1.0)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nb: c"}', b"{" * 9**5]
)
def test_answers_without_a_token(body: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_answer(body, None, NOW)


# --- refusals ---------------------------------------------------------------------------------------------


def test_a_refused_login_rests_and_anonymous_goes_on() -> None:
    async def test() -> None:
        it = bench(OURS, users={})
        # One try, however many ask and for whatever, and one of our own for no repository: an account must
        # not be locked.
        targets = [parse_target(f"/v2/r{number}/manifests/1") for number in range(20)]
        found = await asyncio.gather(*(it.ask(CLIENT, challenge(), target=target) for target in targets))
        assert {grant[1] for _, grant in found if grant} == {"anonymous"}
        assert it.server.identities.count("u") == 2
        reason = it.authorizer.reason(REG)
        assert "the credentials of 'u' were refused by auth.example.com (status 401)" in reason
        assert SECRET not in reason
        assert it.counts.seen["reg.example.com", "u", "refused"] >= 1
        for tries, rest in enumerate((1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300), 1):
            it.clock.now += rest - 0.1
            await it.ask()
            assert it.server.identities.count("u") == tries + 1
            it.clock.now += 0.2
            await it.ask()
            assert it.server.identities.count("u") == tries + 2
        it.server.users["u"] = SECRET
        it.clock.now += 301
        (grant,) = await it.ask()
        assert grant is not None and grant[1] == "u"
        assert it.authorizer.reason(REG) == ""

    run(test)


def test_a_pair_that_the_registry_refuses_rests() -> None:
    async def test() -> None:
        it = bench(OURS)
        assert await it.ask(NOBODY, BASIC_ASKED) == [(basic("u").decode(), "u"), None]
        assert await it.ask() == [None]
        it.clock.now += 1.1
        grant = await it.authorizer.authorization(REG, TARGET, NOBODY)
        assert grant is not None
        it.authorizer.accepted(REG, grant, 200)
        await it.authorizer.refused(REG, TARGET, NOBODY, BASIC_ASKED, grant)
        it.clock.now += 1.1
        assert await it.ask() == [(basic("u").decode(), "u")]

    run(test)


def test_a_changed_password_is_tried_at_once(tmp_path: Any) -> None:
    (tmp_path / "p").write_text("old")

    async def test() -> None:
        it = bench(table("reg.example.com", f'username = "u"\npassword_file = "{tmp_path}/p"'))
        assert await it.ask(CLIENT, challenge()) == [THE_CLIENTS, ("Bearer t3", "anonymous")]
        (tmp_path / "p").write_text(SECRET)
        it.clock.now += 1
        assert await it.ask() == [("Bearer t4", "u")]

    run(test)


def test_a_refused_token_is_fetched_anew_but_not_again_and_again() -> None:
    async def test() -> None:
        it = bench(OURS)
        await it.ask(CLIENT, challenge())
        assert await it.ask(NOBODY, challenge()) == [FIRST, None]
        it.clock.now += YOUNG
        assert await it.ask(NOBODY, challenge()) == [FIRST, ("Bearer t2", "u")]
        assert await it.ask(NOBODY, challenge()) == [("Bearer t2", "u"), None]
        assert len(it.server.asked) == 2

    run(test)


def test_another_scope_is_asked_for_at_once() -> None:
    async def test() -> None:
        it = bench(OURS)
        await it.ask(CLIENT, challenge())
        found = await it.ask(NOBODY, challenge(scope="repository:key/a/b:pull"))
        assert found == [FIRST, ("Bearer t2", "u")]
        assert "scope=repository%3Akey%2Fa%2Fb%3Apull" in it.server.asked[1][2]
        assert await it.ask() == [("Bearer t2", "u")]

    run(test)


def test_one_repository_denied_is_not_the_login_refused() -> None:
    async def test() -> None:
        it = bench(OURS)
        await it.ask(CLIENT, challenge())
        it.server.status = 403
        other = parse_target("/v2/denied/manifests/1")
        assert await it.ask(target=other) == [None]
        assert it.server.identities == ["u", "u", "-"]
        assert await it.ask(target=other) == [None]
        assert len(it.server.asked) == 3  # remembered
        it.server.status = 200
        assert await it.ask(target=parse_target("/v2/another/manifests/1")) == [("Bearer t4", "u")]
        it.clock.now += REFUSED_SECONDS
        assert await it.ask(target=other) == [("Bearer t5", "u")]

    run(test)


def test_trouble_is_raised_as_the_registrys_own() -> None:
    async def test() -> None:
        it = bench(OURS, status=503)
        with pytest.raises(UpstreamError, match=r"auth.example.com answers 503"):
            await it.ask(NOBODY, challenge())
        it.server.status, it.server.fields = 429, {"retry_after": "30"}
        with pytest.raises(RateLimited) as caught:
            await it.ask()
        assert caught.value.retry_after == 30
        asked = len(it.server.asked)
        with pytest.raises(RateLimited):
            await it.ask()
        assert len(it.server.asked) == asked
        it.server.status, it.server.fields = 200, {}
        it.clock.now += max(30, PAUSE_SECONDS)
        (grant,) = await it.ask()
        assert grant is not None and grant[1] == "u"

    run(test)


def test_a_realm_at_a_forbidden_address_leaves_the_401() -> None:
    async def test() -> None:
        it = bench(failure=Refused("a metadata address"))
        assert await it.ask(NOBODY, challenge(), own=True) == [None, None]

    run(test)


def test_one_repository_that_is_refused_rests_alone() -> None:
    async def test() -> None:
        it = bench(OURS, users={})
        app, secret, new = (parse_target(f"/v2/{name}/manifests/1") for name in ("app", "secret", "new"))
        ours, sent = [(basic("u").decode(), "u"), None], [(basic("u").decode(), "u")]

        async def take(target: Target) -> None:
            grant = await it.authorizer.authorization(REG, target, NOBODY)
            assert grant is not None
            it.authorizer.accepted(REG, grant, 200)

        await take(app)
        for rest in (1, 2, 4):
            assert await it.ask(NOBODY, BASIC_ASKED, target=secret) == ours
            assert await it.ask(target=secret) == [None]
            assert await it.ask(target=app) == await it.ask(target=new) == sent
            it.clock.now += rest + 0.1
        # Where it had been taken, it is another password now.
        assert await it.ask(NOBODY, BASIC_ASKED, target=app) == ours
        assert await it.ask(target=new) == await it.ask(target=app) == [None]
        it.clock.now += 1.1
        # Who was refused lets others go first; and where these are taken, it was that repository.
        assert await it.ask(target=app) == [None]
        await take(new)
        assert await it.ask(target=app) == sent
        await take(app)
        assert await it.ask(NOBODY, BASIC_ASKED, target=app) == ours
        assert await it.ask(target=new) == sent

    run(test)


def test_tokens_of_ours_are_for_pulls() -> None:
    async def test() -> None:
        for scope, want in (
            ("repository:a/b:pull,push", "repository:a/b:pull"),
            ("repository:key/a/b:* registry:catalog:*", "repository:key/a/b:pull"),
            ("registry:catalog:*", "repository:a/b:pull"),
            ("repository:a/b:push", "repository:a/b:pull"),
        ):
            it = bench(OURS)
            await it.ask(CLIENT, challenge(scope=scope))
            assert parse_qs(it.server.asked[-1][2].partition("?")[2])["scope"] == [want]
        # An anonymous one may be for what nobody knows: there is no login that it could be too good for.
        nobody = bench()
        await nobody.ask(NOBODY, challenge(scope="aws repository:a/b:pull,push"), own=True)
        asked = parse_qs(nobody.server.asked[-1][2].partition("?")[2])["scope"]
        assert asked == ["repository:a/b:pull", "aws"]

    run(test)


def test_what_a_client_shapes_is_not_learned() -> None:
    fields = b"Host: reg.example.com\r\nAuthorization: x\r\nX-Base: evil\r\n"
    shaped = parse_request(b"GET /v2/a/b/manifests/1 HTTP/1.1\r\n" + fields + b"\r\n")

    async def test() -> None:
        it = bench(
            OURS, status=401, fields={"www_authenticate": 'Bearer realm="https://reg.example.com/real"'}
        )
        await it.ask(shaped, challenge("https://reg.example.com/api/evil"))
        paths = [target.partition("?")[0] for _, _, target, _, _ in it.server.asked]
        assert paths[0] == "/v2/" and set(paths[1:]) == {"/real"}
        assert it.server.asked[0][3].get(b"authorization") is None

    run(test)


# --- what goes where --------------------------------------------------------------------------------------

REALMS = [
    ("https://reg.example.com/token", "u"),
    ("https://auth.example.com/token", "u"),
    ("https://example.com/token", "u"),
    ("https://auth.example.com:8443/token", "u"),
    # Another's, or in the open: anonymous at most.
    ("https://auth.example.org/token", "-"),
    ("https://example.com.evil.org/token", "-"),
    ("https://192.0.2.1/token", "-"),
    ("https://localhost/token", "-"),
    ("http://auth.example.com/token", None),
    ("http://reg.example.com/token", None),
    ("https://u:p@auth.example.com/token", None),
    ("/token", None),
    ("ftp://auth.example.com/", None),
]


@pytest.mark.parametrize("realm, want", REALMS)
def test_realms(realm: str, want: str | None) -> None:
    async def test() -> None:
        it = bench(OURS)
        first, then = await it.ask(CLIENT, challenge(realm))
        assert first == THE_CLIENTS
        assert it.server.identities == ([] if want is None else [want])
        assert then == (None if want is None else ("Bearer t1", "anonymous" if want == "-" else want))
        if want == "-":
            assert "credentials go there if token_server says so" in it.authorizer.reason(REG)

    run(test)


def test_a_token_server_that_is_named_gets_the_login() -> None:
    async def test() -> None:
        it = bench(table("reg.example.com", PAIR + '\ntoken_server = "auth.example.org"'))
        assert (await it.ask(CLIENT, challenge("https://auth.example.org/t")))[1] == FIRST
        it = bench(table("reg.example.com", PAIR + '\ntoken_server = "auth.example.org:8443"'))
        found = await it.ask(CLIENT, challenge("https://auth.example.org/t"))
        assert found[1] == ("Bearer t1", "anonymous")

    run(test)


def test_plain_http_where_it_is_configured() -> None:
    async def test() -> None:
        toml = table("reg.lan:5000", PAIR, 'scheme = "http"')
        plain = Origin("http", "reg.lan", 5000)
        it = bench(toml)
        assert await it.ask(NOBODY, origin=plain) == [(basic("u").decode(), "u")]
        found = await it.ask(NOBODY, challenge("http://reg.lan:5000/token"), origin=plain)
        assert found[1] == FIRST
        # Nothing of it holds for another port.
        other = Origin("http", "reg.lan", 80)
        assert await bench(table("reg.lan", PAIR)).ask(NOBODY, BASIC_ASKED, origin=other) == [None, None]

    run(test)


LENDING = [
    # To a registry on another host of the server's domain.
    ("https://auth.example.com/t", "auth.example.com", "u"),
    # A token goes to whoever has named the server, so to none of another domain, whatever its own name says.
    ("https://auth.example.org/t", "auth.example.org", "-"),
    ("https://auth.docker.io/token", "auth.docker.io", "-"),
    # Another port of the same host may be another's. What is for any port is the registry's own.
    ("https://reg.example.com:5001/t", "reg.example.com:5001", "-"),
    ("https://reg.example.com:5001/t", "reg.example.com:443", "u"),
    ("https://reg.example.com:5001/t", "reg.example.com", "u"),
]


@pytest.mark.parametrize("realm, host, want", LENDING)
@pytest.mark.parametrize(
    "registries", ["reg.example.com", "reg.example.com auth.example.org", "*.example.com"]
)
def test_a_token_servers_own_login(registries: str, realm: str, host: str, want: str) -> None:
    async def test() -> None:
        it = bench(env={"REGISTRIES": registries, "AUTH_REGISTRIES": f"{host}:u:{SECRET}"})
        # Ours, so that an anonymous token is taken where there is no other.
        await it.ask(NOBODY, challenge(realm, scope="repository:other/secret:pull"), own=True)
        assert it.server.identities == [want]
        if host == "auth.example.com":
            assert "scope=repository%3Aa%2Fb%3Apull" in it.server.asked[0][2]  # and for nothing else
        if "org" in host:
            assert "token_server" in it.authorizer.reason(REG)

    run(test)


def test_a_table_lends_what_a_registry_has() -> None:
    async def test() -> None:
        text = table("reg.example.com", PAIR.replace('"u"', '"v"') + '\ntoken_server = "auth.example.org"')
        env = {
            "REGISTRIES": "reg.example.com auth.example.org",
            "AUTH_REGISTRIES": f"auth.example.org:u:{SECRET}",
        }
        it = bench(text, env)
        await it.ask(CLIENT, challenge("https://auth.example.org/t"))
        it.clock.now += 0.1
        await it.ask(CLIENT, challenge("https://auth.example.org/t"))
        assert it.server.identities[0] == "v" and "u" in it.server.identities

    run(test)


def test_what_is_passed_on() -> None:
    async def test() -> None:
        it = bench(env={"AUTH_REGISTRIES": f"auth.example.com:u:{SECRET};reg.example.com:v:{SECRET}"})
        ping = request(path="/v2/")
        grant = await it.authorizer.passing(AUTH, ping)
        assert grant is not None and grant.value == basic("u")
        assert await it.authorizer.passing(AUTH, request("Basic eDp5", "/v2/")) is None
        assert await it.authorizer.passing(AUTH, request(path="/token?scope=repository:a/b:pull")) is None
        # It rests, whoever's request it was that found it wrong.
        await it.authorizer.passed(AUTH, ping, grant, BASIC_ASKED)
        assert await it.authorizer.passing(AUTH, ping) is None
        # A registry that wants tokens has no use for a pair.
        assert await it.authorizer.passing(REG, request(path="/v2/")) is not None
        await it.ask(CLIENT, challenge())
        assert await it.authorizer.passing(REG, request(path="/v2/")) is None

    run(test)


def test_no_repr_shows_a_secret() -> None:
    async def test() -> None:
        it = bench(OURS)
        grant = await it.authorizer.authorization(REG, TARGET, NOBODY)
        assert grant is not None and SECRET not in repr(grant) and "Basic" not in repr(grant)
        client = await it.authorizer.authorization(REG, TARGET, CLIENT)
        assert client == Grant(b"Bearer client", "client")
        assert "Bearer" not in repr(client)

    run(test)


def test_memory_is_bounded() -> None:
    async def test() -> None:
        it = bench()
        for number in range(1500):
            target = parse_target(f"/v2/r{number}/manifests/1")
            await it.ask(NOBODY, challenge(scope=f"x:{number}"), own=True, target=target)
        assert len(it.authorizer._tokens._kept) == 1024

    run(test)


@pytest.mark.parametrize(
    "url", ["https://a/t\n", "https://a/" + "x" * 5000, "https://[::1/t", "", "https://ä/"]
)
def test_realms_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(BadResponse):
        parse_realm(url, "svc")


SITES = [
    ("registry-1.docker.io", "docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("registry.corp.internal", "corp.internal"),
    ("a.b.co.uk", "b.co.uk"),
    ("co.uk", None),
    ("localhost", None),
    ("192.0.2.1", None),
    ("2001:db8::1", None),
    ("me.github.io", "me.github.io"),
]


@pytest.mark.parametrize("host, want", SITES)
def test_sites(host: str, want: str | None) -> None:
    assert registrable(host) == want
    assert same_site(host, host)
    assert not same_site(host, f"{host}.evil.org")
