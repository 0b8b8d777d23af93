"""A mix of an access log: what its lines tell, what is guessed, and that a real one replays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.mix.access_log import Converted, convert
from bench.mix.replay import Server
from bench.mix.requests import Request
from bench.mix.rollout import Rollout, image_of, make
from tests.bench.test_mix import replayed
from tests.support import images
from tests.support.docker_registry import Registry
from tests.support.proxy import Proxy

DIGEST = "sha256:" + "ab" * 32
BLOB = f"/v2/a/blobs/{DIGEST}"
TAG = "/v2/a/manifests/v1"
OWN = {
    "access_time": "2026-03-01T10:00:05.000Z",
    "upstream_cache_status": "HIT",
    "method": "GET",
    "uri": BLOB,
    "request_type": "blob-by-digest",
    "status": "200",
    "bytes_sent": "100",
    "upstream_response_time": "",
    "host": "quay.io",
    "proxy_host": "",
    "upstream": "",
    "remote_addr": "10.0.0.1",
    "request_time": "0.000",
}
RP = {name: value for name, value in OWN.items() if name not in ("remote_addr", "request_time")}
RP["access_time"] = "01/Mar/2026:10:00:05 +0000"


def converted(place: Path, *lines: dict[str, str]) -> Converted:
    """Convert a log of these lines, which are laid over one of the proxy's own."""
    log = place / "access.log"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return convert(log)


def told(requests: list[Request], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(asdict(request)[name] for name in names) for request in requests]


def at(second: float) -> str:
    return f"2026-03-01T10:00:{second:06.3f}Z"


def test_requests_begin_when_they_began(tmp_path: Path) -> None:
    """Lines are written when answers end; downloads that overlapped overlap again."""
    made = converted(
        tmp_path,
        OWN
        | {"access_time": at(1), "uri": TAG, "method": "HEAD", "bytes_sent": "0", "request_time": "0.500"},
        OWN | {"access_time": at(3), "request_time": "1.000"},
        OWN | {"access_time": at(4.25), "uri": BLOB + "0", "request_time": "3.250"},
    )
    times = [(0, "HEAD", TAG), (0.5, "GET", BLOB + "0"), (1.5, "GET", BLOB)]
    assert told(made.requests, "at", "method", "path") == [
        (pytest.approx(begin), method, path) for begin, method, path in times
    ]
    assert {request.client for request in made.requests} == {"10.0.0.1"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "CONNECT", "uri": "quay.io:443"}, "CONNECT"),
        ({"method": "PUT"}, "PUT"),
        ({"uri": "/token"}, "not below /v2/"),
        ({"uri": "/v2/a b"}, "no text for a request's head"),
        ({"uri": "/v2/a\r\nX: y"}, "no text for a request's head"),
        ({"uri": "/v2/\u00fc"}, "no text for a request's head"),
        ({"host": "a\r\nb"}, "no text for a request's head"),
        ({"host": ""}, "no text for a request's head"),
        ({"status": "499"}, "status 499"),
        ({"status": "429"}, "status 429"),
        ({"status": "502"}, "status 502"),
    ],
)
def test_what_is_left_out_is_counted(change: dict[str, str], reason: str, tmp_path: Path) -> None:
    made = converted(tmp_path, OWN, OWN | change, OWN | change)
    assert (len(made.requests), made.left_out) == (1, {reason: 2})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, None),
        ({"status": "404"}, 404),
        ({"status": "401"}, 401),
        ({"status": "304", "bytes_sent": "0"}, None),
    ],
)
def test_what_has_to_be_answered(change: dict[str, str], status: int | None, tmp_path: Path) -> None:
    (request,) = converted(tmp_path, OWN | change).requests
    assert request.status == status


def test_a_body_that_broke_off(tmp_path: Path) -> None:
    """Shorter than what others had of it; and the client goes on from there."""
    made = converted(
        tmp_path,
        OWN | {"access_time": at(1), "bytes_sent": "40"},
        OWN | {"access_time": at(2), "remote_addr": "10.0.0.2"},
        OWN | {"access_time": at(3), "bytes_sent": "60", "status": "206"},
    )
    assert told(made.requests, "drop", "range") == [(40, ""), (None, ""), (None, "bytes=40-99")]


def test_ranges_follow_one_another(tmp_path: Path) -> None:
    """By client, and never beyond the end where it is known."""
    part = OWN | {"status": "206"}
    made = converted(
        tmp_path,
        part | {"access_time": at(1), "bytes_sent": "30"},
        part | {"access_time": at(2), "bytes_sent": "50"},
        part | {"access_time": at(3), "bytes_sent": "50"},
        part | {"access_time": at(4), "bytes_sent": "0", "remote_addr": "10.0.0.2"},
        part | {"access_time": at(5), "bytes_sent": "20", "remote_addr": "10.0.0.2"},
        OWN | {"access_time": at(6), "remote_addr": "10.0.0.3"},
    )
    ranges = ["bytes=0-29", "bytes=30-79", "bytes=50-99", "bytes=0-", "bytes=0-19", ""]
    assert [request.range for request in made.requests] == ranges
    assert [request.drop for request in made.requests] == [None, None, None, 0, None, None]


def test_the_other_format(tmp_path: Path) -> None:
    """docker-registry-proxy's lines have whole seconds, and neither durations nor clients."""
    later = RP | {"access_time": "01/Mar/2026:11:00:07 +0100"}
    head = {"method": "HEAD", "uri": TAG, "bytes_sent": "0"}
    made = converted(tmp_path, RP | head, RP | head, RP, later, later | {"uri": "/v2/b/tags/list"})
    assert told(made.requests, "at", "client", "method", "path") == [
        (0, "client-1", "HEAD", TAG),
        (pytest.approx(1 / 3), "client-2", "HEAD", TAG),
        (pytest.approx(2 / 3), "client-2", "GET", BLOB),
        (2, "client-1", "GET", BLOB),
        (2.5, "client-3", "GET", "/v2/b/tags/list"),
    ]


def test_ports(tmp_path: Path) -> None:
    """Said, or learned from a line of the other format that tells who was asked; else that of HTTPS."""
    asked = RP | {"host": "b.test", "proxy_host": "b.test:5000"}
    hosts = ["quay.io", "a.test", "b.test"]
    log = tmp_path / "log"
    lines = [asked, *(RP | {"host": host} for host in hosts)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {request.host for request in convert(log, {"a.test": 5001}).requests}
    assert found == {"quay.io:443", "a.test:5001", "b.test:5000"}


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"access_time": "x"}', json.dumps(OWN | {"status": "x"})])
def test_a_line_that_is_none(line: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(json.dumps(OWN) + "\n" + line + "\n")
    with pytest.raises(BenchError, match=r"access.log:2: not a line of an access log"):
        convert(log)


def test_a_log_without_requests(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no requests to replay"):
        converted(tmp_path, OWN | {"method": "PUT"})


@pytest.mark.parametrize("log_format", ["regproxy", "rp"])
def test_the_log_of_a_real_run_replays(
    log_format: str,
    start_registry: Callable[..., Registry],
    start_proxy: Callable[..., Proxy],
    tmp_path: Path,
) -> None:
    """As many requests, each as it was, broken-off bodies and ranges included; and what is not there."""
    registry = start_registry()
    image = images.make_image(seed=35, size=400_000)
    registry.push("app", "v1", image)
    proxy = start_proxy(registry, ENABLE_MANIFEST_CACHE="true", REGPROXY_ACCESS_LOG_FORMAT=log_format)
    server = Server(f"{proxy.address[0]}:{proxy.port}", proxy.ca_path, proxy=True)
    rolled = image_of(f"{registry.authority}/app:v1", image.manifest)
    asked = make(Rollout(nodes=12, seconds=1, drops=0.3, ranged=0.3, range_size=30_000), [rolled])
    missing = "/v2/app/manifests/none"
    asked.append(Request(at=2, client="x", method="GET", host=registry.authority, path=missing, status=404))
    replayed(asked, server, tmp_path)
    log = proxy.directory / "access.log"

    def lines(count: int) -> list[dict[str, Any]]:
        return proxy.access_log(count, check=lambda line: line["method"] != "CONNECT")

    first = lines(len(asked))
    assert len(first) == len(asked)
    made = convert(log, {registry.name: registry.port} if log_format == "regproxy" else None)
    assert len(made.requests) == len(asked)
    result = replayed(made.requests, server, tmp_path)
    assert result.requests == len(asked)
    again = lines(2 * len(asked))[len(asked) :]
    assert told_by(again) == told_by(first)


def told_by(lines: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    return Counter((line["method"], line["uri"], line["status"]) for line in lines)
