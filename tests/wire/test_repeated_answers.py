"""Hits that are answered again without a look-up: byte for byte as a proxy answers that looks all up."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane

REPEATED = "regproxy_repeated_answers_total"
ROUTE_HEAD_MAX = 2048
TIMES = frozenset({"access_time", "request_time", "upstream_response_time"})
TAG = f'"{digest_of(SMALL)}"'


def head(*fields: str, method: str = "GET", version: str = "1.1", path: str = SMALL_PATH) -> bytes:
    lines = (f"{method} {path} HTTP/{version}", *(("Host: reg.test",) if version == "1.1" else ()), *fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def of_size(size: int) -> bytes:
    return head("X-Pad: " + (size - len(head("X-Pad: "))) * "x")


GET, HEAD, UNCHANGED = head(), head(method="HEAD"), head(f"If-None-Match: {TAG}")
STAYS = head("Connection: keep-alive", version="1.0")
# What is sent in one go, on a connection that is then half closed; and whether answers are to be repeated.
SCRIPTS: dict[str, tuple[bytes, bool]] = {
    "more than are handled in one turn": (200 * GET, True),
    "of all kinds": (20 * (GET + HEAD + UNCHANGED + head("Range: bytes=3-9")), True),
    "HTTP/1.0 that stays": (5 * STAYS, True),
    "HTTP/1.0 that ends": (5 * STAYS + 2 * head(version="1.0"), True),
    "the last one says so": (5 * GET + head("Connection: close") + GET, True),
    "as long as may be": (5 * of_size(ROUTE_HEAD_MAX), True),
    "longer than that": (5 * of_size(ROUTE_HEAD_MAX + 1), False),
    "no body": (5 * head("Content-Length: 0"), True),
    "a body": (5 * GET + head("Content-Length: 5") + b"01234" + GET, True),
    "a body in chunks": (5 * GET + head("Transfer-Encoding: chunked") + b"0\r\n\r\n" + GET, True),
    "it waits for 100": (5 * head("Expect: 100-continue"), True),
    "empty lines between": (5 * (b"\r\n\r\n" + GET), True),
    "of nobody's path": (5 * GET + head(path="/") + 5 * GET, True),
    "another host": (5 * GET + GET.replace(b"reg.test", b"two.test") + 5 * GET, True),
    "a CONNECT within": (5 * GET + b"CONNECT reg.test:443 HTTP/1.1\r\nHost: reg.test\r\n\r\n" + GET, True),
    "malformed": (5 * GET + b"GET / \0\r\n\r\n" + GET, True),
    "the last is cut": (5 * GET + GET[:-1], True),
}


def talk(proxy: Proxy, lane: Lane, script: bytes, piece: int | None, early: bool) -> tuple[bytes, str]:
    with proxy.client(lane.origin.authority, early=early) as client:
        client.send(script, piece=piece)
        client.half_close()
        data, end = client.read_end()
        return anonymous(data), end.name


def anonymous(data: bytes) -> bytes:
    """Return answers without what differs from one to the next; each has an id of its own."""
    ids = re.findall(rb"(?m)^x-request-id: ([0-9a-f]{32})\r\n", data)
    assert len(set(ids)) == len(ids) == data.count(b"\r\ndate: ")
    for each in ids:
        data = data.replace(each, 32 * b"-")
    return re.sub(rb"(?m)^date: .*\r\n", b"", data)


@pytest.mark.parametrize("piece, early", [(None, False), (700, True)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_bytes(name: str, piece: int | None, early: bool, lane: Lane) -> None:
    script, repeats = SCRIPTS[name]
    proxy, other = lane.filled(), lane.filled(REGPROXY_REPEAT_ANSWERS="false")
    want = talk(other, lane, script, piece, early)
    before = proxy.metric(REPEATED)
    for _ in range(4):
        assert talk(proxy, lane, script, piece, early) == want
    assert (proxy.metric(REPEATED) > before) is repeats
    assert other.metric(REPEATED) == 0


@pytest.mark.parametrize("log_format", ["regproxy", "rp"])
def test_the_same_lines(log_format: str, lane: Lane) -> None:
    """In number and, but for times, in text; and counts."""
    counted = []
    for setting in ("true", "false"):
        env = {"REGPROXY_REPEAT_ANSWERS": setting, "REGPROXY_ACCESS_LOG_FORMAT": log_format}
        with lane.new_proxy(**env) as proxy:
            with proxy.client(lane.origin.authority) as client:
                assert client.get(SMALL_PATH).complete
            proxy.wait_kept(digest_of(SMALL))
            for script, _ in SCRIPTS.values():
                talk(proxy, lane, script, None, False)
            names = ("regproxy_requests_total", "regproxy_client_bytes_total", "regproxy_saved_bytes_total")
            totals = [proxy.metric(name) for name in names]
            assert (proxy.metric(REPEATED) > 0) is (setting == "true")
            assert proxy.stop() == 0
            lines = proxy.access_log()
        ids = [line.pop("request_id", None) for line in lines]
        assert ids == len(lines) * [None] if log_format == "rp" else len({*ids}) == len(lines)
        told = Counter(tuple((k, v) for k, v in line.items() if k not in TIMES) for line in lines)
        counted.append((totals, told))
    assert counted[0] == counted[1]


def test_plain_http(lane: Lane) -> None:
    """Mirror mode, and a CONNECT in the end: on one connection, as it is without repeated answers."""
    path = f"{SMALL_PATH}?ns={lane.origin.authority.replace(':', '%3A')}"
    script = 30 * head(path=path) + 30 * head(method="HEAD", path=path)

    def session(proxy: Proxy) -> bytes:
        with Client.connect(proxy.address) as client:
            client.send(script)
            for method in 30 * ["GET"] + 30 * ["HEAD"]:
                assert client.read_reply(method).complete
            assert client.connect_to(lane.origin.authority).status == 200
            client.start_tls("reg.test", proxy.ca_pem)
            client.send(10 * GET)
            client.half_close()
            return anonymous(client.read_end()[0])

    proxy, other = lane.filled(), lane.filled(REGPROXY_REPEAT_ANSWERS="false")
    before = proxy.metric(REPEATED)
    assert session(proxy) == session(other)
    assert proxy.metric(REPEATED) > before
