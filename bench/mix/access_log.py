"""Make a mix of an access log of regproxy's: its own format, or docker-registry-proxy's (`rp`).

What a log does not know is guessed, as said here:

- When a request began: at the end of its answer less `request_time`, so downloads that overlapped overlap
  again. `rp` has whole seconds and no duration: the requests of a second are spread over it in their order.
- Clients are addresses. `rp` has none: a request is of the client that asked for something of that
  repository last and has not asked for this yet (nobody asks twice), else of a new one.
- A body broke off (`drop`) where the same path was answered in full to others by more bytes. A log has what
  was handed to the kernel: a body that fits into the sockets' buffers is whole for it, whoever left.
- Ranges (206): each client's ranges of a blob follow one another, in the order in which they began, from its
  first byte on or from where a body of it broke off; their lengths are known.
- A registry's port is 443, or what is said to `convert`; `rp` has it where the registry was asked.
- Conditions and credentials are not in a log: a 304 is asked for without its condition.

Left out, and counted: what is no GET or HEAD, what is not below /v2/, what cannot stand in a request's head,
and answers of 408, 429, 499 and from 500 on.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.mix.requests import METHODS, WORD, Request

HTTPS = 443
GONE = (408, 429, 499)  # of that moment: a client that left, a registry's limit
RP_TIME = "%d/%b/%Y:%H:%M:%S %z"


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the log. `took`: None where the log has no durations; `client`: "" where it has none."""

    ended: float
    took: float | None
    client: str
    method: str
    host: str
    path: str
    status: int
    sent: int
    asked: str = ""  # host:port of the origin, where the log has it

    @property
    def began(self) -> float:
        return self.ended - (self.took or 0.0)


@dataclass(slots=True)
class Converted:
    """The requests, and what was left out: how many lines, by reason."""

    requests: list[Request] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def convert(path: Path, ports: Mapping[str, int] | None = None) -> Converted:
    """The log's requests as a mix, which begins with the first; BenchError names a line that is none.

    `ports`: of registries that are not at 443, by host.
    """
    made = Converted()
    kept = []
    known = dict(ports or {})
    for logged in read(path):
        host, _, port = logged.asked.rpartition(":")
        if host == logged.host and port.isdigit():
            known.setdefault(host, int(port))
        reason = unusable(logged)
        if reason:
            made.left_out[reason] += 1
        else:
            kept.append(logged)
    kept = [replace(logged, host=_at_port(logged.host, known.get(logged.host, HTTPS))) for logged in kept]
    kept = sorted(with_clients(spread(kept)), key=lambda logged: logged.began)
    if not kept:
        raise BenchError(f"{path}: no requests to replay; left out: {dict(made.left_out)}")
    made.requests = list(requests(kept))
    return made


def _at_port(host: str, port: int) -> str:
    """The same with its port, which `regproxy`'s lines have where that is not 443."""
    return host if re.search(r"[^:]:\d+$", host) else f"{host}:{port}"


def read(path: Path) -> Iterator[Logged]:
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield parse(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path}:{number}: not a line of an access log: {error!r}") from None


def parse(line: dict[str, Any]) -> Logged:
    """An object of either format."""
    own = "request_time" in line
    time = line["access_time"]
    ended = datetime.fromisoformat(time) if own else datetime.strptime(time, RP_TIME)
    return Logged(
        ended.timestamp(),
        float(line["request_time"]) if own else None,
        line.get("remote_addr", ""),
        line["method"],
        line["host"],
        line["uri"],
        int(line["status"]),
        int(line["bytes_sent"]),
        line["proxy_host"],
    )


def unusable(logged: Logged) -> str:
    """Why a line cannot be replayed, or ""."""
    if logged.method not in METHODS:
        return logged.method
    if not logged.path.startswith("/v2/"):
        return "not below /v2/"
    if not WORD.fullmatch(logged.path) or not WORD.fullmatch(logged.host) or "/" in logged.host:
        return "no text for a request's head"
    if not 200 <= logged.status < 500 or logged.status in GONE:
        return f"status {logged.status}"
    return ""


def spread(lines: list[Logged]) -> list[Logged]:
    """Lines without durations, evenly over their second."""
    in_second = Counter(logged.ended for logged in lines if logged.took is None)
    seen: Counter[float] = Counter()
    found = []
    for logged in lines:
        if logged.took is None:
            at = logged.ended + seen[logged.ended] / in_second[logged.ended]
            seen[logged.ended] += 1
            logged = replace(logged, ended=at)
        found.append(logged)
    return found


def with_clients(lines: list[Logged]) -> Iterator[Logged]:
    """Each line with a client: the log's, or one that is guessed."""
    clients: dict[tuple[str, str], list[tuple[str, set[tuple[str, str]]]]] = defaultdict(list)
    count = 0
    for logged in lines:
        if logged.client:
            yield logged
            continue
        asked = (logged.method, logged.path)
        known = clients[logged.host, repository(logged.path)]
        at = next((at for at, (_, had) in enumerate(known) if asked not in had), None)
        if at is None:
            count += 1
            known.insert(0, (f"client-{count}", set()))
        else:
            known.insert(0, known.pop(at))
        name, had = known[0]
        had.add(asked)
        yield replace(logged, client=name)


def repository(path: str) -> str:
    for part in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        if part in path:
            return path.partition(part)[0]
    return path


def requests(lines: list[Logged]) -> Iterator[Request]:
    """Lines by their beginnings, as requests; times from the first one's."""
    whole = longest(lines)
    following: Counter[tuple[str, str, str]] = Counter()
    begin = lines[0].began
    for logged in lines:
        span, drop = "", None
        size, key = whole[logged.host, logged.path], (logged.client, logged.host, logged.path)
        if logged.status == 206 and logged.method == "GET":
            if size and following[key] + logged.sent > size:  # asked for again: not beyond its end
                following[key] = max(0, size - logged.sent)
            span, drop = _span(following[key], logged.sent)
            following[key] += logged.sent
        elif logged.status == 200 and logged.method == "GET" and logged.sent < size:
            following[key] = drop = logged.sent
        yield Request(
            at=logged.began - begin,
            client=logged.client,
            method=logged.method,
            host=logged.host,
            path=logged.path,
            range=span,
            drop=drop,
            status=logged.status if logged.status >= 400 else None,
        )


def _span(first: int, size: int) -> tuple[str, int | None]:
    """A range that is this long; one that broke off ahead of its first byte is open, and breaks off there."""
    return (f"bytes={first}-{first + size - 1}", None) if size else (f"bytes={first}-", 0)


def longest(lines: Iterable[Logged]) -> Counter[tuple[str, str]]:
    """The most bytes that any answer with 200 to a GET had, by host and path."""
    found: Counter[tuple[str, str]] = Counter()
    for logged in lines:
        if logged.status == 200 and logged.method == "GET":
            key = (logged.host, logged.path)
            found[key] = max(found[key], logged.sent)
    return found
