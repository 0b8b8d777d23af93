"""Open a tunnel through a parent proxy: CONNECT on a socket that is connected to it."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Final

from regproxy.config.parent_proxy import ParentProxy
from regproxy.core.errors import ConnectFailed

HEAD_MAX: Final = 16_384  # bytes of the proxy's answer

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_END: Final = b"\r\n\r\n"


async def open_tunnel(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: ParentProxy, host: str, port: int
) -> None:
    """Ask for a tunnel to `host`; the socket then works as if connected to it. Raises ConnectFailed.

    Nothing is read beyond the proxy's answer: the server behind it may send first.
    """
    try:
        await loop.sock_sendall(sock, proxy.connect_head(host, port))
        head = await _read_head(loop, sock, proxy)
    except OSError as error:
        raise ConnectFailed(f"the proxy {proxy}: {error.strerror or error}") from None
    found = _STATUS.match(head)
    if found is None:
        raise ConnectFailed(f"what the proxy {proxy} answered is not HTTP")
    status = int(found[1])
    if not 200 <= status < 300:
        raise ConnectFailed(f"the proxy {proxy} {_refusal(status, proxy)}")


def _refusal(status: int, proxy: ParentProxy) -> str:
    if status in (401, 407):  # tinyproxy sends 401 for wrong credentials
        return f"wants {'other ' if proxy.authorization else ''}credentials ({status})"
    return "does not allow this (403)" if status == 403 else f"answered {status} to CONNECT"


async def _read_head(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: ParentProxy) -> bytes:
    head = b""
    while len(head) < HEAD_MAX:
        await _readable(loop, sock)
        try:
            ahead = sock.recv(HEAD_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not ahead:
            raise ConnectFailed(f"the proxy {proxy} closed the connection instead of opening a tunnel")
        end = (head + ahead).find(_END)
        # The peeked bytes are still in the socket.
        head += sock.recv(len(ahead) if end < 0 else end + len(_END) - len(head))
        if end >= 0:
            return head
    raise ConnectFailed(f"the head of the proxy {proxy}'s answer is larger than {HEAD_MAX} bytes")


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock.fileno(), tell)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())
