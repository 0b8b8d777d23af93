"""The operator's login, which clients without one share: what it goes into, and what it never goes into."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest

from tests.support.client import Client, Reply
from tests.support.images import digest_of, make_image
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import free_address, wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.token_server import TokenServer
from tests.support.trust import Trust
from tests.support.virtual_hosts import VirtualHosts

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

OURS = "Basic " + base64.b64encode(b"admin:Harbor12345").decode()
FORM = "application/x-www-form-urlencoded"
DIGEST = digest_of(b"x")
ANYTHING = Answer(b'{"secret":"S3CRET"}', 200, {"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def proxies(hosts: VirtualHosts, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Before all of them, with the login for each."""
    logins = " ".join(f"{name}:admin:Harbor12345" for name in hosts.names)
    with Proxies(tmp_path_factory, trust, hosts, AUTH_REGISTRIES=logins) as proxies:
        yield proxies


@pytest.fixture
def harbor(hosts: VirtualHosts) -> Origin:
    """An origin of the test's own that gives anything to anybody."""
    origin = hosts.new()
    origin.on("/*", ANYTHING)
    return origin


def start(start_proxy: StartProxy, *origins: Origin, **env: str) -> Proxy:
    return start_proxy(*origins, AUTH_REGISTRIES=f"{origins[0].name}:admin:Harbor12345", **env)


def sent(origin: Origin, path: str) -> list[str | None]:
    """Return the Authorization of each request for a path (without its query)."""
    return [seen.get("authorization") for seen in origin.requests if seen.path == path.partition("?")[0]]


NEVER = [
    ("GET", "/api/v2.0/users"),
    ("HEAD", "/api/v2.0/users"),
    ("POST", "/api/v2.0/robots"),
    ("DELETE", "/artifactory/api/security/token"),
    ("PATCH", "/x/token"),
    ("POST", "/token"),
    ("GET", "/token?service=s&scope=repository:app:pull"),
    ("GET", "/v2/_catalog"),
    ("GET", "/v2/app/blobs/uploads/1"),
    ("POST", "/x/../v2/app/blobs/uploads/"),
    ("GET", "/v2/app/tags/list/../../../_catalog"),
    ("GET", "/v2/%2e%2e/api/v2.0/users/tags/list"),
    ("GET", "/v2/app%2F..%2F..%2Fapi/tags/list"),
    ("GET", "/v2/app;x/tags/list"),
    ("GET", "//v2/app/tags/list"),
    ("GET", "/v2/app/tags/list?n=1&_method=DELETE"),
    ("OPTIONS", "/v2/app/tags/list"),
]


@pytest.mark.parametrize("method, path", NEVER)
def test_what_it_never_goes_into(
    method: str, path: str, harbor: Origin, proxies: Proxies, talk: Talk
) -> None:
    for env in ({}, {"ALLOW_PUSH": "true", "REGPROXY_LOGIN_FOR": "pull"}):
        reply = talk(proxies(**env), harbor).request(
            method, path, {}, b"username=evil" if method in ("POST", "PATCH") else None
        )
        assert reply.status in (200, 403)
    assert {seen.get("authorization") for seen in harbor.requests} == {None}


PULLS = [
    ("GET", "/v2/"),
    ("HEAD", "/v2/"),
    ("GET", "/v2"),
    ("GET", "/v2/a/b/tags/list?n=10&last=x"),
    ("GET", f"/v2/a/b/referrers/{DIGEST}?artifactType=application%2Fx"),
    ("GET", "/v2/a/manifests/sha512:" + 128 * "a"),
    ("HEAD", "/v2/a/blobs/sha512:" + 128 * "a"),
]


@pytest.mark.parametrize("method, path", PULLS)
def test_what_a_pull_needs(method: str, path: str, harbor: Origin, proxies: Proxies, talk: Talk) -> None:
    client = talk(proxies(), harbor)
    assert client.request(method, path).status == 200
    assert sent(harbor, path) == [OURS]
    # What a client sends beside it can't make another request of it, or have a session for itself.
    more = {
        "X-Original-URL": "/api/v2.0/users",
        "Cookie": "sid=mine",
        "X-Forwarded-Host": "evil.test",
        "Accept": "a/b",
    }
    client.request(method, path, more)
    seen = harbor.requests[-1]
    assert {name.lower() for name, _ in seen.headers} == {"host", "accept", "authorization"}
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method"):
        client.request(method, path, {name: "DELETE"})
        assert harbor.requests[-1].get("authorization") is None


def test_content_is_asked_for_as_a_pull(harbor: Origin, proxies: Proxies, talk: Talk) -> None:
    client = talk(proxies(), harbor)
    more = {"X-HTTP-Method": "DELETE", "X-Original-URL": "/api/v2.0/users", "X-Rewrite-URL": "/x"}
    client.request("HEAD", "/v2/app/manifests/latest", more)
    (seen,) = harbor.requests
    assert (seen.method, seen.target, seen.get("authorization")) == ("HEAD", "/v2/app/manifests/latest", OURS)
    names = {name.lower() for name, _ in seen.headers}
    assert names <= {"host", "authorization", "accept-encoding", "accept", "user-agent"}
    # With a query, or a field, on which the answer may depend, a tag is the client's own business.
    for target, fields in (
        ("/v2/app/manifests/latest?_method=DELETE", {}),
        ("/v2/app/manifests/latest", {"X-Y": "1"}),
    ):
        client.request("HEAD", target, fields)
        assert harbor.requests[-1].get("authorization") is None


def test_a_cookie_of_its_session_stays_here(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin = start_origin("harbor.test")
    origin.on("/v2/", Answer(b"{}", 200, {"Set-Cookie": "sid=admin"}))
    assert talk(start(start_proxy, origin), origin).get("/v2/").get("Set-Cookie") is None


PUSHES = [
    ("POST", "/v2/app/blobs/uploads/"),
    ("POST", f"/v2/app/blobs/uploads/?mount={DIGEST}&from=other"),
    ("PATCH", "/v2/app/blobs/uploads/d0c4-1?_state=abc"),
    ("PUT", f"/v2/app/blobs/uploads/d0c4-1?digest={DIGEST}"),
    ("GET", "/v2/app/blobs/uploads/d0c4-1"),
    ("DELETE", "/v2/app/blobs/uploads/d0c4-1"),
    ("PUT", "/v2/app/manifests/v1"),
    ("DELETE", f"/v2/app/manifests/{DIGEST}"),
]


@pytest.mark.parametrize("login_for, want", [(None, OURS), ("push", OURS), ("pull", None)])
def test_pushes(
    login_for: str | None, want: str | None, harbor: Origin, proxies: Proxies, talk: Talk
) -> None:
    env = {} if login_for is None else {"REGPROXY_LOGIN_FOR": login_for}
    proxy = proxies(ALLOW_PUSH="true", **env)
    assert ("every client can push" in proxy.log()) is (want is not None)
    for method, path in PUSHES:
        body = b"x" if method in ("PATCH", "PUT") else b"" if method == "POST" else None
        assert talk(proxy, harbor).request(method, path, {}, body).status == 200
        assert harbor.requests[-1].get("authorization") == want
    before = len(harbor.requests)
    for method, path in (
        ("POST", "/x/../v2/app/blobs/uploads/"),
        ("PUT", "/v2/app/blobs/uploads/..%2f..%2f..%2fapi"),
        ("PUT", "/api/v2.0/robots"),
        ("DELETE", "/v2/app/manifests/../../../api/v2.0/robots"),
    ):
        talk(proxy, harbor).request(method, path, {}, b"x")
    assert {seen.get("authorization") for seen in harbor.requests[before:]} == {None}


def test_without_allow_push_no_spelling_of_a_push_gets_through(
    harbor: Origin, proxies: Proxies, talk: Talk
) -> None:
    proxy = proxies()
    for path in (
        "/x/../v2/app/blobs/uploads/",
        "/x/%2e%2e/v2/app/blobs/uploads/",
        "/x/..%2fv2/app/blobs/uploads/",
        "/.//v2/app/blobs/uploads/",
        "/v2;/app/blobs/uploads/",
        "/V2/app/blobs/uploads/",
        "/%76%32/app/blobs/uploads/",
        "/x\\..\\v2\\app\\blobs\\uploads/",
        "/v2\\app\\blobs\\uploads/token",
        "/repository/docker/v2/app/blobs/uploads/",
    ):
        reply = talk(proxy, harbor).request("POST", path, {}, b"x")
        assert (path, reply.status) == (path, 403)
    for method in ("PUT", "PATCH", "DELETE"):
        assert talk(proxy, harbor).request(method, "/x/token", {}, b"x").status == 403
    assert harbor.requests == []
    assert talk(proxy, harbor).request("POST", "/login/oauth", {}, b"x").status == 200


def test_the_operator_is_told(harbor: Origin, proxies: Proxies, talk: Talk) -> None:
    proxy = proxies()
    client = talk(proxy, harbor)
    for _ in range(3):
        client.get("/api/v2.0/users?secret=1")
    wait_until(
        lambda: proxy.metric("regproxy_logins_withheld_total", registry=harbor.authority) == 3, "the count"
    )
    (line,) = re.findall(rf".* {re.escape(harbor.authority)}: GET /api/v2.0/users.*", proxy.log())
    assert "was sent without the configured credentials" in line and "secret" not in line


# --- tokens -----------------------------------------------------------------------------------------------


class Asked:
    """A registry at reg.corp.test whose realm, at auth.corp.test, gives a token to whoever asks."""

    def __init__(self, start_origin: StartOrigin, realm: str = "/service/token") -> None:
        self.registry, self.server = start_origin("reg.corp.test"), start_origin("auth.corp.test")
        self.realm = realm
        challenge = f'Bearer realm="{self.server.url}{realm}",service="svc"'
        self.registry.on("/v2/*", Answer(b"{}", 401, {"WWW-Authenticate": challenge}))
        self.registry.on("/v2/", Answer(b"{}", 401, {"WWW-Authenticate": challenge}))
        self.server.on("/*", self.answer)

    @staticmethod
    def answer(seen: Seen) -> Answer:
        found = {"token": "T", "refresh_token": "FOR-EVER", "expires_in": 300}
        return Answer(
            json.dumps(found).encode(), 200, {"Content-Type": "application/json", "Set-Cookie": "a=b"}
        )

    @property
    def last(self) -> Seen:
        return self.server.requests[-1]

    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.last.target.partition("?")[2], keep_blank_values=True)


@pytest.fixture
def asked(start_origin: StartOrigin) -> Asked:
    return Asked(start_origin)


def with_login(start_proxy: StartProxy, asked: Asked, **env: str) -> Proxy:
    pair = "auth.corp.test:admin:Harbor12345"
    return start_proxy(asked.registry, asked.server, AUTH_REGISTRIES=pair, **env)


SCOPES = [
    ("scope=repository:app:pull", ["repository:app:pull"]),
    ("scope=repository:app:pull,push", ["repository:app:pull"]),
    ("scope=repository%3Aapp%3Apull%2Cpush", ["repository:app:pull"]),
    ("scope=repository:app:*", ["repository:app:pull"]),
    ("scope=repository:app:pull+repository:b:pull,delete", ["repository:app:pull", "repository:b:pull"]),
    ("scope=repository:app:push%20repository:b:pull", ["repository:b:pull"]),
    ("scope=repository:app:pull&scope=registry:catalog:*", ["repository:app:pull"]),
    ("scope=&scope=repository:app:pull&account=boss&offline_token=true", ["repository:app:pull"]),
    ("scope=repository:app:pull&access_type=offline&client_id=x&evil=1", ["repository:app:pull"]),
]
NOT_LENT = [
    "",
    "scope=",
    "scope=repository:app:push",
    "scope=registry:catalog:*",
    "scope=REPOSITORY:app:pull",
    "scope=repository:App:pull",
    "scope=repository:../x:pull",
    "scope=repository:app:pull&service=other",
    "scope=repository:app:pull&refresh_token=x",
    "scope=repository:app:pull&username=u&password=p",
]


def test_what_a_clients_token_is_for(asked: Asked, start_proxy: StartProxy, talk: Talk) -> None:
    proxy = with_login(start_proxy, asked)
    assert talk(proxy, asked.registry).get("/v2/").status == 401
    client = talk(proxy, asked.server)
    for query, want in SCOPES:
        reply = client.get(f"{asked.realm}?service=svc&{query}")
        assert (reply.status, reply.json()["token"], reply.json()["access_token"]) == (200, "T", "T")
        assert 60 <= reply.json()["expires_in"] <= 300
        assert b"FOR-EVER" not in reply.body and reply.get("Set-Cookie") is None
        assert asked.last.get("authorization") == OURS
        assert asked.query() == {"service": ["svc"], "scope": want}
    for query in NOT_LENT:
        target = f"{asked.realm}?{query}"
        assert client.get(target).status == 200
        assert (asked.last.target, asked.last.get("authorization")) == (target, None)
    for path in ("/service/token/", "/service/./token", "/service/%74oken", "/service//token", "/other"):
        client.get(f"{path}?service=svc&scope=repository:app:pull")
        assert asked.last.get("authorization") is None
    client.request("HEAD", f"{asked.realm}?scope=repository:app:pull")
    assert asked.last.get("authorization") is None
    # A client's own goes as it is.
    own = {"Authorization": "Basic eDp5"}
    client.get(f"{asked.realm}?scope=repository:app:pull,push&account=x&offline_token=true", own)
    assert asked.last.get("authorization") == "Basic eDp5"
    assert asked.query()["offline_token"] == ["true"]


def test_with_pushes_a_token_is_for_pushes(asked: Asked, start_proxy: StartProxy, talk: Talk) -> None:
    for login_for, want in (("push", "pull,push,delete"), ("pull", "pull")):
        proxy = with_login(start_proxy, asked, ALLOW_PUSH="true", REGPROXY_LOGIN_FOR=login_for)
        talk(proxy, asked.registry).get("/v2/")
        talk(proxy, asked.server).get(f"{asked.realm}?scope=repository:app:delete,push,pull,admin")
        assert asked.query()["scope"] == [f"repository:app:{want}"]
        assert asked.last.get("authorization") == OURS


def post(client: Client, path: str, form: bytes, **headers: str) -> Reply:
    return client.request("POST", path, {"Content-Type": FORM, **headers}, form)


def test_forms(asked: Asked, start_proxy: StartProxy, talk: Talk) -> None:
    proxy = with_login(start_proxy, asked)
    talk(proxy, asked.registry).get("/v2/")
    client = talk(proxy, asked.server)
    scope = quote("repository:app:pull,push repository:b:pull")
    asks = f"service=svc&client_id=x&access_type=offline&scope={scope}".encode()
    reply = post(client, asked.realm, b"grant_type=password&" + asks)
    assert reply.json()["access_token"] == "T" and b"FOR-EVER" not in reply.body
    assert asked.last.get("authorization") == OURS
    assert asked.query()["scope"] == ["repository:app:pull", "repository:b:pull"]
    for own in (b"grant_type=refresh_token&refresh_token=mine&", b"username=u&password=p&"):
        reply = post(client, asked.realm, own + asks)
        assert (asked.last.method, asked.last.body) == ("POST", own + asks)
        assert asked.last.get("authorization") is None
        assert b"FOR-EVER" in reply.body  # its own
    # As a client that waits for 100 does.
    client.send(
        client.head(
            "POST",
            asked.realm,
            [("Content-Type", FORM), ("Content-Length", str(len(asks))), ("Expect", "100-continue")],
        )
    )
    assert client.read_head().status == 100
    client.send(asks)
    assert client.read_reply("POST").json()["token"] == "T"
    for form, headers in ((asks + b"&x=" + b"x" * 70_000, {}), (asks, {"Content-Encoding": "gzip"})):
        client = talk(proxy, asked.server)
        post(client, asked.realm, form, **headers)
        assert (asked.last.body, asked.last.get("authorization")) == (form, None)
    client = talk(proxy, asked.server)
    client.request("POST", asked.realm, {"Content-Type": "application/json"}, asks)
    assert (asked.last.body, asked.last.get("authorization")) == (asks, None)


def test_what_one_worker_has_learned_all_know_and_a_restart_keeps(
    asked: Asked, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    target = f"{asked.realm}?service=svc&scope=repository:app:pull"
    proxy = with_login(start_proxy, asked, REGPROXY_WORKERS="4")
    with proxy.client(asked.registry.authority) as client:
        client.get("/v2/")
    clients = [talk(proxy, asked.server) for _ in range(16)]
    for client in clients:
        client.get(target)
    assert {seen.get("authorization") for seen in asked.server.requests} == {OURS}
    state = (proxy.cache_dir / "state" / "realms.json").read_text()
    assert "Harbor12345" not in state and "admin" not in state
    proxy.stop()
    again = start_proxy(
        *(asked.registry, asked.server),
        AUTH_REGISTRIES="auth.corp.test:admin:Harbor12345",
        at=proxy.directory,
    )
    before = len(asked.server.requests)
    talk(again, asked.server).get(target)
    assert [seen.get("authorization") for seen in asked.server.requests[before:]] == [OURS]


def test_who_may_say_where_a_realm_is(start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk) -> None:
    """An intercepted host that nobody has named can't have the login sent into another's API."""
    harbor, evil = start_origin("harbor.test"), start_origin("evil.test")
    harbor.on("/*", ANYTHING)
    realm = f'Bearer realm="{harbor.url}/api/v2.0/robots",service="svc"'
    for path in ("/v2/", "/v2/*"):
        evil.on(path, Answer(b"{}", 401, {"WWW-Authenticate": realm}))
    pair = "harbor.test:admin:Harbor12345"
    proxy = start_proxy(
        harbor, evil, registries=(harbor.authority, f"*.test:{evil.port}"), AUTH_REGISTRIES=pair
    )
    client = talk(proxy, evil)
    assert client.get("/v2/").status == client.get("/v2/app/manifests/1").status == 401
    for body in (None, b"scope=repository:app:pull"):
        other = talk(proxy, harbor)
        target = "/api/v2.0/robots?service=svc&scope=repository:app:pull"
        other.request("POST" if body else "GET", target, {"Content-Type": FORM}, body)
    assert {seen.get("authorization") for seen in harbor.requests} == {None}


def test_a_registry_has_no_use_of_anothers_login(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """Both have their names in REGISTRIES; harbor is registry and token server in one."""
    harbor, evil = start_origin("harbor.test"), start_origin("evil.example2")
    harbor.on("/*", ANYTHING)
    realm = f'Bearer realm="{harbor.url}/api/v2.0/robots",service="svc"'
    for path in ("/v2/", "/v2/*"):
        evil.on(path, Answer(b"{}", 401, {"WWW-Authenticate": realm}))
    proxy = start(start_proxy, harbor, evil)
    client = talk(proxy, evil)
    assert client.get("/v2/").status == client.request("HEAD", "/v2/secret/manifests/1").status == 401
    talk(proxy, harbor).get("/api/v2.0/robots?service=svc&scope=repository:app:pull")
    assert {seen.get("authorization") for seen in (*harbor.requests, *evil.requests)} == {None}


def test_another_port_of_a_host_may_be_anothers(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    good = start_origin("reg.test")
    evil = start_origin("reg.test", address=free_address(good.address[0]))
    good.on("/*", ANYTHING)
    realm = f'Bearer realm="{good.url}/any",service="svc"'
    for path in ("/v2/", "/v2/*"):
        evil.on(path, Answer(b"{}", 401, {"WWW-Authenticate": realm}))
    proxy = start_proxy(
        *(good, evil),
        registries=(good.authority, f"*.test:{evil.port}"),
        AUTH_REGISTRIES=f"{good.authority}:admin:Harbor12345",
    )
    client = talk(proxy, evil)
    assert client.get("/v2/").status == client.request("HEAD", "/v2/secret/manifests/1").status == 401
    talk(proxy, good).get("/any?service=svc&scope=repository:app:pull")
    assert {seen.get("authorization") for seen in (*good.requests, *evil.requests)} == {None}


def test_a_client_can_not_say_where_a_realm_is(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """Some registries make their realm of what a request says. Nor does the proxy itself go there."""
    origin = start_origin("art.test")

    def challenge(seen: Seen) -> Answer:
        base = seen.get("x-jfrog-override-base-url") or f"{origin.url}/realm"
        return Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{base}/token",service="svc"'})

    origin.on("/*", ANYTHING)
    origin.on("/v2/*", challenge)
    origin.on("/v2/", challenge)
    proxy = start(start_proxy, origin)
    evil = {"X-JFrog-Override-Base-Url": f"{origin.url}/api/security"}
    for more in ({}, {"Authorization": "Basic eDp5"}):
        for path in ("/v2/", "/v2/app/manifests/1", "/v2/app/tags/list"):
            talk(proxy, origin).get(path, evil | more)
    talk(proxy, origin).get("/api/security/token?scope=repository:app:pull")
    assert sent(origin, "/api/security/token") == [None]


# --- standing ---------------------------------------------------------------------------------------------


ASKED = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})


class Guarded:
    """A registry that takes one password, and has repositories that it is not for."""

    def __init__(self, origin: Origin, right: str) -> None:
        self.origin, self.right = origin, right
        self.forbidden = ("/v2/secret/", "/v2/made-up")
        origin.on("/*", self.answer)

    def answer(self, seen: Seen) -> Answer:
        if seen.get("authorization") != self.right or seen.path.startswith(self.forbidden):
            return ASKED
        return Answer(b"x" * 10, 200, {"Docker-Content-Digest": digest_of(b"x" * 10)})


def blob(number: int) -> str:
    return digest_of(b"%d" % number)


def for_us(answer: Answer) -> Callable[[Seen], Answer]:
    return lambda seen: answer if seen.get("authorization") == OURS else ASKED


def test_a_forbidden_image_disturbs_nobody(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin = start_origin("reg.test")
    for number in range(40):
        origin.on(f"/v2/app/blobs/{blob(number)}", for_us(Answer(b"%d" % number)))
    origin.on("/*", ASKED)
    proxy = start(start_proxy, origin, ALLOW_PUSH="true")
    assert talk(proxy, origin).get(f"/v2/app/blobs/{blob(0)}").status == 200
    pod = talk(proxy, origin)
    for number in range(1, 40):
        for method, path in (
            ("GET", "/v2/secret/manifests/1"),
            ("GET", f"/v2/made-up{number}/manifests/1"),
            ("HEAD", f"/v2/made-up{number}/tags/list"),
            ("GET", "/v2/app/tags/list"),
            ("GET", "/v2/"),
            ("GET", "/api/admin-only"),
            ("PUT", "/v2/app/manifests/x"),
        ):
            assert pod.request(method, path, {}, b"{}" if method == "PUT" else None).status == 401
        assert talk(proxy, origin).get(f"/v2/app/blobs/{blob(number)}").status == 200
    assert "; they rest" not in proxy.log()


def test_a_password_that_changed_rests(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin = start_origin("reg.test")
    guarded = Guarded(origin, OURS)
    proxy = start(start_proxy, origin)
    client = talk(proxy, origin)
    assert client.get("/v2/").status == 200
    assert client.request("HEAD", "/v2/app/manifests/1").status == 200
    guarded.right = "Basic another"
    before = len(origin.requests)
    for number in range(20):
        assert client.get("/v2/").status == 401
        assert client.request("HEAD", "/v2/app/manifests/1").status == 401
        assert client.request("HEAD", f"/v2/new{number}/manifests/1").status == 401
    shown = [seen for seen in origin.requests[before:] if seen.get("authorization") == OURS]
    assert 1 <= len(shown) <= 4  # it rests for 1 s, 2 s...
    assert "the credentials of 'admin' were refused by reg.test (status 401); they rest" in proxy.log()


def test_a_helper_is_not_run_for_each_refusal(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    origin = start_origin("reg.test")
    Guarded(origin, OURS)
    runs, helper, toml = tmp_path / "runs", tmp_path / "get-login", tmp_path / "regproxy.toml"
    answer = json.dumps({"Username": "admin", "Secret": "Harbor12345"})
    helper.write_text(f"#!/bin/sh\necho run >>{runs}\necho '{answer}'\n")
    helper.chmod(0o755)
    toml.write_text(f'[origin."{origin.authority}".credentials]\nexec = ["{helper}"]\n')
    proxy = start_proxy(origin, REGPROXY_CONFIG=str(toml))
    client = talk(proxy, origin)
    assert client.request("HEAD", "/v2/app/manifests/1").status == 200, proxy.log()
    for number in range(20):
        assert client.request("HEAD", f"/v2/made-up{number}/manifests/1").status == 401
        assert client.request("HEAD", "/v2/app/manifests/1").status == 200
    assert runs.read_text() == "run\n"


def test_one_scope_that_a_token_server_refuses(
    start_tokens: Callable[..., TokenServer],
    start_origin: StartOrigin,
    start_proxy: StartProxy,
    talk: Talk,
) -> None:
    registry, server = start_origin("reg.corp.test"), start_origin("auth.corp.test")
    image = make_image(seed=3)

    def token(seen: Seen) -> Answer:
        scope = parse_qs(seen.target.partition("?")[2]).get("scope", [""])[0]
        if seen.get("authorization") != OURS or "app" not in scope:
            return Answer(b"{}", 401)
        return Answer(b'{"token":"T","expires_in":1}')

    def content(seen: Seen) -> Answer:
        if seen.get("authorization") == "Bearer T":
            return Answer(image.manifest, 200, {"Content-Type": image.media_type})
        name = seen.path.split("/")[2]
        asks = f'Bearer realm="{server.url}/token",service="s",scope="repository:{name}:pull"'
        return Answer(b"{}", 401, {"WWW-Authenticate": asks})

    server.on("/token", token)
    registry.on("/v2/*", content)
    proxy = start_proxy(registry, server, AUTH_REGISTRIES="auth.corp.test:admin:Harbor12345")
    client, pod = talk(proxy, registry), talk(proxy, registry)
    asks_token = talk(proxy, server)
    for number in range(20):
        assert client.request("HEAD", "/v2/app/manifests/1").status == 200
        assert pod.request("HEAD", f"/v2/made-up{number}/manifests/1").status == 401
        reply = asks_token.get(f"/token?service=s&scope=repository:made-up{number}:pull,push")
        assert reply.status == 401
    assert "; they rest" not in proxy.log()


# --- what a client shows and is of no use -----------------------------------------------------------------


def picky(seen: Seen) -> Answer:
    """Lets nobody in but with the configured login."""
    if seen.get("authorization") == OURS:
        return Answer(b"{}" if seen.path.endswith("manifests/v1") else b"x")
    return Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})


def test_what_was_refused_is_not_shown_again(hosts: VirtualHosts, proxies: Proxies, talk: Talk) -> None:
    """Clients without a login show an anonymous token for every blob."""
    origin = hosts.new()
    origin.on("/*", picky)
    theirs = ("Authorization", "Bearer anonymous")
    client = talk(proxies(REGPROXY_CREDENTIALS_FIRST="client"), origin)
    paths = [
        f"/v2/app/blobs/{digest_of(b'x')}",
        *(f"/v2/app/blobs/sha256:{number:064x}" for number in range(3)),
    ]
    for path in paths:
        client.get(path, [theirs])
    assert [seen.get("authorization") for seen in origin.requests] == [theirs[1], OURS, OURS, OURS, OURS]
    # Another repository may take it, and another token may be taken here.
    client.get(f"/v2/other/blobs/sha256:{9:064x}", [theirs])
    assert origin.requests[-2].get("authorization") == theirs[1]
    client.get(f"/v2/app/blobs/sha256:{8:064x}", [("Authorization", "Bearer another")])
    assert origin.requests[-2].get("authorization") == "Bearer another"


def test_what_was_refused_is_shown_where_there_is_nothing_else(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin = start_origin("reg.test")
    origin.on("/*", picky)
    client = talk(start_proxy(origin), origin)
    for number in range(3):
        reply = client.get(f"/v2/app/blobs/sha256:{number:064x}", [("Authorization", "Bearer theirs")])
        assert (reply.status, reply.get("www-authenticate")) == (401, 'Basic realm="r"')
    assert [seen.get("authorization") for seen in origin.requests] == ["Bearer theirs"] * 3


@pytest.mark.parametrize("value", ["Basic Og==", "Basic", "basic ", "BASIC   Og=="])
def test_an_empty_login_is_none(value: str, hosts: VirtualHosts, proxies: Proxies, talk: Talk) -> None:
    origin = hosts.new()
    origin.on("/*", picky)
    client = talk(proxies(), origin)
    for path in ("/v2/", "/v2/app/tags/list", f"/v2/app/blobs/{digest_of(b'x')}"):
        assert client.get(path, [("Authorization", value)]).status == 200
    assert {seen.get("authorization") for seen in origin.requests} == {OURS}
