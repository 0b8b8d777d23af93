"""Write the access log: one JSON object a line, from a thread of its own.

Names and order of the fields are docker-registry-proxy's, and so are their types: nginx writes strings. A
slow or stalled reader of the log costs lines and never a request.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from time import gmtime, localtime, monotonic, strftime
from typing import Final
from urllib.parse import unquote_to_bytes

from regproxy.http.hops import Hop

logger = logging.getLogger(__name__)

_BATCH: Final = 512  # lines that are handed to the thread without waiting for flush()
_QUEUE: Final = 128  # batches; about 65,000 lines and 30 MB while the log is not read
_CHUNK: Final = 65536  # bytes per write
_STALL: Final = 0.5  # seconds between two checks of whether close() still waits
_SAY_EVERY: Final = 60.0  # seconds between two warnings
# C code; quotes, and escapes everything but printable ASCII: no request can forge a line
_quote = json.encoder.encode_basestring_ascii
# The same few texts recur.
_quote_again = lru_cache(maxsize=1024)(_quote)


@lru_cache(maxsize=1024)
def _quote_path(uri: str) -> str:
    return _quote(uri.partition("?")[0])


# Characters that end a line for some readers, or that a terminal obeys.
_UNSAFE: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def _quote_utf8(text: str) -> str:
    """Quote as nginx's escape=json does, which leaves UTF-8 as it is, but for what is no text."""
    quoted = json.encoder.encode_basestring(text)
    return quoted if quoted.isascii() and "\x7f" not in quoted else quoted.translate(_UNSAFE)


_RP_TYPES: Final = frozenset(
    {
        *("blob-by-digest", "blob-mutable", "manifest-by-digest"),
        *("manifest-primary", "manifest-secondary", "manifest-default", "manifest-default-disabled"),
    }
)


@lru_cache(maxsize=1024)
def _quote_decoded(uri: str) -> str:
    return _quote_utf8(unquote_to_bytes(uri.partition("?")[0]).decode("utf-8", "replace"))


def _rp_upstream(hops: Sequence[Hop]) -> tuple[str, str, str]:
    """Return $upstream_response_time, $upstream_addr and $proxy_host, which is the last one's."""
    if not hops:
        return "", "", ""
    last = hops[-1]
    sites = (
        f"[{each.address}]:{each.port}" if ":" in each.address else f"{each.address}:{each.port}"
        for each in hops
    )
    host = f"[{last.host}]" if ":" in last.host else last.host
    port = last.asked or last.port
    proxy_host = host if port == 443 else f"{host}:{port}"
    return " : ".join(each.seconds for each in hops), " : ".join(sites), proxy_host


class AccessLog:
    """`line()` buffers, `flush()` hands over to the thread; neither waits. Use from one thread.

    `dropped`: lines that were lost, because the queue was full or the file could not be written. `rp`: lines
    are exactly docker-registry-proxy's, and are to be given to `rp_line()`.
    """

    def __init__(self, sink: _Sink | None, rp: bool = False) -> None:
        self._sink = sink
        self.rp = rp
        self._on = sink is not None
        self._lines: list[str] = []
        self._second = -1
        self._time = ""

    @classmethod
    def open(cls, where: str, rp: bool = False) -> AccessLog:
        """`where`: "-" is standard output, "off" is nowhere, and else a path to append to.

        A file that is moved away (logrotate) is created again. Raises OSError if the file can't be opened.
        """
        if where == "off":
            return cls(None, rp)
        return cls(_Sink(None if where == "-" else Path(where)), rp)

    @property
    def dropped(self) -> int:
        return 0 if self._sink is None else self._sink.dropped

    def line(
        self,
        now: float,
        remote_addr: str,
        method: str,
        uri: str,
        host: str,
        status: int,
        bytes_sent: int,
        request_time: float,
        request_type: str = "",
        upstream_cache_status: str = "",
        upstream_response_time: float | None = None,
        proxy_host: str = "",
        upstream: str = "",
    ) -> None:
        """Buffer the line of one answered request.

        `now`: seconds since the epoch, when the answer ended; the other times are seconds. `bytes_sent`: of
        the body. `uri`: the query is left out, since upload and download links carry their secrets in it.
        `proxy_host`: the origin that was asked, `upstream`: its address; both "" for a cache hit.
        """
        if not self._on:
            return
        second = int(now)
        if second != self._second:
            self._second = second
            self._time = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        took = "" if upstream_response_time is None else f"{upstream_response_time:.3f}"
        self._lines.append(
            f'{{"access_time":"{self._time}.{int((now - second) * 1000):03d}Z"'
            f',"upstream_cache_status":"{upstream_cache_status}","method":{_quote_again(method)}'
            f',"uri":{_quote_path(uri)},"request_type":"{request_type}","status":"{status}"'
            f',"bytes_sent":"{bytes_sent}","upstream_response_time":"{took}","host":{_quote_again(host)}'
            f',"proxy_host":{_quote(proxy_host)},"upstream":"{upstream}","remote_addr":"{remote_addr}"'
            f',"request_time":"{request_time:.3f}"}}\n'
        )
        if len(self._lines) >= _BATCH:
            self.flush()

    def rp_line(
        self,
        now: float,
        method: str,
        uri: str,
        host: str,
        status: int,
        bytes_sent: int,
        request_type: str,
        upstream_cache_status: str,
        hops: Sequence[Hop],
    ) -> None:
        """Remember one answered request as nginx writes it with docker-registry-proxy's log_format.

        What it has no word for is as there: other types are "unknown", without a word of the cache; who
        waited for another client's download had a HIT. `hops`: who was asked, with ` : ` between several.
        """
        if not self._on:
            return
        second = int(now)
        if second != self._second:
            self._second = second
            self._time = strftime("%d/%b/%Y:%H:%M:%S %z", localtime(second))
        if request_type not in _RP_TYPES:
            request_type, upstream_cache_status = "unknown", ""
        elif upstream_cache_status == "UPDATING":
            upstream_cache_status, hops = "HIT", ()
        took, asked, proxy_host = _rp_upstream(hops)
        self._lines.append(
            f'{{"access_time":"{self._time}","upstream_cache_status":"{upstream_cache_status}"'
            f',"method":{_quote_utf8(method)},"uri":{_quote_decoded(uri)},"request_type":"{request_type}"'
            f',"status":"{status}","bytes_sent":"{bytes_sent}","upstream_response_time":"{took}"'
            f',"host":{_quote_utf8(host)},"proxy_host":{_quote_utf8(proxy_host)},"upstream":"{asked}"}}\n'
        )
        if len(self._lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand the buffered lines over to the thread. Called at intervals; never waits."""
        if self._lines and self._sink is not None:
            self._sink.put(self._lines)
            self._lines = []

    def close(self, timeout: float = 5.0) -> None:
        """Write all remaining lines and end the thread. Lines that take longer than `timeout` seconds are
        dropped.
        """
        self.flush()
        if self._sink is not None and self._on:
            self._on = False
            self._sink.close(timeout)


class _Sink:
    """The file and its thread. Batches are added by `put()`, and dropped if too many wait."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = 1 if path is None else _append_to(path)
        # Writes of at most PIPE_BUF to a pipe are never interleaved with those of other processes, and do not
        # block when poll() has reported room (pipe(7)).
        self._chunk = _CHUNK if stat.S_ISREG(os.fstat(self._fd).st_mode) else select.PIPE_BUF
        self._torn = False
        self.dropped = 0
        self._said = 0
        self._said_at = -_SAY_EVERY
        self._why = ""
        self._closing = False
        self._given_up = False
        self._queue: deque[list[str]] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, lines: list[str]) -> None:
        with self._changed:
            if len(self._queue) >= _QUEUE:
                self._drop(len(lines), "it is read too slowly")
            else:
                self._queue.append(lines)
                self._changed.notify()

    def close(self, timeout: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        self._given_up = True
        self._thread.join(2 * _STALL)
        # A thread that hangs in write() (a stopped terminal) is left behind, with its file.
        if self._path is not None and not self._thread.is_alive():
            os.close(self._fd)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    break
                lines = self._queue.popleft()
            self._follow_rename()
            for text, count in _pack(lines, self._chunk):
                self._write(text, count)
            self._say()
        self._say(at_once=True)

    def _write(self, text: bytes, count: int) -> None:
        """Write some whole lines. After a partly written line, the next write begins with a line end."""
        rest = memoryview(b"\n" + text if self._torn else text)
        try:
            while rest:
                if not self._wait_writable():
                    raise TimeoutError(errno.ETIMEDOUT, "it is not read")
                with suppress(BlockingIOError):
                    written = os.write(self._fd, rest)
                    self._torn = written < len(rest)
                    rest = rest[written:]
        except OSError as error:
            with self._changed:
                self._drop(count, error.strerror or type(error).__name__)

    def _wait_writable(self) -> bool:
        """Wait for room; False: close() does not wait any longer."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(0 if self._given_up else _STALL * 1000):
            if self._given_up:
                return False
            self._say()
        return True

    def _follow_rename(self) -> None:
        """Open the path again if it no longer names the open file, as after logrotate."""
        if self._path is None:
            return
        with suppress(OSError):  # the old file is used until the new one can be opened
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                    return
            except FileNotFoundError:
                pass
            old, self._fd = self._fd, _append_to(self._path)
            os.close(old)

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._why = why

    def _say(self, *, at_once: bool = False) -> None:
        # Always from this thread: if the access log stalls, standard error may stall too.
        new = self.dropped - self._said
        if new and (at_once or monotonic() - self._said_at >= _SAY_EVERY):
            logger.warning("access log: %d lines dropped: %s", new, self._why)
            self._said += new
            self._said_at = monotonic()


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _pack(lines: list[str], limit: int) -> Iterator[tuple[bytes, int]]:
    """Join whole lines into pieces of at most `limit` bytes (a longer line is a piece of its own)."""
    first, size = 0, 0
    for index, line in enumerate(lines):
        if size + len(line) > limit and index > first:
            yield "".join(lines[first:index]).encode("utf-8", "replace"), index - first
            first, size = index, 0
        size += len(line)
    yield "".join(lines[first:]).encode("utf-8", "replace"), len(lines) - first
