"""What parses bytes from outside in Python: each target takes an input, and raises where something is wrong.

Each is a function of bytes. A parser may raise the errors that its docstring names, and nothing else; what it
returns has to be what its users rely on.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from regproxy.cache.index.index import Index, TagRow
from regproxy.config.sources.assembly import load
from regproxy.core.errors import BadResponse, ConfigError, HeadError, StoreError, Unsatisfiable
from regproxy.http import ranges as http_ranges
from regproxy.http.messages import Framing, Response, parse_authority, parse_request, parse_response
from regproxy.registry import rate_limits as limits
from regproxy.registry.challenges import (
    CHALLENGES_MAX,
    PARAMETERS_MAX,
    asks_for_basic,
    bearer_of,
    parse_challenges,
)
from regproxy.registry.manifests import INDEX_TYPES, check_manifest, manifest_type
from regproxy.registry.token_protocol import (
    LONGEST_LIFETIME,
    TOKEN_MAX,
    parse_answer,
    parse_realm,
    parse_scope,
)

NOW: Final = 1_800_000_000.0
_TYPES: Final = ("", "application/json", "text/html", *sorted(INDEX_TYPES), "application/x", "a/b; c=d")
_METHODS: Final = ("GET", "HEAD", "CONNECT", "POST")


def manifests(data: bytes) -> None:
    """A first byte for the Content-Type, then a body."""
    if not data:
        return
    content_type, body = _TYPES[data[0] % len(_TYPES)], data[1:]
    with suppress(BadResponse):
        own = manifest_type(body)
        assert isinstance(json.loads(body), dict)
        assert "\n" not in own.told(content_type)
    for vouched in (False, True):
        with suppress(BadResponse):
            found = check_manifest(body, content_type, vouched)
            # CVE-2021-41190: never an index and a manifest in one.
            document = json.loads(body)
            if found in INDEX_TYPES:
                assert not (document.get("manifests") and (document.get("layers") or document.get("config")))


def tokens(data: bytes) -> None:
    """A token server's answer, behind a line with its Date."""
    date, found, body = data.partition(b"\n")
    with suppress(BadResponse):
        issued = parse_answer(body, date if found else None, NOW)
        assert 0 < len(issued.value) <= TOKEN_MAX
        assert issued.value.isascii() and issued.value.isprintable() and " " not in issued.value
        assert 0 < issued.lifetime <= LONGEST_LIFETIME


def challenges(data: bytes) -> None:
    """Lines of WWW-Authenticate."""
    found = parse_challenges(data.split(b"\n"))
    assert len(found) <= CHALLENGES_MAX
    assert all(len(each.parameters) <= PARAMETERS_MAX for each in found)
    asks_for_basic(found)
    bearer = bearer_of(found)
    if bearer is None:
        return
    parse_scope(bearer.scope)
    with suppress(BadResponse):
        realm = parse_realm(bearer.realm, bearer.service)
        # It is put into a request line.
        assert realm.target.startswith("/") and realm.target.isascii()
        assert realm.target.isprintable() and " " not in realm.target


def configuration(data: bytes) -> None:
    """A TOML file."""
    with suppress(UnicodeDecodeError, ConfigError):
        load({}, data.decode())


def messages(data: bytes) -> None:
    """A first byte for the method that a response is to, then a head of either kind."""
    if not data:
        return
    head = data[1:]
    with suppress(HeadError):
        request = parse_request(head)
        assert b"".join(value for _, value in request.headers).find(b"\n") < 0
        assert request.body.length >= 0
        if request.authority:
            with suppress(HeadError):
                host, port = parse_authority(request.authority, 80)
                assert parse_authority(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", None) == (
                    host,
                    port,
                )
        request.path  # noqa: B018
    with suppress(BadResponse):
        response = parse_response(head, _METHODS[data[0] % len(_METHODS)])
        assert all(
            b"\n" not in name + value and b"\r" not in name + value for name, value in response.headers
        )
        assert response.body.length >= 0


def ranges(data: bytes) -> None:
    """Range, Content-Range, If-None-Match and If-Range by one value."""
    total = 1 + sum(data[:2])
    spans = [http_ranges.parse_range(data), *http_ranges.parse_ranges(data)]
    for each in spans:
        if each is not None:
            with suppress(Unsatisfiable):
                span = each.resolve(total)
                assert 0 <= span.start < span.stop <= total
    content = http_ranges.parse_content_range(data)
    if content is not None and content[1] is not None:
        assert content[0].stop <= content[1]
        assert http_ranges.parse_content_range(content[0].content_range(content[1])) == content
    http_ranges.none_match(data, b'"a"')
    http_ranges.if_range_allows(data, b'"a"')


def rate_limits(data: bytes) -> None:
    """Values of the fields, one a line: limit, remaining, reset, Retry-After, Date; then Authorization."""
    names = (b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset", b"retry-after", b"date")
    lines = data.split(b"\n")
    headers = tuple(zip(names, lines, strict=False))
    response = Response(429, b"", 1, headers, Framing("none"), True)
    report = limits.parse_report(response, NOW)
    if report is not None:
        assert 0 <= report.remaining <= report.limit
        assert report.window >= 1.0
        assert 0 <= report.left(NOW + 10) <= report.limit
    retry = limits.parse_retry(response, NOW)
    assert retry is None or limits.RETRY_MIN <= retry <= limits.RETRY_MAX
    credential = limits.client_credential(lines[5] if len(lines) > 5 else None)
    assert len(credential) < 100


# --- the index's file ------------------------------------------------------------------------------------

_PLACE: Final = ("reg.test", 443, "app")
_TAGS: Final = {f"t{n}": TagRow("plain", f"sha256:{n:064x}", "a/b", n, 1000.0 + n, n % 3) for n in range(12)}
_written: list[bytes] = []


def _index_bytes() -> bytes:
    """The file of an index with a few rows, made once."""
    if not _written:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "index"
            index = Index.open(path, clock=lambda: 1000.0)
            for tag, row in _TAGS.items():
                index.put_tag(*_PLACE, tag, row)
                index.put_object(row.digest, row.size, row.media_type)
            index.flush()
            index.close()
            _written.append(path.read_bytes())
    return _written[0]


def index_file(data: bytes) -> None:
    """Changes of an index's file, of four bytes each: where (3), how. It opens, and works, in any case."""
    content = bytearray(_index_bytes())
    for at in range(0, min(len(data) - 3, 64), 4):
        content[int.from_bytes(data[at : at + 3], "little") % len(content)] ^= data[at + 3]
    logging.disable(logging.CRITICAL)
    try:
        _use_index(bytes(content))
    finally:
        logging.disable(logging.NOTSET)


def _use_index(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "index"
        path.write_bytes(content)
        index = Index.open(path, clock=lambda: 1000.0)
        try:
            for tag in _TAGS:
                index.tag(*_PLACE, tag)
            index.tick()
            index.totals()
            index.oldest(10)
            with suppress(StoreError):
                index.rows_between("", "z")
            row = replace(_TAGS["t1"], digest=f"sha256:{99:064x}")
            index.put_tag(*_PLACE, "new", row)
            assert row in index.tag(*_PLACE, "new")
        finally:
            index.close()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "manifests": manifests,
    "tokens": tokens,
    "challenges": challenges,
    "configuration": configuration,
    "messages": messages,
    "ranges": ranges,
    "rate_limits": rate_limits,
    "index_file": index_file,
}
