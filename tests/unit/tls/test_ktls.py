"""kTLS: why the kernel does not do it, in words that are no fault."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from regproxy.tls.ktls import kernel_tls


@pytest.mark.parametrize(
    "number, reason",
    [(errno.ENOENT, "the kernel module tls is not loaded"), (errno.ENOPROTOOPT, "Protocol not available")],
)
def test_why_it_is_not_available(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(number, errno.errorcode[number] if number == errno.ENOENT else reason)

    monkeypatch.setattr(socket, "socket", Without)
    assert kernel_tls() == reason
