"""Traces of requests, as a collector gets them. The collector is a test double that decodes OTLP."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from regproxy.http.trace_context import parse_traceparent
from tests.support import ROOT
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer
from tests.support.otlp_collector import Collector, Seen
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

Talk = Callable[..., Client]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "sig=hunter2"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


def settings(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=lab",
    }


@pytest.fixture(scope="module")
def proxy(
    collector: Collector, origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        settings(collector),
        registries=(origin.authority,),
        resolve=origin.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy


def cold(origin: Origin, size: int = 400_000, **faults: object) -> tuple[str, str, bytes]:
    """Return path, digest and body of a blob that nobody has asked for."""
    body = random.Random().randbytes(size)
    digest = digest_of(body)
    path = f"/v2/app/blobs/{digest}"
    origin.on(path, blob_answer(digest, body, **faults))
    return path, digest, body


def requests(collector: Collector, path: str, count: int = 1) -> list[Seen]:
    """Return the spans of clients' requests for a path, once there are so many."""
    return collector.wait(
        lambda span: span.kind == "server" and span.attributes.get("url.path") == path, count
    )


def fill_of(collector: Collector, digest: str) -> Seen:
    (fill,) = collector.wait(
        lambda span: span.name == "fill" and span.attributes["regproxy.reference"] == digest
    )
    return fill


def test_a_miss(collector: Collector, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    path, digest, body = cold(origin)
    reply = talk(proxy, origin).get(path)
    assert reply.body == body
    (request,) = requests(collector, path)
    told = request.attributes
    assert request.name == "GET /v2/{name}/blobs/{digest}"
    assert (told["http.request.method"], told["http.response.status_code"]) == ("GET", 200)
    assert (told["regproxy.cache.status"], told["http.response.body.size"]) == ("MISS", len(body))
    assert told["regproxy.registry"] == origin.authority.removesuffix(":443")
    assert (told["regproxy.repository"], told["regproxy.reference"]) == ("app", digest)
    assert told["regproxy.request_id"] == reply.get("x-request-id")
    assert request.resource["service.name"] == "regproxy"
    assert request.resource["deployment.environment.name"] == "lab"
    # The CONNECT and its TLS are where the trace begins.
    (connect,) = collector.wait(lambda span: span.trace == request.trace and span.name == "CONNECT")
    assert (connect.parent, request.parent, connect.events) == ("", connect.span, ("TLS",))
    assert connect.start <= connect.end <= request.end
    # The fill is nobody's alone.
    fill = fill_of(collector, digest)
    assert fill.trace != request.trace
    assert request.links == ((fill.trace, fill.span),)
    assert fill.events == ("first byte", "verified")
    assert (fill.parent, fill.failed, fill.attributes["regproxy.bytes"]) == ("", False, len(body))
    (asked,) = collector.wait(lambda span: span.parent == fill.span)
    assert (asked.name, asked.kind, asked.trace) == ("GET", "client", fill.trace)
    assert asked.attributes["http.response.status_code"] == 200
    # Which is what the origin is told.
    (seen,) = [each for each in origin.requests if each.path == path]
    context = parse_traceparent([(seen.get("traceparent") or "").encode()])
    assert context is not None
    assert (context.trace_id, context.span_id) == (fill.trace, asked.span)


def test_those_who_share_a_download(
    collector: Collector, origin: Origin, proxy: Proxy, stack: ExitStack
) -> None:
    path, digest, body = cold(origin, rate=1_000_000)
    clients = [stack.enter_context(proxy.client(origin.authority)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda client: client.get(path), clients))
    assert {reply.body for reply in replies} == {body}
    spans, fill = requests(collector, path, 4), fill_of(collector, digest)
    joined = [span for span in spans if span.attributes["regproxy.cache.status"] != "HIT"]
    assert all(span.links == ((fill.trace, fill.span),) for span in joined)
    assert len({span.trace for span in spans}) == 4
    # The log says by id which request has begun it.
    lines = proxy.access_log(4, check=lambda line: line["uri"] == path)
    (first,) = [line for line in lines if line["upstream_cache_status"] == "MISS"]
    others = [line for line in lines if line["upstream_cache_status"] == "UPDATING"]
    assert {line["fill_request_id"] for line in others} <= {first["request_id"]}
    assert len({line["request_id"] for line in lines}) == 4


def test_a_client_that_traces(collector: Collector, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    """Its trace goes on here, also with a hit; but what others share tells the origin nothing of it."""
    path, digest, _ = cold(origin)
    client = talk(proxy, origin)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    assert client.get(path, headers=headers).status == 200
    proxy.wait_kept(digest)
    assert client.get(path, headers=headers | {"X-Request-Id": "mine"}).status == 200
    spans = requests(collector, path, 2)
    assert {(span.trace, span.parent) for span in spans} == {(TRACE, SPAN)}
    assert [span.attributes["regproxy.cache.status"] for span in spans] == ["MISS", "HIT"]
    assert fill_of(collector, digest).trace != TRACE
    (seen,) = [each for each in origin.requests if each.path == path]
    assert TRACE not in str(seen.headers) and seen.get("tracestate") is None
    lines = proxy.access_log(2, check=lambda line: line["uri"] == path)
    assert [line["trace_id"] for line in lines] == [TRACE, TRACE]
    assert lines[1]["client_request_id"] == "mine" != lines[1]["request_id"]


def test_what_is_passed_through(collector: Collector, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    """It is the client's own request: the origin is told of its trace, by our span."""
    path = "/v2/app/nothing"
    origin.on(path, Answer(b"{}", headers={"X-Request-Id": "theirs"}))
    reply = talk(proxy, origin).get(f"{path}?{SECRET}", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert (reply.status, reply.get("x-upstream-request-id")) == (200, "theirs")
    (request,) = requests(collector, path)
    (asked,) = collector.wait(lambda span: span.parent == request.span)
    seen = origin.requests[-1]
    assert seen.get("traceparent") == f"00-{TRACE}-{asked.span}-01"
    assert collector.find(lambda span: SECRET in str(span)) == []


def test_a_path_as_long_as_a_client_likes(
    collector: Collector, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    """Thousands of spans may wait for the collector."""
    path = "/v2/app/" + "x" * 5000
    origin.on(path, Answer(b"{}"))
    assert talk(proxy, origin).get(path).status == 200
    (request,) = requests(collector, path[:1024])
    (asked,) = collector.wait(lambda span: span.parent == request.span)
    assert asked.attributes["url.path"] == path[:1024]


def test_hits_are_left_out(collector: Collector, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    """With a ratio of 0; errors are not."""
    path, digest, _ = cold(origin, 1000)
    client = talk(proxy, origin)
    assert client.get(path).status == 200
    proxy.wait_kept(digest)
    for _ in range(5):
        assert client.get(path).status == 200
    missing = f"/v2/app/blobs/{digest_of(random.Random().randbytes(9))}"
    assert client.get(missing).status == 404
    (error,) = requests(collector, missing)
    assert error.attributes["http.response.status_code"] == 404
    assert len(requests(collector, path)) == 1


def test_a_broken_download(collector: Collector, origin: Origin, trust: Trust, tmp_path: Path) -> None:
    """Its span says why; the log, what of, how far it came, and for which request."""
    path, digest, _ = cold(origin, cut_at=100_000)
    env = {**settings(collector), "REGPROXY_RESUME_TIME": "0", "REGPROXY_LOG_FORMAT": "json"}
    names = {"registries": (origin.authority,), "resolve": origin.resolve}
    with Proxy(tmp_path / "proxy", env, ca=trust.path, **names) as proxy:  # type: ignore[arg-type]
        with proxy.client(origin.authority) as client:
            reply = client.get(path)
            assert not reply.complete
        fill = fill_of(collector, digest)
        assert (fill.failed, fill.events) == (True, ("first byte",))
        (request,) = requests(collector, path)
        assert request.links == ((fill.trace, fill.span),)
        lines = [json.loads(line) for line in proxy.log().splitlines() if line]
        (line,) = [line for line in lines if line.get("digest") == digest and "reason" in line]
        registry = origin.authority.removesuffix(":443")
        assert (line["registry"], line["repository"], line["total"]) == (registry, "app", 400_000)
        assert line["bytes"] <= 100_000 and line["attempts"] == 1
        assert line["request_id"] == reply.get("x-request-id")
        assert digest in line["message"]


def test_a_collector_that_takes_nothing(
    collector: Collector, origin: Origin, trust: Trust, tmp_path: Path
) -> None:
    """Clients notice nothing; the spans are counted, and the log says why."""
    with Collector() as refusing:
        refusing.status = 401
        names = {"registries": (origin.authority,), "resolve": origin.resolve}
        with Proxy(tmp_path / "proxy", settings(refusing), ca=trust.path, **names) as proxy:  # type: ignore[arg-type]
            with proxy.client(origin.authority) as client:
                assert client.get(cold(origin)[0]).complete
            wait_until(lambda: proxy.metric("regproxy_spans_dropped_total") >= 4, "they are counted")
            wait_until(lambda: "spans were dropped: Failed to export" in proxy.log(), "it says so")
            (line,) = [line for line in proxy.log().splitlines() if "Failed to export" in line]
            assert "code: 401" in line


def test_off_it_costs_no_import() -> None:
    """Nothing of OpenTelemetry is loaded by a worker that does not trace."""
    code = (
        "import sys, regproxy.process.worker, regproxy.process.wiring\n"
        "from regproxy.process.wiring import _tracer\n"
        "assert _tracer(0) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
