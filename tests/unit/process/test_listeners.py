"""The listening sockets of one configuration, and what the next one keeps of them."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from regproxy.config.settings import Config
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from regproxy.process.listeners import Listeners
from tests.support.processes import accepts, free_address

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


class TestListeners:
    """The sockets of one configuration, and what the next one keeps of them."""

    @staticmethod
    def config(listen: tuple[str, int], admin: tuple[str, int], *transparent: tuple[str, int]) -> Config:
        env = {"REGPROXY_LISTEN": "{}:{}".format(*listen), "REGPROXY_ADMIN_LISTEN": "{}:{}".format(*admin)}
        env["REGPROXY_TRANSPARENT_LISTEN"] = " ".join("{}:{}".format(*address) for address in transparent)
        return load(env)

    def test_what_has_not_changed_is_kept(self) -> None:
        one, two, three = free_address(), free_address(), free_address()
        former = Listeners.open(self.config(one, two))
        latter = Listeners.open(self.config(one, three), former)
        assert latter.sockets[0] is former.sockets[0]
        former.close(spare=latter)
        assert [accepts(address) for address in (one, two, three)] == [True, False, True]
        latter.close()
        assert not accepts(one)

    def test_clients_without_connect(self) -> None:
        one, two, three, four = (free_address() for _ in range(4))
        former = Listeners.open(self.config(one, two, three, four))
        latter = Listeners.open(self.config(one, two, four), former)
        assert latter.sockets[2] is former.sockets[3]
        former.close(spare=latter)
        assert [accepts(address) for address in (one, two, three, four)] == [True, True, False, True]
        latter.close()
        assert not accepts(four)

    def test_a_failure_leaves_the_former_ones(self) -> None:
        one, two, three = free_address(), free_address(), free_address()
        with socket.create_server(three):
            former = Listeners.open(self.config(one, two))
            with pytest.raises(ConfigError, match="REGPROXY_ADMIN_LISTEN"):
                Listeners.open(self.config(free_address(), three), former)
            assert accepts(one) and accepts(two)
            former.close()

    def test_a_port_that_is_let_go_of(self) -> None:
        one, two = free_address(), free_address()
        former = socket.create_server(one)
        timer = threading.Timer(0.2, former.close)
        timer.start()
        Listeners.open(self.config(one, two), patience=20.0).close()
        timer.join()
