"""The admin API of the real program, with two workers; every answer is compared with docs/openapi.json."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from regproxy.admin import proofs
from regproxy.cache import layout
from regproxy.cli.common.admin_client import AdminClient, NotProven
from regproxy.config.sources.assembly import load
from tests.support.admin_api import AdminApi, check, document
from tests.support.cache_command import environment
from tests.support.client import Client
from tests.support.images import MANIFEST, digest_of, make_image
from tests.support.origin import Answer, Origin, blob_answer
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.two_workers import Pair, stopped

StartProxy = Callable[..., Proxy]
ACCEPT = [("Accept", MANIFEST)]
PROOF = "/api/v1/proof"  # is for those who show no token yet
RULE = """
[[rule]]
name = "no-leaks"
repository = "team/secret"
action = "deny"
message = "ask the team"
"""


@pytest.fixture(scope="module")
def setup(trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Origin]]:  # type: ignore[no-untyped-def]
    """A proxy of two workers, and an origin."""
    place = tmp_path_factory.mktemp("admin")
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(trust, "reg.test", "limited.test"))
        rules = place / "regproxy.toml"
        rules.write_text(RULE)
        env = {
            "REGPROXY_CONFIG": str(rules),
            "REGPROXY_WORKERS": "2",
            "ENABLE_MANIFEST_CACHE": "true",
            "MANIFEST_CACHE_PRIMARY_TIME": "0",
            "REGPROXY_AUDIT_LOG": str(place / "audit"),
            "REGPROXY_AUDIT_IDLE": "1s",
        }
        names = (origin.authority, limited(origin))
        proxy = Proxy(place / "proxy", env, registries=names, resolve=origin.resolve, ca=trust.path)
        stack.enter_context(proxy).workers(2)
        yield proxy, origin


def limited(origin: Origin) -> str:
    """The registry whose requests are refused as too many."""
    return f"limited.test:{origin.address[1]}"


@pytest.fixture
def proxy(setup: tuple[Proxy, Origin]) -> Proxy:
    return setup[0]


@pytest.fixture
def origin(setup: tuple[Proxy, Origin]) -> Origin:
    return setup[1]


@pytest.fixture
def api(proxy: Proxy, stack: ExitStack) -> AdminApi:
    return stack.enter_context(AdminApi(proxy))


def held_blob(origin: Origin, seed: int, hold: threading.Event) -> tuple[str, str, bytes]:
    """Publish content of which the second half comes when `hold` is set: its digest, path and bytes."""
    body = bytes([seed]) * 200_000
    digest = digest_of(body)
    path = f"/v2/team/app/blobs/{digest}"
    origin.on(path, blob_answer(digest, body, hold=hold, hold_at=100_000))
    return digest, path, body


def offline(proxy: Proxy, word: str) -> dict[str, object]:
    """Return what `regproxy offline` says beside this proxy."""
    env = environment(proxy.cache_dir, REGPROXY_ADMIN_LISTEN="{}:{}".format(*proxy.admin_address))
    command = [sys.executable, "-m", "regproxy", "offline", word, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, object] = json.loads(done.stdout)
    return found


class TestReading:
    """What a token for reading shows."""

    def test_every_path_answers_as_it_is_described(self, proxy: Proxy, stack: ExitStack) -> None:
        api = stack.enter_context(AdminApi(proxy, token="admin-read-token"))
        for template, methods in document()["paths"].items():
            if "get" in methods and template != "/api/v1/events":
                path = template.removeprefix("/api/v1/").replace("{id}", "none")
                api.ask("GET", path)
                api.ask("GET", f"{path}?nonsense=1")
            if "post" in methods:
                want = 400 if template == PROOF else 403
                assert api.ask("POST", template.removeprefix("/api/v1/")).status == want

    def test_without_a_token(self, proxy: Proxy) -> None:
        with Client.connect(proxy.admin_address) as client:
            for template, methods in document()["paths"].items():
                for method in map(str.upper, methods):
                    reply = client.request(method, template)
                    check(method, template, reply)
                    wants_none = template.endswith("/explain") or template == PROOF
                    assert reply.status == (400 if wants_none else 401), template

    def test_status(self, proxy: Proxy, origin: Origin, api: AdminApi) -> None:
        before = api.get("status")
        assert (before["workers"], before["ready"], before["offline"]["on"]) == (2, True, False)
        body = b"status" * 1000
        path = f"/v2/team/app/blobs/{digest_of(body)}"
        origin.on(path, blob_answer(digest_of(body), body))
        for _ in range(3):
            with proxy.client(origin.authority) as client:
                assert client.get(path).body == body
            proxy.wait_kept(digest_of(body))
        wait_until(
            lambda: api.get("status")["answered"]["requests"] == before["answered"]["requests"] + 3,
            "three requests are counted",
        )
        counts = api.get("status")["answered"]
        assert counts["hits"] == before["answered"]["hits"] + 2
        assert counts["saved_bytes"] == before["answered"]["saved_bytes"] + 2 * len(body)
        assert 0 < counts["hit_ratio"] < 1
        wait_until(lambda: api.get("status")["cache"]["objects"] > 0, "the cache's figures are here")

    def test_the_other_worker_knows(self, proxy: Proxy, origin: Origin, hold: threading.Event) -> None:
        """A download and its client in one worker are listed by the other."""
        pair = Pair(proxy, origin.authority)
        one, other = pair.pids()
        digest, path, body = held_blob(origin, 1, hold)
        with pair.client(one) as client, ExitStack() as stack:
            client.ask("GET", path)
            with stopped(one):
                admin = stack.enter_context(Client.connect(proxy.admin_address, timeout=60.0))
                assert admin.get("/healthz").status == 200
            assert proxy.owner(admin) == other
            api = stack.enter_context(AdminApi(proxy))

            def found() -> bool:
                listed = api.ask("GET", "downloads", client=admin).json()["items"]
                return [(each["digest"], each["bytes"], each["waiters"]) for each in listed] == [
                    (digest, 100_000, 1)
                ]

            wait_until(found, "the download is listed")
            (download,) = api.ask("GET", "downloads", client=admin).json()["items"]
            assert (download["registry"], download["repository"]) == (origin.authority, "team/app")
            assert (download["total"], download["resumes"]) == (len(body), 0)
            (client_row,) = api.ask("GET", "clients", client=admin).json()["items"]
            assert client_row["requests"] == 1
            hold.set()
            assert client.read_reply().body == body
        wait_until(lambda: api_items(proxy, "downloads") == [], "nothing is downloaded any more")

    def test_registries(self, proxy: Proxy, origin: Origin, api: AdminApi) -> None:
        """Errors are told, but no query, which may be as good as a login."""
        limits = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "40;w=21600"}
        origin.on("/v2/team/limited/manifests/v1", Answer(b"slow down", 429, headers=limits))
        with proxy.client(limited(origin)) as client:
            assert client.get("/v2/team/limited/manifests/v1?secret=x", ACCEPT).status == 429

        def found() -> bool:
            listed = {each["name"]: each for each in api.items("registries")}
            each = listed.get(limited(origin))
            return (
                each is not None
                and each["refused_429"] >= 1
                and "429" in (each["errors"]["last"] or "")
                and [quota["remaining"] for quota in each["quotas"]] == [40]
            )

        wait_until(found, "the registry's refusal is told")
        assert "secret" not in json.dumps(api.items("registries"))

    def test_audit(self, proxy: Proxy, origin: Origin, api: AdminApi) -> None:
        """By pages, the newest first; and cursors that are none of this list."""
        for seed in range(3):
            image = make_image(seed=900 + seed, size=2000)
            origin.publish(f"team/audited{seed}", image, "v1")
            with proxy.client(origin.authority) as client:
                assert client.get(f"/v2/team/audited{seed}/manifests/v1", ACCEPT).status == 200
        log = proxy.directory.parent / "audit"
        wait_until(lambda: log.exists() and log.read_text().count("audited") >= 3, "three pulls are logged")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert api.items("audit", 2) == lines[::-1]
        assert api.items("audit", 1000) == lines[::-1]
        cursor = api.get("audit?limit=1")["next"]
        for wrong in (f"clients?cursor={cursor}", "audit?cursor=x", f"audit?cursor={cursor[:-2]}xx"):
            assert api.ask("GET", wrong).status == 400
        assert api.ask("GET", "audit?limit=1001").status == 400
        assert api.ask("GET", "audit?limit=0").status == 400


def api_items(proxy: Proxy, path: str) -> list[object]:
    with AdminApi(proxy) as api:
        return api.items(path)


class TestEvents:
    """Server-sent events."""

    def test_they_come_from_all_workers(self, proxy: Proxy, origin: Origin, api: AdminApi) -> None:
        first, second = make_image(seed=931, size=2000), make_image(seed=932, size=2000)
        origin.publish("team/moves", first, "stable")
        pair = Pair(proxy, origin.authority)
        with api.connect() as listener:
            listener.ask("GET", "/api/v1/events", api.headers)
            head = listener.read_head()
            assert (head.status, head.get("Content-Type")) == (200, "text/event-stream")
            seen = b""
            for number, pid in enumerate(pair.pids()):
                with pair.client(pid) as client:
                    assert client.get("/v2/team/moves/manifests/stable", ACCEPT).status == 200
                if number == 0:
                    origin.publish("team/moves", second, "stable")
            while b"event: tag-moved" not in seen or seen.count(b"event: status") < 2:
                seen += listener.stream.recv(65536)
            assert second.digest.encode() in seen

    def test_a_refusal(self, proxy: Proxy, origin: Origin, api: AdminApi) -> None:
        with api.connect() as listener:
            listener.ask("GET", "/api/v1/events", api.headers)
            assert listener.read_head().status == 200
            with proxy.client(origin.authority) as client:
                assert client.get("/v2/team/secret/manifests/v1?token=hidden", ACCEPT).status == 403
            seen = b""
            while not (
                told := [
                    part for part in seen.split(b"\n\n") if b"event: refused" in part and b"data: " in part
                ]
            ):
                seen += listener.stream.recv(65536)
        event = json.loads(told[0].partition(b"data: ")[2])
        want = {
            "registry": origin.authority,
            "repository": "team/secret",
            "reference": "v1",
            "rule": "no-leaks",
        }
        assert want.items() <= event.items()
        assert "ask the team" in event["reason"]
        assert b"hidden" not in seen

    def test_who_leaves(self, proxy: Proxy, api: AdminApi) -> None:
        """A place is free again when a listener has gone."""
        for _ in range(40):
            with api.connect() as listener:
                listener.ask("GET", "/api/v1/events", api.headers)
                if listener.read_head().status == 503:
                    break
        wait_until(lambda: _listens(api), "there is a place again")

    def test_too_many(self, proxy: Proxy, api: AdminApi) -> None:
        refused = 0
        with ExitStack() as stack:
            for _ in range(33):
                listener = stack.enter_context(api.connect())
                listener.ask("GET", "/api/v1/events", api.headers)
                refused += listener.read_head().status == 503
        assert refused >= 1


def _listens(api: AdminApi) -> bool:
    with api.connect() as listener:
        listener.ask("GET", "/api/v1/events", api.headers)
        return listener.read_head().status == 200


class TestOffline:
    """The switch."""

    def test_both_workers_and_a_restart(
        self, start_proxy: StartProxy, start_origin: Callable[..., Origin], tmp_path: Path
    ) -> None:
        origin = start_origin("reg.test")
        held, other = b"held" * 1000, b"other" * 1000
        for body in (held, other):
            origin.on(f"/v2/a/blobs/{digest_of(body)}", blob_answer(digest_of(body), body))
        proxy = start_proxy(origin, REGPROXY_WORKERS="2")
        pair = Pair(proxy, origin.authority)
        with pair.client(pair.pids()[0]) as client:
            assert client.get(f"/v2/a/blobs/{digest_of(held)}").body == held
        proxy.wait_kept(digest_of(held))
        with AdminApi(proxy) as api:
            assert api.post("offline", {"on": True}) == {"on": True, "by": "switch"}
            for pid in pair.pids():
                with pair.client(pid) as client:
                    assert client.get(f"/v2/a/blobs/{digest_of(other)}").status == 503
                    assert client.get(f"/v2/a/blobs/{digest_of(held)}").body == held
            assert api.get("status")["offline"] == {"on": True, "by": "switch"}
            assert proxy.admin("/readyz")[0] == 200
            assert api.ask("POST", "offline", {"on": "yes"}).status == 400
        proxy.stop()
        with start_proxy(origin, at=proxy.directory, REGPROXY_WORKERS="2") as again, AdminApi(again) as api:
            assert api.get("status")["offline"] == {"on": True, "by": "switch"}
            with again.client(origin.authority) as client:
                assert client.get(f"/v2/a/blobs/{digest_of(other)}").status == 503
            assert api.post("offline", {"on": False}) == {"on": False, "by": None}
            with again.client(origin.authority) as client:
                assert client.get(f"/v2/a/blobs/{digest_of(other)}").body == other

    def test_by_the_command(self, proxy: Proxy, origin: Origin) -> None:
        body = b"only online"
        path = f"/v2/team/app/blobs/{digest_of(body)}"
        origin.on(path, blob_answer(digest_of(body), body))
        switched, online = {"on": True, "by": "switch"}, {"on": False, "by": None}
        assert offline(proxy, "status") == online
        for _ in range(2):
            assert offline(proxy, "on") == offline(proxy, "status") == switched
        with proxy.client(origin.authority) as client:
            assert client.get(path).status == 503
        assert offline(proxy, "off") == online
        with proxy.client(origin.authority) as client:
            assert client.get(path).body == body

    def test_the_setting_wins(self, start_proxy: StartProxy, start_origin: Callable[..., Origin]) -> None:
        proxy = start_proxy(start_origin("reg.test"), REGPROXY_OFFLINE="true")
        with AdminApi(proxy) as api:
            assert api.get("status")["offline"] == {"on": True, "by": "setting"}
            assert "REGPROXY_OFFLINE" in api.ask("POST", "offline", {"on": False}).json()["detail"]
            assert api.post("offline", {"on": True}) == {"on": True, "by": "setting"}


class EarlyListener:
    """A listener at an address before a proxy: it accepts one connection, frees the address, and relays what
    it has heard to the proxy.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.client: tuple[str, int] = ("", 0)
        self.heard = self.said = b""
        self.has_asked, self.is_proxy_there = threading.Event(), threading.Event()
        self._listener = socket.create_server(address)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> EarlyListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_proxy_there.set()
        self._thread.join()

    def _serve(self) -> None:
        near, self.client = self._listener.accept()
        with near:
            self._listener.close()
            while not self.heard.endswith(b"}"):
                self.heard += near.recv(65536)
            self.has_asked.set()
            # A client waits on, as long as it hears something now and then.
            while not self.is_proxy_there.wait(0.1):
                near.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            with Client.connect(self.address) as far:
                far.send(self.heard)
                far.sent.append("POST")
                reply = far.read_reply()
            body = reply.body
            near.sendall(b"HTTP/1.1 %d .\r\nContent-Length: %d\r\n\r\n%b" % (reply.status, len(body), body))
            self.said = body
            self.heard += near.recv(65536)


def test_a_listener_that_was_there_before_the_proxy(tmp_path: Path) -> None:
    """It has the proxy's own address, yet hears no token: its connection is another one."""
    at = free_address(), free_address()
    cache, token = tmp_path / "proxy" / "cache", "t" * 43
    layout.admin_token(cache).parent.mkdir(parents=True)
    layout.admin_token(cache).write_text(token)
    asking = AdminClient(load({"REGPROXY_ADMIN_LISTEN": "{}:{}".format(*at[1])}), cache, writes=True)
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(asking.ask("GET", "session"))
        except NotProven as error:
            found.append(error)

    with EarlyListener(at[1]) as before:
        command = threading.Thread(target=ask)
        command.start()
        assert before.has_asked.wait(20)
        with Proxy(tmp_path / "proxy", addresses=at):
            before.is_proxy_there.set()
            command.join()
            assert asking.ask("GET", "session")["scope"] == "write"
    assert "passes connections on" in str(found[0])
    assert "not from {}:{}".format(*before.client) in before.said.decode()
    assert token.encode() not in before.heard
    assert proofs.PATH.encode() in before.heard


class TestReload:
    """Reloads, and changes of the CA."""

    def test_reload(
        self, start_proxy: StartProxy, start_origin: Callable[..., Origin], tmp_path: Path
    ) -> None:
        config = tmp_path / "regproxy.toml"
        config.write_text("cache_inactive = '50d'\n")
        origin = start_origin("reg.test")
        proxy = start_proxy(origin, REGPROXY_WORKERS="2", REGPROXY_CONFIG=str(config))
        with AdminApi(proxy) as api:
            before = set(proxy.workers(2))
            # Several at once are answered, each of them.
            clients = [api.connect() for _ in range(3)]
            for client in clients:
                client.ask("POST", "/api/v1/reload", api.headers)
            for client in clients:
                reply = client.read_reply()
                check("POST", "/api/v1/reload", reply)
                assert (reply.status, reply.json()) == (200, {"result": "done", "reason": None})
            wait_until(lambda: not before & set(proxy.workers()), "the former workers have ended")
            config.write_text("cache_inactive = 'never ever'\n")
            reply = api.ask("POST", "reload")
            assert reply.status == 409
            assert "cache_inactive" in reply.json()["detail"]
            assert api.get("status")["workers"] == 2

    def test_ca(self, start_proxy: StartProxy, start_origin: Callable[..., Origin]) -> None:
        proxy = start_proxy(start_origin("reg.test"))
        before = proxy.ca_pem
        with AdminApi(proxy) as api:
            assert api.ask("POST", "ca/rotate/finish").status == 409
            made = api.post("ca/rotate")
            assert made["reload"] == {"result": "done", "reason": None}
            assert [each["waits"] for each in made["authorities"]] == [False, True]
            assert "waits there" in api.ask("POST", "ca/rotate").json()["detail"]
            with Client.connect(proxy.address) as plain:
                assert plain.get("/ca.crt").body.count(b"BEGIN CERTIFICATE") == 2
            finished = api.post("ca/rotate/finish")
            assert [each["sha256"] for each in finished["authorities"]] == [made["authorities"][1]["sha256"]]
        assert proxy.ca_pem != before

    def test_a_worker_that_ends(
        self, start_proxy: StartProxy, start_origin: Callable[..., Origin], hold: threading.Event
    ) -> None:
        """Listeners are told that it is over, and keep no worker from ending; so are those whose token is.

        So is one that listens on a connection that was kept alive, and it keeps nobody either.
        """
        origin = start_origin("reg.test")
        _, blob, body = held_blob(origin, 7, hold)
        proxy = start_proxy(origin)
        with (
            AdminApi(proxy) as api,
            api.connect() as listener,
            api.connect() as idle,
            proxy.client(origin.authority) as client,
        ):
            client.ask("GET", blob)
            wait_until(lambda: api.items("downloads"), "the download is under way")
            assert idle.get("/healthz").status == 200
            listener.ask("GET", "/api/v1/events", api.headers)
            assert listener.read_head().status == 200
            with api.connect() as reader:
                path = proxy.cache_dir / "state" / "admin-read-token"
                told = {"Authorization": f"Bearer {path.read_text().strip()}"}
                reader.ask("GET", "/api/v1/events", told)
                assert reader.read_head().status == 200
                path.write_text("")
                while piece := reader.stream.recv(65536):
                    if piece.endswith(b"0\r\n\r\n"):
                        break
                else:
                    raise AssertionError("it was cut")
                assert reader.request("GET", "/api/v1/session", told).status == 401
            os.kill(proxy.daemon.pid, signal.SIGHUP)
            reply = b""
            while piece := listener.stream.recv(65536):
                reply += piece
            assert reply.endswith(b"0\r\n\r\n")
            late = idle.get("/api/v1/events", api.headers)
            assert (late.status, late.get("Connection")) == (200, "close")
            assert b"event:" not in late.body and idle.stream.recv(65536) == b""
            hold.set()
            assert client.read_reply().body == body
