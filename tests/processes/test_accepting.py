"""A connection wakes one of many workers, and comes to somebody whoever was woken for it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import ExitStack
from functools import partial

from tests.support.process_tree import Crowd, Start, grown_up
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane

WORKERS = 8
CONNECTIONS = 200


def accepts(proxy: Proxy, result: str) -> int:
    return int(proxy.metric("regproxy_accepts_total", result=result))


def test_wake_ups_in_vain_do_not_grow_with_the_workers(lane: Lane, start: Start) -> None:
    """Were all of them woken, several would find nothing for each connection."""
    proxy = start(REGPROXY_WORKERS=str(WORKERS))
    proxy.workers(WORKERS)
    taken, in_vain = accepts(proxy, "taken"), accepts(proxy, "in_vain")
    for _ in range(CONNECTIONS):
        with proxy.client(lane.origin.authority) as client:
            assert client.get(SMALL_PATH).body == SMALL
    wait_until(lambda: accepts(proxy, "taken") >= taken + CONNECTIONS, "all are counted")
    assert accepts(proxy, "in_vain") - in_vain < CONNECTIONS / 4


def test_connections_go_round(lane: Lane, start: Start, stack: ExitStack) -> None:
    """No worker has most of what is connected: each that has taken one is the last in turn."""
    proxy = start(REGPROXY_WORKERS=str(WORKERS))
    pids = proxy.workers(WORKERS)
    clients = [stack.enter_context(proxy.client(lane.origin.authority)) for _ in range(5 * WORKERS)]
    owners = Counter(proxy.owner(client) for client in clients)
    assert set(owners) == set(pids)
    assert max(owners.values()) <= 2.5 * WORKERS


def test_no_connection_is_lost_with_a_killed_worker(lane: Lane, start: Start) -> None:
    """It may just have been woken for one: others look, too, and nobody is refused or waits for ever."""
    proxy = start(REGPROXY_WORKERS="4", REGPROXY_DEBUG="0")
    for _ in range(4):
        victim = grown_up(proxy.workers(4)[0])
        os.kill(victim, signal.SIGSTOP)
        with Crowd(lane, proxy, 8) as crowd:
            crowd.more(100)
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(replaced, proxy, victim), "another is there")


def replaced(proxy: Proxy, victim: int) -> bool:
    return victim not in proxy.workers(4)
