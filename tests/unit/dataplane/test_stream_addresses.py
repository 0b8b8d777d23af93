"""The two ends of a client's connection."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from regproxy.dataplane.stream import Stream
from tests.support.plane import Plane, plane

__all__ = ["plane"]  # fixtures


@pytest.mark.parametrize(
    ("listens", "asked", "want"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.2", "127.0.0.2"),
        ("::", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_here(listens: str, asked: str, want: str, plane: Plane) -> None:
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with ExitStack() as stack:
        try:
            listener = socket.create_server((listens, 0), family=family, dualstack_ipv6=listens == "::")
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        port = stack.enter_context(listener).getsockname()[1]
        client = stack.enter_context(socket.create_connection((asked, port)))
        accepted = listener.accept()[0]
        accepted.setblocking(False)
        stream = Stream(plane.reactor, accepted.detach())
        assert stream.here == (want, port)
        assert stream.there == client.getsockname()[:2]
        stream.abort()
        assert stream.here == stream.there == ("", 0)


def test_what_has_no_address(plane: Plane) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    stream = Stream(plane.reactor, near.detach())
    with far:
        assert stream.here == stream.there == ("", 0)
        stream.abort()
