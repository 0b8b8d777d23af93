"""The admin API on the wire: tokens, cookies, CSRF, bodies, slow and large clients."""

from __future__ import annotations

import json
import select
import socket
import stat
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from regproxy.admin import proofs
from regproxy.admin.visitors import Scope, Token
from regproxy.cli.common.admin_client import AdminClient, NotProven
from regproxy.config.settings import load
from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import Lane, ended

SESSION = "/api/v1/session"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def proxy(lane: Lane) -> Proxy:
    return lane.proxy()


@pytest.fixture(scope="module")
def open_proxy(lane: Lane) -> Proxy:
    """One that lets clients go wherever a setting can let them."""
    env = {"REGPROXY_CONNECT_PORTS": "*", "REGPROXY_PRIVATE_TARGETS": "allow", "REGISTRIES": "127.*"}
    return lane.proxy(**env, REGPROXY_ALLOW_TARGETS="127.* localhost", REGPROXY_MIRROR_REGISTRIES="127.*")


@pytest.fixture
def admin(proxy: Proxy, stack: ExitStack) -> Client:
    """A connection to the admin port."""
    return stack.enter_context(Client.connect(proxy.admin_address))


def state(proxy: Proxy, name: str) -> Path:
    return proxy.cache_dir / "state" / name


def bearer(proxy: Proxy, name: str = "admin-token") -> dict[str, str]:
    return {"Authorization": f"Bearer {state(proxy, name).read_text().strip()}"}


def log_in(client: Client, proxy: Proxy, **headers: str) -> tuple[dict[str, str], str]:
    """Return the Cookie field of a new login, and its CSRF token."""
    token = state(proxy, "admin-token").read_text().strip()
    reply = client.request("POST", "/login", JSON | headers, json.dumps({"token": token}).encode())
    assert reply.status == 200, reply
    (field,) = reply.all("Set-Cookie")
    return {"Cookie": field.partition(";")[0]}, reply.json()["csrf_token"]


def problem(reply: Reply, status: int) -> str:
    """Return what a problem says."""
    assert (reply.status, reply.get("Content-Type")) == (status, "application/problem+json"), reply
    found = reply.json()
    assert found["status"] == status
    assert found["title"] == reply.reason
    detail: str = found["detail"]
    return detail


def page(reply: Reply, status: int) -> str:
    """Return the page that says what is wrong."""
    assert (reply.status, reply.get("Content-Type")) == (status, "text/html; charset=utf-8"), reply
    return reply.body.decode()


class Relay:
    """What passes one connection on to a proxy, at another port, and keeps what the client says."""

    def __init__(self, proxy: Proxy) -> None:
        self.heard = b""
        self._to = proxy.admin_address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """End with the connection that is there, if any."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError), self._listener.accept()[0] as near, socket.create_connection(self._to) as far:
            while ready := select.select((near, far), (), (), 20)[0]:
                for side, other in ((near, far), (far, near)):
                    if side in ready:
                        data = side.recv(65536)
                        if not data:
                            return
                        other.sendall(data)
                        self.heard += data if side is near else b""


class TestProofs:
    """That client and proxy know a token, before it is shown."""

    def asked(
        self, proxy: Proxy, admin: Client, text: str = "", *, address: str = "", client: str = ""
    ) -> dict[str, str]:
        token = Token(text or state(proxy, "admin-token").read_text().strip(), Scope.WRITE, local=True)
        address = address or "{}:{}".format(*proxy.admin_address)
        client = client or "{}:{}".format(*admin.own_address)
        proof = proofs.proof_of_client(token, address, client, "n" * 43)
        return {"address": address, "client": client, "nonce": "n" * 43, "proof": proof}

    def ask(self, admin: Client, asked: object, **headers: str) -> Reply:
        return admin.request("POST", proofs.PATH, JSON | headers, json.dumps(asked).encode())

    @pytest.mark.parametrize("name", ["admin-token", "admin-read-token"])
    def test_a_proof_for_a_proof(self, name: str, proxy: Proxy, admin: Client) -> None:
        text = state(proxy, name).read_text().strip()
        asked = self.asked(proxy, admin, text)
        reply = self.ask(admin, asked)
        assert reply.status == 200
        token = Token(text, Scope.WRITE, local=True)
        want = proofs.proof_of_proxy(token, asked["address"], asked["client"], asked["nonce"])
        assert reply.json() == {"proof": want}
        # The connection is the one that the token is shown on.
        assert admin.get(SESSION, bearer(proxy, name)).status == 200

    def test_for_nothing_there_is_nothing(self, proxy: Proxy, admin: Client) -> None:
        """No proof that a token could be guessed by."""
        for asked in (self.asked(proxy, admin, "x" * 43), self.asked(proxy, admin) | {"nonce": "m" * 43}):
            reply = self.ask(admin, asked)
            assert problem(reply, 401) == "unknown token"
        assert self.ask(admin, self.asked(proxy, admin)).status == 200

    @pytest.mark.parametrize("field", ["address", "client", "nonce", "proof"])
    def test_bad_fields(self, field: str, proxy: Proxy, admin: Client) -> None:
        for value in ("x" * 65, 5, None):
            assert field in problem(self.ask(admin, self.asked(proxy, admin) | {field: value}), 400)

    def test_from_a_page(self, proxy: Proxy, admin: Client) -> None:
        assert problem(self.ask(admin, self.asked(proxy, admin), Origin="http://evil.example"), 403)

    def test_of_another_address(self, proxy: Proxy, admin: Client) -> None:
        reply = self.ask(admin, self.asked(proxy, admin, address="127.0.0.1:9"))
        assert "127.0.0.1:9" in problem(reply, 421)

    def test_of_another_client(self, proxy: Proxy, admin: Client) -> None:
        """As of one that is connected to a listener which was here before this proxy."""
        reply = self.ask(admin, self.asked(proxy, admin, client="127.0.0.1:9"))
        assert "127.0.0.1:9" in problem(reply, 421)

    def test_by_a_relay(self, proxy: Proxy, stack: ExitStack) -> None:
        """Whoever passes all on to this proxy hears no token."""
        relay = Relay(proxy)
        stack.callback(relay.close)
        config = load({"REGPROXY_ADMIN_LISTEN": f"127.0.0.1:{relay.port}"})
        with pytest.raises(NotProven, match="passes connections on"):
            AdminClient(config, proxy.cache_dir, writes=True).ask("GET", "status")
        assert proofs.PATH.encode() in relay.heard
        assert state(proxy, "admin-token").read_text().strip().encode() not in relay.heard
        config = load({"REGPROXY_ADMIN_LISTEN": "{}:{}".format(*proxy.admin_address)})
        assert AdminClient(config, proxy.cache_dir, writes=True).ask("GET", "session")["scope"] == "write"


class TestTokens:
    """Bearer tokens."""

    def test_they_are_made_and_private(self, proxy: Proxy) -> None:
        for name in ("admin-token", "admin-read-token"):
            path = state(proxy, name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            token = path.read_text().strip()
            assert len(token) >= 40
            assert str(path) in proxy.log()
            assert token not in proxy.log()

    @pytest.mark.parametrize(("name", "scope"), [("admin-token", "write"), ("admin-read-token", "read")])
    def test_scopes(self, name: str, scope: str, proxy: Proxy, admin: Client) -> None:
        reply = admin.get(SESSION, bearer(proxy, name))
        assert reply.status == 200
        assert reply.json() == {"scope": scope, "until": None, "csrf_token": None}

    @pytest.mark.parametrize(
        "field",
        [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "Bearer wrong",
            "Bearer wrong-0123456789-0123456789-0123456789",
            "bearer \xff\xfe",
            "Bearer " + "x" * 20_000,
        ],
    )
    def test_refused(self, field: str, admin: Client, proxy: Proxy) -> None:
        reply = admin.get(SESSION, {"Authorization": field} if field else {})
        assert "token" in problem(reply, 401)
        assert (reply.get("WWW-Authenticate") or "").startswith("Bearer realm=")
        # Whoever shows the right one has not to wait for that.
        assert admin.get(SESSION, bearer(proxy)).status == 200

    def test_two_at_once(self, proxy: Proxy, admin: Client) -> None:
        twice = [*bearer(proxy).items(), *bearer(proxy).items()]
        assert "one token" in problem(admin.request("GET", SESSION, twice), 401)

    def test_no_token_in_the_query(self, proxy: Proxy, admin: Client) -> None:
        token = state(proxy, "admin-token").read_text().strip()
        assert problem(admin.get(f"{SESSION}?access_token={token}"), 401)
        assert token not in proxy.log()

    def test_headers(self, proxy: Proxy, admin: Client) -> None:
        for reply in (admin.get(SESSION, bearer(proxy)), admin.get(SESSION), admin.get("/login")):
            assert reply.get("Cache-Control") == "no-store"
            assert reply.get("X-Content-Type-Options") == "nosniff"
            policy = reply.get("Content-Security-Policy") or ""
            assert "frame-ancestors 'none'" in policy
            assert "unsafe-inline" not in policy
            assert reply.get("Access-Control-Allow-Origin") is None

    @pytest.mark.parametrize("name", ["REGPROXY_ADMIN_TOKEN_FILE", "REGPROXY_ADMIN_READ_TOKEN_FILE"])
    def test_a_file_of_ones_own(self, name: str, lane: Lane, tmp_path: Path) -> None:
        """It is read again when it changes; the one that is made besides is for the other scope."""
        file = tmp_path / "token"
        file.write_text("first-0123456789-0123456789\n")
        scope = "write" if name == "REGPROXY_ADMIN_TOKEN_FILE" else "read"
        with lane.new_proxy(**{name: str(file)}) as proxy, Client.connect(proxy.admin_address) as admin:
            own = {"Authorization": f"Bearer {file.read_text().strip()}"}
            assert admin.get(SESSION, own).json()["scope"] == scope
            made = {path.name for path in state(proxy, "x").parent.glob("admin*")}
            assert made == {"admin-read-token" if scope == "write" else "admin-token"}
            assert admin.get(SESSION, bearer(proxy, made.pop())).status == 200
            file.write_text("second-0123456789-0123456789\n")
            changed = {"Authorization": f"Bearer {file.read_text().strip()}"}
            wait_until(lambda: admin.get(SESSION, changed).status == 200, "the new token is known")
            assert problem(admin.get(SESSION, own), 401)


class TestCookies:
    """Logins of browsers."""

    def test_a_form(self, proxy: Proxy, admin: Client) -> None:
        form = admin.get("/login")
        assert b'action="/login"' in form.body and page(form, 200)
        # It looks like the others, to whoever is not logged in yet.
        assert b"/static/page.css" in form.body and admin.get("/static/page.css").status == 200
        token = state(proxy, "admin-token").read_text().strip()
        reply = admin.request("POST", "/login", FORM, f"token={token}".encode())
        assert (reply.status, reply.get("Location")) == (303, "/")
        cookie = reply.get("Set-Cookie") or ""
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert token not in cookie
        assert admin.get(SESSION, {"Cookie": f"a=b; {cookie.partition(';')[0]}"}).json()["scope"] == "write"

    def test_a_wrong_token(self, admin: Client) -> None:
        reply = admin.request("POST", "/login", FORM, b"token=%3Cb%3Ewrong")
        assert (reply.status, reply.get("Set-Cookie")) == (401, None)
        assert b"unknown token" in reply.body

    def test_through_https(self, proxy: Proxy, admin: Client) -> None:
        authority = f"{proxy.admin_address[0]}:{proxy.admin_port}"
        token = json.dumps({"token": state(proxy, "admin-token").read_text().strip()}).encode()
        reply = admin.request("POST", "/login", JSON | {"Origin": f"https://{authority}"}, token)
        assert "Secure" in (reply.get("Set-Cookie") or "").split("; ")

    def test_of_another_host(self, proxy: Proxy, admin: Client) -> None:
        """A cookie is good at the address that it was made for: no name that leads here has any use of it."""
        cookie, _ = log_in(admin, proxy)
        assert admin.get(SESSION, cookie).status == 200
        assert problem(admin.get(SESSION, cookie | {"Host": "evil.example:3129"}), 401)

    @pytest.mark.parametrize("at", [0, 5, 12, 30, -1])
    def test_forged(self, at: int, proxy: Proxy, admin: Client) -> None:
        cookie, _ = log_in(admin, proxy)
        name, _, value = cookie["Cookie"].partition("=")
        letters = list(value)
        letters[at] = "A" if letters[at] != "A" else "B"
        forged = "".join(letters)
        assert problem(admin.get(SESSION, {"Cookie": f"{name}={forged}"}), 401)

    def test_log_out(self, proxy: Proxy, admin: Client) -> None:
        cookie, csrf = log_in(admin, proxy)
        same = {"Origin": f"http://{proxy.admin_address[0]}:{proxy.admin_port}"}
        reply = admin.request("POST", "/logout", FORM | cookie | same, f"csrf_token={csrf}".encode())
        assert (reply.status, reply.get("Location")) == (303, "/login")
        assert "Max-Age=0" in (reply.get("Set-Cookie") or "")

    @pytest.mark.parametrize(
        ("headers", "shows", "status"),
        [
            ({"Origin": "http://{}"}, True, 303),
            ({"Sec-Fetch-Site": "same-origin"}, True, 303),
            ({"Origin": "https://{}", "Sec-Fetch-Site": "same-origin"}, True, 303),
            ({"Origin": "http://{}"}, False, 403),
            ({}, True, 403),
            ({"Origin": "null"}, True, 403),
            ({"Origin": "http://evil.example"}, True, 403),
            ({"Origin": "http://{}.evil.example"}, True, 403),
            ({"Sec-Fetch-Site": "cross-site"}, True, 403),
            ({"Sec-Fetch-Site": "same-site", "Origin": "http://{}"}, True, 403),
            ({"Sec-Fetch-Site": "none"}, True, 403),
        ],
    )
    def test_csrf(
        self, headers: dict[str, str], shows: bool, status: int, proxy: Proxy, admin: Client
    ) -> None:
        authority = f"{proxy.admin_address[0]}:{proxy.admin_port}"
        cookie, csrf = log_in(admin, proxy)
        sent = cookie | {name: value.format(authority) for name, value in headers.items()}
        if shows:
            sent["X-CSRF-Token"] = csrf
        assert admin.request("POST", "/logout", sent).status == status

    def test_csrf_of_another_login(self, proxy: Proxy, admin: Client) -> None:
        cookie, _ = log_in(admin, proxy)
        _, other = log_in(admin, proxy)
        sent = cookie | {"Sec-Fetch-Site": "same-origin", "X-CSRF-Token": other}
        assert "csrf_token" in page(admin.request("POST", "/logout", sent), 403)

    def test_no_login_for_another_page(self, proxy: Proxy, admin: Client) -> None:
        token = json.dumps({"token": state(proxy, "admin-token").read_text().strip()}).encode()
        reply = admin.request("POST", "/login", JSON | {"Origin": "http://evil.example"}, token)
        assert "at this address" in problem(reply, 403)


class TestBodies:
    """What is sent to it."""

    def test_chunked_and_continue(self, proxy: Proxy, admin: Client) -> None:
        token = json.dumps({"token": state(proxy, "admin-token").read_text().strip()}).encode()
        admin.send(
            b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for part in (token[:5], token[5:]):
            admin.send(b"%x\r\n%b\r\n" % (len(part), part))
        admin.send(b"0\r\n\r\n")
        reply = admin.read_reply("POST")
        assert (reply.status, reply.interim) == (200, (100,))
        assert admin.get("/healthz").status == 200

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    def test_too_large(self, framing: str, admin: Client) -> None:
        head = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        if framing == "length":
            admin.send(head + b"Content-Length: 1000000000000\r\n\r\n")
        else:
            body = b"x" * 66_000
            admin.send(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
        assert "65536" in problem(admin.read_reply("POST"), 413)
        assert ended(admin) is End.FIN

    @pytest.mark.parametrize("kind", ["text/plain", "", "application/jsonx", "multipart/form-data"])
    def test_other_kinds(self, kind: str, admin: Client) -> None:
        reply = admin.request("POST", "/login", {"Content-Type": kind} if kind else {}, b'{"token": "x"}')
        told = problem(reply, 415) if "json" in kind else page(reply, 415)
        assert "application/json" in told
        assert reply.get("Connection") == "close"

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"", "token"),
            (b"{}", "token"),
            (b"[]", "object"),
            (b'{"token": 1}', "token: expected str"),
            (b'{"token": "x", "more": 1}', "unknown field more; there are token"),
            (b'{"token": "x"', "not JSON"),
            (b'{"token": "x"} {}', "not JSON"),
            (b'{"token": "\xff"}', "not JSON"),
            (b"[" * 60_000, "object"),
            (b'{"token":' + b"[" * 60_000, "expected str"),
            (json.dumps({"token": "x" * 5000}).encode(), "token: expected str of length <= 4096"),
        ],
        ids=range(11),
    )
    def test_wrong(self, body: bytes, why: str, admin: Client) -> None:
        assert why in problem(admin.request("POST", "/login", JSON, body), 400)
        assert admin.get("/healthz").status == 200

    def test_where_none_is_wanted(self, proxy: Proxy, admin: Client) -> None:
        reply = admin.request("GET", SESSION, bearer(proxy), b"x")
        assert "no body" in problem(reply, 400)
        assert reply.get("Connection") == "close"

    def test_smuggled(self, proxy: Proxy, admin: Client) -> None:
        """What stands in a body that was refused is no request."""
        inner = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        admin.send(
            b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (len(inner), inner)
        )
        assert page(admin.read_reply("POST"), 415)
        assert ended(admin) is End.FIN

    @pytest.mark.parametrize(
        "fields",
        [
            b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip\r\n",
        ],
    )
    def test_ambiguous(self, fields: bytes, admin: Client) -> None:
        admin.send(
            b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + fields + b"\r\n"
        )
        assert admin.read_reply("POST").status in (400, 501)
        assert ended(admin) is End.FIN

    def test_who_leaves(self, proxy: Proxy) -> None:
        for _ in range(3):
            with Client.connect(proxy.admin_address) as client:
                client.send(
                    b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 10\r\n\r\n{"
                )
                client.reset()
        assert proxy.admin("/healthz")[0] == 200


class TestRoutes:
    """Paths and queries."""

    def test_none(self, proxy: Proxy, admin: Client) -> None:
        for path in ("/api/v1/", "/api/v1/none", "/api/v1/session/", "/api/v1/../v1/session"):
            assert "openapi.json" in problem(admin.get(path, bearer(proxy)), 404)

    def test_other_methods(self, proxy: Proxy, admin: Client) -> None:
        reply = admin.request("DELETE", SESSION, bearer(proxy))
        assert "GET" in problem(reply, 405)
        assert reply.get("Allow") == "GET, HEAD"
        assert admin.request("HEAD", SESSION, bearer(proxy)).status == 200
        assert admin.request("OPTIONS", SESSION, {"Origin": "http://a"}).status == 405
        for path in ("/healthz", "/metrics"):
            reply = admin.request("DELETE", path)
            assert (reply.status, reply.get("Allow")) == (405, "GET, HEAD")
        assert admin.request("POST", "/none").status == 404

    def test_queries(self, proxy: Proxy, admin: Client) -> None:
        assert "no query" in problem(admin.get(f"{SESSION}?a=b", bearer(proxy)), 400)

    def test_the_document(self, proxy: Proxy, admin: Client) -> None:
        reply = admin.get("/api/v1/openapi.json", bearer(proxy, "admin-read-token"))
        assert (reply.status, reply.get("Content-Type")) == (200, "application/json")
        assert reply.json()["openapi"] == "3.1.0"

    def test_pipelined(self, proxy: Proxy, admin: Client) -> None:
        for _ in range(20):
            admin.ask("GET", SESSION, bearer(proxy))
            admin.ask("GET", "/healthz")
        for _ in range(20):
            assert admin.read_reply().json()["scope"] == "write"
            assert admin.read_reply().body == b"ok\n"


class TestThroughTheProxy:
    """The proxy is no way to its own admin port, whose clients of this machine need less."""

    @pytest.mark.parametrize("host", ["{}", "{}.", "localhost", "127.0.0.1", "::1"])
    def test_by_connect(self, host: str, open_proxy: Proxy) -> None:
        name = host.format(open_proxy.admin_address[0])
        target = f"[{name}]:{open_proxy.admin_port}" if ":" in name else f"{name}:{open_proxy.admin_port}"
        with Client.connect(open_proxy.address) as client:
            client.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            reply = client.read_reply("CONNECT")
            if reply.status == 200:  # intercepted, as a registry: what is asked through it gets no further
                client.start_tls(name.strip("."), open_proxy.ca_pem)
                asked = client.get(SESSION, {"Host": target} | bearer(open_proxy))
                assert asked.status in (502, 503), asked
            else:
                assert reply.status in (403, 502), reply

    @pytest.mark.parametrize(
        "target",
        ["http://{}/api/v1/session", "/v2/{}/api/manifests/v1", "/v2/api/manifests/v1?ns={}"],
    )
    def test_without_connect(self, target: str, open_proxy: Proxy) -> None:
        host, port = open_proxy.admin_address
        with Client.connect(open_proxy.address) as client:
            reply = client.get(target.format(f"{host}:{port}"), bearer(open_proxy))
            assert b"scope" not in reply.body
            assert reply.get("X-Frame-Options") is None
