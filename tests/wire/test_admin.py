"""What an operator meets: the admin port, the pages of the proxy port, the access log."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from regproxy.onboarding.clients import CLIENTS
from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, redirect
from tests.support.proxy import Proxy
from tests.support.shared_proxy import BIG, BIG_PATH, SMALL, SMALL_PATH, UPLOADS, Lane, ended

Talk = Callable[..., Client]


@pytest.fixture(scope="module")
def proxy(lane: Lane) -> Proxy:
    return lane.proxy()


@pytest.fixture
def admin(proxy: Proxy, stack: ExitStack) -> Client:
    """A connection to the admin port."""
    return stack.enter_context(Client.connect(proxy.admin_address))


@pytest.fixture
def plain(proxy: Proxy, stack: ExitStack) -> Client:
    """A connection to the proxy port."""
    return stack.enter_context(Client.connect(proxy.address))


class TestAdminPort:
    """/metrics, /healthz, /readyz."""

    @pytest.mark.parametrize(
        "path, status, text",
        [
            ("/healthz", 200, "ok"),
            ("/readyz", 200, "ready"),
            ("/readyz?verbose", 200, "ready"),
            ("/metrics", 200, "# HELP regproxy_"),
            ("/", 303, ""),  # to the login
            ("/elsewhere", 404, "/metrics"),
            ("/debug/live", 200, '"ssl"'),
        ],
    )
    def test_pages(self, path: str, status: int, text: str, admin: Client) -> None:
        for _ in range(2):
            reply = admin.get(path)
            assert (reply.status, text in reply.body.decode()) == (status, True)
            head = admin.request("HEAD", path)
            assert (head.status, head.body) == (status, b"")
            assert head.get("Content-Type") == reply.get("Content-Type")

    def test_metrics_are_prometheus_text(self, admin: Client, proxy: Proxy) -> None:
        reply = admin.get("/metrics")
        assert (reply.get("Content-Type") or "").startswith("text/plain; version=")
        assert proxy.metrics()
        if promtool := shutil.which("promtool"):
            checked = subprocess.run(
                [promtool, "check", "metrics"], input=reply.body, capture_output=True, timeout=20, check=False
            )
            assert checked.returncode == 0, checked

    def test_scrapes_at_the_same_time(self, proxy: Proxy, stack: ExitStack) -> None:
        """They are collected in a thread; others are answered meanwhile, and who leaves harms nobody."""
        clients = [stack.enter_context(Client.connect(proxy.admin_address)) for _ in range(20)]
        for client in clients:
            client.ask("GET", "/metrics")
            client.ask("GET", "/healthz")  # waits for its turn
        clients[0].reset()
        with Client.connect(proxy.admin_address) as other:
            assert other.get("/healthz").body == b"ok\n"
        for client in clients[1:]:
            assert b"regproxy_workers 1.0" in client.read_reply().body
            assert client.read_reply().body == b"ok\n"

    def test_live_is_for_debug_runs(self, lane: Lane) -> None:
        assert lane.proxy(REGPROXY_DEBUG="0").admin("/debug/live")[0] == 404

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    def test_reading_only(self, method: str, admin: Client) -> None:
        reply = admin.request(method, "/metrics", body=b"x" * 100_000)
        assert (reply.status, reply.get("Connection")) == (405, "close")
        assert ended(admin) is End.FIN

    def test_no_proxy(self, admin: Client, origin: Origin) -> None:
        reply = admin.connect_to(origin.authority)
        assert (reply.status, reply.get("Connection")) == (405, "close")
        assert ended(admin) is End.FIN

    @pytest.mark.parametrize(
        "data, status",
        [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 50_000, 431),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, 400),
        ],
        ids=["nonsense", "no Host", "version", "large", "TLS"],
    )
    def test_malformed(self, data: bytes, status: int, admin: Client) -> None:
        admin.send(data)
        reply = admin.read_reply("GET")
        assert (reply.status, reply.complete, reply.get("Connection")) == (status, True, "close")
        assert len(reply.body) > 5
        assert ended(admin) is End.FIN

    def test_pipelined(self, admin: Client) -> None:
        for _ in range(100):
            admin.ask("GET", "/healthz")
        assert {admin.read_reply().body for _ in range(100)} == {b"ok\n"}

    def test_close(self, admin: Client) -> None:
        assert admin.get("/healthz", {"Connection": "close"}).body == b"ok\n"
        assert ended(admin) is End.FIN


class TestPages:
    """Plain HTTP on the proxy port."""

    @pytest.mark.parametrize("form", ["/", "/?x=y", "http://{}/", "http://{}"])
    def test_front(self, form: str, plain: Client, proxy: Proxy) -> None:
        reply = plain.get(form.format(f"{proxy.address[0]}:{proxy.port}"))
        assert reply.status == 200
        assert "working" in reply.body.decode()

    @pytest.mark.parametrize("form", ["/ca.crt", "http://{}/ca.crt"])
    def test_ca(self, form: str, plain: Client, proxy: Proxy) -> None:
        reply = plain.get(form.format(f"{proxy.address[0]}:{proxy.port}"))
        assert reply.body == proxy.ca_pem
        assert reply.body.startswith(b"-----BEGIN CERTIFICATE-----")
        assert reply.get("Content-Type") == "application/x-x509-ca-cert"
        assert plain.request("HEAD", "/ca.crt").get("Content-Length") == str(len(reply.body))

    @pytest.mark.parametrize(
        "host", ["proxy.example:3128", "10.0.0.1:3128", "[2001:db8::1]:3128", "proxy.example"]
    )
    def test_setup(self, host: str, plain: Client) -> None:
        """The script names the proxy as the client reached it, and is bash."""
        reply = plain.get("/setup/systemd", {"Host": host})
        assert reply.status == 200
        script = reply.body.decode()
        for line in (
            f'Environment="HTTP_PROXY=http://{host}/"',
            f'Environment="HTTPS_PROXY=http://{host}/"',
            f"http://{host}/ca.crt",
            "/etc/systemd/system/docker.service.d/http-proxy.conf",
        ):
            assert line in script
        for shell in filter(shutil.which, ("bash", "dash")):
            checked = subprocess.run(
                [shell, "-n"], input=reply.body, capture_output=True, timeout=20, check=False
            )
            assert (checked.returncode, checked.stderr) == (0, b"")

    @pytest.mark.parametrize("host", ["a$(id)", "a`id`", "a;id", 'a"b', "a'b", "a b", "a|b", "a&b", "a\tb"])
    def test_setup_takes_no_commands(self, host: str, plain: Client) -> None:
        """What is piped to a root shell must hold nothing of a Host header but a host."""
        reply = plain.get("/setup/systemd", {"Host": host})
        assert reply.status == 400
        assert host not in reply.body.decode()

    @pytest.mark.parametrize("client", CLIENTS)
    @pytest.mark.parametrize("host", ["proxy.example:3128", "10.0.0.1:3128", "[2001:db8::1]:3128"])
    def test_setups(self, host: str, client: str, plain: Client, proxy: Proxy) -> None:
        reply = plain.get(f"/setup/{client}", {"Host": host})
        assert (reply.status, reply.get("Content-Type")) == (200, CLIENTS[client].content_type)
        text = reply.body.decode()
        assert host in text
        assert re.search(r"@[A-Z]+@", text) is None
        if CLIENTS[client].kind == "sh":
            assert proxy.ca_pem.decode().strip() in text

    def test_setups_of_mirror_mode_where_there_is_none(self, lane: Lane) -> None:
        with Client.connect(lane.proxy(REGPROXY_MIRROR_REGISTRIES="off").address) as plain:
            for client in CLIENTS.values():
                reply = plain.get(f"/setup/{client.name}", {"Host": "proxy.example:3128"})
                assert reply.status == (404 if client.mirror else 200)
                assert (b"REGPROXY_MIRROR_REGISTRIES" in reply.body) is client.mirror

    def test_setups_are_listed(self, plain: Client) -> None:
        reply = plain.get("/setup", {"Host": "proxy.example:3128"})
        assert (reply.status, reply.get("Content-Type")) == (200, "text/html; charset=utf-8")
        page = reply.body.decode()
        for client in CLIENTS:
            assert f'<a href="/setup/{client}">' in page
        assert "curl -fsS http://proxy.example:3128/setup/docker-systemd | sudo sh" in page
        # Nothing is asked for elsewhere, nothing is run.
        assert re.search(r"<(script|img|link|iframe)\b|url\(|@import|src=", page) is None
        assert plain.get("/setup/", {"Host": "proxy.example:3128"}).body == reply.body

    def test_setups_that_are_unknown(self, plain: Client) -> None:
        reply = plain.get("/setup/<b>none</b>")
        assert (reply.status, reply.get("Content-Type")) == (404, "text/plain; charset=utf-8")
        assert all(client in reply.body.decode() for client in CLIENTS)
        assert b"none" not in reply.body
        assert plain.get("/setups").status == 200

    @pytest.mark.parametrize("path", ["/setup", "/setup/containerd"])
    @pytest.mark.parametrize(
        "host", ["a$(id)", "a'b", "a<b>", "<b>", "a,b", "a%41", "-x", "a:0", "a:65536", "a@b", "a:"]
    )
    def test_setups_take_no_commands(self, host: str, path: str, plain: Client) -> None:
        assert plain.get(path, {"Host": host}).status == 400

    def test_its_own_name_through_tls(self, proxy: Proxy, stack: ExitStack) -> None:
        name = "docker.caching.proxy.internal"
        client = stack.enter_context(proxy.client(f"{name}:443"))
        assert "working" in client.get("/").body.decode()
        assert client.get("/ca.crt").body == proxy.ca_pem

    @pytest.mark.parametrize(
        "target", ["/elsewhere", "/v2x/", "http://example.com/", "http://example.com:8080/x"]
    )
    def test_what_is_not_there(self, target: str, plain: Client) -> None:
        reply = plain.get(target, {"Host": "example.com"})
        assert (reply.status, "proxy is working!" in reply.body.decode()) == (200, True)
        assert plain.get("/").status == 200  # the connection goes on

    def test_a_body_that_nobody_reads(self, plain: Client) -> None:
        reply = plain.request("POST", "/", body=b"x" * 100_000)
        assert (reply.status, reply.get("Connection")) == (200, "close")
        assert ended(plain) is End.FIN


FIELDS = {
    "access_time",
    "upstream_cache_status",
    "method",
    "uri",
    "request_type",
    "status",
    "bytes_sent",
    "upstream_response_time",
    "host",
    "proxy_host",
    "upstream",
    "remote_addr",
    "request_time",
    "request_id",
}


class TestAccessLog:
    """One line for each request, with docker-registry-proxy's fields."""

    @pytest.fixture
    def client(self, proxy: Proxy, origin: Origin, talk: Talk) -> Client:
        return talk(proxy, origin)

    def last(self, proxy: Proxy, uri: str, count: int = 1) -> dict[str, str]:
        return proxy.access_log(count, check=lambda line: line["uri"] == uri)[-1]

    def test_a_miss_and_a_hit(self, client: Client, proxy: Proxy, lane: Lane, origin: Origin) -> None:
        path, body = lane.publish(200_000)
        client.get(path)
        miss = self.last(proxy, path)
        proxy.wait_kept(digest_of(body))
        client.get(path)
        hit = self.last(proxy, path, 2)
        assert set(miss) == set(hit) == FIELDS
        for line, status in ((miss, "MISS"), (hit, "HIT")):
            assert line["upstream_cache_status"] == status
            assert (line["method"], line["status"], line["bytes_sent"]) == ("GET", "200", "200000")
            assert (line["request_type"], line["host"]) == ("blob-by-digest", origin.authority)
            assert line["remote_addr"].startswith("127.")
            when = datetime.fromisoformat(line["access_time"])
            assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", line["access_time"])
            assert abs(datetime.now(UTC) - when) < timedelta(hours=1)
            assert float(line["request_time"]) >= 0
        assert float(miss["upstream_response_time"]) >= 0
        assert (miss["proxy_host"], miss["upstream"]) == (origin.authority, origin.address[0])
        assert (hit["upstream_response_time"], hit["proxy_host"], hit["upstream"]) == ("", "", "")

    @pytest.mark.parametrize(
        "method, path, headers, status, sent, kind, cache",
        [
            ("HEAD", BIG_PATH, {}, "200", 0, "blob-by-digest", "HIT"),
            ("GET", BIG_PATH, {"Range": "bytes=10-19"}, "206", 10, "blob-by-digest", "HIT"),
            ("GET", BIG_PATH, {"If-None-Match": "*"}, "304", 0, "blob-by-digest", "HIT"),
            ("GET", BIG_PATH, {}, "200", len(BIG), "blob-by-digest", "HIT"),
            ("GET", SMALL_PATH, {}, "200", len(SMALL), "blob-by-digest", "HIT"),
            ("GET", "/v2/", {}, "200", 2, "ping", "BYPASS"),
            ("GET", "/pass", {}, "200", len(BIG), "other", "BYPASS"),
            ("GET", "/token", {}, "200", 4, "token", "BYPASS"),
            ("GET", "/v2/app/nothing", {}, "404", None, "other", "BYPASS"),
            ("GET", "/v1/_ping", {}, "405", None, "v1", ""),
            ("PUT", "/v2/app/manifests/refused", {}, "403", None, "manifest-tag", ""),
        ],
        ids=[f"line {number}" for number in range(11)],
    )
    def test_lines(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        status: str,
        sent: int | None,
        kind: str,
        cache: str,
        lane: Lane,
        origin: Origin,
        talk: Talk,
    ) -> None:
        proxy = lane.filled()

        def is_it(line: dict[str, str]) -> bool:
            return (line["method"], line["uri"], line["status"]) == (method, path, status)

        before = len(proxy.access_log(0, check=is_it))
        client = talk(proxy, origin)
        reply = client.request(method, path, headers)
        assert str(reply.status) == status
        # Lines of requests before it may be on their way still.
        line = proxy.access_log(before + 1, check=is_it)[-1]
        assert line["bytes_sent"] == str(len(reply.body) if sent is None else sent)
        assert (line["request_type"], line["upstream_cache_status"]) == (kind, cache)

    @pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n"], ids=str)
    def test_what_was_not_understood(self, data: bytes, client: Client, proxy: Proxy, origin: Origin) -> None:
        """It was no CONNECT, so the log does not say so."""
        before = len(proxy.access_log())
        client.send(data)
        assert client.read_reply("GET").status == 400
        line = proxy.access_log(before + 1)[-1]
        assert (line["status"], line["host"], line["uri"]) == ("400", origin.authority, "")
        assert line["method"] != "CONNECT"

    def test_a_refused_connect(self, plain: Client, proxy: Proxy) -> None:
        before = len(proxy.access_log())
        assert plain.connect_to("example.com:22").status == 403
        line = proxy.access_log(before + 1)[-1]
        assert (line["method"], line["status"], line["host"]) == ("CONNECT", "403", "example.com:22")

    def test_a_client_that_leaves(self, client: Client, proxy: Proxy, lane: Lane) -> None:
        path, body = lane.publish(20_000_000)
        client.ask("GET", path)
        assert client.read_head().status == 200
        client.reset()
        assert int(self.last(proxy, path)["bytes_sent"]) < len(body)

    def test_no_line_can_be_forged(self, client: Client, proxy: Proxy) -> None:
        """Whatever is in a path, a line stays one line of JSON with the same fields."""
        for number, path in enumerate(('/a"b', "/a\\b", '/a","status":"999', "/%0a{}", "/" + "x" * 5_000)):
            before = len(proxy.access_log())
            client.get(path)
            lines = proxy.access_log(before + 1)
            assert len(lines) == before + 1, number
            assert (lines[-1]["uri"], set(lines[-1])) == (path, FIELDS)


SECRETS = ("hunter2", "aHVudGVyMg")  # a password, and how base64 may have it


class TestSecrets:
    """Credentials stay where they belong: in requests to the origin, never in a log or an answer."""

    @pytest.fixture(scope="class")
    @staticmethod
    def secretive(lane: Lane) -> Proxy:
        """One that knows a password, and says all it has to say."""
        return lane.proxy(
            AUTH_REGISTRIES="reg.test:user:hunter2",
            REGPROXY_LOG_LEVEL="debug",
            REGPROXY_RESUME_TIME="500ms",
            ALLOW_PUSH="true",
        )

    @pytest.fixture
    def said(self, secretive: Proxy) -> Callable[[], str]:
        """All that is said from here on."""

        proxy, before = secretive, (len(secretive.log()), len(secretive.access_log()))

        def since() -> str:
            logged, lines = proxy.log()[before[0] :], proxy.access_log(before[1] + 1)[before[1] :]
            return logged + json.dumps(lines) + proxy.admin("/metrics")[1].decode()

        return since

    def test_of_requests(
        self, secretive: Proxy, said: Callable[[], str], origin: Origin, lane: Lane, stack: ExitStack
    ) -> None:
        client = stack.enter_context(Client.connect(secretive.address))
        proxy_login = [("Proxy-Authorization", "Basic aHVudGVyMg==")]
        assert client.connect_to(origin.authority, headers=proxy_login).status == 200
        client.start_tls(origin.name, secretive.ca_pem)
        headers = [*proxy_login, ("Authorization", "Bearer hunter2"), ("Cookie", "session=hunter2")]
        path, _ = lane.publish(1_000)
        paths = [
            path,
            "/v2/",
            "/token?password=hunter2",
            UPLOADS + "1?_state=hunter2",
            "/nothing?token=hunter2",
        ]
        before = len(origin.requests)
        for asked in paths:
            assert client.get(asked, headers).status > 0
        client.request("PUT", paths[3], headers, body=b"x")
        seen = origin.requests[before:]
        assert len(seen) == len(paths) + 1
        assert {request.get("Proxy-Authorization") for request in seen} == {None}
        assert {request.get("Authorization") for request in seen} == {"Bearer hunter2"}
        assert [secret for secret in SECRETS if secret in said()] == []

    @pytest.mark.parametrize(
        "answer",
        [Answer(cut_at=-1), Answer(b"x" * 1000, cut_at=10), redirect("http://cdn.test/?sig=hunter2")],
        ids=["no answer", "cut", "redirect"],
    )
    @pytest.mark.parametrize("place", ["blobs/sha256:" + "0" * 64, "manifests/v1", "elsewhere"])
    def test_of_failures(
        self,
        place: str,
        answer: Answer,
        secretive: Proxy,
        said: Callable[[], str],
        origin: Origin,
        talk: Talk,
    ) -> None:
        """What goes wrong is logged, without the query."""
        path = f"/v2/app/{place}"
        origin.on(path, answer)
        client = talk(secretive, origin)
        reply = client.get(path + "?token=hunter2")
        assert "hunter2" not in reply.body.decode()
        assert [secret for secret in SECRETS if secret in said()] == []

    def test_of_the_configuration(
        self, secretive: Proxy, said: Callable[[], str], origin: Origin, talk: Talk
    ) -> None:
        client = talk(secretive, origin)
        assert client.get("/v2/").status == 200
        assert origin.requests[-1].get("Authorization") == "Basic dXNlcjpodW50ZXIy"
        assert [secret for secret in (*SECRETS, "dXNlcjpodW50ZXIy") if secret in said()] == []
