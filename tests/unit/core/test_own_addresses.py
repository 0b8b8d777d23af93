"""Which addresses are this machine's."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from regproxy.core.own_addresses import is_own_address
from tests.support import ROOT

# Two addresses of one interface: a connection to the second comes from the first.
SCRIPT = """
import socket
from regproxy.core.own_addresses import is_own_address
from regproxy.upstream.connections.dialer import _is_at

with socket.create_server(("0.0.0.0", 0)) as server:
    for address, others in (("10.8.0.1", False), ("10.8.0.2", True)):
        with socket.create_connection((address, server.getsockname()[1])) as sock:
            assert (sock.getsockname()[0] != address) is others
            assert is_own_address(address)
            assert _is_at(address, sock.getsockname()[0], "0.0.0.0")
assert not is_own_address("10.8.1.1")
"""
NAMESPACE = "ip link set lo up && ip addr add 10.8.0.1/24 dev lo && ip addr add 10.8.0.2/24 dev lo && exec"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "127.1"])
def test_loopback(address: str) -> None:
    assert is_own_address(address)


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7", "name.example", ""])
def test_others(address: str) -> None:
    assert not is_own_address(address)


def test_every_address_of_an_interface() -> None:
    enter = ["unshare", "--net", "sh", "-ec", f'{NAMESPACE} "$@"', "sh"]
    if (
        not shutil.which("ip")
        or subprocess.run([*enter, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("a network namespace can't be made here (unshare --net, ip)")
    done = subprocess.run(
        [*enter, sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
