"""The metrics of several processes: one directory, and any worker says what all have counted."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from functools import partial

from tests.support.client import Client
from tests.support.process_tree import Start, flat, grown_up, janitors, on_both, stopped
from tests.support.processes import wait_until
from tests.support.proxy import parse_metrics
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane
from tests.support.two_workers import Pair
from tests.support.two_workers import stopped as resting

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


class TestMetrics:
    """Any worker says what all of them have counted."""

    def test_the_sum(self, lane: Lane, start: Start, stack: ExitStack) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        pair = Pair(proxy, lane.origin.authority)
        for count, pid in enumerate(pair.pids(), 1):
            for _ in range(count):
                assert stack.enter_context(pair.client(pid)).get(SMALL_PATH).body == SMALL
        for pid in pair.pids():
            with resting(*(other for other in pair.pids() if other != pid)):
                admin = stack.enter_context(Client.connect(proxy.admin_address))
                assert admin.get("/debug/live").json()["pid"] == pid
            wait_until(partial(heard_of, admin, 3), "it has heard of all")
            assert counted(admin, "connections_open") >= 3
            text = admin.get("/metrics").body.decode()
            assert "pid=" not in text
            assert sum(line.startswith("regproxy_workers ") for line in text.splitlines()) == 1

    def test_the_dead(self, lane: Lane, start: Start, stack: ExitStack) -> None:
        """Their gauges vanish, their counters stay, and who follows goes on where they were."""
        proxy = start(REGPROXY_WORKERS="2")
        clients = on_both(lane, proxy, stack, 5)
        for client in flat(clients):
            assert client.get(SMALL_PATH).body == SMALL
        wait_until(lambda: proxy.metric("regproxy_requests_total", code="200") == 10, "all are counted")
        victim, _ = clients
        os.kill(victim, KILL)
        wait_until(lambda: proxy.metric("regproxy_connections_open") < 10, "its connections are not counted")
        assert proxy.metric("regproxy_requests_total", code="200") == 10
        with proxy.client(lane.origin.authority) as client:
            assert client.get(SMALL_PATH).body == SMALL
        wait_until(lambda: proxy.metric("regproxy_requests_total", code="200") == 11, "one more")

    def test_files_are_bounded(self, lane: Lane, start: Start) -> None:
        proxy = start(REGPROXY_WORKERS="2")
        janitors(proxy, 1)
        with proxy.client(lane.origin.authority) as client:
            assert client.get(SMALL_PATH).body == SMALL
        seen = set(proxy.workers(2))
        most = 5 * 4  # kinds of files, for each worker, the janitor and the supervisor
        for _ in range(5):
            for pid in (pids := proxy.workers(2)):
                grown_up(pid)
            for pid in pids:
                os.kill(pid, KILL)
            wait_until(lambda: len(set(proxy.workers()) - seen) == 2, "two new ones")  # noqa: B023
            seen |= set(proxy.workers())
        assert len(seen) == 12
        assert len(proxy.shelf()) <= most
        assert proxy.metric("regproxy_worker_exits_total", reason="killed") == 10
        assert stopped(proxy) == 0

    def test_left_overs_are_cleared(self, start: Start) -> None:
        """Of supervisors that were killed, and of no other."""
        living, killed = start(), start()
        os.killpg(killed.daemon.pid, KILL)
        assert killed.daemon.wait() == -KILL
        assert killed.shelf() != []
        newest = start()
        assert killed.shelf() == []
        assert living.shelf() != []
        for proxy in (living, newest):
            assert stopped(proxy) == 0


def counted(admin: Client, name: str, code: str = "") -> float:
    """Return the sum of a metric's samples, scraped by this very connection."""
    samples = parse_metrics(admin.get("/metrics").body.decode()).get(f"regproxy_{name}", {})
    return sum(value for labels, value in samples.items() if not code or ("code", code) in labels)


def heard_of(admin: Client, count: int) -> bool:
    return counted(admin, "requests_total", "200") == count
