"""What clients and registries can't do to the configured logins, try as they may."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from urllib.parse import parse_qs

import pytest

from tests.support.client import Client
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import free_address
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.virtual_hosts import VirtualHosts

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

OURS = "Basic " + b64encode(b"puller:S3cret").decode()
FEW = 8
ASKED = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
FINE = Answer(b"{}")


def bearer(realm: str) -> Answer:
    return Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def token(seen: Seen) -> Answer:
    """A token that names its repository, for who shows our login."""
    scope = parse_qs(seen.target.partition("?")[2]).get("scope", ["::"])[0]
    ours = seen.get("authorization") == OURS
    return (
        Answer(json.dumps({"token": f"FOR-{scope.split(':')[1]}"}).encode()) if ours else Answer(b"{}", 401)
    )


def tokens_shown(registry: Origin) -> set[str]:
    return {
        value for seen in registry.requests if (value := seen.get("authorization") or "").startswith("Bear")
    }


def shown(server: Origin) -> int:
    return sum(seen.get("authorization") == OURS for seen in server.requests)


def more_than(known: int, server: Origin) -> bool:
    return len(server.requests) > known


@contextmanager
def asking_without_end(proxy: Proxy, registry: Origin, times: int = 1) -> Iterator[None]:
    """A client that asks for one made-up repository after the other, each so many times."""
    stop, began = threading.Event(), threading.Event()

    def ask() -> None:
        with proxy.client(registry.authority) as client:
            for number in count():
                for _ in range(times):
                    client.request("HEAD", f"/v2/made-up-{number}/manifests/1")
                if number == 5:
                    began.set()
                if stop.is_set():
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert began.wait(60)
        yield
    finally:
        stop.set()
        thread.join()


# --- the use of another's login ---------------------------------------------------------------------------


def test_where_registry_and_token_server_are_ports_of_one_host(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """As GitLab's are. Another registry that names the same realm gets nothing."""
    server, evil = start_origin("gitlab.test"), start_origin("evil.example2")
    registry = start_origin("gitlab.test", address=free_address(server.address[0]))
    server.on("/jwt/auth", token)
    for each in (registry, evil):
        each.on("/*", bearer(f"{server.url}/jwt/auth"))
    proxy = start_proxy(registry, evil, server, AUTH_REGISTRIES="gitlab.test:puller:S3cret")
    for each in (registry, evil):
        talk(proxy, each).request("HEAD", "/v2/group/private/manifests/1")
    assert tokens_shown(registry) == {"Bearer FOR-group/private"}
    assert tokens_shown(evil) == set()


def test_where_a_mask_names_the_registries(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    server, registry = start_origin("auth.corp.test"), start_origin("reg.corp.test")
    evil = start_origin("evil.example2")
    server.on("/token", token)
    for each in (registry, evil):
        each.on("/*", bearer(f"{server.url}/token"))
    proxy = start_proxy(
        *(registry, evil, server),
        registries=(f"*.corp.test:{registry.port}", f".corp.test:{server.port}", evil.authority),
        AUTH_REGISTRIES="auth.corp.test:puller:S3cret",
    )
    for each in (registry, evil):
        talk(proxy, each).request("HEAD", "/v2/group/private/manifests/1")
    assert tokens_shown(registry) == {"Bearer FOR-group/private"}
    assert tokens_shown(evil) == set()


def test_tenants_of_one_domain(start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk) -> None:
    """Each namespace of a cluster is somebody's own."""
    harbor = start_origin("harbor.team-a.svc.cluster.local")
    evil = start_origin("evil.team-b.svc.cluster.local")
    harbor.on("/service/token", token)
    for each in (harbor, evil):
        each.on("/v2/*", bearer(f"{harbor.url}/service/token"))
    login = f"{harbor.name}:puller:S3cret"
    proxy = start_proxy(harbor, evil, AUTH_REGISTRIES=login)
    for each in (harbor, evil):
        talk(proxy, each).request("HEAD", "/v2/secret/manifests/1")
    assert tokens_shown(harbor) == {"Bearer FOR-secret"}
    assert tokens_shown(evil) == set()


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
def test_a_connection_that_is_logged_in_is_nobody_elses(
    scheme: str, hosts: VirtualHosts, proxies: Proxies, talk: Talk
) -> None:
    """These log a connection in, and no request (RFC 4559 6)."""
    origin = hosts.new()
    known: set[int] = set()

    def answer(seen: Seen) -> Answer:
        if (seen.get("authorization") or "").startswith(scheme):
            known.add(seen.connection)
        return (
            Answer(b"SECRET") if seen.connection in known else Answer(b"", 401, {"WWW-Authenticate": scheme})
        )

    origin.on("/*", answer)
    proxy = proxies()
    assert talk(proxy, origin).get("/api/x", {"Authorization": f"{scheme} AAAA"}).body == b"SECRET"
    assert talk(proxy, origin).get("/api/x").status == 401


@pytest.mark.parametrize("value", [OURS, "bearer x", "BASIC  eDp5"])
def test_others_are_pooled_as_ever(value: str, hosts: VirtualHosts, proxies: Proxies, talk: Talk) -> None:
    origin = hosts.new()
    origin.on("/*", FINE)
    client = talk(proxies(), origin)
    for _ in range(3):
        assert client.get("/v2/app/tags/list", {"Authorization": value}).status == 200
    assert len({seen.connection for seen in origin.requests}) == 1


# --- a wrong one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("path", ["/v2/a{}/tags/list", "/v2/a{}/manifests/1", "/v2/"])
def test_clients_that_leave_before_the_answer(
    path: str, taken: bool, hosts: VirtualHosts, proxies: Proxies, talk: Talk
) -> None:
    """A password that is wrong, or has changed, is not shown for each of them."""
    origin = hosts.new()
    go, right = threading.Event(), [taken]

    def answer(seen: Seen) -> Answer:
        if right[0] and seen.get("authorization") == OURS:
            return FINE
        return Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'}, hold_at=-1, hold=go)

    origin.on("/*", answer)
    proxy = proxies(AUTH_REGISTRIES=" ".join(f"{name}:puller:S3cret" for name in hosts.names))
    if taken:
        assert talk(proxy, origin).get("/v2/first/tags/list").status == 200
        right[0] = False
    before = shown(origin)
    try:
        for number in range(30):
            came = partial(more_than, len(origin.requests))
            with proxy.client(origin.authority) as client:
                client.ask("GET", path.format(number))
                origin.wait_for(came)
                if number == 4:
                    go.set()
                client.reset()
    finally:
        go.set()
    # One in a while is let through once FEW have left: more of them the slower this machine is.
    assert shown(origin) - before <= 2 * FEW


# --- a right one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["basic", "tokens", "refused tokens"])
def test_made_up_repositories_rest_no_login_that_was_never_taken(
    way: str, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin, server = start_origin("reg.corp.test"), start_origin("auth.corp.test")

    def basic(seen: Seen) -> Answer:
        return FINE if seen.get("authorization") == OURS and "made-up" not in seen.path else ASKED

    def of_server(seen: Seen) -> Answer:
        if "made-up" in seen.target:
            return Answer(b"{}", 403 if way == "tokens" else 401)
        return Answer(b'{"token":"T"}') if seen.get("authorization") == OURS else Answer(b"{}", 401)

    def by_token(seen: Seen) -> Answer:
        return FINE if seen.get("authorization") == "Bearer T" else bearer(f"{server.url}/token")

    server.on("/token", of_server)
    origin.on("/*", basic if way == "basic" else by_token)
    name = origin.name if way == "basic" else server.name
    proxy = start_proxy(origin, server, AUTH_REGISTRIES=f"{name}:puller:S3cret")
    with asking_without_end(proxy, origin):
        client = talk(proxy, origin)
        assert {client.request("HEAD", f"/v2/good{number}/manifests/1").status for number in range(20)} == {
            200
        }


def test_a_registry_of_the_domain_rests_no_login_of_the_others(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """It names the right realm first, then a page of that server which wants another login."""
    server, registry = start_origin("auth.corp.test"), start_origin("reg.corp.test")
    evil = start_origin("evil.corp.test")
    server.on("/token", lambda seen: Answer(b'{"token":"T"}') if seen.get("authorization") == OURS else ASKED)
    server.on("/api/user", Answer(b"{}", 401))
    registry.on(
        "/*", lambda seen: FINE if seen.get("authorization") == "Bearer T" else bearer(f"{server.url}/token")
    )
    seen_before: set[str] = set()

    def evil_answer(seen: Seen) -> Answer:
        page = "/api/user" if seen.path in seen_before else "/token"
        seen_before.add(seen.path)
        return bearer(server.url + page)

    evil.on("/*", evil_answer)
    proxy = start_proxy(registry, evil, server, AUTH_REGISTRIES="auth.corp.test:puller:S3cret")
    client = talk(proxy, registry)
    assert client.request("HEAD", "/v2/app/manifests/1").status == 200
    with asking_without_end(proxy, evil, times=2):
        assert {client.request("HEAD", f"/v2/good{number}/manifests/1").status for number in range(20)} == {
            200
        }


def test_a_page_that_does_not_answer_holds_nobody_up(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """It was named as a realm before the login was ever taken."""
    server, registry = start_origin("auth.corp.test"), start_origin("reg.corp.test")
    evil = start_origin("evil.corp.test")
    hold = threading.Event()
    server.on("/slow", Answer(b"", 404, hold_at=-1, hold=hold))
    server.on("/token", lambda seen: Answer(b'{"token":"T"}') if seen.get("authorization") == OURS else ASKED)
    for each, page in ((registry, "/token"), (evil, "/slow")):
        asked = bearer(server.url + page)
        each.on("/*", answer_to_token(asked))
    proxy = start_proxy(registry, evil, server, AUTH_REGISTRIES="auth.corp.test:puller:S3cret")
    try:
        slow = talk(proxy, evil)
        slow.ask("HEAD", "/v2/x/manifests/1")
        server.wait_for(lambda it: it.hits["/slow"] > 0)
        assert talk(proxy, registry).request("HEAD", "/v2/app/manifests/1").status == 200
    finally:
        hold.set()


def answer_to_token(otherwise: Answer) -> Callable[[Seen], Answer]:
    return lambda seen: FINE if seen.get("authorization") == "Bearer T" else otherwise
