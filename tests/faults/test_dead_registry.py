"""A registry that is dead: nobody queues up behind it, and everybody hears at once what is wrong."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.client import Reply
from tests.support.images import digest_of
from tests.support.origin import Origin, blob_answer
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

CLIENTS = 200
NAME = "dead.test"


@pytest.fixture
def hole() -> Iterator[tuple[str, int]]:
    """An address where connections are neither made nor refused: a listener whose queue is full."""
    address = free_address()
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.bind(address)
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address


@pytest.fixture
def proxy(hole: tuple[str, int], trust: Trust, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(
        tmp_path / "proxy",
        {"PROXY_CONNECT_TIMEOUT": "2s"},
        registries=(f"{NAME}:{hole[1]}",),
        resolve={NAME: hole[0]},
        ca=trust.path,
    ) as proxy:
        yield proxy


def ask(proxy: Proxy, port: int, n: int) -> Reply:
    name = hashlib.sha256(b"%d" % n).hexdigest()
    with proxy.client(f"{NAME}:{port}") as client:
        return client.get(f"/v2/app{n}/blobs/sha256:{name}")


def assert_told(reply: Reply) -> None:
    """An error in OCI JSON that names host and cause."""
    (error,) = reply.json()["errors"]
    assert (reply.status, error["code"]) in ((503, "UNAVAILABLE"), (504, "UNAVAILABLE"))
    assert NAME in error["message"]
    assert "no connection within 2 s" in error["message"]


def test_nobody_queues_up(proxy: Proxy, hole: tuple[str, int]) -> None:
    """All of them wait for one another's connect timeout, not each for its own after the others'."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for reply in pool.map(lambda n: ask(proxy, hole[1], n), range(CLIENTS)):
            assert_told(reply)
    wait_until(
        lambda: proxy.metric("regproxy_circuit_open", registry=f"{NAME}:{hole[1]}") == 1, "it is left alone"
    )
    tried = proxy.metric("regproxy_upstream_requests_total", host=NAME)
    # Who comes now does not try at all.
    late = [ask(proxy, hole[1], CLIENTS + n) for n in range(20)]
    for reply in late:
        assert_told(reply)
    refused = sum(reply.status == 503 for reply in late)
    assert refused >= 18  # one at a time may look whether it is back
    assert proxy.metric("regproxy_upstream_requests_total", host=NAME) <= tried + 20 - refused
    assert int(late[0].get("Retry-After") or late[1].get("Retry-After") or 0) >= 1


def test_another_registry_does_not_notice(
    proxy: Proxy,
    hole: tuple[str, int],
    start_origin: Callable[..., Origin],
    trust: Trust,
    tmp_path: Path,
) -> None:
    origin = start_origin("reg.test")
    body = b"alive" * 1000
    path = f"/v2/app/blobs/{digest_of(body)}"
    origin.on(path, blob_answer(digest_of(body), body))
    with (
        Proxy(
            tmp_path / "both",
            {"PROXY_CONNECT_TIMEOUT": "2s"},
            registries=(origin.authority, f"{NAME}:{hole[1]}"),
            resolve={NAME: hole[0], **origin.resolve},
            ca=trust.path,
        ) as both,
        ThreadPoolExecutor(50) as pool,
    ):
        waiting = [pool.submit(ask, both, hole[1], n) for n in range(49)]
        with both.client(origin.authority) as client:
            assert client.get(path).body == body
        for each in waiting:
            assert_told(each.result())
