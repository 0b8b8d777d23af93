"""A scriptable HTTP/1.1 origin over TLS or TCP: says what a test tells it to, and goes wrong exactly as told.

    with Origin(trust, "origin.test") as origin:
        origin.on("/v2/a/blobs/sha256:...", Answer(body=data, cut_at=1000), Answer(body=data))
        ...
        assert origin.hits["/v2/a/blobs/sha256:..."] == 2

Threads with blocking sockets, so that tests with and without an event loop can use it alike.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Self

from tests.support.byte_streams import End, Plain, Stream, Tls
from tests.support.images import Image, Index
from tests.support.processes import free_address
from tests.support.trust import Trust

CHUNK = 65536
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a request. Offsets count bytes of body sent in this answer, but for `wrong_at`."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    framing: Literal["length", "chunked", "eof"] = "length"
    declared: int | None = None
    """Content-Length to claim in place of the true one; the connection is closed behind the body."""
    wrong_at: int | None = None
    """Offset in the whole body, whatever range is asked for, of a byte that is sent inverted."""
    cut_at: int | None = None
    """Send so many bytes of the body, then end the connection as `cut` says; -1: instead of the head."""
    cut: End = End.FIN
    hold_at: int | None = None
    """Send so many bytes of the body, then wait for `hold`; -1: wait before the head."""
    hold: threading.Event | None = None
    rate: float | None = None
    """Bytes a second for this answer."""
    interim: tuple[bytes, ...] = ()
    """Whole interim heads (1xx), sent first."""
    raw: bytes | None = None
    """Sent in place of head and body."""
    ranges: bool = True
    """Answer 206 or 416 to a Range header with one range; False: ignore it."""
    close: bool = False
    """Say Connection: close and do it."""


@dataclass(slots=True)
class Seen:
    """A request as it arrived. `sent` counts the body bytes answered so far, `done` says that it ended."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    server_name: str
    sent: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def get(self, name: str) -> str | None:
        """Return the first field of that name (any case), or None."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Return the values of all fields of that name, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower()]


Script = Answer | Callable[[Seen], Answer]


class Origin:
    """Serves as `names`, on a free port of a loopback address, until `close`.

    `requests` are all requests in order of arrival, `hits` counts them by path (without query). `rate` is
    shared by all connections (bytes a second). `trust=None`: plain HTTP. A path without a script gets 404.
    """

    def __init__(
        self,
        trust: Trust | None,
        *names: str,
        rate: float | None = None,
        address: tuple[str, int] | None = None,
    ) -> None:
        self.names = names or ("origin.test",)
        self.address = address or free_address()
        self.requests: list[Seen] = []
        self.hits: Counter[str] = Counter()
        self.connections = 0
        self.open_connections = 0
        self._context = trust.server_context(*self.names, self.address[0]) if trust else None
        self._server_name = threading.local()
        if self._context:
            self._context.sni_callback = self._note_name
        self._pace = Pace(rate)
        self._scripts: dict[str, list[Script]] = {}
        self._prefixes: dict[str, Script] = {}
        self._changed = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(self.address, backlog=512)
        self._start(self._accept)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def authority(self) -> str:
        """Return "name:port"."""
        return f"{self.name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{self.authority}"

    @property
    def resolve(self) -> dict[str, str]:
        """Names and the address to find them at."""
        return dict.fromkeys(self.names, self.address[0])

    def forget(self) -> None:
        """Drop all scripts and requests, with their bodies; for a module's origin, between tests."""
        with self._changed:
            self._scripts.clear()
            self._prefixes.clear()
            self.requests.clear()

    def on(self, path: str, *scripts: Script) -> None:
        """Say these to requests for `path` (no query), one after another; the last one again and again.

        A `path` that ends in `*` takes every path with that start that has no script of its own, and one
        script only.
        """
        with self._changed:
            if path.endswith("*"):
                (self._prefixes[path[:-1]],) = scripts
            else:
                self._scripts[path] = list(scripts)

    def publish(self, repository: str, image: Image | Index, *tags: str) -> None:
        """Serve an image as a registry does: /v2/, its manifests by digest and tag, its blobs."""
        self.on("/v2/", Answer(b"{}", headers={"Content-Type": "application/json"}))
        for child in (image, *image.images):
            self.on(f"/v2/{repository}/manifests/{child.digest}", manifest_answer(child))
        for tag in tags:
            self.on(f"/v2/{repository}/manifests/{tag}", manifest_answer(image))
        for digest, body in image.blobs.items():
            self.on(f"/v2/{repository}/blobs/{digest}", blob_answer(digest, body))

    def count(self, method: str = "", part: str = "") -> int:
        """Return how many requests had that method (any, when empty) and `part` in their path."""
        return sum(method in ("", seen.method) and part in seen.path for seen in list(self.requests))

    def wait_for(
        self, check: Callable[[Self], bool], what: str = "a request", *, timeout: float = 20.0
    ) -> None:
        """Wait until `check(self)` holds; it is looked at whenever a request comes or an answer ends."""
        with self._changed:
            if not self._changed.wait_for(lambda: check(self), timeout):
                raise TimeoutError(f"not within {timeout:g} s: {what}; requests: {self.requests}")

    def wait_idle(self, *, timeout: float = 20.0) -> None:
        """Wait until every answer begun has ended."""
        self.wait_for(
            lambda origin: all(seen.done.is_set() for seen in origin.requests), "no answer under way"
        )

    def cut_all(self) -> None:
        """End all open connections, keep listening."""
        with self._changed:
            for stream in self._streams.values():
                _wake(stream)

    def close(self) -> None:
        """Stop listening, end all connections, join all threads."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self.cut_all()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads[1:] = [thread for thread in self._threads[1:] if thread.is_alive()]
            with self._changed:
                self.connections += 1
                number = self.connections
            self._start(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        plain = Plain(sock, timeout=None)
        with self._changed:
            self._streams[number] = plain
            self.open_connections += 1
        try:
            stream: Stream = plain
            self._server_name.value = ""
            if self._context:
                tls = Tls(plain, self._context, server_side=True)
                tls.handshake()
                stream = tls
            while not self._closed.is_set() and self._one(stream, number):
                pass
            while plain.recv():  # closing with bytes unread would turn the FIN into an RST
                pass
        except OSError:  # the peer left, also in the handshake (ssl.SSLError is an OSError)
            pass
        finally:
            with self._changed:
                del self._streams[number]
                self.open_connections -= 1
                self._changed.notify_all()
            plain.close()

    def _note_name(self, _ssl: object, name: str | None, _context: object) -> None:
        self._server_name.value = name or ""

    def _one(self, stream: Stream, number: int) -> bool:
        """Take one request and answer it; tell whether the connection goes on."""
        seen = self._read_request(stream, number)
        if seen is None:
            stream.finish()
            return False
        script = self._note(seen)
        try:
            answer = script(seen) if callable(script) else script
            return self._say(stream, seen, answer) and (seen.get("connection") or "").lower() != "close"
        finally:
            seen.done.set()
            with self._changed:
                self._changed.notify_all()

    def _note(self, seen: Seen) -> Script:
        with self._changed:
            self.requests.append(seen)
            self.hits[seen.path] += 1
            self._changed.notify_all()
            scripts = self._scripts.get(seen.path)
            if scripts:
                return scripts.pop(0) if len(scripts) > 1 else scripts[0]
            starts = [start for start in self._prefixes if seen.path.startswith(start)]
            if starts:
                return self._prefixes[max(starts, key=len)]
        return Answer(b'{"errors":[{"code":"NOT_FOUND"}]}', 404, {"Content-Type": "application/json"})

    def _read_request(self, stream: Stream, number: int) -> Seen | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = stream.recv()
            if not more:
                return None
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = tuple((name, value.strip()) for name, value in pairs)
        seen = Seen(method, target, headers, b"", number, getattr(self._server_name, "value", ""))
        stream.unread(rest)
        if (seen.get("expect") or "").lower() == "100-continue":
            stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen.body = _read_body(stream, seen)
        return seen

    def _say(self, stream: Stream, seen: Seen, answer: Answer) -> bool:
        """Carry the script out; tell whether the connection goes on."""
        self._hold(answer, -1)
        if answer.cut_at == -1:
            _end(stream, answer.cut)
            return False
        for head in answer.interim:
            stream.send(head)
        if answer.raw is not None:
            stream.send(answer.raw)
            _end(stream, answer.cut)
            return False
        status, fields, body = _select(answer, seen)
        close = answer.close or answer.framing == "eof" or answer.declared is not None
        stream.send(_head(answer, status, fields, len(body), close=close))
        if seen.method == "HEAD" or status in (204, 304):
            return not close
        if not self._send_body(stream, seen, answer, body):
            _end(stream, answer.cut)
            return False
        if close:
            stream.finish()
        return not close

    def _send_body(self, stream: Stream, seen: Seen, answer: Answer, body: bytes) -> bool:
        """Send the body through its faults; False when it was to be cut."""
        marks = {
            mark for mark in (answer.cut_at, answer.hold_at) if mark is not None and 0 <= mark <= len(body)
        }
        stops = sorted({*range(0, len(body), self._step(answer)), len(body), *marks})
        pace, start = Pace(answer.rate), 0
        for stop in stops:
            piece = body[start:stop]
            for limit in (pace, self._pace):
                limit.take(len(piece), self._closed)
            if piece:
                if answer.framing == "chunked":
                    piece = b"%x\r\n%b\r\n" % (len(piece), piece)
                stream.send(piece)
                seen.sent = stop
            if answer.cut_at == stop:
                return False
            self._hold(answer, stop)
            start = stop
        if answer.framing == "chunked":
            stream.send(b"0\r\n\r\n")
        return True

    def _step(self, answer: Answer) -> int:
        rates = [rate for rate in (answer.rate, self._pace.rate) if rate]
        return max(1, min(CHUNK, int(min(rates) / 50))) if rates else CHUNK

    def _hold(self, answer: Answer, at: int) -> None:
        if answer.hold is None or answer.hold_at != at:
            return
        with self._changed:
            self._changed.notify_all()
        while not answer.hold.wait(0.05):
            if self._closed.is_set():
                raise ConnectionError("the origin is being closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pace:
    """A rate in bytes a second, kept by whoever takes from it, from any thread; None is without a limit."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, size: int, stop: threading.Event) -> None:
        """Wait until `size` more bytes are due, or `stop` is set."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            due = max(now, self._free_at)
            self._free_at = due + size / self.rate
        stop.wait(due - now)


def manifest_answer(image: Image | Index, **faults: object) -> Answer:
    """Return a manifest as registries send it."""
    headers = {
        "Content-Type": image.media_type,
        "Docker-Content-Digest": image.digest,
        "Etag": f'"{image.digest}"',
        "Docker-Distribution-Api-Version": "registry/2.0",
    }
    return Answer(image.manifest, headers=headers, **faults)  # type: ignore[arg-type]


def blob_answer(digest: str, body: bytes, **faults: object) -> Answer:
    """Return a blob as registries send it."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "Etag": f'"{digest}"',
        "Docker-Distribution-Api-Version": "registry/2.0",
    }
    return Answer(body, headers=headers, **faults)  # type: ignore[arg-type]


def redirect(location: str, status: int = 307) -> Answer:
    """Return a redirect with a small HTML body, as S3 and CDNs send it."""
    body = b"<a href>moved</a>\n"
    return Answer(body, status, {"Location": location, "Content-Type": "text/html; charset=utf-8"})


def _select(answer: Answer, seen: Seen) -> tuple[int, list[tuple[str, str]], bytes]:
    """RFC 9110 14: status, fields and bytes for what Range asks of a 200."""
    body = answer.body
    if answer.wrong_at is not None:
        at = answer.wrong_at
        body = body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
    fields = list(answer.headers.items() if isinstance(answer.headers, Mapping) else answer.headers)
    match = RANGE.fullmatch(seen.get("range") or "")
    if answer.status != 200 or not answer.ranges:
        return answer.status, fields, body
    fields.append(("Accept-Ranges", "bytes"))
    if not match or match[0] == "bytes=-":
        return 200, fields, body
    if match[1]:
        start, stop = int(match[1]), min(int(match[2] or len(body)) + 1, len(body))
    else:
        start, stop = max(0, len(body) - int(match[2])), len(body)
    if start >= len(body):
        return 416, [("Content-Range", f"bytes */{len(body)}")], b""
    return 206, [*fields, ("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")], body[start:stop]


def _head(answer: Answer, status: int, fields: Iterable[tuple[str, str]], size: int, *, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if answer.framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif answer.framing == "length" and status not in (204, 304):
        lines.append(f"Content-Length: {size if answer.declared is None else answer.declared}")
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_body(stream: Stream, seen: Seen) -> bytes:
    if (seen.get("transfer-encoding") or "").lower() == "chunked":
        parts = []
        while size := int(_read_line(stream), 16):
            parts.append(_read_exactly(stream, size))
            _read_line(stream)
        while _read_line(stream):
            pass
        return b"".join(parts)
    return _read_exactly(stream, int(seen.get("content-length") or 0))


def _read_line(stream: Stream) -> bytes:
    data = b""
    while not data.endswith(b"\r\n"):
        more = stream.recv(1)
        if not more:
            raise ConnectionError("cut in a line")
        data += more
    return data[:-2]


def _read_exactly(stream: Stream, size: int) -> bytes:
    parts = []
    while size:
        more = stream.recv(min(size, CHUNK))
        if not more:
            raise ConnectionError("cut in a body")
        parts.append(more)
        size -= len(more)
    return b"".join(parts)


def _end(stream: Stream, how: End) -> None:
    if how is End.RST:
        stream.reset()
    elif how is End.FIN:
        stream.fin()
    else:
        stream.finish()


def _wake(stream: Stream) -> None:
    """Let a thread that is blocked on the stream find it ended."""
    with contextlib.suppress(OSError):
        assert isinstance(stream, Plain)
        stream.sock.shutdown(socket.SHUT_RDWR)
