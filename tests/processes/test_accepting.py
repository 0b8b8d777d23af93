"""A connection wakes one of many workers, and comes to somebody whoever was woken for it."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.support.process_tree import Crowd, Start, grown_up
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import Lane

WORKERS = 8
CONNECTIONS = 200


def accepts(proxy: Proxy, result: str) -> int:
    return int(proxy.metric("regproxy_accepts_total", result=result))


def test_wake_ups_do_not_grow_with_the_workers(start: Start) -> None:
    """Were all of them woken, there would be more than one for each worker and connection."""
    proxy = start(REGPROXY_WORKERS=str(WORKERS))
    pids = proxy.workers(WORKERS)
    taken, in_vain = accepts(proxy, "taken"), accepts(proxy, "in_vain")
    before = wake_ups(pids)
    for _ in range(CONNECTIONS):
        with socket.create_connection(proxy.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
            while client.recv(65_536):
                pass
    # Those of their timers are among them, some a second.
    assert wake_ups(pids) - before < CONNECTIONS * WORKERS / 2
    wait_until(lambda: accepts(proxy, "taken") >= taken + CONNECTIONS, "all are counted")
    assert accepts(proxy, "in_vain") - in_vain < CONNECTIONS / 4


def wake_ups(pids: list[int]) -> int:
    """How often the main threads of these processes have slept (proc(5), /proc/pid/status)."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)


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
