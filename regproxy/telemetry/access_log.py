"""Write the access log: one JSON object a line, from a thread of its own.

Names and order of the fields are docker-registry-proxy's, and so are their types: nginx writes strings. A
slow or stalled reader of the log costs lines and never a request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from time import gmtime, localtime, strftime
from typing import Final
from urllib.parse import unquote_to_bytes

from regproxy.dataplane.answers import Answers
from regproxy.http.hops import Hop
from regproxy.telemetry.log_sink import LineSink

_MS: Final = ".000Z"  # of a time in a whole second
_BEFORE_TOOK: Final = '","request_time":"'
_TOOK: Final = f"{_BEFORE_TOOK}0.000"
_BATCH: Final = 512  # lines that are handed to the thread without waiting for flush()
# C code; quotes, and escapes everything but printable ASCII: no request can forge a line
_quote = json.encoder.encode_basestring_ascii


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


def _quote_decoded(uri: str) -> str:
    return _quote_utf8(unquote_to_bytes(uri.partition("?")[0]).decode("utf-8", "replace"))


# The same few texts recur. Long ones do not, and could fill the memory: those are quoted each time.
_REMEMBERED: Final = 1024  # texts
_SHORT: Final = 512  # characters
_known = lru_cache(maxsize=_REMEMBERED)(_quote)
_known_path = lru_cache(maxsize=_REMEMBERED)(_quote_path)
_known_decoded = lru_cache(maxsize=_REMEMBERED)(_quote_decoded)


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


def extra_fields(**fields: str) -> str:
    """Return fields for `more` of AccessLog.line(); those that are "" are left out."""
    return "".join(f',"{name}":{_quote(text)}' for name, text in fields.items() if text)


class AccessLog:
    """`line()` buffers, `flush()` hands over to the thread; neither waits. Use from one thread.

    `dropped`: lines that were lost, because the queue was full or the file could not be written. `rp`: lines
    are exactly docker-registry-proxy's, and are to be given to `rp_line()`. `answers`: those that
    write lines of their own, by `parts()`.
    """

    def __init__(self, sink: LineSink | None, rp: bool = False) -> None:
        self._sink = sink
        self.rp = rp
        self._on = sink is not None
        self._lines: list[str] = []
        self._second = -1
        self._time = ""
        self.answers: Answers | None = None

    @classmethod
    def open(cls, where: str, rp: bool = False) -> AccessLog:
        """`where`: "-" is standard output, "off" is nowhere, and else a path to append to.

        A file that is moved away (logrotate) is created again. Raises OSError if the file can't be opened.
        """
        if where == "off":
            return cls(None, rp)
        return cls(LineSink(None if where == "-" else Path(where), "access log"), rp)

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
        request_id: str = "",
        more: str = "",
    ) -> None:
        """Buffer the line of one answered request.

        `now`: seconds since the epoch, when the answer ended; the other times are seconds. `bytes_sent`: of
        the body. `uri`: the query is left out, since upload and download links carry their secrets in it.
        `proxy_host`: the origin that was asked, `upstream`: its address; both "" for a cache hit.
        `more`: fields that few lines have, as extra_fields() writes them.
        """
        if not self._on:
            return
        second = self._at(now)
        took = "" if upstream_response_time is None else f"{upstream_response_time:.3f}"
        # Chosen here, as a call of a Python function for each would show in the cost of a hit.
        path = _known_path if len(uri) <= _SHORT else _quote_path
        quote = _known if len(method) + len(host) <= _SHORT else _quote
        self._lines.append(
            f'{{"access_time":"{self._time}.{int((now - second) * 1000):03d}Z"'
            f',"upstream_cache_status":"{upstream_cache_status}","method":{quote(method)}'
            f',"uri":{path(uri)},"request_type":"{request_type}","status":"{status}"'
            f',"bytes_sent":"{bytes_sent}","upstream_response_time":"{took}","host":{quote(host)}'
            f',"proxy_host":{_quote(proxy_host)},"upstream":"{upstream}","remote_addr":"{remote_addr}"'
            f',"request_time":"{request_time:.3f}"{more},"request_id":"{request_id}"}}\n'
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
        self._at(now)
        if request_type not in _RP_TYPES:
            request_type, upstream_cache_status = "unknown", ""
        elif upstream_cache_status == "UPDATING":
            upstream_cache_status, hops = "HIT", ()
        took, asked, proxy_host = _rp_upstream(hops)
        decoded = _known_decoded if len(uri) <= _SHORT else _quote_decoded
        self._lines.append(
            f'{{"access_time":"{self._time}","upstream_cache_status":"{upstream_cache_status}"'
            f',"method":{_quote_utf8(method)},"uri":{decoded(uri)},"request_type":"{request_type}"'
            f',"status":"{status}","bytes_sent":"{bytes_sent}","upstream_response_time":"{took}"'
            f',"host":{_quote_utf8(host)},"proxy_host":{_quote_utf8(proxy_host)},"upstream":"{asked}"}}\n'
        )
        if len(self._lines) >= _BATCH:
            self.flush()

    def parts(
        self,
        now: float,
        method: str,
        uri: str,
        host: str,
        status: int,
        bytes_sent: int,
        request_type: str,
        upstream_cache_status: str,
        request_id: str = "",
        more: str = "",
    ) -> tuple[bytes, ...] | None:
        """Return the line of a hit that is answered again within this second, in parts: see Answer.

        None: nothing is logged. The same text as that of line(), or rp_line().
        """
        if not self._on:
            return None
        who, how = (method, uri, host, status), (request_type, upstream_cache_status)
        before, self._lines = self._lines, []
        if self.rp:
            self.rp_line(now, *who, bytes_sent, *how, ())
        else:
            self.line(int(now), "", *who, bytes_sent, 0.0, *how, request_id=request_id, more=more)
        (text,), self._lines = self._lines, before
        if self.rp:
            return (text.encode(),)
        # Nothing that a client sends comes before the first or behind the last of these.
        time, _, rest = text.partition(_MS)
        middle, _, end = rest.rpartition(_TOOK)
        return tuple(part.encode() for part in (f"{time}.", f"Z{middle}", _BEFORE_TOOK, end))

    def _at(self, now: float) -> int:
        """Have the time's text ready; return the second."""
        second = int(now)
        if second != self._second:
            self._second = second
            if self.rp:
                self._time = strftime("%d/%b/%Y:%H:%M:%S %z", localtime(second))
            else:
                self._time = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        return second

    def flush(self) -> None:
        """Hand the buffered lines over to the thread. Called at intervals; never waits."""
        if self._sink is None:
            return
        if self._lines:
            self._sink.put(self._lines)
            self._lines = []
        text = self.answers.take_lines() if self.answers is not None else b""
        if text:
            self._sink.put(text)

    def close(self, timeout: float = 5.0) -> None:
        """Write all remaining lines and end the thread. Lines that take longer than `timeout` seconds are
        dropped.
        """
        self.flush()
        if self._sink is not None and self._on:
            self._on = False
            self._sink.close(timeout)
