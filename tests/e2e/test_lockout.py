"""A password that is wrong is shown a few times, however many clients come: registries lock accounts."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.origin import Answer, Origin, Seen
from tests.support.proxy import Proxy

WRONG = "Basic dTp3cm9uZw=="  # u:wrong
ASKED = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
FEW = 8  # of 40; they rest for 1 s, 2 s and so on, and the clients come for some seconds
CLIENTS = 40


@pytest.fixture
def origin(start_origin: Callable[..., Origin]) -> Origin:
    origin = start_origin("reg.test")
    origin.on("/v2/*", ASKED)
    origin.on("/v2/", ASKED)
    return origin


def shown(origin: Origin) -> int:
    return sum(seen.get("Authorization") == WRONG for seen in origin.requests)


def table(origin: Origin, tmp_path: Path, line: str) -> dict[str, str]:
    path = tmp_path / "regproxy.toml"
    path.write_text(f'[origin."{origin.authority}".credentials]\nusername = "u"\n{line}\n')
    return {"REGPROXY_CONFIG": str(path)}


def many(proxy: Proxy, origin: Origin, paths: list[str], headers: dict[str, str]) -> set[int]:
    def ask(path: str) -> int:
        with proxy.client(origin.authority) as client:
            return client.get(path, headers).status

    with ThreadPoolExecutor(CLIENTS) as pool:
        return set(pool.map(ask, paths))


@pytest.mark.parametrize("what", ["tags", "pings"])
@pytest.mark.parametrize("kept", ["text", "file"])
def test_all_at_once(
    kept: str, what: str, origin: Origin, start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wrong")
    line = 'password = "wrong"' if kept == "text" else f'password_file = "{tmp_path}/password"'
    proxy = start_proxy(origin, **table(origin, tmp_path, line))
    paths = [f"/v2/r{n}/manifests/x" if what == "tags" else "/v2/" for n in range(CLIENTS)]
    assert many(proxy, origin, paths, {}) == {401}
    assert shown(origin) <= FEW


def test_behind_clients_own(origin: Origin, start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """A client that sends rubbish in a loop has ours tried after it, and refused."""
    proxy = start_proxy(origin, **table(origin, tmp_path, 'password = "wrong"'))
    with proxy.client(origin.authority) as client:
        for n in range(CLIENTS):
            reply = client.get(f"/v2/r{n}/manifests/x", {"Authorization": "Basic Zm9vOmJhcg=="})
            assert reply.status == 401
    assert 1 <= shown(origin) <= FEW
    assert "the credentials of 'u' were refused by reg.test" in proxy.log()
    assert "wrong" not in proxy.log()


def guard(origin: Origin) -> list[str]:
    """Make it ask for Basic; return its passwords, of which the last counts."""
    passwords = ["p"]

    def guarded(seen: Seen) -> Answer:
        good = b64encode(f"u:{passwords[-1]}".encode()).decode()
        if seen.get("authorization") == f"Basic {good}" and "/made-up-" not in seen.path:
            return Answer(b"{}")
        return Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="x"'})

    origin.on("/v2/*", guarded)
    return passwords


def old_ones(origin: Origin) -> int:
    """How often the first password was shown."""
    shown = b64encode(b"u:p").decode()
    return sum(seen.get("authorization") == f"Basic {shown}" for seen in origin.requests)


@pytest.mark.parametrize("changes", [True, False])
def test_made_up_repositories_after_a_login_was_taken(
    start_origin: Callable[..., Origin],
    start_proxy: Callable[..., Proxy],
    talk: Callable[..., Client],
    changes: bool,
) -> None:
    """They neither show a password without end that has changed, nor rest one that has not."""
    origin = start_origin("reg.test")
    passwords = guard(origin)
    proxy = start_proxy(origin, AUTH_REGISTRIES="reg.test:u:p")
    client = talk(proxy, origin)
    assert client.get("/v2/good/tags/list").status == 200
    assert client.request("HEAD", "/v2/good/manifests/1").status == 200
    if changes:
        passwords.append("new")
    before = old_ones(origin)
    for number in range(40):
        assert client.request("HEAD", f"/v2/made-up-{number}/manifests/1").status == 401
        if not changes:
            assert client.request("HEAD", "/v2/good/manifests/1").status == 200
            assert client.request("HEAD", f"/v2/fine-{number}/manifests/1").status == 200
    if changes:
        assert old_ones(origin) - before <= 6


def test_a_push_shows_no_login_that_is_not_known_to_be_taken(
    start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    origin = start_origin("reg.test")
    passwords = guard(origin)
    passwords.append("new")
    proxy = start_proxy(origin, AUTH_REGISTRIES="reg.test:u:p", ALLOW_PUSH="true")
    for number in range(20):
        client = talk(proxy, origin)
        assert client.request("PUT", f"/v2/app/manifests/{number}", {}, b"{}").status == 401
    assert old_ones(origin) <= 3
    assert all(seen.method == "GET" for seen in origin.requests if seen.get("authorization"))


@pytest.mark.parametrize("asks", [True, False])
def test_nobody_waits_for_others_that_prove_nothing(
    asks: bool,
    start_origin: Callable[..., Origin],
    start_proxy: Callable[..., Proxy],
    talk: Callable[..., Client],
    tmp_path: Path,
) -> None:
    """Some registries say 404 before they have looked at a login, and take their time for it."""
    origin = start_origin("reg.test")
    hold = threading.Event()

    def answer(seen: Seen) -> Answer:
        if "missing" in seen.path:
            return Answer(b"{}", 404, hold_at=-1, hold=hold)
        in_order = seen.get("Authorization") == WRONG or (seen.path == "/v2/" and not asks)
        return Answer(b"x") if in_order else ASKED

    origin.on("/*", answer)
    proxy = start_proxy(origin, **table(origin, tmp_path, 'password = "wrong"'))
    count = CLIENTS // 2 if asks else 2
    slow = [talk(proxy, origin) for _ in range(count)]
    try:
        for number, client in enumerate(slow):
            client.ask("GET", f"/v2/missing{number}/tags/list")
        origin.wait_for(lambda it: sum("missing" in seen.path for seen in it.requests) == count)
        assert talk(proxy, origin).request("HEAD", "/v2/app/manifests/1").status == 200
    finally:
        hold.set()
    assert {client.read_reply().status for client in slow} == {404}


def test_a_ping_that_anybody_gets_proves_no_login(
    start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    """nginx in front of a registry that anybody may pull from: `limit_except GET HEAD { auth_basic ... }`."""
    origin = start_origin("reg.test")
    passwords = guard(origin)
    passwords.append("new")
    origin.on("/v2/", Answer(b"{}"))
    proxy = start_proxy(origin, AUTH_REGISTRIES="reg.test:u:p", ALLOW_PUSH="true")
    client = talk(proxy, origin)
    for number in range(20):
        client.get("/v2/")
        assert client.request("PUT", f"/v2/app/manifests/{number}", {}, b"{}").status == 401
    assert (
        1
        <= sum(seen.method == "PUT" and seen.get("authorization") is not None for seen in origin.requests)
        <= 3
    )


def test_where_pings_are_open_a_push_has_the_login(
    start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    origin = start_origin("reg.test")
    guard(origin)
    origin.on("/v2/", Answer(b"{}"))
    proxy = start_proxy(origin, AUTH_REGISTRIES="reg.test:u:p", ALLOW_PUSH="true")
    client = talk(proxy, origin)
    for number in range(3):
        assert client.request("PUT", f"/v2/app/manifests/{number}", {}, b"{}").status == 200
