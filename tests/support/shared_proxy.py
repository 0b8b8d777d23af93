"""One origin and the proxies before it, shared by the tests of a module: each test has paths of its own."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.byte_streams import End, Plain, Tls
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.trust import Trust

_NOISE = random.Random(1)
SMALL = _NOISE.randbytes(2_000)
BIG = _NOISE.randbytes(3_000_000)
SMALL_PATH, BIG_PATH = (f"/v2/app/blobs/{digest_of(body)}" for body in (SMALL, BIG))
UPLOADS = "/v2/app/blobs/uploads/"


class Lane:
    """`origin` serves as reg.test: SMALL and BIG by digest, and paths that are passed through.

    At the end every proxy must stop without a leak (REGPROXY_DEBUG) and without a traceback in its log.
    """

    def __init__(self, directory: Path, trust: Trust) -> None:
        self._directory, self._trust = directory, trust
        self._stack = ExitStack()
        self._proxies: dict[tuple[tuple[str, str], ...], Proxy] = {}
        self.origin = self._stack.enter_context(Origin(trust, "reg.test"))
        for path, body in ((SMALL_PATH, SMALL), (BIG_PATH, BIG)):
            self.origin.on(path, blob_answer(digest_of(body), body))
        self.origin.on("/v2/", Answer(b"{}", headers={"Content-Type": "application/json"}))
        self.origin.on("/pass", Answer(BIG))
        self.origin.on("/chunked", Answer(BIG, framing="chunked"))
        self.origin.on("/eof", Answer(BIG, framing="eof"))
        for path in ("/token", "/oauth2/token"):
            self.origin.on(path, lambda seen: Answer(f"{seen.method} ".encode() + seen.body))
        self.origin.on(UPLOADS + "*", lambda seen: Answer(digest_of(seen.body).encode(), 201))

    def proxy(self, **env: str) -> Proxy:
        """Return the proxy with these variables, started when it is first asked for."""
        key = tuple(sorted(env.items()))
        if key not in self._proxies:
            self._proxies[key] = self._stack.enter_context(self.new_proxy(**env))
        return self._proxies[key]

    def new_proxy(self, **env: str) -> Proxy:
        """Return a proxy of the caller's own, to be ended by the caller."""
        place = self._directory / f"proxy-{len(list(self._directory.iterdir()))}"
        return Proxy(
            place,
            {"REGPROXY_DEBUG": "1", **env},
            registries=(self.origin.authority,),
            resolve=self.origin.resolve,
            ca=self._trust.path,
        )

    def filled(self, **env: str) -> Proxy:
        """Return the proxy with these variables, with SMALL and BIG in its store."""
        proxy = self.proxy(**env)
        with proxy.client(self.origin.authority) as client:
            for path in (SMALL_PATH, BIG_PATH):
                assert client.get(path).complete
        proxy.wait_kept(digest_of(SMALL), digest_of(BIG))
        return proxy

    def publish(self, size: int, **faults: object) -> tuple[str, bytes]:
        """Serve new content, and return its path and bytes."""
        body = _NOISE.randbytes(size)
        digest = digest_of(body)
        path = f"/v2/app/blobs/{digest}"
        self.origin.on(path, blob_answer(digest, body, **faults))
        return path, body

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        for proxy in self._proxies.values():
            assert "Traceback" not in proxy.log(), proxy.log()


class Bare:
    """An origin without any HTTP of its own: `script(stream)` speaks on each connection, over TLS."""

    def __init__(self, trust: Trust, script: Callable[[Tls], None]) -> None:
        self.name = "bare.test"
        self.address = free_address()
        self.authority = f"{self.name}:{self.address[1]}"
        self._context = trust.server_context(self.name)
        self._script = script
        self._listener = socket.create_server(self.address)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def env(self) -> dict[str, str]:
        """Return the variables that put a proxy before it."""
        return {"REGISTRIES": self.authority, "REGPROXY_RESOLVE": f"{self.name}={self.address[0]}"}

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        plain = Plain(sock)
        with contextlib.suppress(OSError):
            tls = Tls(plain, self._context, server_side=True)
            tls.handshake()
            self._script(tls)
            tls.finish()
            while plain.recv():  # closing with bytes unread would turn the FIN into an RST
                pass
        plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


def take_head(stream: Tls) -> bytes:
    """Read one head and nothing behind it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            raise ConnectionError("no head")
        data += byte
    return data


def take(stream: Plain | Tls, size: int) -> bytes:
    """Read `size` bytes, or all there are before the end."""
    data = b""
    while len(data) < size and (more := stream.recv(size - len(data))):
        data += more
    return data


def ended(client: Client) -> End:
    """Return how the peer ends the connection, once it does; a byte before that is an AssertionError."""
    rest, end = client.read_end()
    assert rest == b"", rest[:200]
    return end
