"""Eviction while the proxy serves: within its size, and in no reader's way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import digest_of
from tests.support.processes import wait_until
from tests.support.shared_proxy import Lane
from tests.support.trust import Trust

MIB = 1 << 20


# --- with the proxy --------------------------------------------------------------------------------------


class TestProxy:
    @pytest.fixture
    def lane(self, trust: Trust, tmp_path: Path) -> Iterator[Lane]:
        with Lane(tmp_path, trust) as lane:
            yield lane

    def test_it_stays_within_its_size(self, lane: Lane) -> None:
        """The least recently pulled go; they are fetched again when somebody wants them."""
        proxy = lane.proxy(REGPROXY_WORKERS="2", CACHE_MAX_SIZE="10m", REGPROXY_MIN_FREE="0")
        contents = [lane.publish(MIB) for _ in range(20)]
        with proxy.client(lane.origin.authority) as client:
            for path, body in contents:
                assert client.get(path).body == body
        wait_until(lambda: 1 <= len(proxy.blobs()) <= 9, "it is within its limit")
        wait_until(
            lambda: proxy.metric("regproxy_evicted_objects_total", reason="size") >= 11, "it is counted"
        )
        kept = proxy.blobs()
        (first, first_body), (last, last_body) = contents[0], contents[-1]
        assert digest_of(last_body) in kept and digest_of(first_body) not in kept
        with proxy.client(lane.origin.authority) as client:
            assert client.get(last).body == last_body
            assert client.get(first).body == first_body
        assert (lane.origin.hits[last], lane.origin.hits[first]) == (1, 2)

    def test_who_reads_it_goes_on(self, lane: Lane) -> None:
        proxy = lane.proxy(CACHE_INACTIVE="3s", REGPROXY_MIN_FREE="0")
        path, body = lane.publish(32 * MIB)
        with proxy.client(lane.origin.authority) as client:
            assert client.get(path).body == body
            proxy.wait_kept(digest_of(body))
            client.ask("GET", path)
            assert client.read_head().status == 200
            wait_until(lambda: not proxy.blobs(), "it is evicted")
            assert client.read(len(body)) == body
            assert client.get(path).body == body
        assert lane.origin.hits[path] == 2
