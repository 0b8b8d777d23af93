"""The mix file: a JSON object a line, each one request; the first line may be about the file.

    {"mix": 1, "about": "200 nodes, 4 waves"}
    {"at": 0.0, "client": "node-7", "method": "HEAD", "host": "quay.io", "path": "/v2/app/manifests/v1"}
    {"at": 0.2, "client": "node-7", "method": "GET", "host": "quay.io", "path": "/v2/app/blobs/sha256:..."}

| key | value |
|---|---|
| `at` | seconds from the beginning of the mix, when the client would ask; the latency counts from then |
| `client` | any name; each has connections of its own, kept alive by host |
| `method` | GET or HEAD |
| `host` | the registry, with its port if that is not 443 |
| `path` | with its query, if any |
| `range` | `bytes=A-B` or `bytes=A-`; optional, as are all that follow |
| `drop` | leave after so many bytes of the body, by closing the connection; a shorter body is taken whole |
| `status` | what must be answered; else any 2xx, and 206 to a range |
| `bytes` | how long the body must be |
| `sha256` | what it must be; else the digest in the path, or in Docker-Content-Digest |

Lines may stand in any order. Nothing in a mix waits for an answer: times are the clients' own, as they were
or as they would be, so a server that is slow has more to do at a time, as in the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.errors import BenchError

VERSION = 1
METHODS = ("GET", "HEAD")
RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")
WORD = re.compile(r"[!-~]+")  # goes into a request's head as it is
SHA256 = re.compile(r"[0-9a-f]{64}")
MANIFEST = re.compile(r"/manifests/(sha256:)?[^/]*$")
BY_DIGEST = re.compile(r"/(?:blobs|manifests)/sha256:([0-9a-f]{64})$")
TEXTS = ("client", "method", "host", "path", "range", "sha256")
WHOLE = ("drop", "status", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A line of a mix file. ValueError says what is wrong with it."""

    at: float
    client: str
    method: str
    host: str
    path: str
    range: str = ""
    drop: int | None = None
    status: int | None = None
    bytes: int | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.at, bool) or not isinstance(self.at, (int, float)) or not math.isfinite(self.at):
            raise ValueError(f"at is not a number of seconds: {self.at!r}")
        if self.at < 0:
            raise ValueError(f"at is before the beginning: {self.at!r}")
        for name in TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is not a text: {getattr(self, name)!r}")
        for name in WHOLE:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ValueError(f"{name} is not a whole number from 0 on: {value!r}")
        self._check_texts()

    def _check_texts(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is neither GET nor HEAD: {self.method!r}")
        if not self.client:
            raise ValueError("client is empty")
        if not WORD.fullmatch(self.host) or "/" in self.host:
            raise ValueError(f"host is not HOST or HOST:PORT: {self.host!r}")
        if not WORD.fullmatch(self.path) or not self.path.startswith("/"):
            raise ValueError(f"path does not begin with / or has a blank or control character: {self.path!r}")
        if self.range and not RANGE.fullmatch(self.range):
            raise ValueError(f"range is neither bytes=A-B nor bytes=A-: {self.range!r}")
        if self.sha256 and not SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is not 64 hexadecimal digits: {self.sha256!r}")

    @property
    def kind(self) -> str:
        """tag-head, tag, manifest-head, manifest, blob-head, blob, range or other; for the report."""
        path = self.path.partition("?")[0]
        head = "-head" if self.method == "HEAD" else ""
        if found := MANIFEST.search(path):
            return ("manifest" if found[1] else "tag") + head
        if "/blobs/" not in path:
            return "other"
        return "range" if self.range and not head else f"blob{head}"

    @property
    def digest(self) -> str:
        """The sha256 that the body must have, "" if nothing says it."""
        if self.sha256 or self.range or self.method == "HEAD" or self.status not in (None, 200):
            return self.sha256
        found = BY_DIGEST.search(self.path.partition("?")[0])
        return found[1] if found else ""

    def line(self) -> str:
        """As it stands in a file; what has its default is left out."""
        given = {name: value for name, value in asdict(self).items() if value not in ("", None)}
        return json.dumps(given | {"at": round(self.at, 6)}) + "\n"


NAMES = frozenset(field.name for field in fields(Request))
NEEDED = ("at", "client", "method", "host", "path")


def parse(document: Any) -> Request:
    """A line's object as a request; ValueError says what is wrong with it."""
    if not isinstance(document, dict):
        raise ValueError("not an object")
    if unknown := sorted(document.keys() - NAMES):
        raise ValueError(f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(NAMES))}")
    if missing := [name for name in NEEDED if name not in document]:
        raise ValueError(f"missing: {', '.join(missing)}")
    return Request(**document)


def read(path: Path) -> list[Request]:
    """The requests of a file, by time; BenchError names the line that is wrong."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}") from None
    found = sorted(_parsed(path, text), key=lambda request: request.at)
    if not found:
        raise BenchError(f"{path}: no requests")
    return found


def _parsed(path: Path, text: str) -> Iterator[Request]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            if number == 1 and isinstance(document, dict) and "mix" in document:
                if document["mix"] != VERSION:
                    raise ValueError(f"version {document['mix']!r}, known is {VERSION}")
                continue
            yield parse(document)
        except ValueError as error:
            raise BenchError(f"{path}:{number}: {error}") from None


def write(path: Path, requests: Iterable[Request], about: str) -> None:
    """A file of these, by time, with a first line that says where they are from."""
    lines = [request.line() for request in sorted(requests, key=lambda request: request.at)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mix": VERSION, "about": about}) + "\n" + "".join(lines))
